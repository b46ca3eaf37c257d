"""Comparing what was staged with what a target really returns, by digest, out of core.

The digests of the staged snapshots were made on export (or after the transforms); the target is read in full and digested
here. Both go into DuckDB on disk, which joins them by id.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Literal, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.canonical import Trait
from agui_pipelines.errors import StagingError
from agui_pipelines.keyspace import DUCKDB, cut, interruptions_told, write_catalogue
from agui_pipelines.phases.observation import (
    LIST_LIMIT,
    Names,
    OpenedStore,
    Spans,
    Take,
    Unreadable,
    Within,
    clock,
    observe,
    spans_of_ids,
)
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Store
from agui_pipelines.progress import Meter
from agui_pipelines.records import SCHEMAS, STATE, Kind, id_columns
from agui_pipelines.staging import SnapshotReader

INSERT_ROWS: Final = 20_000
EXPIRY_MILLISECONDS: Final = 100
"""What two expiries may differ by and be one."""

_IDS: Final = 50_000
"""Ids that are taken out of the database at a time."""

Side = Literal["expected", "actual", "again"]
"""The tables of digested records: what was staged, what the store holds, and what it holds at a second look."""

_OTHER_ID: Final = {Kind.STATE: None, Kind.VERSION: "version_id", Kind.SNAPSHOT: "snapshot_id"}
_LINK: Final = {Kind.STATE: None, Kind.VERSION: "parent_id", Kind.SNAPSHOT: "version_id"}
_ROW: Final = pa.schema(
    [
        ("kind", pa.string()),
        ("id", pa.string()),
        ("other", pa.string()),
        ("link", pa.string()),
        ("canonical", pa.binary(16)),
        ("spelling", pa.binary(16)),
        ("duplicates", pa.bool_()),
        ("expires_at", pa.int64()),
        ("created_at", pa.int64()),
        ("updated_at", pa.int64()),
        ("reading", pa.int64()),
    ]
)
"""A digested record: `other` is the id of a version or snapshot, `link` the version that it names; `expires_at` in
milliseconds since the epoch, the other times as the store tells them apart (`ports.Store.times`)."""

_JOINED: Final = """
    SELECT coalesce(e.kind, a.kind) AS kind, coalesce(e.id, a.id) AS id, coalesce(e.other, a.other) AS other,
        CASE
            WHEN a.id IS NULL AND $expiry AND e.expires_at <= $now THEN 'expired'
            WHEN a.id IS NULL THEN 'missing'
            WHEN e.id IS NULL THEN 'extra'
            WHEN e.canonical IS DISTINCT FROM a.canonical THEN 'corrupted'
            WHEN e.spelling IS DISTINCT FROM a.spelling OR e.duplicates <> a.duplicates THEN 'normalised'
            ELSE 'equal'
        END AS status,
        $expiry AND a.id IS NOT NULL AND e.id IS NOT NULL
            AND coalesce(abs(e.expires_at - a.expires_at) > $tolerance, e.expires_at IS DISTINCT FROM a.expires_at)
            AS untimely,
        a.id IS NOT NULL AND e.id IS NOT NULL AND (
            e.created_at IS NOT NULL AND e.created_at IS DISTINCT FROM a.created_at
            OR e.updated_at IS NOT NULL AND e.updated_at IS DISTINCT FROM a.updated_at) AS misdated
    FROM {expected} e FULL OUTER JOIN {actual} a ON e.kind = a.kind AND e.id = a.id AND e.other = a.other
"""
_DOUBTFUL: Final = "status IN ('missing', 'corrupted') OR untimely OR misdated"

Times = Callable[[pa.RecordBatch], dict[str, pa.Int64Array]]
"""The times of a batch of states that are compared, by column; see `ports.Store.times`."""


@dataclass(frozen=True, slots=True)
class KindComparison:
    """What became of the records of one kind."""

    total: int = 0
    migrated: int = 0
    normalised: int = 0
    """Of the migrated ones, how many are equal by value although a number is spelled differently or a repeated key went."""
    expired: int = 0
    """Missing, and rightly so, as their time was over."""
    missing: Names = field(default_factory=Names)
    corrupted: Names = field(default_factory=Names)
    extra: Names = field(default_factory=Names)
    """In the target, but not among what was staged."""
    untimely: Names = field(default_factory=Names)
    """There, with another expiry than was staged; also counted as whatever else they are."""
    misdated: Names = field(default_factory=Names)
    """There, with another time of creation or update than was staged; likewise."""


class Comparison:
    """Collects both sides and joins them. Use as a context manager; `observing` may be used by several threads.

    Expiries are compared if `expiry` says that the store keeps them, and of the other times those that `times` gives.
    """

    def __init__(self, *, expiry: bool = False, times: Times | None = None) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="agui-compare-")
        self.folder = Path(self._scratch.name)
        self._connection = duckdb.connect(
            self.folder / "compare.duckdb",
            config={**DUCKDB, "temp_directory": str(self.folder)},
        )
        self.expiry = expiry
        self._times = times or _no_times
        self.times = tuple(self._times(pa.RecordBatch.from_pylist([], STATE)))
        """Columns of the times that are compared."""
        self._lock = threading.RLock()
        self._readings = itertools.count(1)
        self._pending: dict[Side, list[pa.RecordBatch]] = {"expected": [], "actual": [], "again": []}
        for table in self._pending:
            self._connection.register("shape", pa.Table.from_pylist([], _ROW))
            self._connection.execute(f"CREATE TABLE {table} AS SELECT * FROM shape")  # noqa: S608 - one of three names
            self._connection.unregister("shape")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._scratch.cleanup()

    def expect(self, snapshots: Iterable[SnapshotReader], only: Sequence[bytes] | None = None) -> None:
        """Take the digests of staged snapshots (of some ids only, if given) as what the target should hold."""
        wanted = None if only is None else pa.array(only, pa.binary()).cast(pa.string())
        for snapshot in snapshots:
            for kind in Kind:
                for batch in snapshot.batches(kind, [*_columns(kind), *(self.times if kind is Kind.STATE else ())]):
                    some = batch if wanted is None else batch.filter(pc.is_in(batch.column("state_id"), wanted))
                    self._add("expected", self._row(kind, some))

    @contextmanager
    def observing(self, side: Side = "actual") -> Iterator[Take]:
        """What takes digested batches as what the target holds; if the block ends with an error, as if it never had.

        With the side "again", as what it holds at a second look; see `join_again`.
        """
        number = next(self._readings)
        try:
            yield lambda kind, batch: self._add(side, self._row(kind, batch, number))
        except BaseException:
            self._forget(side, number)
            raise

    def result(self, kind: Kind) -> KindComparison:
        found = {status: self._names(kind, f"status = '{status}'") for status in ("missing", "corrupted", "extra")}
        counts: dict[str, int] = dict(
            self.query("SELECT status, count(*) FROM joined WHERE kind = $kind GROUP BY status", kind=kind)
        )
        migrated = counts.get("equal", 0) + counts.get("normalised", 0)
        expired = counts.get("expired", 0)
        return KindComparison(
            total=migrated + expired + found["missing"].count + found["corrupted"].count,
            migrated=migrated,
            normalised=counts.get("normalised", 0),
            expired=expired,
            **found,
            untimely=self._names(kind, "untimely"),
            misdated=self._names(kind, "misdated"),
        )

    def statuses(self, rows: int) -> Iterator[pa.RecordBatch]:
        """What became of every record, in batches of up to `rows`: its kind, ids (`other` is empty for a state) and status."""
        with closing(self._connection.cursor()) as cursor:
            yield from cursor.sql("SELECT kind, id AS state_id, other, status FROM joined").to_arrow_reader(rows)

    def others(self, kind: Kind) -> Iterator[pa.RecordBatch]:
        """The ids of all records that the store holds and should not, as batches of nothing but the columns of the ids."""
        names = id_columns(kind)
        schema = pa.schema([SCHEMAS[kind].field(name) for name in names])
        query = (
            "SELECT id, other FROM joined WHERE kind = $kind AND status = 'extra' AND (id, other) > ($id, $other) "
            "ORDER BY id, other LIMIT $limit"
        )
        last = ("", "")
        while rows := self.query(query, kind=kind, limit=LIST_LIMIT, id=last[0], other=last[1]):
            last = rows[-1]
            yield pa.RecordBatch.from_pylist([dict(zip(names, row, strict=False)) for row in rows], schema)

    def join(self, now: int | None = None) -> None:
        """Join both sides, once everything has been expected and observed.

        `now` is the time by the clock of the store, taken after it was observed: what had expired by then is rightly gone.
        """
        self._flush()
        self._join("CREATE TABLE joined AS", "expected", "actual", now)

    def doubt(self) -> int:
        """Choose the ids under which something is missing, corrupted or has another time; how many there are."""
        self.query(f"CREATE TABLE doubtful AS SELECT DISTINCT id FROM joined WHERE {_DOUBTFUL}")  # noqa: S608
        [(count,)] = self.query("SELECT count(*) FROM doubtful")
        return int(count)

    def doubtful_ids(self) -> Iterator[list[bytes]]:
        """The ids that `doubt` has chosen, in order, in lists."""
        last = None
        query = f"SELECT id FROM doubtful WHERE $last IS NULL OR id > $last ORDER BY id LIMIT {_IDS}"  # noqa: S608 - a number
        while rows := self.query(query, last=last):
            yield [id_.encode() for (id_,) in rows]
            [last] = rows[-1]

    def doubts(self) -> int:
        """Records that are missing, corrupted, or have another expiry, creation or update."""
        [(count,)] = self.query(f"SELECT count(*) FROM joined WHERE {_DOUBTFUL}")  # noqa: S608
        return int(count)

    def join_again(self, now: int | None = None) -> None:
        """Put what a second look saw in the place of what was there at the first, under all ids that are doubtful.

        `now` as for `join`.
        """
        self._flush()
        for table in ("actual", "joined"):
            self.query(f"DELETE FROM {table} WHERE id IN (SELECT id FROM doubtful)")  # noqa: S608 - one of two names
        self._join("INSERT INTO joined", "(SELECT * FROM expected SEMI JOIN doubtful USING (id))", "again", now)
        self.query("INSERT INTO actual SELECT * FROM again")

    def first(self, kind: Kind, status: str, count: int) -> list[tuple[str, str]]:
        """The ids of the first records of a finding: of the state, and of the version or snapshot (else empty)."""
        return self.query(
            "SELECT id, other FROM joined WHERE kind = $kind AND status = $status ORDER BY id, other LIMIT $limit",
            kind=kind,
            status=status,
            limit=count,
        )

    def query(self, sql: str, **values: object) -> list[tuple[Any, ...]]:
        """Run a statement on the tables (see `Side`) and on ``joined``; named parameters are its values."""
        with self._lock, _told_of_disk(), interruptions_told():
            rows: list[tuple[Any, ...]] = self._connection.execute(sql, values or None).fetchall()
            return rows

    def names(self, sql: str, **values: object) -> Names:
        """The records that a query for their ids (``id`` and ``other``) finds."""
        [(count,)] = self.query(f"SELECT count(*) FROM ({sql})", **values)  # noqa: S608 - a query of ours
        if not count:
            return Names()
        rows = self.query(f"SELECT id, other FROM ({sql}) ORDER BY id, other LIMIT {LIST_LIMIT}", **values)  # noqa: S608
        return Names(tuple(name_of(*row) for row in rows), count)

    def insert(self, table: str, batch: pa.RecordBatch | pa.Table) -> None:
        """Append a batch to a table of its columns, which is made if it is missing."""
        with self._lock, _told_of_disk():
            self._connection.register("incoming", batch)
            self._connection.execute(f"CREATE TABLE IF NOT EXISTS {table} AS SELECT * FROM incoming LIMIT 0")  # noqa: S608
            self._connection.execute(f"INSERT INTO {table} SELECT * FROM incoming")  # noqa: S608 - a name of ours
            self._connection.unregister("incoming")

    def _join(self, into: str, expected: str, actual: str, now: int | None) -> None:
        self.query(
            f"{into} {_JOINED.format(expected=expected, actual=actual)}",
            now=now,
            expiry=self.expiry,
            tolerance=EXPIRY_MILLISECONDS,
        )

    def _names(self, kind: Kind, condition: str) -> Names:
        return self.names(f"SELECT id, other FROM joined WHERE kind = $kind AND {condition}", kind=kind)  # noqa: S608

    def _add(self, table: Side, batch: pa.RecordBatch) -> None:
        """Rows are gathered before they are inserted: an insert costs milliseconds, however few they are."""
        with self._lock:
            pending = self._pending[table]
            pending.append(batch)
            if sum(b.num_rows for b in pending) >= INSERT_ROWS:
                self._insert_pending(table)

    def _row(self, kind: Kind, batch: pa.RecordBatch, reading: int = 0) -> pa.RecordBatch:
        return _row(kind, batch, self._times(batch) if kind is Kind.STATE else {}, reading)

    def _flush(self) -> None:
        for table in self._pending:
            self._insert_pending(table)

    def _insert_pending(self, table: Side) -> None:
        pending, self._pending[table] = self._pending[table], []
        if pending:
            self.insert(table, pa.Table.from_batches(pending, _ROW))

    def _forget(self, table: Side, reading: int) -> None:
        with self._lock:
            self._insert_pending(table)
            self.query(f"DELETE FROM {table} WHERE reading = $reading", reading=reading)  # noqa: S608 - one of two names


@contextmanager
def _told_of_disk() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise StagingError(
            f"Comparing on disk failed: {str(error).splitlines()[0]}",
            why="Records are compared in the system's temporary folder.",
            remedy="Make room there, or point TMPDIR to another folder, and run again.",
        ) from error


def name_of(state_id: str, other: str) -> str:
    """A record's name in a report."""
    return f"{state_id}/{other}" if other else state_id


def _columns(kind: Kind) -> list[str]:
    named = [name for name in (_OTHER_ID[kind], _LINK[kind]) if name]
    return ["state_id", *named, "canonical", "spelling", "traits", *(["expires_at"] if kind is Kind.STATE else [])]


def _no_times(_: pa.RecordBatch) -> dict[str, pa.Int64Array]:
    return {}


def _row(kind: Kind, batch: pa.RecordBatch, times: dict[str, pa.Int64Array], reading: int) -> pa.RecordBatch:
    rows = batch.num_rows
    other, link = _OTHER_ID[kind], _LINK[kind]
    duplicates = pc.not_equal(pc.bit_wise_and(batch.column("traits"), pa.scalar(Trait.DUPLICATE_KEYS, pa.uint16())), 0)
    columns = [
        pa.repeat(pa.scalar(str(kind)), rows),
        batch.column("state_id"),
        batch.column(other) if other else pa.repeat(pa.scalar(""), rows),
        batch.column(link) if link else pa.nulls(rows, pa.string()),
        batch.column("canonical"),
        pc.coalesce(batch.column("spelling"), batch.column("canonical")),
        duplicates,
        batch.column("expires_at").cast(pa.int64()) if kind is Kind.STATE else pa.nulls(rows, pa.int64()),
        *(times.get(name, pa.nulls(rows, pa.int64())) for name in ("created_at", "updated_at")),
        pa.repeat(reading, rows),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_ROW)


@contextmanager
def compared(
    session: Session,
    snapshots: Iterable[SnapshotReader],
    meter: Meter,
    *,
    opened: OpenedStore | None = None,
    within: Within | None = None,
    ids: Sequence[bytes] | None = None,
    expiry: bool = False,
    times: bool = False,
) -> Iterator[tuple[Comparison, Unreadable]]:
    """Read a store (the target, unless `opened` opens another), digest it, and join it with what should be there.

    Yields the joined comparison and what the store holds that is no valid record. Every record is read, as what is there
    and should not be is only found in this way; or all that have ids which are `within` some; or, of both sides, those of
    a few `ids` alone. With `expiry`, the moments at which states expire are compared as well, with `times` those of
    their creation and update, as far as the store keeps them.
    """
    opened = opened or session.target
    unreadable = Unreadable()
    with opened() as store:
        kept = store.times if times else None  # a store need not be open for that
    with Comparison(expiry=expiry, times=kept) as comparison:
        comparison.expect(snapshots, ids)
        spans: Sequence[Spans] = []
        keys = 0
        with opened() as store:
            if not retried(session, meter, store.exists):
                pass
            elif ids is not None:
                spans, keys = spans_of_ids(ids), len(ids)
            else:
                everything = partial(_everything, session, store, comparison.folder / "keys.parquet")
                found = within or retried(session, meter, everything)
                # Of a whole store even a range without keys is read: what belongs to no id is found with the first.
                spans = found.spans(empty=within is None)
                keys = sum(key_range.keys for key_range in found.ranges)
        only = within is not None or ids is not None
        observe(session, opened, spans, meter, comparison.observing, unreadable, keys=keys, only=only)
        comparison.join(clock(session, opened, meter) if expiry else None)
        yield comparison, unreadable


def _everything(session: Session, store: Store, file: Path) -> Within:
    with file.open("wb") as sorted_keys:
        write_catalogue(store.keys(), sorted_keys)
    with file.open("rb") as catalogue:
        ranges = cut(catalogue, session.migration.ranges)
    return Within(partial(_opened, file), ranges)


def _opened(path: Path) -> AbstractContextManager[IO[bytes]]:
    return path.open("rb")
