"""Compatibility: named checks of whether what was assessed can be moved into the target: ``pass``, ``warn`` or ``block``.

A check is of the *place* (privileges, memory, disk, versions) or of the *records* (what the target refuses, what falls
together). A run refuses at once for a block of the place. Records are only known by the sample here: a block of theirs is told
at once, and refuses the import, before its first write, when all of them have been read: so every record is named, and its
bytes are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from agui_pipelines.errors import MigrationError, RefusedError, SpecError
from agui_pipelines.phases.assess import Assessment
from agui_pipelines.phases.checks import Case, Check, Of
from agui_pipelines.phases.checks_of_place import OF_PLACE
from agui_pipelines.phases.checks_of_records import OF_RECORDS
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Clocked, Examined, Store

NAMES: Final = frozenset(
    {
        # of the place
        *(
            "target",
            "target_privileges",
            "server_versions",
            "source",
            "target_memory",
            "target_eviction",
            "target_disk",
        ),
        *("target_files", "workspace_disk", "clocks", "wal_level", "recommended_backend"),
        # of the records
        *("storable_records", "distinct_ids", "losses", "overwritten_states", "reference_limits", "exact_documents"),
        "large_states",
    }
)


def check(session: Session, assessment: Assessment, *, trying: bool = True) -> tuple[Check, ...]:
    """All checks. With `trying`, privileges are tried by writing something of no meaning to the target; see `ports`.

    Raises `SpecError` if the migration file accepts a check that there is not.
    """
    accepted = session.migration.assessment.accept
    if unknown := sorted(set(accepted) - NAMES):
        raise SpecError(
            f"assessment.accept: there is no check '{unknown[0]}'.", remedy=f"Checks: {', '.join(sorted(NAMES))}."
        )
    case = Case(session, assessment, tried=trying)
    _look(case)
    found = [one for each in (*OF_PLACE, *OF_RECORDS) for one in each(case)]
    return tuple(
        replace(one, verdict="warn", accepted=True) if one.verdict == "block" and one.name in accepted else one
        for one in found
    )


def blocks(checks: Iterable[Check], of: Of | None = None) -> list[Check]:
    return [one for one in checks if one.verdict == "block" and of in (None, one.of)]


def require_possible(checks: Iterable[Check]) -> None:
    """Raises `RefusedError`, which names every block of the place with its remedy; see the module."""
    found = list(checks)
    blocking = blocks(found, "place")
    if not blocking:
        return
    told = "; ".join(f"{one.name}: {one.reason.rstrip('.')}" for one in blocking)
    names = ", ".join(one.name for one in blocking)
    raise RefusedError(
        f"{len(blocking)} compatibility check{'s block' if len(blocking) > 1 else ' blocks'} this migration: {told}.",
        why="Nothing was read for it or written.",
        remedy=f"{' '.join(one.remedy for one in blocking if one.remedy)} "
        f"If you know better: assessment: {{accept: [{names}]}}.",
        checks=[one.to_dict() for one in found],
        blocks=[one.name for one in blocks(found)],
    )


def _look(case: Case) -> None:
    """Ask the target. What keeps it from being used becomes a finding, unless trying again may help."""
    with case.session.target() as target, case.session.source() as source:
        try:
            target.ping()
            case.same_place = source.place().overlaps(target.place())
            target.check()
            if isinstance(source, Clocked):
                case.target_clock = target.now() - source.now()
        except MigrationError as error:
            if error.transient:
                raise
            case.failure = error
            target.close()  # it may be in the middle of something, such as a transaction that cannot be ended
        try:
            _examine(case, target)
        except MigrationError as error:
            if error.transient:
                raise
            case.failure = case.failure or error


def _examine(case: Case, target: Store) -> None:
    if isinstance(target, Examined):
        case.examination = target.examine(trying=case.tried and case.same_place == case.in_place)
        case.held = () if case.same_place else tuple(target.holding(case.assessment.outlook.ids))
