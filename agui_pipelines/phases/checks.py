"""A compatibility check: what it says, and what it looks at. The checks themselves: `checks_of_place`, `checks_of_records`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from agui_pipelines.errors import MigrationError
from agui_pipelines.phases.assess import Assessment
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Examination

Verdict = Literal["pass", "warn", "block"]
Of = Literal["place", "records"]


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found: why, which records (the first hundred by id), and what to do."""

    name: str
    verdict: Verdict
    reason: str
    remedy: str = ""
    ids: tuple[str, ...] = ()
    count: int = 0
    of: Of = "place"
    accepted: bool = False
    """Whether it would block, had the migration file not accepted it."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ids": list(self.ids)}


@dataclass(slots=True)
class Case:
    """What the checks look at."""

    session: Session
    assessment: Assessment
    examination: Examination | None = None
    held: tuple[str, ...] = ()
    """Ids of the sample that the target holds already."""
    target_clock: int | None = None
    failure: MigrationError | None = None
    """Why the target cannot be used."""
    same_place: bool = False
    tried: bool = True

    @property
    def in_place(self) -> bool:
        """Whether the target is to be what the source is, so that every record is there already."""
        return self.same_place and self.session.migration.in_place

    @property
    def share_held(self) -> float:
        if self.in_place:
            return 1.0
        ids = self.assessment.outlook.ids
        return len(self.held) / len(ids) if ids else 0.0

    @property
    def needed(self) -> int | None:
        """Bytes that the target will take more than it does now, about."""
        total, records, examined = self.assessment.total_bytes, self.assessment.records, self.examination
        if total is None or records is None or examined is None:
            return None
        each = total / records if records else 0
        rounded = -(-(each + examined.record_overhead) // examined.block) * examined.block
        return round(rounded * records * (1 - self.share_held))


Finding = Callable[[Case], Iterable[Check]]
"""A check. It yields at least one finding."""


def sampled(count: int, case: Case) -> str:
    return f"{count:,} of {case.assessment.profile.states:,} sampled states" if count != 1 else "1 sampled record"
