"""Backup: what a store holds, sealed in snapshots and read back, so that it can be put back exactly.

A backup is of a whole store, or of what the target holds under the ids (with their histories) that a plan is about to write.
It lies in the workspace: a catalogue of the ids, and a sealed snapshot for each key range of it. Restoring removes under those
ids what was not there before, writes everything back, and proves the outcome by digest and by the times that are kept.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from agui_pipelines.errors import BackupError, MigrationError, RefusedError, StagingError, named
from agui_pipelines.keyspace import (
    CATALOGUE,
    LEFT_OUT,
    MAX_RANGES,
    KeyRange,
    Span,
    cut,
    held_by,
    listed,
    owners,
    ranges_as_text,
    ranges_of_text,
    write_catalogue,
)
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.belonging import Belonging
from agui_pipelines.phases.comparison import Comparison, compared
from agui_pipelines.phases.export import GATHER_BYTES, GATHER_ROWS, digested_or_rejected
from agui_pipelines.phases.marks import marks_of, put_marks_back
from agui_pipelines.phases.observation import Unreadable, Within
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import End, Session
from agui_pipelines.phases.standing import (
    BACKUP,
    BACKUP_DELETED,
    BEGUN,
    RESTORE,
    RESTORE_BEGUN,
    ROUND,
    SOURCE_RESTORE_BEGUN,
    SOURCE_RESTORED,
    Standing,
    standing,
)
from agui_pipelines.phases.transform import PHASE as TRANSFORM
from agui_pipelines.ports import BATCH_BYTES, Consistent, Store
from agui_pipelines.progress import Meter
from agui_pipelines.records import SCHEMAS, Digester, Kind, Reject, gathered, id_columns
from agui_pipelines.staging import Manifest, SnapshotReader, SnapshotWriter
from agui_pipelines.staging.flow import Behind, ahead
from agui_pipelines.staging.workspace import new_id

PHASE: Final = BACKUP
_IDS: Final = pa.schema([("id", pa.string()), ("other", pa.string())])
_HELD_KEYS: Final = 50_000
"""Keys of a range that are held in memory to tell which of the records between its bounds are wanted, about."""


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup, complete and verified."""

    backup_id: str
    of: End
    plan_id: str
    """The plan before whose first write it was made; empty for a backup of a whole store."""
    place: str
    """The store, as it describes itself; restoring into another one is refused."""
    ranges: tuple[KeyRange, ...]
    snapshots: dict[str, str]
    """By key range, the snapshot of what was there; ranges without keys have none."""
    covers: tuple[str, ...]
    """Ids of the staged snapshots whose ids it is of; none for a whole store."""
    records: dict[str, int]
    bytes: int
    catalogue_checksum: str
    """xxh3_128 of the catalogue's file, 32 hex digits."""
    archive: bool = False
    """Whether it is the last copy of what is deleted at the source; see `archive`."""
    marks: dict[str, str | None] | None = None
    """What the store said of itself (see `marks`): None if that could not be read, or was not kept yet."""
    token: str = ""
    """Of the lock of the store under which it was made; empty if that was not held."""
    created_at: str = ""

    @property
    def catalogue(self) -> str:
        return f"catalogues/{self.backup_id}.parquet"

    @property
    def is_whole(self) -> bool:
        """Whether it is of everything that the store held."""
        return not self.covers


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What restoring did."""

    backup_id: str
    records: dict[str, int]
    """Records that were there before, by kind, all of which are proven to be there again."""
    expired: int
    """States among them whose time was over meanwhile."""
    removed: dict[str, int]
    """Records that were not there before, by kind."""
    seconds: float


def create(session: Session, of: End = "target") -> Backup:
    """Back up a whole store. Raises `BackupError` if something in it cannot be read."""
    with _opened(session, of) as store:
        return _create(session, of, "", store.keys(), ())


def ensure(
    session: Session, plan: Plan, staged: Iterable[SnapshotReader], others: Iterable[Sequence[bytes]] = ()
) -> Backup | None:
    """Back up what the target holds under the ids of staged snapshots, but for those that a backup of the plan has already.

    `others`: further ids, in lists, for the first backup of a plan that also removes something.

    To be called before the first of them is written: what a range that was staged anew has written before is not what was
    there. A backup that was made long before that, without holding the lock since, is made again, as others may have written.
    Raises `BackupError` if something under those ids cannot be read.
    """
    before = _without_outdated(session, of_plan(session, plan.plan_id))
    covered = {id_ for backup in before for id_ in backup.covers}
    wanted = [snapshot for snapshot in staged if snapshot.manifest.snapshot_id not in covered]
    if not wanted:
        return None

    def keys() -> Iterator[pa.RecordBatch]:
        for snapshot in wanted:
            for kind in Kind:
                for batch in snapshot.batches(kind, ["state_id"]):
                    columns = [batch.column(0).cast(pa.binary()), pa.repeat(1, batch.num_rows)]
                    yield pa.RecordBatch.from_arrays(columns, schema=CATALOGUE)
        for some in () if before else others:
            yield pa.RecordBatch.from_arrays([pa.array(some, pa.binary()), pa.repeat(1, len(some))], schema=CATALOGUE)
        for backup in before:
            with session.workspace.reading(backup.catalogue) as file:
                for batch in pq.ParquetFile(file).iter_batches(columns=["key"]):
                    columns = [batch.column(0), pa.repeat(LEFT_OUT, batch.num_rows)]
                    yield pa.RecordBatch.from_arrays(columns, schema=CATALOGUE)

    return _create(session, "target", plan.plan_id, keys(), tuple(s.manifest.snapshot_id for s in wanted))


def _without_outdated(session: Session, made: Iterable[Backup]) -> list[Backup]:
    """Remove the backups since which others may have written, and this migration has not; those that are left."""
    with session.target() as store:
        token = session.token(store)
    left = []
    for backup in made:
        if backup.token == token != "" or _is_begun(session, backup):
            left.append(backup)
        else:
            _remove(session, backup)
    return left


def _is_begun(session: Session, backup: Backup) -> bool:
    """Whether an import of what a backup is of has begun, so that what is in the target now is not what was there before."""
    ranges, entries = key_ranges(session, backup), session.ledger.entries(plan_id=backup.plan_id)
    made = next(i for i, each in enumerate(entries) if (each.phase, each.unit) == (PHASE, backup.backup_id))
    return any(
        (each.phase == BEGUN and ranges.intersection(each.outputs["ranges"]))
        or (each.phase, each.unit) == (RESTORE_BEGUN, backup.backup_id)
        for each in entries[made:]
    )


def archive(session: Session, keys: Iterator[pa.RecordBatch], basis: str) -> Backup:
    """Back up what the source holds under some keys (batches of `keyspace.CATALOGUE`), to be deleted there afterwards.

    It is never deleted but by its name and by force. `basis` says of what the keys are. Raises as `create`.
    """
    return _create(session, "source", "", keys, (basis,), archive=True)


def backups(session: Session) -> list[Backup]:
    """All backups that have not been deleted, oldest first."""
    deleted = {entry.unit for entry in session.ledger.entries(phase=BACKUP_DELETED)}
    return [_from_entry(e) for e in session.ledger.entries(phase=PHASE) if e.unit not in deleted]


def outstanding(session: Session) -> list[Backup]:
    """The backups of the target that may still be put back as what was there before, oldest first; see `Standing`."""
    ids = standing(session.ledger).outstanding
    return [backup for backup in backups(session) if backup.backup_id in ids]


def of_plan(session: Session, plan_id: str) -> list[Backup]:
    """What the target held under the ids of a plan before its first write, oldest first; no id is in two of them.

    A backup that was put back does not count: what comes next is another first write.
    """
    return [backup for backup in outstanding(session) if backup.plan_id == plan_id]


def key_ranges(session: Session, backup: Backup) -> frozenset[str]:
    """The key ranges of its plan that a backup is of; none for a whole store, or if that is not known."""
    entries = session.ledger.entries(phase=TRANSFORM, plan_id=backup.plan_id) if backup.plan_id else []
    names = {entry.outputs["snapshot_id"]: entry.unit for entry in entries}
    return frozenset(names[id_] for id_ in backup.covers) if names.keys() >= set(backup.covers) else frozenset()


def find(session: Session, backup_id: str | None = None) -> Backup:
    """The backup of this id, or the newest. Raises `RefusedError` if there is none."""
    existing = backups(session)
    found = [backup for backup in existing if backup_id in (None, backup.backup_id)]
    if found:
        return found[-1]
    known = named([backup.backup_id for backup in existing]) if existing else "none"
    raise RefusedError(
        f"There is no backup{'' if backup_id is None else f' {backup_id!r}'} of the migration '{session.migration.name}'.",
        why=f"Backups that exist: {known}.",
        remedy="Name one of them, or make one: agui-migrate backup create.",
    )


def verify(session: Session, backup: Backup) -> None:
    """Read every segment of a backup. Raises `StagingError` if one is missing or damaged."""
    for snapshot in _snapshots(session, backup):
        snapshot.verify()
    if session.workspace.checksum(backup.catalogue) != backup.catalogue_checksum:
        raise StagingError(
            f"The catalogue of the backup {backup.backup_id} is damaged: its checksum is another one.",
            why="It says which ids are put back and which removed.",
            remedy="Restore the file, or use another backup.",
        )


def restore(session: Session, backup: Backup) -> RestoreReport:
    """Put back what a backup holds, and remove under its ids what was not there.

    Everything is verified first and compared afterwards. To restore again does no harm. Raises `StagingError` for a damaged
    backup and `RefusedError` for one of another store, or while another migration writes there, before anything is written;
    `BackupError` if the store is not as it was afterwards.
    """
    verify(session, backup)
    return put_back(session, backup)


def put_back(session: Session, backup: Backup) -> RestoreReport:
    """Restore a backup that the caller has verified."""
    with session.exclusive(backup.of):
        return _put_back(session, backup)


def _put_back(session: Session, backup: Backup) -> RestoreReport:
    opened = partial(_opened, session, backup.of)
    with opened() as store:
        _require_same_place(backup, store)
        store.prepare()
    begun = RESTORE_BEGUN if backup.of == "target" else SOURCE_RESTORE_BEGUN
    ranges = sorted(key_ranges(session, backup))
    session.ledger.record(Entry(begun, backup.plan_id, backup.backup_id, outputs={"ranges": ranges}))
    # Removed first, so that there is room in a target that is full. A restore that ends here is done again from its beginning.
    removed = Counter(dict.fromkeys(map(str, Kind), 0))
    is_more = _remove_others(session, backup, opened, removed)
    meter = session.meter(RESTORE, total=sum(backup.records.values()))
    session.in_parallel(partial(_write_back, session, opened, meter), _snapshots(session, backup))
    while is_more:
        before = removed.total()
        is_more = _remove_others(session, backup, opened, removed) and removed.total() > before
    expired = require_restored(session, backup)
    with opened() as store:
        if not backup.archive:  # of which the store's own marks are no part
            put_marks_back(session, store, backup.marks, "" if backup.is_whole else backup.plan_id)
    progress = session.conclude(meter, backup.plan_id)
    report = RestoreReport(backup.backup_id, backup.records, expired, dict(removed), progress.seconds)
    phase = RESTORE if backup.of == "target" else SOURCE_RESTORED
    session.ledger.record(Entry(phase, backup.plan_id, backup.backup_id, outputs=asdict(report)))
    return report


def delete(session: Session, backup: Backup, *, force: bool = False) -> None:
    """Delete a backup. Raises `RefusedError`, unless `force`, while it may be needed: see `_is_needed`."""
    if not force and backup.archive:
        raise RefusedError(
            f"The backup {backup.backup_id} is the archive of what was deleted at the source.",
            why="It is the last copy of it as it was there.",
            remedy="If nobody will ever need it, delete it with --force.",
        )
    if not force and _is_needed(standing(session.ledger), backup):
        raise RefusedError(
            f"The backup {backup.backup_id} may be needed: its migration has not been proven, or its restore has not ended.",
            why="It is the only way back.",
            remedy="Validate the migration or finish the rollback first, or delete it all the same with --force.",
        )
    _remove(session, backup)


def _remove(session: Session, backup: Backup) -> None:
    # Recorded first: a backup half of whose files are gone is none.
    session.ledger.record(Entry(BACKUP_DELETED, backup.plan_id, backup.backup_id))
    for snapshot_id in backup.snapshots.values():
        session.workspace.remove_folder(f"snapshots/{snapshot_id}")
    session.workspace.remove(backup.catalogue)


def prune(session: Session, keep: int) -> list[Backup]:
    """Delete all but the newest `keep` backups of each end, and those that may be needed; which were.

    Those of a sync's rounds count by themselves: many rounds are not to push out what was there before the migration.
    """
    existing = backups(session)
    rounds = {entry.plan_id for entry in session.ledger.entries(phase=ROUND)}
    lists = [
        [b for b in existing if b.of == of and (b.plan_id in rounds) is of_rounds]
        for of in ("source", "target")
        for of_rounds in (False, True)
    ]
    old = [b for some in lists for b in some[: -keep or None]]
    now = standing(session.ledger)
    gone = [backup for backup in old if not _is_needed(now, backup)]
    for backup in gone:
        _remove(session, backup)
    return gone


def _is_needed(now: Standing, backup: Backup) -> bool:
    """Whether a backup is an archive, was made for a migration that is neither proven nor undone, or is being put back."""
    if backup.archive:
        return True
    if backup.backup_id in now.unfinished:
        return True
    return bool(backup.plan_id) and backup.backup_id in now.outstanding and backup.plan_id not in now.proven


def _opened(session: Session, of: End) -> AbstractContextManager[Store]:
    return session.target() if of == "target" else session.source_store()


def _create(
    session: Session,
    of: End,
    plan_id: str,
    keys: Iterator[pa.RecordBatch],
    covers: tuple[str, ...],
    *,
    archive: bool = False,
) -> Backup:
    backup_id = new_id("backup")
    name = f"catalogues/{backup_id}.parquet"
    with session.workspace.writing(name) as file:
        write_catalogue(keys, file)
    made: dict[str, str] = {}
    try:
        backup = replace(_sealed(session, of, plan_id, backup_id, covers, made), archive=archive)
    except BaseException:
        with suppress(MigrationError):  # the reason matters, not that there is something left to be cleaned
            for snapshot_id in made.values():
                session.workspace.remove_folder(f"snapshots/{snapshot_id}")
            session.workspace.remove(name)
        raise
    # Outside of the block: once there is an entry, its files are never removed.
    outputs = asdict(backup) | {"ranges": ranges_as_text(backup.ranges)}
    recorded = _from_entry(session.ledger.record(Entry(PHASE, plan_id, backup_id, outputs=outputs)))
    prune(session, session.migration.backup.keep)
    return recorded


def _sealed(
    session: Session, of: End, plan_id: str, backup_id: str, covers: tuple[str, ...], made: dict[str, str]
) -> Backup:
    """Read what the catalogue names. What was sealed is told in `made`, by range, at once."""
    name = f"catalogues/{backup_id}.parquet"
    with session.workspace.reading(name) as file:
        count = session.migration.ranges
        if covers:
            count = min(MAX_RANGES, max(count, pq.ParquetFile(file).metadata.num_rows // _HELD_KEYS + 1))
        ranges = cut(file, count)
    records = dict.fromkeys(map(str, Kind), 0)
    size = 0
    lock = threading.Lock()
    meter = session.meter(PHASE)

    def one(digester: Digester, key_range: KeyRange) -> None:
        nonlocal size
        with session.workspace.reading(name) as file, _opened(session, of) as store:
            if view is not None and isinstance(store, Consistent):
                store.join_view(view)
            span = Span(key_range, pq.ParquetFile(file), sparse=bool(covers))
            # All keys between the bounds are wanted of a whole store, so they need not be held to tell others from them.
            keys = span.key_set() if covers else None
            manifest = _read(session, store, span, keys, backup_id, meter, digester)
        SnapshotReader(session.workspace, manifest.snapshot_id).verify()
        with lock:
            made[key_range.name] = manifest.snapshot_id
            size += manifest.document_bytes
            for kind in Kind:
                records[kind] += manifest.summary(kind).records

    with (
        session.digester(sum(r.keys for r in ranges)) as digester,
        _opened(session, of) as store,
        store.held_view() if isinstance(store, Consistent) else nullcontext() as view,
    ):
        place, marks, token = store.describe(), marks_of(store), session.token(store)
        work = partial(one, digester)
        session.in_parallel(lambda r: retried(session, meter, partial(work, r)), [r for r in ranges if r.keys])
    session.conclude(meter, plan_id)
    snapshots, checksum = dict(sorted(made.items())), session.workspace.checksum(name)
    ranges_ = tuple(ranges)
    return Backup(
        backup_id, of, plan_id, place, ranges_, snapshots, covers, records, size, checksum, marks=marks, token=token
    )


def _read(
    session: Session,
    store: Store,
    span: Span,
    keys: frozenset[bytes] | None,
    backup_id: str,
    meter: Meter,
    digester: Digester,
) -> Manifest:
    """What the store holds under the keys of a span (only under `keys`, if given), as a sealed snapshot."""
    unreadable: list[Reject] = []
    reject = unreadable.append if keys is None else Belonging([span], keys, unreadable.append)

    with (
        SnapshotWriter(session.workspace, stage="backup", plan_id=backup_id, range_=span.range.name) as writer,
        meter.provisional() as count,
    ):
        for kind in store.kinds if store.exists() else ():
            with Behind(partial(writer.write, kind)) as sink:
                for batch in ahead(gathered(store.read(kind, span, reject), GATHER_ROWS, GATHER_BYTES)):
                    session.require_going()
                    wanted = batch if keys is None else held_by(keys, batch)
                    for usable in digested_or_rejected(kind, wanted, reject, store, digester):
                        sink.put(usable)
                    count(batch.num_rows, batch.nbytes)
        if isinstance(reject, Belonging):
            reject.settle()
        if unreadable:
            raise BackupError(
                f"What {store.describe()} holds under {len(unreadable):,} ids cannot be read, so it cannot be backed up: "
                f"{named([found.name for found in unreadable])}. {unreadable[0].detail}",
                why="It could not be put back. This run has written nothing.",
                remedy="Mend or remove it there, then run again; or set backup.before_import to false to import without a way "
                "back.",
                ids=[found.name for found in unreadable],
            )
        return writer.seal()


def _snapshots(session: Session, backup: Backup) -> list[SnapshotReader]:
    return [SnapshotReader(session.workspace, snapshot_id) for snapshot_id in backup.snapshots.values()]


def _write_back(
    session: Session, opened: Callable[[], AbstractContextManager[Store]], meter: Meter, snapshot: SnapshotReader
) -> None:
    with opened() as store:
        for segment in snapshot.manifest.segments:
            for batch in snapshot.portions(segment, session.migration.batch_size, BATCH_BYTES):
                retried(session, meter, partial(store.write, Kind(segment.kind), batch))
                meter.add(batch.num_rows, batch.nbytes)
        store.flush()


def _within(session: Session, backup: Backup) -> Within | None:
    """The ids to look at afterwards: for a backup of a whole store, all that there are."""
    return None if backup.is_whole else Within(partial(session.workspace.reading, backup.catalogue), backup.ranges)


def _remove_others(
    session: Session, backup: Backup, opened: Callable[[], AbstractContextManager[Store]], removed: Counter[str]
) -> bool:
    """Remove what was not there before, and count it.

    Whether there may be more: of what cannot be read only so much is named at a time, of which part may be overwritten soon.
    """
    meter = session.meter("restore_others")
    snapshots = _snapshots(session, backup)
    there = compared(session, snapshots, meter, opened=opened, within=_within(session, backup))
    with there as (comparison, unreadable), opened() as store:
        for kind in Kind:
            unreadable_ones = _unreadable_ones(session, backup, kind, comparison, unreadable)
            for batch in chain(comparison.others(kind), [unreadable_ones]):
                removed[kind] += retried(session, meter, partial(store.remove, kind, batch))
        store.flush()
    return unreadable.count > len(unreadable.named)


def _unreadable_ones(
    session: Session, backup: Backup, kind: Kind, comparison: Comparison, unreadable: Unreadable
) -> pa.RecordBatch:
    """The ids of what cannot be read and so was not there before, as none of it was when the backup was made.

    What is put back under such an id is left, and told of by `require_restored`.
    """
    columns = id_columns(kind)
    rows = {ids for of, name in unreadable.named if of is kind for ids in _possible_ids(kind, name)}
    if rows and not backup.is_whole:
        with session.workspace.reading(backup.catalogue) as file:
            covered = listed(pq.ParquetFile(file), (state_id.encode() for state_id, _ in rows))
        rows = {(state_id, other) for state_id, other in rows if state_id.encode() in covered}
    ids = pa.Table.from_pylist([{"id": id_, "other": other} for id_, other in rows], _IDS)
    comparison.insert(f"unreadable_{kind}", ids)
    found = comparison.query(
        f"SELECT id, other FROM unreadable_{kind} "  # noqa: S608 - one of three names
        "ANTI JOIN (SELECT id, other FROM expected WHERE kind = $kind) USING (id, other) ORDER BY id, other",
        kind=kind,
    )
    schema = pa.schema([SCHEMAS[kind].field(name) for name in columns])
    return pa.RecordBatch.from_pylist([dict(zip(columns, row, strict=False)) for row in found], schema)


def _possible_ids(kind: Kind, name: bytes) -> list[tuple[str, str]]:
    """What a reject's name can mean: the ids of a state and of its record, both of which may hold a ``/``."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return []
    if kind is Kind.STATE:
        return [(text, "")]
    states = [owner.decode() for owner in owners(name)[:-1]]
    return [(state_id, text[len(state_id) + 1 :]) for state_id in states]


def require_restored(session: Session, backup: Backup) -> int:
    """How many states are gone because their time was over. Raises `BackupError` unless all else is as it was."""
    wrong, expired = changes_since(session, backup)
    if wrong:
        raise BackupError(
            f"After the backup {backup.backup_id} was restored, {backup.place} is not as it was: {'; '.join(wrong)}.",
            why="Somebody else may be writing there.",
            remedy="Stop whoever writes, and restore again; the backup is kept.",
        )
    return expired


def changes_since(session: Session, backup: Backup) -> tuple[list[str], int]:
    """What the store holds otherwise than the backup, in words, and how many states are gone as their time was over."""
    opened = partial(_opened, session, backup.of)
    meter = session.meter("restore_proof", total=sum(backup.records.values()))
    snapshots = _snapshots(session, backup)
    there = compared(session, snapshots, meter, opened=opened, within=_within(session, backup), expiry=True, times=True)
    with there as (comparison, unreadable):
        found = {kind: comparison.result(kind) for kind in Kind}
    wrong = [
        f"{ids.count:,} {kind}{'s' if ids.count != 1 else ''} {word} ({named(ids.ids)})"
        for kind, result in found.items()
        for word, ids in (
            ("missing", result.missing),
            ("different", result.corrupted),
            ("with another expiry", result.untimely),
            ("with another time of creation or update", result.misdated),
            ("too many", result.extra),
        )
        if ids.count
    ]
    if unreadable.count:
        wrong.append(f"{unreadable.count:,} records that cannot be read ({named(unreadable.ids)})")
    return wrong, sum(result.expired for result in found.values())


def _require_same_place(backup: Backup, store: Store) -> None:
    if store.describe() != backup.place:
        raise RefusedError(
            f"The backup {backup.backup_id} is of {backup.place}, and the migration file names {store.describe()}.",
            why="Restored there, it would remove or replace what it knows nothing of.",
            remedy="Name the store of the backup in the migration file.",
        )


def _from_entry(entry: Entry) -> Backup:
    values: Mapping[str, Any] = entry.outputs
    parts = {"ranges": ranges_of_text(values["ranges"]), "covers": tuple(values["covers"]), "created_at": entry.at}
    return Backup(**{**values, **parts})
