"""The three kinds of record that a store holds, as Arrow schemas, and the digests that travel with them.

A document is carried as the bytes that the source holds, never as a parsed object. Times are carried as text too, as
RFC 3339 (or whatever a foreign version record holds), because no binary type keeps every nanosecond, offset and year that
the stores can hold. An expiry is a moment: milliseconds since the epoch, UTC, as Redis keeps it.

Two forms of a batch are used:

* *bare*, as a source reads and a store writes it: the columns of `STATE`, `VERSION` or `SNAPSHOT`;
* *digested*, as a snapshot holds it: the same columns followed by those of `DIGEST_FIELDS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import reduce
from operator import or_
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128_digest

from agui_pipelines.canonical import UNUSABLE, Trait, digest
from agui_pipelines.digests import WIDTH, DigestColumn, digest_values


class Kind(StrEnum):
    """What a record is."""

    STATE = "state"
    VERSION = "version"
    SNAPSHOT = "snapshot"


STATE: Final = pa.schema(
    [
        pa.field("state_id", pa.string(), nullable=False),
        pa.field("data", pa.binary(), nullable=False),
        pa.field("created_at", pa.string()),
        pa.field("updated_at", pa.string()),
        pa.field("expires_at", pa.timestamp("ms", "UTC")),
    ]
)
"""One state: its id, its document (JSON object, bytes as the source holds them), and its times where known."""

VERSION: Final = pa.schema(
    [
        pa.field("state_id", pa.string(), nullable=False),
        pa.field("version_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.string(), nullable=False),
        pa.field("data", pa.binary(), nullable=False),
        pa.field("delta", pa.binary()),
        pa.field("metadata", pa.binary()),
        pa.field("parent_id", pa.string(), nullable=False),
        pa.field("extra", pa.binary()),
    ]
)
"""One version: `State`, `Delta` and `Metadata` as JSON text (null where the record says null); `extra` holds members
that the format does not know, as one JSON object, or null."""

SNAPSHOT: Final = pa.schema(
    [
        pa.field("state_id", pa.string(), nullable=False),
        pa.field("snapshot_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.string(), nullable=False),
        pa.field("data", pa.binary(), nullable=False),
        pa.field("version_id", pa.string(), nullable=False),
        pa.field("metadata", pa.binary()),
        pa.field("extra", pa.binary()),
    ]
)
"""One snapshot of a state; the columns as in `VERSION`."""

REJECT: Final = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("id", pa.binary(), nullable=False),
        pa.field("raw", pa.binary()),
        pa.field("phase", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""One record that cannot go on: its id and content as raw bytes (null where they could not be had), and why."""

ORIGIN: Final = pa.schema(
    [pa.field("state_id", pa.string(), nullable=False), pa.field("source_id", pa.string(), nullable=False)]
)
"""Which id the transforms gave to the records of which id of the source; of states, versions and snapshots alike."""

SCHEMAS: Final = {Kind.STATE: STATE, Kind.VERSION: VERSION, Kind.SNAPSHOT: SNAPSHOT}

_ID_COLUMNS: Final = {
    Kind.STATE: ("state_id",),
    Kind.VERSION: ("state_id", "version_id"),
    Kind.SNAPSHOT: ("state_id", "snapshot_id"),
}

SOURCE_ID: Final = "source_id"
SOURCE_DATA: Final = "source_data"
SOURCE_TRAITS: Final = "source_traits"
"""Columns that accompany a batch within the transform phase only; see `with_source`."""

_DIGEST: Final = pa.binary(WIDTH)

DIGEST_FIELDS: Final = (
    pa.field("raw_digest", _DIGEST, nullable=False),
    pa.field("canonical", _DIGEST, nullable=False),
    pa.field("spelling", _DIGEST),
    pa.field("traits", pa.uint16(), nullable=False),
    pa.field("size", pa.int64(), nullable=False),
)
"""xxh3_128 of the raw document and of its canonical form (see `canonical`); `spelling` is null where it equals
`canonical`; `size` is the document's length in bytes. For versions and snapshots `canonical` covers the whole record."""

DIGESTED: Final = {kind: pa.schema([*schema, *DIGEST_FIELDS]) for kind, schema in SCHEMAS.items()}


_RFC3339: Final = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)")


Digester = Callable[[pa.BinaryArray], DigestColumn]
"""Digests a column of documents: `digests.digest_values`, or a `digests.DigestPool`."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot go on; see `REJECT` for the columns."""

    kind: Kind
    id: bytes
    raw: bytes | None
    phase: str
    reason: str
    detail: str

    @property
    def name(self) -> str:
        """The id as text that can be printed, whatever bytes it holds."""
        return self.id.decode("utf-8", "backslashreplace")


def document_column(values: Sequence[bytes | memoryview | None]) -> pa.BinaryArray:
    """Documents as a column; a single one, which may be very large, is not copied."""
    if len(values) != 1 or values[0] is None:
        return pa.array(values, pa.binary())
    content = pa.py_buffer(values[0])
    offsets = pa.array([0, content.size], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.binary(), 1, [None, offsets, content])


def id_columns(kind: Kind) -> tuple[str, ...]:
    """The columns that together name a record of this kind within a store."""
    return _ID_COLUMNS[kind]


def with_source(kind: Kind, batch: pa.RecordBatch) -> pa.RecordBatch:
    """A digested batch as a bare one that also carries, through whatever its rows go, what each was; nothing is copied."""
    bare = batch.select(SCHEMAS[kind].names)
    for name, column in ((SOURCE_ID, "state_id"), (SOURCE_DATA, "data"), (SOURCE_TRAITS, "traits")):
        bare = bare.append_column(batch.schema.field(column).with_name(name), batch.column(column))
    return bare


def rejected(kind: Kind, batch: pa.RecordBatch, row: int, phase: str, reason: str, detail: str) -> Reject:
    """A row as a reject: named and kept as it was in the source, where the batch still carries that (see `with_source`)."""
    carries = SOURCE_ID in batch.schema.names
    columns = [SOURCE_ID if carries and name == "state_id" else name for name in id_columns(kind)]
    key = "/".join(batch.column(name)[row].as_py() for name in columns)
    raw = batch.column(SOURCE_DATA if carries else "data")[row].as_py()
    return Reject(kind, key.encode(), raw, phase, reason, detail)


def reject_batch(rejects: list[Reject]) -> pa.RecordBatch:
    """Rejects as a batch of the `REJECT` schema."""
    columns = {name: [getattr(r, name) for r in rejects] for name in REJECT.names}
    return pa.RecordBatch.from_pydict(columns, schema=REJECT)


def digested(
    kind: Kind, batch: pa.RecordBatch, digester: Digester = digest_values
) -> tuple[pa.RecordBatch, list[tuple[int, int]]]:
    """Add the digest columns to a bare batch; `digester` digests its documents.

    Returns the digested batch of the usable rows, and ``(row, traits)`` of the unusable ones (not JSON, not an object,
    too deep), which the caller turns into rejects.
    """
    found = digester(batch.column("data"))
    if kind is not Kind.STATE:
        found = _whole_records(batch, found)
    canonical, spelling = _fixed(found.canonical), _fixed(found.spelling)
    traits = _array(pa.uint8(), found.traits, len(found.traits))
    whole = pa.RecordBatch.from_arrays(
        [
            *batch.columns,
            _fixed(found.raw),
            canonical,
            pc.if_else(pc.equal(canonical, spelling), pa.scalar(None, _DIGEST), spelling),
            traits.cast(pa.uint16()),
            pc.binary_length(batch.column("data")).cast(pa.int64()),
        ],
        schema=DIGESTED[kind],
    )
    bad = pc.not_equal(pc.bit_wise_and(traits, pa.scalar(UNUSABLE, pa.uint8())), pa.scalar(0, pa.uint8()))
    unusable = [(row, found.traits[row]) for row in pc.indices_nonzero(bad).to_pylist()]
    return (whole.filter(pc.invert(bad)) if unusable else whole), unusable


def _array(kind: pa.DataType, data: bytes, rows: int) -> pa.Array:
    return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(data)])


def _fixed(data: bytes) -> pa.Array:
    return _array(_DIGEST, data, len(data) // WIDTH)


def _whole_records(batch: pa.RecordBatch, states: DigestColumn) -> DigestColumn:
    """Extend the digests of `State` to the whole version or snapshot record."""
    texts = [f.name for f in batch.schema if pa.types.is_string(f.type)]
    parts = [f.name for f in batch.schema if pa.types.is_binary(f.type) and f.name != "data"]
    canonical, spelling, traits = [], [], bytearray()
    for i, row in enumerate(batch.select([*texts, *parts]).to_pylist()):
        spelled = [row[name] for name in texts]
        exact = [instant(row[name]) if name == "timestamp" else row[name] for name in texts]
        members = [None if row[name] is None else digest(row[name]) for name in parts]
        # Delta is an array, so for the other members NOT_OBJECT says nothing.
        own = [member.traits & ~Trait.NOT_OBJECT for member in members if member]
        traits.append(reduce(or_, own, states.traits[i]))
        state = slice(i * WIDTH, (i + 1) * WIDTH)
        canonical.append(_joined(exact, states.canonical[state], [member and member.canonical for member in members]))
        spelling.append(_joined(spelled, states.spelling[state], [member and member.spelling for member in members]))
    return DigestColumn(states.raw, b"".join(canonical), b"".join(spelling), bytes(traits))


def _joined(texts: list[str], state: bytes, members: list[bytes | None]) -> bytes:
    """One digest of fixed-width digests; an absent member is 16 zero bytes, so that members cannot shift."""
    digests = [xxh3_128_digest(text.encode()) for text in texts]
    return xxh3_128_digest(b"".join([*digests, state, *(bytes(16) if m is None else m for m in members)]))


def instant(timestamp: str) -> str:
    """An RFC 3339 time as UTC with microseconds, so that equal moments are equal texts; anything else as it is.

    A finer digit or another offset is a matter of spelling: PostgreSQL keeps neither.
    """
    match = _RFC3339.fullmatch(timestamp)
    if match is None:
        return timestamp
    whole, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(whole + (offset if offset not in ("Z", "z") else "+00:00")).astimezone(UTC)
    except (ValueError, OverflowError):
        return timestamp
    return f"{moment.replace(tzinfo=None).isoformat(timespec='seconds')}.{(fraction or '')[:6]:0<6}Z"


def sliced(batch: pa.RecordBatch, max_bytes: int, *, column: str = "data") -> Iterator[pa.RecordBatch]:
    """Cut a batch into pieces whose `column` holds at most `max_bytes`, but at least one row each."""
    if batch.nbytes <= max_bytes:
        yield batch
        return
    lengths: list[int] = pc.binary_length(batch.column(column)).fill_null(0).to_pylist()
    start = total = 0
    for i, length in enumerate(lengths):
        if i > start and total + length > max_bytes:
            yield batch.slice(start, i - start)
            start, total = i, 0
        total += length
    yield batch.slice(start)


def gathered(batches: Iterable[pa.RecordBatch], rows: int, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """Put small batches together until they hold `rows` rows or `max_bytes`; larger ones pass as they are."""
    pending: list[pa.RecordBatch] = []
    count = size = 0
    for batch in batches:
        if pending and (count + batch.num_rows > rows or size + batch.nbytes > max_bytes):
            yield pending[0] if len(pending) == 1 else pa.concat_batches(pending)  # which copies even a single one
            pending, count, size = [], 0, 0
        pending.append(batch)
        count += batch.num_rows
        size += batch.nbytes
    if pending:
        yield pending[0] if len(pending) == 1 else pa.concat_batches(pending)
