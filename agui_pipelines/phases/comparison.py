"""Comparing what was staged with what a target really returns, by digest, out of core.

The digests of the staged snapshots were made on export (or after the transforms); the target is read in full and digested
here. Both go into DuckDB on disk, which joins them by id.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agui_pipelines.canonical import Trait
from agui_pipelines.keyspace import DUCKDB, KeyRange, Span, cut, held_by, interruptions_told, owned_by, write_catalogue
from agui_pipelines.phases.export import GATHER_BYTES, GATHER_ROWS, digested_or_rejected
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Store
from agui_pipelines.progress import Meter
from agui_pipelines.records import SCHEMAS, Kind, Reject, gathered, id_columns
from agui_pipelines.staging import SnapshotReader
from agui_pipelines.staging.flow import ahead

INSERT_ROWS: Final = 20_000
LIST_LIMIT: Final = 1000
"""Ids named in each list of a report; their full number stands beside it."""

_OTHER_ID: Final = {Kind.STATE: None, Kind.VERSION: "version_id", Kind.SNAPSHOT: "snapshot_id"}
_ROW: Final = pa.schema(
    [
        ("kind", pa.string()),
        ("id", pa.string()),
        ("other", pa.string()),
        ("canonical", pa.binary(16)),
        ("spelling", pa.binary(16)),
        ("duplicates", pa.bool_()),
        ("expires_at", pa.timestamp("ms", "UTC")),
    ]
)


@dataclass(frozen=True, slots=True)
class Names:
    """Ids of one finding: the first `LIST_LIMIT` in order, and how many there are in all."""

    ids: tuple[str, ...] = ()
    count: int = 0


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


class Comparison:
    """Collects both sides and joins them. Use as a context manager; `observe` may be called from several threads."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="agui-compare-")
        self.folder = Path(self._scratch.name)
        self._connection = duckdb.connect(
            self.folder / "compare.duckdb",
            config={**DUCKDB, "temp_directory": str(self.folder)},
        )
        self._lock = threading.Lock()
        self._pending: dict[str, list[pa.RecordBatch]] = {"expected": [], "actual": []}
        for table in self._pending:
            self._connection.register("shape", pa.Table.from_pylist([], _ROW))
            self._connection.execute(f"CREATE TABLE {table} AS SELECT * FROM shape")  # noqa: S608 - one of two names
            self._connection.unregister("shape")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._scratch.cleanup()

    def expect(self, snapshots: Iterable[SnapshotReader]) -> None:
        """Take the digests of staged snapshots as what the target should hold."""
        for snapshot in snapshots:
            for kind in Kind:
                for segment in snapshot.segments(kind):
                    for batch in snapshot.segment_batches(segment, _columns(kind)):
                        self._add("expected", _row(kind, batch))

    def observe(self, kind: Kind, batch: pa.RecordBatch) -> None:
        """Take a digested batch as what the target holds."""
        self._add("actual", _row(kind, batch))

    def result(self, kind: Kind) -> KindComparison:
        found = {status: self._names(kind, status) for status in ("missing", "corrupted", "extra")}
        counts: dict[str, int] = dict(
            self._query("SELECT status, count(*) FROM joined WHERE kind = ? GROUP BY status", [kind])
        )
        migrated = counts.get("equal", 0) + counts.get("normalised", 0)
        expired = counts.get("expired", 0)
        return KindComparison(
            total=migrated + expired + found["missing"].count + found["corrupted"].count,
            migrated=migrated,
            normalised=counts.get("normalised", 0),
            expired=expired,
            **found,
        )

    def others(self, kind: Kind) -> Iterator[pa.RecordBatch]:
        """The ids of all records that the store holds and should not, as batches of nothing but the columns of the ids."""
        names = id_columns(kind)
        schema = pa.schema([SCHEMAS[kind].field(name) for name in names])
        query = "SELECT id, other FROM joined WHERE kind = ? AND status = 'extra' ORDER BY id, other LIMIT ? OFFSET ?"
        count = 0
        while rows := self._query(query, [kind, LIST_LIMIT, count]):
            count += len(rows)
            yield pa.RecordBatch.from_pylist([dict(zip(names, row, strict=False)) for row in rows], schema)

    def join(self) -> None:
        """Join both sides, once everything has been expected and observed."""
        now = datetime.now(UTC)
        with self._lock:
            for table in self._pending:
                self._insert(table)
        self._query(
            """
            CREATE TABLE joined AS
            SELECT coalesce(e.kind, a.kind) AS kind, coalesce(e.id, a.id) AS id, coalesce(e.other, a.other) AS other,
                CASE
                    WHEN a.id IS NULL AND e.expires_at <= ? THEN 'expired'
                    WHEN a.id IS NULL THEN 'missing'
                    WHEN e.id IS NULL THEN 'extra'
                    WHEN e.canonical IS DISTINCT FROM a.canonical THEN 'corrupted'
                    WHEN e.spelling IS DISTINCT FROM a.spelling OR e.duplicates <> a.duplicates THEN 'normalised'
                    ELSE 'equal'
                END AS status
            FROM expected e FULL OUTER JOIN actual a ON e.kind = a.kind AND e.id = a.id AND e.other = a.other
            """,
            [now],
        )

    def _names(self, kind: Kind, status: str) -> Names:
        [(count,)] = self._query("SELECT count(*) FROM joined WHERE kind = ? AND status = ?", [kind, status])
        rows = self._query(
            f"SELECT id, other FROM joined WHERE kind = ? AND status = ? ORDER BY id, other LIMIT {LIST_LIMIT}",  # noqa: S608
            [kind, status],
        )
        return Names(tuple(f"{state_id}/{other}" if other else state_id for state_id, other in rows), count)

    def _add(self, table: str, batch: pa.RecordBatch) -> None:
        """Rows are gathered before they are inserted: an insert costs milliseconds, however few they are."""
        with self._lock:
            pending = self._pending[table]
            pending.append(batch)
            if sum(b.num_rows for b in pending) >= INSERT_ROWS:
                self._insert(table)

    def _insert(self, table: str) -> None:
        if self._pending[table]:
            self._connection.register("incoming", pa.Table.from_batches(self._pending[table], _ROW))
            self._connection.execute(f"INSERT INTO {table} SELECT * FROM incoming")  # noqa: S608 - one of two names
            self._connection.unregister("incoming")
            self._pending[table] = []

    def _query(self, sql: str, values: list[object]) -> list[tuple[Any, ...]]:
        with self._lock, interruptions_told():
            rows: list[tuple[Any, ...]] = self._connection.execute(sql, values).fetchall()
            return rows


def _columns(kind: Kind) -> list[str]:
    other = _OTHER_ID[kind]
    return ["state_id", *([other] if other else []), "canonical", "spelling", "traits", *_expiry(kind)]


def _expiry(kind: Kind) -> list[str]:
    return ["expires_at"] if kind is Kind.STATE else []


def _row(kind: Kind, batch: pa.RecordBatch) -> pa.RecordBatch:
    rows = batch.num_rows
    other = _OTHER_ID[kind]
    duplicates = pc.not_equal(pc.bit_wise_and(batch.column("traits"), pa.scalar(Trait.DUPLICATE_KEYS, pa.uint16())), 0)
    columns = [
        pa.array([str(kind)] * rows, pa.string()),
        batch.column("state_id"),
        batch.column(other) if other else pa.array([""] * rows, pa.string()),
        batch.column("canonical"),
        pc.coalesce(batch.column("spelling"), batch.column("canonical")),
        duplicates,
        batch.column("expires_at") if kind is Kind.STATE else pa.nulls(rows, pa.timestamp("ms", "UTC")),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_ROW)


@dataclass(frozen=True, slots=True)
class Within:
    """Some ids of a store: what opens their catalogue, and its key ranges."""

    reading: Callable[[], AbstractContextManager[IO[bytes]]]
    ranges: Sequence[KeyRange]


@contextmanager
def compared(
    session: Session,
    snapshots: list[SnapshotReader],
    meter: Meter,
    *,
    opened: Callable[[], AbstractContextManager[Store]] | None = None,
    within: Within | None = None,
) -> Iterator[tuple[Comparison, Names]]:
    """Read a store (the target, unless `opened` opens another), digest it, and join it with what should be there.

    Yields the joined comparison and what the store holds that is no valid record. Every record is read, as what is there
    and should not be is only found in this way; or all that have ids which are `within` some.
    """
    opened = opened or session.target
    unreadable = _Unreadable()

    def read(key_range: KeyRange) -> None:
        with opened() as store, reading() as file:
            span = Span(key_range, pq.ParquetFile(file))
            keys = span.key_set() if within else None
            reject = partial(unreadable.add, keys)
            for kind in store.kinds:
                for batch in ahead(gathered(store.read(kind, span, reject), GATHER_ROWS, GATHER_BYTES)):
                    session.require_going()
                    wanted = batch if keys is None else held_by(keys, batch)
                    for usable in digested_or_rejected(kind, wanted, reject, digester=digester):
                        comparison.observe(kind, usable)
                    meter.add(wanted.num_rows, wanted.nbytes)

    with Comparison() as comparison:
        comparison.expect(snapshots)
        ranges: Sequence[KeyRange] = []
        with opened() as store:
            if not store.exists():
                pass
            elif within is not None:
                reading, ranges = within.reading, [r for r in within.ranges if r.keys]
            else:
                catalogue = comparison.folder / "keys.parquet"
                with catalogue.open("wb") as sorted_keys:
                    write_catalogue(store.keys(), sorted_keys)
                with catalogue.open("rb") as file:
                    ranges = cut(file, session.migration.ranges)
                reading = partial(_opened, catalogue)
        with session.digester(sum(key_range.keys for key_range in ranges)) as digester:
            session.in_parallel(read, ranges)
        comparison.join()
        yield comparison, unreadable.names()


def _opened(path: Path) -> AbstractContextManager[IO[bytes]]:
    return path.open("rb")


class _Unreadable:
    """Counts what the target holds that is no valid record, and names the first of it."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._count = 0
        self._lock = threading.Lock()

    def add(self, keys: frozenset[bytes] | None, reject: Reject) -> None:
        """Take what belongs to one of the keys, if only those are looked at."""
        if keys is not None and not owned_by(keys, reject.id):
            return
        with self._lock:
            self._count += 1
            if len(self._names) < LIST_LIMIT:
                self._names.append(f"{reject.kind} {reject.name}: {reject.detail}")

    def names(self) -> Names:
        return Names(tuple(sorted(self._names)), self._count)
