"""Preflight: assess the source, check whether it can be moved, and keep both in the ledger; what a run does before it plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from agui_pipelines.ledger import Entry
from agui_pipelines.phases.assess import PHASE, Assessment, assess
from agui_pipelines.phases.checks import Check
from agui_pipelines.phases.compatibility import blocks, check, require_possible
from agui_pipelines.phases.plan import is_begun, require_usable, resumable
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.steps import require_source_live

Run = Literal["migrate", "dry_run"]
For = Literal["assess", "migrate", "dry_run"]
_WRITING: Final = ("assess", "migrate")
"""For whom privileges are tried by writing something of no meaning."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """An assessment with its checks, as it was recorded."""

    public: dict[str, Any]
    """What commands print as JSON."""
    checks: tuple[Check, ...]
    assessment: Assessment | None
    """None where an earlier one still holds."""

    @property
    def resumed(self) -> bool:
        return self.assessment is None


def look(session: Session, *, for_: For = "assess", sample: int | None = None) -> Preflight:
    """Assess and check, and keep what was found. Raises as `assess` does, never for a check that blocks."""

    def looked() -> tuple[Assessment, tuple[Check, ...]]:
        found = assess(session, sample=sample, thorough=for_ == "assess")
        return found, check(session, found, trying=for_ in _WRITING)

    with session.source() as source:
        source.ping()  # the first contact, which is not tried again if nobody answers
    assessment, checks = retried(session, session.meter(PHASE), looked)
    public = {
        **assessment.to_dict(),
        "verdict": max((one.verdict for one in checks), key=["pass", "warn", "block"].index),
        "checks": [one.to_dict() for one in checks],
    }
    session.ledger.record(Entry(PHASE, "", for_, session.migration.fingerprint, outputs={"public": public}))
    return Preflight(public, checks, assessment)


def before_run(session: Session, purpose: Run, *, fresh: bool = False) -> Preflight:
    """Look at the source and the target before a run of a purpose plans anything.

    A run that goes on with what was exported under an open plan, which was found possible then, does not look again; one that
    only takes a plan up does, as it may have been made long before. A dry run, which writes
    nothing, is told what blocks and goes on. Raises what `plan` raises for an end that cannot be used, and `RefusedError` if a
    check of the place blocks (see `compatibility`), or if the target is live since a cutover.
    """
    with session.source() as source, session.target() as target:
        require_usable(session, source, target)
    if purpose == "migrate":
        require_source_live(session.ledger)
    open_ = None if fresh else resumable(session, purpose)
    begun = open_ is not None and is_begun(session.ledger, open_.plan_id)
    earlier = _found_possible(session, purpose) if begun else None
    if earlier is not None:
        return earlier
    found = look(session, for_=purpose)
    _tell(session, found)
    if purpose == "migrate":
        require_possible(found.checks)
    return found


def _found_possible(session: Session, purpose: Run) -> Preflight | None:
    """The newest look at an unchanged migration, if none of its blocks was of the place."""
    wanted = (purpose, "assess")
    entries = [entry for entry in session.ledger.entries(phase=PHASE) if entry.unit in wanted]
    if not entries or entries[-1].basis != session.migration.fingerprint:
        return None
    public = entries[-1].outputs["public"]
    checks = tuple(Check(**{**one, "ids": tuple(one["ids"])}) for one in public["checks"])
    return None if blocks(checks, "place") else Preflight(public, checks, None)


def _tell(session: Session, found: Preflight) -> None:
    meter = session.meter(PHASE)
    for one in found.checks:
        if one.verdict != "pass":
            meter.tell(f"{one.verdict}: {one.name}: {one.reason}")
