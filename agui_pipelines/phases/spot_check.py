"""Spot check: whether the target still holds what the import and the syncs after it have made of a random sample of ids.

What each sync writes, it proves at once; this finds what has become of it since. It is a hint, never a proof.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.errors import RefusedError, ValidationFailedError, named
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.comparison import Comparison, KindComparison
from agui_pipelines.phases.cursor import TARGET_ROW, Cursor
from agui_pipelines.phases.observation import Names, Unreadable, clock, observe, spans_of_ids
from agui_pipelines.phases.plan import route_of
from agui_pipelines.phases.recheck import look_again
from agui_pipelines.phases.rounds import starting_point
from agui_pipelines.phases.sample import Sample, choose
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import is_half_written, standing
from agui_pipelines.phases.steps import require_source_live
from agui_pipelines.records import Kind

PHASE: Final = "spot_check"


@dataclass(frozen=True, slots=True)
class SpotCheck:
    """What was found of a sample of the target's ids."""

    sample: Sample
    up_to: str
    """When what the target is to hold was last known: the time of the import, or of the newest sync that changed something."""
    kinds: dict[Kind, KindComparison]
    unreadable: int
    seconds: float
    changes_allowed: bool = False
    """Whether the target may be changed by others (`sync.on_conflict: target`): what is other than it was left is only told."""

    @property
    def findings(self) -> dict[str, Names]:
        """What is not as it was left, by its name."""
        found = {
            f"{word}_{kind}s": names
            for kind, result in self.kinds.items()
            for word, names in (
                ("missing", result.missing),
                ("corrupted", result.corrupted),
                ("untimely", result.untimely),
            )
        }
        return {name: names for name, names in found.items() if names.count}

    @property
    def passed(self) -> bool:
        missing = any(result.missing.count for result in self.kinds.values())
        return not (missing if self.changes_allowed else self.findings) and not self.unreadable

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "passed": self.passed,
            "sample": self.sample.to_dict(),
            "up_to": self.up_to,
            "records": sum(result.total for result in self.kinds.values()),
            "extra_records": sum(result.extra.count for result in self.kinds.values()),
            "unreadable_records": self.unreadable,
            "findings": {name: list(names.ids) for name, names in self.findings.items()},
            **{f"{name}_count": names.count for name, names in self.findings.items()},
            "seconds": round(self.seconds, 3),
        }


def spot_check(session: Session, size: int, seed: int | None = None) -> SpotCheck:
    """Read `size` ids of the target, chosen at random, and compare them with what was last written there.

    Holds the target's lock, so that no sync writes meanwhile. Raises `RefusedError` if nothing was imported and proven, or
    applications use the target already. What is not as it was left is returned, not raised: call `require_passed` on it.
    """
    with session.exclusive():
        require_source_live(session.ledger)
        began = time.monotonic()
        _require_finished(session)
        cursor = starting_point(session, "")
        sample = choose((batch.select(["target_id"]) for batch in cursor.targets(session)), size, seed)
        with session.target() as target:
            expiry = route_of(session, target).get("expiry") == "kept"
        meter = session.meter(PHASE, total=len(sample.ids))
        unreadable = Unreadable()
        with Comparison(expiry=expiry) as comparison:
            for batch in _of_ids(session, cursor, sample):
                comparison.insert("held", batch)
            comparison.query(
                "INSERT INTO expected SELECT kind, target_id, other, NULL, canonical, NULL, false, expires_at, NULL, NULL, 0 "
                "FROM held"
            )
            spans = spans_of_ids(sample.ids)
            observe(
                session,
                session.target,
                spans,
                meter,
                comparison.observing,
                unreadable,
                keys=len(sample.ids),
                only=True,
            )
            comparison.join(clock(session, session.target, meter) if expiry else None)
            look_again(session, comparison)
            kinds = {kind: comparison.result(kind) for kind in Kind}
        session.conclude(meter, "")
        allowed = session.migration.sync.on_conflict == "target"
        seconds = time.monotonic() - began
        report = SpotCheck(sample, cursor.created_at, kinds, unreadable.count, seconds, changes_allowed=allowed)
        session.ledger.record(Entry(PHASE, "", outputs={"passed": report.passed, "public": report.to_dict()}))
        return report


def _require_finished(session: Session) -> None:
    """Raises `RefusedError` if what the target is to hold is known only once something that was ended is finished."""
    if unfinished := standing(session.ledger).unfinished:
        raise RefusedError(
            "A rollback was ended while it wrote.",
            why="The target holds part of what is to be put back.",
            remedy=f"Finish it first: agui-migrate rollback {' '.join(sorted(unfinished))}.",
        )
    if is_half_written(session.ledger):
        raise RefusedError(
            "A sync was ended while it wrote.",
            why="What the target is to hold is known again once that is finished.",
            remedy="Sync once more: agui-migrate sync.",
        )


def require_passed(report: SpotCheck) -> None:
    """Raises `ValidationFailedError`, which names what is not as it was left."""
    if report.passed:
        return
    said = [f"{names.count:,} {name.replace('_', ' ')} ({named(names.ids)})" for name, names in report.findings.items()]
    if report.unreadable:
        said.append(f"{report.unreadable:,} unreadable records")
    raise ValidationFailedError(
        f"Of {len(report.sample.ids):,} ids looked at in the target, not all are as they were left: {'; '.join(said)}.",
        why="Somebody else writes to the target, or it has lost something.",
        remedy="Find out who; a sync with sync.on_conflict: source takes the source's records, a new run compares everything.",
        figures=report.to_dict(),
    )


def _of_ids(session: Session, cursor: Cursor, sample: Sample) -> Iterator[pa.RecordBatch]:
    wanted = pa.array(sample.ids, pa.binary()).cast(pa.string())
    yield pa.RecordBatch.from_pylist([], TARGET_ROW)
    for batch in cursor.targets(session):
        yield batch.filter(pc.is_in(batch.column("target_id"), wanted))
