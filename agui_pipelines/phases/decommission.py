"""Decommission: delete at the source what a migration moved, once nobody needs it there any more.

What is deleted was proven to be in the target when that became live (the records of the cursor), is archived, and still equals
the archive at the moment at which it goes; that is looked at together with the deleting (`ports.Store.remove_unchanged`). All
else is left: what the migration did not move, and what somebody has written since.

`outlook` says what would go, and what stands in the way; it writes nothing. `decommission` is begun once nothing does. One that
was killed goes on where it was, with the archive that it had made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import orjson
import pyarrow as pa

from agui_pipelines.errors import DecommissionError, RefusedError, StagingError, named
from agui_pipelines.ledger import Entry, Ledger
from agui_pipelines.phases import backup as backups
from agui_pipelines.phases.archive import Moved, archive, counts, moved
from agui_pipelines.phases.backup import Backup
from agui_pipelines.phases.changes import Changes, changes_since
from agui_pipelines.phases.comparison import compared
from agui_pipelines.phases.control_record import control_record
from agui_pipelines.phases.cursor import Cursor, current_cursor
from agui_pipelines.phases.observation import Names, Within
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import DECOMMISSION_BEGUN, SOURCE_RESTORED, VALIDATE, restoring_source
from agui_pipelines.phases.steps import PHASE as CUTOVER
from agui_pipelines.phases.steps import newest
from agui_pipelines.ports import Removal, Store
from agui_pipelines.progress import Meter
from agui_pipelines.records import Kind, id_columns
from agui_pipelines.sources import no_way_back
from agui_pipelines.spec import ForeignConfig
from agui_pipelines.staging import Segment, SnapshotReader

PHASE: Final = "decommission"
_RANGE: Final = "decommission_range"


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold before anything is deleted."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a decommission would delete, and what stands in its way."""

    migration: str
    source: str
    checks: tuple[Check, ...]
    ids: int
    records: dict[str, int]
    """Records that were moved, by kind."""
    archive_id: str = ""
    """Of one that has begun, and was not ended."""
    ended_at: str = ""
    """When it was done already."""

    @property
    def ready(self) -> bool:
        """Whether nothing stands in the way but the confirmation."""
        return not self.ended_at and all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        return [check.detail for check in self.checks if not check.passed]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ready": self.ready}


@dataclass(frozen=True, slots=True)
class DecommissionReport:
    """What was deleted, and what was not."""

    migration: str
    source: str
    archive_id: str
    archived: dict[str, int]
    """Records in the archive, by kind."""
    deleted: int
    gone: int
    """Records that were not there any more: expired, deleted by somebody, or by a run of ours that was killed."""
    left: Names = field(default_factory=Names)
    """Moved records that were written to since, and so are still there."""
    seconds: float = 0.0
    resumed: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "left": list(self.left.ids), "left_count": self.left.count}


@dataclass(frozen=True, slots=True)
class _Stand:
    """What the ledger says."""

    cutover: Entry | None
    """The newest that made the target live, if that is so still."""
    validation: Entry | None
    """A validation that passed at that cutover, or since."""
    cursor: Cursor | None
    begun: Entry | None
    """A decommission of that cutover that was begun, and neither ended nor taken back."""
    ended: Entry | None


def outlook(session: Session) -> Outlook:
    """Say what would be deleted and what stands in the way. Looks at the whole source, and writes nothing."""
    stand = _stand(session.ledger, current_cursor(session))
    checks = list(_recorded(session, stand))
    if all(check.passed for check in checks) and stand.begun is None and stand.cursor is not None:
        checks.append(_quiet(changes_since(session, stand.cursor)))
    with session.source() as source:
        place = source.describe()
    return Outlook(
        migration=session.migration.name,
        source=place,
        checks=tuple(checks),
        ids=stand.cursor.ids if stand.cursor else 0,
        records=counts(session, stand.cursor) if stand.cursor else {},
        archive_id=stand.begun.unit if stand.begun else "",
        ended_at=stand.ended.at if stand.ended else "",
    )


def decommission(session: Session, *, confirm: str) -> DecommissionReport:
    """Archive and delete what the migration moved, or go on with it. `confirm`: the migration's name.

    Raises `RefusedError` before anything is deleted if something stands in the way, `BackupError` if the source cannot be
    archived, `DecommissionError` if something is still there afterwards that should not be.
    """
    require_confirmed(session, confirm)
    _require(
        list(_recorded(session, _stand(session.ledger, current_cursor(session))))
    )  # of some sources there is no lock
    with session.exclusive(), session.exclusive("source"):
        stand = _stand(session.ledger, current_cursor(session))
        _require(list(_recorded(session, stand)))
        if stand.ended is not None:
            raise RefusedError(
                f"The source was decommissioned at {stand.ended.at}.",
                why="What it left since was written to after it was moved, and is nobody's but its writer's.",
                remedy=f"To bring it back: agui-migrate backup restore --id {stand.ended.unit}",
            )
        return _deleted(session, stand)


def require_confirmed(session: Session, confirm: str) -> None:
    """Raises `RefusedError` unless the name is that of the migration."""
    if confirm != session.migration.name:
        raise RefusedError(
            f"confirm says '{confirm}', and the migration is called '{session.migration.name}'.",
            why="What a decommission deletes is only in the target and the archive afterwards. Nothing was deleted.",
            remedy=f"If it is this one that is meant: --confirm {session.migration.name}, or that name as confirm of the job.",
        )


def _deleted(session: Session, stand: _Stand) -> DecommissionReport:
    began = time.monotonic()
    cursor = stand.cursor
    if cursor is None:
        raise StagingError("There is no cursor.")  # which `_require` has seen
    begun = stand.begun or _begin(session, cursor, stand)
    made = backups.find(session, begun.unit)
    backups.verify(session, made)
    removal = _delete(session, cursor, made)
    left = _left(session, cursor, made)
    report = DecommissionReport(
        migration=session.migration.name,
        source=made.place,
        archive_id=made.backup_id,
        archived=made.records,
        deleted=removal.removed,
        gone=removal.gone,
        left=left,
        seconds=round(time.monotonic() - began, 3),
        resumed=stand.begun is not None,
    )
    session.ledger.record(Entry(PHASE, begun.plan_id, made.backup_id, begun.basis, outputs=report.to_dict()))
    return report


# What must hold


def _recorded(session: Session, stand: _Stand) -> Iterator[Check]:
    """What is told without looking at the source."""
    config = session.migration.source
    problem = no_way_back(config) if isinstance(config, ForeignConfig) else ""
    if problem:
        yield Check(
            "deletable",
            passed=False,
            detail=f"The source is of the type {config.type}: {problem}. Delete there by its own means; what was moved lies in "
            "the exported snapshots of the workspace.",
        )
    if stand.cutover is None:
        detail = "The target is not live: no cutover was done, it was taken back, or another is under way."
        yield Check("cutover", passed=False, detail=detail)
        return
    yield Check("cutover", passed=True, detail=f"The target is live since {stand.cutover.at}.")
    if (restoring := restoring_source(session.ledger)) is not None:
        detail = f"The source is being put back since {restoring.at}. To finish that: agui-migrate backup restore --id "
        yield Check("restored", passed=False, detail=detail + restoring.unit)
    if not isinstance(config, ForeignConfig):
        yield from _said(session)
    yield Check(
        "validation",
        passed=stand.validation is not None,
        detail=f"Source and target were proven equal at {stand.validation.at}."
        if stand.validation
        else "No validation has passed at the cutover or since. Run: agui-migrate validate",
    )
    yield Check(
        "known",
        passed=stand.cursor is not None,
        detail=f"{stand.cursor.ids:,} ids are known to have been moved."
        if stand.cursor
        else "What the target stands for is not known, or was taken back: nothing was synced since the last rollback.",
    )
    yield _soaked(session.migration.decommission.soak, stand.cutover)


def _said(session: Session) -> Iterator[Check]:
    """What the source itself says, if that speaks against it."""
    with session.source_store() as store:
        found = control_record(store)
    if found is not None and found.live == "this":
        detail = f"The source says that it is live since {found.since}, by the migration '{found.migration}'."
        yield Check("control", passed=False, detail=detail)


def _soaked(soak: float, cutover: Entry) -> Check:
    lasted = (datetime.now(UTC) - datetime.fromisoformat(cutover.at)).total_seconds()
    over = soak <= max(lasted, 0.0)
    told = f"{lasted / 3600:,.1f} of {soak / 3600:,.1f} hours"
    said = f"The target has been live for {told}." if over else f"The soak period is not over: {told} have passed."
    return Check("soak", over, said)


def _quiet(found: Changes) -> Check:
    if found.none:
        return Check(
            "quiet", passed=True, detail=f"Nobody has written to the source since ({found.checked:,} ids read)."
        )
    ids = [*found.changed.ids, *found.gone.ids]
    return Check(
        "quiet",
        passed=False,
        detail=f"The source was written to since the cutover: {found.changed.count:,} ids are new or changed, "
        f"{found.gone.count - found.expired:,} are gone ({named(ids)}). Somebody still uses it.",
    )


def _require(checks: list[Check]) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        raise RefusedError(
            " ".join(check.detail for check in failed),
            why="Nothing was deleted.",
            remedy="See what it would delete, and what it waits for: agui-migrate decommission.",
            checks=[asdict(check) for check in checks],
        )


def _stand(ledger: Ledger, cursor: Cursor | None) -> _Stand:
    cutover = _last_cutover(ledger)
    if cutover is None:
        return _Stand(None, None, cursor, None, None)
    proven_by = cutover.outputs.get("plan_id")
    validation = begun = ended = None
    is_past = False
    for entry in ledger.entries():
        is_past = is_past or entry == cutover
        if entry.phase == VALIDATE and entry.outputs["passed"] and (is_past or entry.plan_id == proven_by):
            validation = entry
        elif entry.phase == DECOMMISSION_BEGUN:
            begun, ended = entry, None
        elif entry.phase == PHASE:
            begun, ended = None, entry
        elif entry.phase == SOURCE_RESTORED and entry.unit in {each.unit for each in (begun, ended) if each}:
            begun = ended = None
    basis = _basis(cutover)
    return _Stand(
        cutover,
        validation,
        cursor,
        begun if begun is not None and begun.basis == basis else None,
        ended if ended is not None and ended.basis == basis else None,
    )


def _last_cutover(ledger: Ledger) -> Entry | None:
    """A return to the source that was undone leaves the cutover before it standing; one that is under way leaves none."""
    found = None
    for entry in ledger.entries(phase=CUTOVER):
        if entry.outputs["live"] != "target":
            found = None
        elif found is None or entry.outputs.get("outcome") != "undone":
            found = entry
    under_way = newest(ledger)
    return None if under_way is not None and under_way.is_open else found


def _basis(cutover: Entry) -> str:
    """Names a cutover: what was begun after another one is not gone on with."""
    return f"{cutover.unit or cutover.plan_id} {cutover.at}"


# Archive and delete


def _begin(session: Session, cursor: Cursor, stand: _Stand) -> Entry:
    """Make the archive. The source is looked at before, as to archive takes long, and after, as somebody may have written."""
    _require([_quiet(changes_since(session, cursor))])
    made = archive(session, cursor)
    _require([_quiet(changes_since(session, cursor))])
    if stand.cutover is None:
        raise StagingError("There was no cutover.")  # which `_require` has seen
    outputs = {"cursor_id": cursor.cursor_id, "records": made.records}
    return session.ledger.record(
        Entry(DECOMMISSION_BEGUN, stand.cutover.plan_id, made.backup_id, _basis(stand.cutover), outputs=outputs)
    )


def _delete(session: Session, cursor: Cursor, made: Backup) -> Removal:
    """Delete range by range; what earlier runs of the same archive did counts too."""
    meter = session.meter(PHASE, total=sum(made.records.values()))
    pace = _Pace(session, session.migration.decommission.rate)
    total = Removal()
    for key_range in made.ranges:
        snapshot_id = made.snapshots.get(key_range.name)
        if snapshot_id is None:
            continue
        done = session.ledger.last(_RANGE, unit=key_range.name, basis=snapshot_id)
        snapshot = SnapshotReader(session.workspace, snapshot_id)
        if done is not None:
            meter.add(snapshot.manifest.records)
            total += Removal(**done.outputs)
            continue
        with Moved(session, cursor, key_range) as moved_, session.source_store() as store:
            removal = _delete_range(session, snapshot, moved_, store, meter, pace)
        session.ledger.record(Entry(_RANGE, made.plan_id, key_range.name, snapshot_id, outputs=asdict(removal)))
        session.workspace.remove(_progress_file(snapshot))
        total += removal
    session.conclude(meter, "")
    return total


@dataclass(frozen=True, slots=True)
class _Progress:
    """How many of a range's records, in the order in which they are deleted, were dealt with, and what came of it."""

    records: int = 0
    removal: Removal = field(default_factory=Removal)


def _delete_range(
    session: Session, snapshot: SnapshotReader, moved_: Moved, store: Store, meter: Meter, pace: _Pace
) -> Removal:
    """Snapshots and versions go before their states: what a killed run leaves behind is never a history without its state."""
    begun = _begun(session, snapshot)
    at, removal = 0, begun.removal
    for kind in reversed(Kind):
        for segment in snapshot.segments(kind):
            for batch in _portions(session, snapshot, segment, kind):
                at += batch.num_rows
                if at > begun.records:
                    rest = batch.slice(max(0, batch.num_rows - (at - begun.records)))
                    some = moved_.only(kind, rest)
                    removal += retried(session, meter, partial(store.remove_unchanged, kind, some))
                    store.flush()
                    reached = asdict(_Progress(at, removal))
                    session.workspace.write(_progress_file(snapshot), orjson.dumps(reached))
                    pace.wait(some.num_rows)
                meter.add(batch.num_rows)
    return removal


def _portions(session: Session, snapshot: SnapshotReader, segment: Segment, kind: Kind) -> Iterator[pa.RecordBatch]:
    """What tells whether a record is the same, in batches of at most what may go in a second."""
    options = session.migration.decommission
    rows = max(1, min(options.batch, int(options.rate)))
    columns = [*id_columns(kind), "canonical", *(["expires_at"] if kind is Kind.STATE else [])]
    for batch in snapshot.segment_batches(segment, columns):
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _progress_file(snapshot: SnapshotReader) -> str:
    return f"progress/{snapshot.manifest.snapshot_id}.json"


def _begun(session: Session, snapshot: SnapshotReader) -> _Progress:
    file = _progress_file(snapshot)
    if not session.workspace.has(file):
        return _Progress()
    try:
        values = orjson.loads(session.workspace.read(file))
        return _Progress(values["records"], Removal(**values["removal"]))
    except (ValueError, TypeError, KeyError) as error:
        raise StagingError(
            f"The file {session.workspace.path(file)} is damaged: {error}.",
            why="It says how much of a key range has been deleted.",
            remedy="Remove it and run again: what is gone is only counted as gone then.",
        ) from error


@dataclass(slots=True)
class _Pace:
    """Lets so many records through per second; of what the store's own time leaves unused, a second's worth is made up for."""

    session: Session
    rate: float
    _next: float = 0.0

    def wait(self, records: int) -> None:
        """Return when the next may come. Raises `StoppedError` if the run is to end."""
        self._next = max(self._next, time.monotonic() - 1) + records / self.rate
        while (left := self._next - time.monotonic()) > 0:
            self.session.require_going()
            self.session.heartbeat()
            self.session.stop.wait(min(left, 0.5))
        self.session.require_going()


def _left(session: Session, cursor: Cursor, made: Backup) -> Names:
    """Look at the archived ids once more: what of the moved records is still there.

    Raises `DecommissionError` if one of them is what it was: it should be gone.
    """
    meter = session.meter("decommission_proof", total=sum(made.records.values()))
    snapshots = [SnapshotReader(session.workspace, snapshot_id) for snapshot_id in made.snapshots.values()]
    within = Within(partial(session.workspace.reading, made.catalogue), made.ranges)
    there = compared(session, snapshots, meter, opened=session.source_store, within=within, expiry=True)
    with there as (comparison, _):
        for batch in moved(session, cursor):
            comparison.insert("moved", batch)
        still = "SELECT j.id, j.other, j.status, j.untimely FROM joined j SEMI JOIN moved m ON j.kind = m.kind AND j.id = m.id "
        still = f"({still} AND j.other = m.other WHERE j.status IN ('equal', 'normalised', 'corrupted'))"
        same = comparison.names(f"SELECT id, other FROM {still} WHERE status <> 'corrupted' AND NOT untimely")  # noqa: S608 - ours
        left = comparison.names(f"SELECT id, other FROM {still}")  # noqa: S608 - likewise
    meter.finish()
    if same.count:
        raise DecommissionError(
            f"{same.count:,} records are still in {made.place}, or there again, as they were archived: {named(same.ids)}.",
            why="They were to be deleted. Somebody may have written them anew, or they do not rest.",
            remedy="Find out who writes there, and end it.",
            ids=list(same.ids),
        )
    return left
