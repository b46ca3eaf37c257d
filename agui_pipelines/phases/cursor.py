"""The cursor: what the target stands for, of the source. Each round of a sync starts from one and ends with the next.

It lies in the workspace, immutable, and is named by a ledger entry that is recorded after the data that it stands for::

    cursors/<cursor id>/source.parquet    a row for each id of the source, as it was read (`SOURCE_ROW`), sorted by id
                        target.parquet    a row for each record that the target got for it (`TARGET_ROW`), sorted likewise

A state is known by the xxh3_128 of the bytes that the source holds, with its times if it has any, and by its expiry; the
versions and snapshots of an id together, by the sum of a digest of each, so that an id with a long history takes no more room
than another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from agui_pipelines.errors import RefusedError
from agui_pipelines.keyspace import KeyRange, sorted_on_disk
from agui_pipelines.ledger import Entry, Ledger
from agui_pipelines.phases.export import PHASE as EXPORT
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.seen import History, is_unusable, raw_of, state_digests
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import BACKUP, RESTORE_BEGUN
from agui_pipelines.records import ORIGIN, Kind, id_columns
from agui_pipelines.staging import SnapshotReader
from agui_pipelines.staging.workspace import new_id

CURSOR: Final = "cursor"
"""Phase of the ledger entries that name cursors."""

SOURCE_ROW: Final = pa.schema(
    [
        pa.field("source_id", pa.binary(), nullable=False),
        pa.field("state", pa.binary()),
        pa.field("expires_at", pa.int64()),
        pa.field("history", pa.binary()),
    ]
)
"""`state` and `history` are digests of 16 bytes, null where there is no state, or nothing but it; `expires_at` in
milliseconds since the epoch."""

TARGET_ROW: Final = pa.schema(
    [
        pa.field("source_id", pa.binary(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("target_id", pa.string(), nullable=False),
        pa.field("other", pa.string(), nullable=False),
        pa.field("canonical", pa.binary(), nullable=False),
        pa.field("expires_at", pa.int64()),
    ]
)
"""`other` is the id of a version or snapshot, empty for a state; `canonical` as in `records.DIGEST_FIELDS`."""

_GROUP_ROWS: Final = 10_000
"""As in `keyspace`: a key range is read with all of the row groups that it begins and ends in."""
_OLD, _TOUCHED, _NEW, _ORIGIN, _LEFT = range(5)
"""What a row is that goes into the making of a cursor."""
_UNLIKE_ANY: Final = bytes(16)
"""A digest that no state has: at the next look its id counts as changed, or as gone."""

_TOUCHES: Final = f"SELECT 1 FROM rows t WHERE t.part = {_TOUCHED} AND t.source_id = r.source_id"  # noqa: S608 - made of constants
_UNTOUCHED: Final = (
    f"SELECT * EXCLUDE part FROM rows r WHERE part = {_NEW} OR part = {_OLD} "  # noqa: S608 - likewise
    f"AND NOT EXISTS ({_TOUCHES})"
)
_REPLACED: Final = (
    f"SELECT 1 FROM rows n WHERE n.part = {_NEW} AND n.kind = r.kind "  # noqa: S608 - likewise
    "AND n.target_id = r.target_id AND n.other = r.other"
)
_STANDING: Final = f"{_UNTOUCHED} AND NOT EXISTS ({_REPLACED})"
_LEFT_BEHIND: Final = (
    f"SELECT * EXCLUDE part FROM rows r WHERE part = {_OLD} AND EXISTS ({_TOUCHES}) "  # noqa: S608 - likewise
    f"AND NOT EXISTS ({_REPLACED})"
)
_LEFT_IDS: Final = f"SELECT DISTINCT source_id FROM ({_LEFT_BEHIND}) ORDER BY source_id"  # noqa: S608 - likewise
_SOURCES: Final = (
    "SELECT source_id, any_value(state) AS state, "  # noqa: S608 - likewise
    "any_value(expires_at) AS expires_at, any_value(history) AS history "
    f"FROM (SELECT * FROM ({_UNTOUCHED}) u "
    f"WHERE NOT EXISTS (SELECT 1 FROM rows l WHERE l.part = {_LEFT} AND l.source_id = u.source_id) "
    f"UNION ALL SELECT * EXCLUDE part FROM rows WHERE part = {_LEFT}) GROUP BY source_id ORDER BY source_id"
)
_TARGETS: Final = (
    f"WITH origins AS (SELECT DISTINCT target_id, source_id FROM rows WHERE part = {_ORIGIN}) "  # noqa: S608 - likewise
    "SELECT coalesce(o.source_id, r.source_id) AS source_id, r.* EXCLUDE source_id "
    "FROM ({}) r LEFT JOIN origins o ON r.source_id = ''::BLOB AND o.target_id = r.target_id "
    "ORDER BY 1, kind, target_id, other"
)


@dataclass(frozen=True, slots=True)
class Cursor:
    """One cursor, by what the ledger says of it."""

    cursor_id: str
    base_plan: str
    """The plan whose validated import the first cursor was made from; of a seeded one, the plan that read both ends."""
    round_id: str
    """The round (a plan of the purpose ``sync``) that made it; empty for a first one."""
    fingerprint: str
    """Of the migration file; see `Migration.fingerprint`."""
    source: str
    """The source, as it describes itself."""
    server: str
    """`ports.Place.server` of the source; empty for a first one that was made of an import."""
    stamped_at: str
    """The moment that documents name as that of their migration, where the source stamps them (see `ports.Stamping`)."""
    ids: int
    """Ids of the source."""
    records: int
    """Records in the target that came from them."""
    horizon: int | None = None
    """Of a `ports.Watermarked` source, the transaction before which all that was written is part of it."""
    partial: int = 0
    """Rounds since the last one that looked at the whole source."""
    seeded: bool = False
    """Whether it was made by looking at both ends, instead of from an import; see `sync.seed_cursor`."""
    created_at: str = ""

    @property
    def folder(self) -> str:
        return f"cursors/{self.cursor_id}"

    def sources(self, session: Session, within: KeyRange | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of `SOURCE_ROW`, in order of the ids' bytes; of those within a range, and maybe some more."""
        return _read(session, f"{self.folder}/source.parquet", within)

    def targets(self, session: Session, within: KeyRange | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of `TARGET_ROW`, in order of the source ids' bytes: all that the target holds of this migration.

        With a range, of the ids within it, and maybe some more.
        """
        return _read(session, f"{self.folder}/target.parquet", within)


def current_cursor(session: Session) -> Cursor | None:
    """What the target stands for now; None if it was never synced, or what it stood for was taken back."""
    known = cursors(session.ledger)
    return known[-1] if known else None


def require_newest(session: Session, plan: Plan, *, why: str) -> None:
    """Raises `RefusedError` if the target has been brought further than what a plan exported: by a sync, or a cutover."""
    cursor = current_cursor(session)
    if plan.purpose != "migrate" or cursor is None or not (cursor.round_id or cursor.seeded):
        return
    exports = [entry.at for entry in session.ledger.entries(phase=EXPORT, plan_id=plan.plan_id)]
    if exports and min(exports) < cursor.created_at:
        raise RefusedError(
            f"What {plan.plan_id} exported is older than what the target was synced to at {cursor.created_at}.",
            why=why,
            remedy="Sync once more, or run the whole migration anew: agui-migrate run --fresh.",
        )


def cursors(ledger: Ledger) -> list[Cursor]:
    """The cursors that still stand, oldest first: taking back what a round wrote also takes back its cursor and later ones.

    So does taking back something older: all cursors that were made since its backup was go with it.
    """
    found: list[Cursor] = []
    backed_up: dict[str, int] = {}  # how many cursors there were when each backup was made
    for entry in ledger.entries():
        if entry.phase == CURSOR:
            found.append(Cursor(**{**entry.outputs, "created_at": entry.at}))
        elif entry.phase == BACKUP:
            backed_up[entry.unit] = len(found)
        elif entry.phase == RESTORE_BEGUN:
            taken_back = entry.plan_id
            of_it = (i for i, each in enumerate(found) if taken_back in ("", each.round_id, each.base_plan))
            found = found[: min(next(of_it, len(found)), backed_up.get(entry.unit, 0))]
    return found


def record(session: Session, cursor: Cursor) -> Cursor:
    """Make a cursor, whose files are written, the current one."""
    entry = session.ledger.record(Entry(CURSOR, cursor.round_id or cursor.base_plan, outputs=asdict(cursor)))
    return Cursor(**{**entry.outputs, "created_at": entry.at})


def remove_old(session: Session) -> None:
    """Remove the files of cursors that are not needed: all but as many as there may be rounds to take back, and one more."""
    known = [cursor.cursor_id for cursor in cursors(session.ledger)]
    kept = set(list(dict.fromkeys(known))[-session.migration.backup.keep - 1 :])
    for name in session.workspace.names("cursors"):
        if name not in kept:
            session.workspace.remove_folder(f"cursors/{name}")


def write(
    session: Session,
    before: Cursor | None,
    touched: Iterable[pa.RecordBatch],
    exported: Iterable[SnapshotReader],
    staged: Iterable[SnapshotReader],
    kept: Iterable[pa.RecordBatch] = (),
) -> tuple[str, int, int]:
    """Write the files of a new cursor: what was read and staged, in the place of what `before` has for the ids `touched`.

    `touched`: batches whose first column is ids of the source, as bytes. `kept`: batches of `TARGET_ROW` that are to stay all
    the same. Returns the new cursor's id, how many ids of the source it has and how many records. Sorts on disk.
    """
    gone = list(touched) if before is not None else []
    return _write(session, before, gone, list(exported), _targets_of(before, session, gone, list(staged), kept), ())


def write_first(
    session: Session, before: Cursor | None, exported: Iterable[SnapshotReader], staged: Iterable[SnapshotReader]
) -> tuple[str, int, int]:
    """Write the files of a cursor of an import, which removes nothing: what `before` knows besides is still in the target.

    An id that was not read any more stays as it was known, and so is found to be gone. One that was read, and of which
    something was not staged again, counts as changed, so that the next round removes that. Returns as `write`.
    """
    read, snapshots = list(exported), list(staged)
    some = read if before is not None else ()
    ids = [batch.select(["source_id"]) for snapshot in some for batch in source_rows(snapshot)]
    parts = _targets_of(before, session, ids, snapshots, ())
    left = list(_sorted(TARGET_ROW, _LEFT_IDS, parts())) if before is not None else []
    return _write(session, before, ids, read, parts, left)


Parts = dict[int, Iterable[pa.RecordBatch]]
"""Rows that go into the making of a cursor, by what they are."""


def _targets_of(
    before: Cursor | None,
    session: Session,
    touched: list[pa.RecordBatch],
    staged: list[SnapshotReader],
    kept: Iterable[pa.RecordBatch],
) -> Callable[[], Parts]:
    return lambda: {
        _OLD: before.targets(session) if before is not None else (),
        _TOUCHED: touched,
        _NEW: chain((batch for s in staged for batch in target_rows(s)), kept),
        _ORIGIN: (batch for s in staged if s.manifest.origins_segment is not None for batch in s.origins()),
    }


def _write(
    session: Session,
    before: Cursor | None,
    touched: list[pa.RecordBatch],
    exported: list[SnapshotReader],
    targets: Callable[[], Parts],
    left: Sequence[pa.RecordBatch],
) -> tuple[str, int, int]:
    """`left`: batches of the ids of which something is still in the target that was not staged again."""
    cursor_id = new_id("cursor")
    sources: Parts = {
        _OLD: before.sources(session) if before is not None else (),
        _TOUCHED: touched,
        _NEW: (batch for snapshot in exported for batch in source_rows(snapshot)),
        _LEFT: left,
    }
    of_targets = f"{_STANDING} UNION ALL {_LEFT_BEHIND}" if left else _STANDING
    ids = _written(session, f"cursors/{cursor_id}/source.parquet", SOURCE_ROW, _SOURCES, sources)
    records = _written(
        session, f"cursors/{cursor_id}/target.parquet", TARGET_ROW, _TARGETS.format(of_targets), targets()
    )
    return cursor_id, ids, records


def source_rows(exported: SnapshotReader) -> Iterator[pa.RecordBatch]:
    """What was exported, as batches of `SOURCE_ROW`, of which several may be of one id."""
    history = History()
    for batch in exported.batches(Kind.STATE, ["state_id", "raw_digest", "created_at", "updated_at", "expires_at"]):
        digests = pa.array(state_digests(batch, batch.column("raw_digest").to_pylist()), pa.binary())
        columns = [batch.column("state_id"), digests, batch.column("expires_at")]
        yield _row(SOURCE_ROW, dict(zip(SOURCE_ROW.names, columns, strict=False)), batch.num_rows)
    for kind in (Kind.VERSION, Kind.SNAPSHOT):
        for batch in exported.batches(kind, History.columns(kind)):
            history.add(kind, batch, batch.column("raw_digest").to_pylist())
    unusable: dict[bytes, bytes] = {}
    for reject in exported.rejects():
        if reject.kind is Kind.STATE and is_unusable(reject):
            unusable[reject.id] = raw_of(reject)
        else:
            history.reject(reject)
    sums = history.digests()
    yield _row(SOURCE_ROW, {"source_id": list(sums), "history": list(sums.values())}, len(sums))
    yield _row(SOURCE_ROW, {"source_id": list(unusable), "state": list(unusable.values())}, len(unusable))


def target_rows(staged: SnapshotReader) -> Iterator[pa.RecordBatch]:
    """What was staged, as batches of `TARGET_ROW`; the source's id is empty where it has to be looked up in the origins."""
    renamed = staged.manifest.origins_segment is not None
    for kind in Kind:
        columns = [*id_columns(kind), "canonical", *(["expires_at"] if kind is Kind.STATE else [])]
        for batch in staged.batches(kind, columns):
            rows = batch.num_rows
            values = {
                "source_id": pa.repeat(pa.scalar(b""), rows) if renamed else batch.column("state_id"),
                "kind": pa.repeat(pa.scalar(str(kind)), rows),
                "target_id": batch.column("state_id"),
                "other": pa.repeat(pa.scalar(""), rows) if kind is Kind.STATE else batch.column(id_columns(kind)[1]),
                "canonical": batch.column("canonical"),
            }
            if kind is Kind.STATE:
                values["expires_at"] = batch.column("expires_at")
            yield _row(TARGET_ROW, values, rows)


def _row(schema: pa.Schema, values: dict[str, object], rows: int) -> pa.RecordBatch:
    """A batch of some columns, all others null."""
    columns = []
    for field in schema:
        found = values.get(field.name)
        if found is None:
            columns.append(pa.nulls(rows, field.type))
        else:
            columns.append(pa.array(found, field.type) if isinstance(found, list) else found.cast(field.type))  # type: ignore[attr-defined]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _sorted(schema: pa.Schema, query: str, parts: Parts) -> Iterator[pa.RecordBatch]:
    """What a query tells of rows, of which `schema` has the columns; `part` says what each is."""
    marked = pa.schema([pa.field("part", pa.int8()), *(field.with_nullable(True) for field in schema)])
    batches = (_marked(marked, part, batch) for part, some in parts.items() for batch in some)
    yield from sorted_on_disk(batches, marked, query)


def _written(session: Session, name: str, schema: pa.Schema, query: str, parts: Parts) -> int:
    rows = 0
    with session.workspace.writing(name) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in _sorted(schema, query, parts):
            writer.write_batch(batch.select(schema.names).cast(schema), row_group_size=_GROUP_ROWS)
            rows += batch.num_rows
    return rows


def _marked(schema: pa.Schema, part: int, batch: pa.RecordBatch) -> pa.RecordBatch:
    if part == _TOUCHED:
        values = {"source_id": batch.column(0)}
    elif part == _LEFT:
        values = {"source_id": batch.column(0), "state": pa.repeat(pa.scalar(_UNLIKE_ANY), batch.num_rows)}
    elif part == _ORIGIN:
        values = {"source_id": batch.column(ORIGIN.names[1]), "target_id": batch.column(ORIGIN.names[0])}
    else:
        values = {field.name: batch.column(field.name) for field in batch.schema}
    return _row(schema, {**values, "part": pa.repeat(pa.scalar(part, pa.int8()), batch.num_rows)}, batch.num_rows)


def _read(session: Session, name: str, within: KeyRange | None) -> Iterator[pa.RecordBatch]:
    with session.workspace.reading(name) as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            if within is None or _may_hold(parquet, group, within):
                yield from parquet.read_row_group(group).to_batches()


def _may_hold(parquet: pq.ParquetFile, group: int, within: KeyRange) -> bool:
    statistics = parquet.metadata.row_group(group).column(0).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    below = within.upper is not None and statistics.min >= within.upper
    return not below and (within.lower is None or statistics.max >= within.lower)
