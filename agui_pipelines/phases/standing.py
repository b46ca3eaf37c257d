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


def voids(entry: Entry, snapshot_id: str) -> bool:
    """Whether what was imported of a staged snapshot is no longer there for sure, once this has happened.

    A backup that was made before the import of some key ranges brings back what was under their ids, and touches no other.
    """
    if entry.phase not in VOIDING:
        return False
    covers = entry.outputs.get("covers") if entry.phase == RESTORE_BEGUN else None
    return not covers or snapshot_id in covers


def not_voided(entries: Iterable[Entry], wanted: Callable[[Entry], bool]) -> list[Entry]:
    """Of a ledger's entries, oldest first, those of imports that are wanted and that nothing has voided since.

    Their `basis` is the staged snapshot.
    """
    found: list[Entry] = []
    for entry in entries:
        if wanted(entry):
            found.append(entry)
        elif entry.phase in VOIDING:
            found = [each for each in found if not voids(entry, each.basis)]
    return found


@dataclass(frozen=True, slots=True)
class Standing:
    """See the module."""

    outstanding: tuple[str, ...]
    """Backups of the target that were neither put back nor made before a whole one was that has been, oldest first."""
    unfinished: frozenset[str]
    """Backups of which a restore has begun, and has not ended."""
    proven: frozenset[str]
    """Plans, and rounds of a sync, whose last import was validated, and has not been taken back since."""
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
    for entry in ledger.entries():
        whole = not entry.plan_id
        if entry.phase == BACKUP and entry.outputs["of"] == "target":
            outstanding[entry.unit] = entry.plan_id
        elif entry.phase == BACKUP_DELETED:
            outstanding.pop(entry.unit, None)
            unfinished.discard(entry.unit)
        elif entry.phase == BEGUN:
            begun = entry
            written.add(entry.plan_id)
            proven.discard(entry.plan_id)
        elif entry.phase == VALIDATE or (entry.phase == SYNC and entry.plan_id):
            proven.discard(entry.plan_id)
            if entry.outputs["passed"]:
                proven.add(entry.plan_id)
                written.discard(entry.plan_id)
        elif entry.phase == LOCK_LOST:
            lock_lost.add(entry.plan_id)
        elif entry.phase == RESTORE_BEGUN:
            unfinished.add(entry.unit)
            proven = set() if whole else proven - {entry.plan_id}
        elif entry.phase == RESTORE:
            unfinished.discard(entry.unit)
            lock_lost.discard(entry.plan_id)
            # After a whole one, what is there is not what the backups made before would find under their ids.
            outstanding = {} if whole else {unit: plan for unit, plan in outstanding.items() if unit != entry.unit}
            written -= written if whole else {entry.plan_id} - set(outstanding.values())
    return Standing(
        tuple(outstanding),
        frozenset(unfinished),
        frozenset(proven),
        frozenset(lock_lost),
        begun,
        frozenset(written),
    )


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
