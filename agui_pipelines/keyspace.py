"""The sorted id space of a place, on disk, and the key ranges it is cut into.

A *catalogue* is one Parquet file with the distinct keys of a source in byte order and a weight for each (bytes where the
source tells them cheaply, else 1). DuckDB sorts a large one on disk, so its size is not bounded by memory. A *key range* is
a run of rows of the catalogue; ranges are the Dagster partitions ``00``, ``01``, … and the unit of parallel work and repair.
"""

from __future__ import annotations

import base64
import io
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, chain
from typing import IO, Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agui_pipelines.errors import StagingError

CATALOGUE: Final = pa.schema(
    [pa.field("key", pa.binary(), nullable=False), pa.field("weight", pa.int64(), nullable=False)]
)
"""What `Reader.keys` yields: unsorted, possibly with repetitions."""

LEFT_OUT: Final = -1
"""A key that comes with this weight, be it once only, does not come into the catalogue."""

MAX_RANGES: Final = 256
DUCKDB: Final = {"memory_limit": "96MB", "threads": "2", "preserve_insertion_order": "false"}
"""Settings of a database that sorts or joins on disk: enough memory to be quick; what does not fit is spilled beside it.
More threads, or keeping the order of insertion, take more memory than the limit says."""

_ROWS: Final = 50_000
_GROUP_ROWS: Final = 10_000
"""Rows of a row group: whoever reads a key range reads all of those that it begins and ends in."""
_SMALL: Final = 16 * 1024 * 1024
"""Bytes of batches that are sorted in memory, in a quarter of the time."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Rows ``first_row`` to ``first_row + keys`` of a catalogue: keys from `lower` on, up to but without `upper`.

    The first range has no lower and the last no upper bound (None), so that together they cover every possible key.
    """

    name: str
    lower: bytes | None
    upper: bytes | None
    first_row: int
    keys: int
    weight: int


def ranges_as_text(ranges: Sequence[KeyRange]) -> list[dict[str, Any]]:
    """Ranges as JSON can hold them."""

    def encoded(bound: bytes | None) -> str | None:
        return None if bound is None else base64.b64encode(bound).decode()

    return [{**asdict(r), "lower": encoded(r.lower), "upper": encoded(r.upper)} for r in ranges]


def ranges_of_text(values: Sequence[Mapping[str, Any]]) -> tuple[KeyRange, ...]:
    """The inverse of `ranges_as_text`."""

    def decoded(bound: str | None) -> bytes | None:
        return None if bound is None else base64.b64decode(bound)

    return tuple(KeyRange(**{**r, "lower": decoded(r["lower"]), "upper": decoded(r["upper"])}) for r in values)


def held_by(keys: frozenset[bytes], batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows of a batch whose ``state_id`` is one of the keys: a reader may read whatever lies between a span's bounds."""
    held = [id_ in keys for id_ in batch.column("state_id").cast(pa.binary()).to_pylist()]
    return batch if all(held) else batch.filter(pa.array(held, pa.bool_()))


def owners(name: bytes) -> list[bytes]:
    """Whose something named ``<state>`` or ``<state>/<record>`` can be; both parts may hold a ``/``."""
    parts = name.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def owned_by(keys: frozenset[bytes], name: bytes) -> bool:
    """Whether something of this name belongs to one of the keys; see `owners`."""
    return any(owner in keys for owner in owners(name))


def listed(catalogue: pq.ParquetFile, keys: Iterable[bytes]) -> frozenset[bytes]:
    """Which of some keys a catalogue lists. Reads all of it, batch by batch."""
    wanted = pa.array(set(keys), pa.binary())
    found: set[bytes] = set()
    for batch in catalogue.iter_batches(_ROWS, columns=["key"]):
        column = batch.column("key")
        found.update(column.filter(pc.is_in(column, wanted)).to_pylist())
    return frozenset(found)


def range_names(count: int) -> tuple[str, ...]:
    """The partition keys of `count` ranges: ``00`` … ``15``, three digits from 101 ranges on."""
    if not 1 <= count <= MAX_RANGES:
        raise ValueError(f"between 1 and {MAX_RANGES} key ranges, not {count}")
    width = max(2, len(str(count - 1)))
    return tuple(f"{i:0{width}}" for i in range(count))


def adjacent(names: Sequence[str], of: Sequence[str]) -> list[list[str]]:
    """Names of ranges, which all stand in `of`, in lists of those that follow each other there."""
    groups: list[list[str]] = []
    last = -2
    for at in sorted(of.index(name) for name in names):
        if at != last + 1:
            groups.append([])
        groups[-1].append(of[at])
        last = at
    return groups


@contextmanager
def interruptions_told() -> Iterator[None]:
    """Raise KeyboardInterrupt where a signal's handler raised something: DuckDB keeps that to itself, and says only this."""
    try:
        yield
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from None


def sorted_on_disk(batches: Iterable[pa.RecordBatch], schema: pa.Schema, query: str) -> Iterator[pa.RecordBatch]:
    """Put `batches` into a temporary DuckDB table ``rows`` and stream the result of `query` over it.

    An error of the iterable, or an interruption, is raised as it is; `StagingError` if DuckDB cannot go on (a full disk).
    """
    failure: list[BaseException] = []

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except GeneratorExit:
            raise
        except BaseException as error:
            failure.append(error)  # DuckDB would only pass on its text
            raise

    with tempfile.TemporaryDirectory(prefix="agui-sort-") as scratch:
        connection = duckdb.connect(
            f"{scratch}/sort.duckdb",
            config={**DUCKDB, "temp_directory": scratch},
        )
        try:
            connection.register("incoming", pa.RecordBatchReader.from_batches(schema, watched()))
            with interruptions_told():
                connection.execute("CREATE TABLE rows AS SELECT * FROM incoming")
                connection.unregister("incoming")
                result: pa.RecordBatchReader = connection.sql(query).to_arrow_reader(_ROWS)
            yield from result
        except duckdb.Error as error:
            if failure:
                raise failure[0] from None
            raise StagingError(
                f"Sorting on disk failed: {str(error).splitlines()[0]}",
                why="Keys are sorted in the system's temporary folder.",
                remedy="Make room there, or point TMPDIR to another folder, and run again.",
            ) from error
        finally:
            connection.close()


def write_catalogue(batches: Iterable[pa.RecordBatch], file: IO[bytes]) -> None:
    """Sort `batches` of the `CATALOGUE` schema into `file` as Parquet. Repeated keys count once; see `LEFT_OUT`."""
    query = "SELECT key, max(weight)::BIGINT AS weight FROM rows GROUP BY key HAVING min(weight) >= 0 ORDER BY key"
    incoming = iter(batches)
    first, size = [], 0
    for batch in incoming:
        first.append(batch)
        size += batch.nbytes
        if size > _SMALL:
            ordered = sorted_on_disk(chain(first, incoming), CATALOGUE, query)
            break
    else:
        ordered = iter(_sorted_in_memory(first))
    with pq.ParquetWriter(file, CATALOGUE, compression="zstd", compression_level=1) as writer:
        for batch in ordered:
            writer.write_batch(batch.cast(CATALOGUE), row_group_size=_GROUP_ROWS)


def _sorted_in_memory(batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """What the query of `write_catalogue` gives, of a few batches."""
    every = pa.Table.from_batches([each.cast(CATALOGUE) for each in batches], CATALOGUE)
    found = every.group_by("key").aggregate([("weight", "max"), ("weight", "min")])
    kept = found.filter(pc.greater_equal(found.column("weight_min"), 0)).sort_by("key")
    chunks: list[pa.RecordBatch] = kept.select(["key", "weight_max"]).to_batches(max_chunksize=_ROWS)
    return [batch.rename_columns(CATALOGUE.names) for batch in chunks]


def cut(file: IO[bytes], count: int) -> list[KeyRange]:
    """Cut the catalogue in `file` into `count` ranges of as equal weight as its keys allow.

    There are always exactly `count` ranges; with few keys, or very uneven weights, some are empty.
    """
    catalogue = pq.ParquetFile(file)
    total = sum(pc.sum(batch.column(0)).as_py() or 0 for batch in catalogue.iter_batches(_ROWS, columns=["weight"]))
    names = range_names(count)
    bounds: list[tuple[int, bytes, int]] = []  # row, key and running weight at which each next range begins
    row = running = 0
    for batch in catalogue.iter_batches(_ROWS):
        keys = batch.column("key")
        *before, after_all = accumulate(batch.column("weight").to_pylist(), initial=running)
        while len(bounds) < count - 1:
            # The first key with as much before it as the ranges up to here are to have; never the very first of all.
            at = bisect_left(before, -(-total * (len(bounds) + 1) // count), lo=0 if row else 1)
            if at >= len(before):
                break
            bounds.append((row + at, keys[at].as_py(), before[at]))
        running = after_all
        row += len(before)
    return _between(bounds, names, row, total)


def same_bounds(file: IO[bytes], ranges: Sequence[KeyRange]) -> list[KeyRange]:
    """The ranges with the rows that lie within their bounds in another catalogue; of weights, nothing is told."""
    bounds = sorted({bound for r in ranges for bound in (r.lower, r.upper) if bound is not None})
    before = [0] * len(bounds)  # how many keys come before each bound
    rows = 0
    for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["key"]):
        keys = batch.column("key").to_pylist()
        before = [count + bisect_left(keys, bound) for count, bound in zip(before, bounds, strict=True)]
        rows += len(keys)
    row = dict(zip(bounds, before, strict=True))

    def within(of: KeyRange) -> KeyRange:
        first = 0 if of.lower is None else row[of.lower]
        end = rows if of.upper is None else row[of.upper]
        return replace(of, first_row=first, keys=end - first, weight=0)

    return [within(r) for r in ranges]


def _between(bounds: Sequence[tuple[int, bytes, int]], names: Sequence[str], rows: int, total: int) -> list[KeyRange]:
    """Ranges between the bounds. Names left over get an empty interval, which holds no key at all."""
    starts = [(0, None, 0), *bounds]
    ends = [*bounds, (rows, None, total)]
    ranges = [
        KeyRange(name, lower, upper, first, end - first, after - before)
        for name, (first, lower, before), (end, upper, after) in zip(names, starts, ends, strict=False)
    ]
    return ranges + [KeyRange(name, b"", b"", rows, 0, 0) for name in names[len(ranges) :]]


@dataclass(frozen=True, slots=True)
class Span:
    """One key range together with the catalogue that lists its keys: what a reader is asked to read.

    A reader uses the bounds (PostgreSQL) or the keys (Redis, File), whichever it reads fastest by.
    """

    range: KeyRange
    catalogue: pq.ParquetFile
    sparse: bool = False
    """Whether much may lie between the bounds that is not wanted: who reads by bounds may read by the keys instead."""

    @property
    def lower(self) -> bytes | None:
        return self.range.lower

    @property
    def upper(self) -> bytes | None:
        return self.range.upper

    def __len__(self) -> int:
        return self.range.keys

    def in_memory(self) -> Span:
        """The same span over a catalogue of its own in memory, for whoever goes through its keys several times."""
        keys = [key for some in self.keys(_ROWS) for key in some]
        return replace(self, range=replace(self.range, first_row=0), catalogue=_catalogue_of(keys))

    def key_set(self) -> frozenset[bytes]:
        """All keys of the range, in memory."""
        return frozenset(key for some in self.keys(_ROWS) for key in some)

    def keys(self, size: int) -> Iterator[list[bytes]]:
        """The range's keys in order, in lists of at most `size`."""
        pending: list[bytes] = []
        for batch in self._rows():
            pending += batch.column("key").to_pylist()
            whole = len(pending) - len(pending) % size
            yield from (pending[first : first + size] for first in range(0, whole, size))
            pending = pending[whole:]
        if pending:
            yield pending

    def _rows(self) -> Iterator[pa.RecordBatch]:
        start, end = self.range.first_row, self.range.first_row + self.range.keys
        row = 0
        for group in range(self.catalogue.num_row_groups):
            rows = self.catalogue.metadata.row_group(group).num_rows
            if row < end and row + rows > start:
                table = self.catalogue.read_row_group(group, columns=["key"])
                first = max(0, start - row)
                yield from table.slice(first, min(rows, end - row) - first).to_batches()
            row += rows


def after(key: bytes) -> bytes:
    """The upper bound of a span of one key: no id that a store holds lies between the two, as U+0000 is in none."""
    return key + b"\x01"


def span_of(keys: Iterable[bytes]) -> Span:
    """A span of some keys, at least one. Who reads by its bounds also reads what lies between them."""
    ordered = sorted(set(keys))
    key_range = KeyRange("", ordered[0], after(ordered[-1]), 0, len(ordered), len(ordered))
    return Span(key_range, _catalogue_of(ordered))


def single_spans(keys: Iterable[bytes]) -> list[Span]:
    """A span for each of a few keys, so that nothing which lies between them is read."""
    ordered = sorted(set(keys))
    catalogue = _catalogue_of(ordered)
    return [
        Span(KeyRange(str(row), key, after(key), row, 1, 1), catalogue, sparse=True) for row, key in enumerate(ordered)
    ]


def _catalogue_of(ordered: Sequence[bytes]) -> pq.ParquetFile:
    """A catalogue in memory."""
    file = io.BytesIO()
    table = pa.table([pa.array(ordered, pa.binary()), pa.repeat(1, len(ordered))], schema=CATALOGUE)
    pq.write_table(table, file, compression="none", use_dictionary=False, row_group_size=_GROUP_ROWS)
    return pq.ParquetFile(file)
