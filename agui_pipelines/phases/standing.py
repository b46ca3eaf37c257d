"""How a migration stands with its target, told from the ledger: what may be put back, what is proven, what is half done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from agui_pipelines.ledger import Entry, Ledger

BACKUP: Final = "backup"
BACKUP_DELETED: Final = "backup_deleted"
BEGUN: Final = "import_begun"
"""Recorded before the first write of an import, with the Dagster run in which that is."""
LOCK_LOST: Final = "lock_lost"
"""Recorded when a run had to stop as another migration may be writing to the target."""
RESTORE_BEGUN: Final = "restore_begun"
"""Recorded before a restore writes to the target."""
RESTORE: Final = "restore"
DECOMMISSION_BEGUN: Final = "decommission_begun"
"""Recorded once what is to be deleted at the source is archived, before the first record goes."""
SOURCE_RESTORED: Final = "restore_source"
SOURCE_RESTORE_BEGUN: Final = "restore_source_begun"
"""Recorded when a backup of the source was put back."""
VALIDATE: Final = "validate"
SYNC: Final = "sync"
"""Closes a round of a sync, which proves by itself what it has written."""
SYNC_FAILED: Final = "sync_failed"
"""Recorded when the target was not what a round had written."""
ROUND: Final = "round"
"""Names a round of a sync: its plan."""

VOIDING: Final = (RESTORE_BEGUN, LOCK_LOST, SYNC_FAILED)
"""After one of these, what was imported before is no longer there for sure; but see `voids`."""

_WRITING: Final = (BEGUN, RESTORE_BEGUN)


def voids(entry: Entry, plan_id: str, range_: str) -> bool:
    """Whether what was imported of a key range under a plan is no longer there for sure, once this has happened.

    A backup of some key ranges of the same plan brings back what was under their ids, and touches no other.
    """
    if entry.phase not in VOIDING:
        return False
    alone = entry.outputs.get("ranges") if entry.phase == RESTORE_BEGUN and entry.plan_id == plan_id else None
    return not alone or range_ in alone


def not_voided(entries: Iterable[Entry], wanted: Callable[[Entry], bool]) -> list[Entry]:
    """Of a ledger's entries, oldest first, those of imports that are wanted and that nothing has voided since.

    Their `unit` begins with the key range.
    """
    found: list[tuple[int, Entry]] = []
    backed_up: dict[str, int] = {}
    for at, entry in enumerate(entries):
        if wanted(entry):
            found.append((at, entry))
        elif entry.phase == BACKUP:
            backed_up[entry.unit] = at
        elif entry.phase in VOIDING:
            # What a backup of another plan brings back was there when it was made.
            since = backed_up.get(entry.unit, 0) if entry.phase == RESTORE_BEGUN and entry.plan_id else 0
            found = [(when, each) for when, each in found if not _is_voided(each, entry, made_since=when >= since)]
    return [each for _, each in found]


def _is_voided(imported: Entry, by: Entry, *, made_since: bool) -> bool:
    """`made_since`: whether it was imported after the backup that is put back was made."""
    is_older = imported.plan_id != by.plan_id and not made_since
    return not is_older and voids(by, imported.plan_id, imported.unit.split("/")[0])


def writes(ledger: Ledger) -> int:
    """How often an import, a sync or a restore has begun to write to the target: while this stays, it is what it was."""
    return sum(entry.phase in _WRITING for entry in ledger.entries())


def is_half_written(ledger: Ledger) -> bool:
    """Whether a round of a sync has begun to write, and was ended before its end."""
    entry = open_round(ledger)
    if entry is None or ledger.last(BEGUN, plan_id=entry.plan_id) is None:
        return False
    taken_back = any(
        each.plan_id in ("", entry.plan_id) for each in ledger.entries(phase=RESTORE_BEGUN, since=(ROUND,))
    )
    # Who has imported everything since has brought what the round was for, and perhaps what came after it.
    passed_over = any(each.plan_id != entry.plan_id for each in ledger.entries(phase=BEGUN, since=(ROUND,)))
    return not taken_back and not passed_over


def open_round(ledger: Ledger) -> Entry | None:
    """The newest round of a sync, if it was not closed."""
    entry = ledger.last(ROUND)
    return None if entry is None or ledger.last(SYNC, plan_id=entry.plan_id) is not None else entry


@dataclass(frozen=True, slots=True)
class Standing:
    """See the module."""

    outstanding: tuple[str, ...]
    """Backups of the target that were neither put back nor made before a whole one was that has been, oldest first."""
    unfinished: frozenset[str]
    """Backups of which a restore has begun, and has not ended."""
    proven: frozenset[str]
    """Plans, and rounds of a sync, whose last import was validated, and has not been taken back since.

    Nor has a backup been put back since that is older than that import, and so brings back what was there before it.
    """
    lock_lost: frozenset[str]
    """Plans during whose import the lock was lost, and that were not taken back since."""
    begun: Entry | None
    """The newest import that has begun."""
    written: frozenset[str] = frozenset()
    """Plans of which an import has begun, and that were neither proven nor wholly taken back since."""


def standing(ledger: Ledger) -> Standing:
    outstanding: dict[str, str] = {}  # the plan of each
    unfinished: set[str] = set()
    proven: set[str] = set()
    lock_lost: set[str] = set()
    written: set[str] = set()
    begun = None
    written_so_far = 0  # see `writes`
    began: dict[str, int] = {}  # when each plan last did, by that count
    backed_up: dict[str, int] = {}  # when each backup was made
    for entry in ledger.entries():
        whole = not entry.plan_id
        written_so_far += entry.phase in _WRITING
        if entry.phase == BACKUP and entry.outputs["of"] == "target":
            outstanding[entry.unit] = entry.plan_id
            backed_up[entry.unit] = written_so_far
        elif entry.phase == BACKUP_DELETED:
            outstanding.pop(entry.unit, None)
            unfinished.discard(entry.unit)
        elif entry.phase == BEGUN:
            begun = entry
            began[entry.plan_id] = written_so_far
            written.add(entry.plan_id)
            proven.discard(entry.plan_id)
        elif entry.phase == VALIDATE or (entry.phase == SYNC and entry.plan_id):
            proven.discard(entry.plan_id)
            if entry.outputs["passed"] and entry.outputs.get("writes", written_so_far) == written_so_far:
                proven.add(entry.plan_id)
                written.discard(entry.plan_id)
        elif entry.phase == LOCK_LOST:
            lock_lost.add(entry.plan_id)
        elif entry.phase == RESTORE_BEGUN:
            unfinished.add(entry.unit)
            older = {plan for plan in proven if began.get(plan, 0) <= backed_up.get(entry.unit, 0)}
            proven = set() if whole else older - {entry.plan_id}
        elif entry.phase == RESTORE:
            unfinished.discard(entry.unit)
            lock_lost.discard(entry.plan_id)
            # After a whole one, what is there is not what the backups made before would find under their ids.
            outstanding = {} if whole else _still_outstanding(outstanding, entry)
            written -= written if whole else {entry.plan_id} - set(outstanding.values())
    return Standing(
        tuple(outstanding),
        frozenset(unfinished),
        frozenset(proven),
        frozenset(lock_lost),
        begun,
        frozenset(written),
    )


def _still_outstanding(outstanding: dict[str, str], restored: Entry) -> dict[str, str]:
    """Backups, oldest first with their plans, that may be put back once one of a plan was.

    What those of other plans hold that were made after it is what is not to be there any more.
    """
    units = list(outstanding)
    at = units.index(restored.unit) if restored.unit in outstanding else len(units)
    return {
        unit: plan
        for i, (unit, plan) in enumerate(outstanding.items())
        if unit != restored.unit and (i < at or plan == restored.plan_id)
    }


def restoring_source(ledger: Ledger) -> Entry | None:
    """The newest restore of the source, unless it has come to its end."""
    found = None
    for entry in ledger.entries():
        if entry.phase == SOURCE_RESTORE_BEGUN:
            found = entry
        elif entry.phase == SOURCE_RESTORED:
            found = None
    return found


def decommissioned(ledger: Ledger) -> Entry | None:
    """The newest decommission that has begun to delete at the source, unless its archive was put back since."""
    found = None
    for entry in ledger.entries():
        if entry.phase == DECOMMISSION_BEGUN:
            found = entry
        elif entry.phase == SOURCE_RESTORED and found is not None and entry.unit == found.unit:
            found = None
    return found
