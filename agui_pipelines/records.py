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
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import pyarrow as pa
from xxhash import xxh3_128_digest

from agui_pipelines.canonical import UNUSABLE, Digests, Trait, digest


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

SCHEMAS: Final = {Kind.STATE: STATE, Kind.VERSION: VERSION, Kind.SNAPSHOT: SNAPSHOT}

_ID_COLUMNS: Final = {
    Kind.STATE: ("state_id",),
    Kind.VERSION: ("state_id", "version_id"),
    Kind.SNAPSHOT: ("state_id", "snapshot_id"),
}

_DIGEST: Final = pa.binary(16)

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


def id_columns(kind: Kind) -> tuple[str, ...]:
    """The columns that together name a record of this kind within a store."""
    return _ID_COLUMNS[kind]


def reject_batch(rejects: list[Reject]) -> pa.RecordBatch:
    """Rejects as a batch of the `REJECT` schema."""
    columns = {name: [getattr(r, name) for r in rejects] for name in REJECT.names}
    return pa.RecordBatch.from_pydict(columns, schema=REJECT)


def digested(kind: Kind, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[tuple[int, int]]]:
    """Add the digest columns to a bare batch.

    Returns the digested batch of the usable rows, and ``(row, traits)`` of the unusable ones (not JSON, not an object,
    too deep), which the caller turns into rejects.
    """
    rows = [digest(document) for document in batch.column("data").to_pylist()]
    if kind is not Kind.STATE:
        rows = _whole_records(batch, rows)
    unusable = [(i, row.traits) for i, row in enumerate(rows) if row.traits & UNUSABLE]
    if unusable:
        keep = [i for i, row in enumerate(rows) if not row.traits & UNUSABLE]
        batch = batch.take(pa.array(keep, pa.int64()))
        rows = [rows[i] for i in keep]
    documents = batch.column("data").to_pylist()
    columns = [
        *batch.columns,
        pa.array([xxh3_128_digest(document) for document in documents], _DIGEST),
        pa.array([row.canonical for row in rows], _DIGEST),
        pa.array([None if row.spelling == row.canonical else row.spelling for row in rows], _DIGEST),
        pa.array([row.traits for row in rows], pa.uint16()),
        pa.array([len(document) for document in documents], pa.int64()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=DIGESTED[kind]), unusable


def _whole_records(batch: pa.RecordBatch, states: list[Digests]) -> list[Digests]:
    """Extend the digests of `State` to the whole version or snapshot record."""
    texts = [f.name for f in batch.schema if pa.types.is_string(f.type)]
    parts = [f.name for f in batch.schema if pa.types.is_binary(f.type) and f.name != "data"]
    whole = []
    for row, state in zip(batch.select([*texts, *parts]).to_pylist(), states, strict=True):
        spelled = [row[name] for name in texts]
        exact = [instant(row[name]) if name == "timestamp" else row[name] for name in texts]
        members = [None if row[name] is None else digest(row[name]) for name in parts]
        traits = state.traits
        for member in members:
            # Delta is an array, so for the other members NOT_OBJECT says nothing.
            traits |= member.traits & ~Trait.NOT_OBJECT if member else Trait.NONE
        whole.append(
            Digests(
                _joined(exact, state.canonical, [member and member.canonical for member in members]),
                _joined(spelled, state.spelling, [member and member.spelling for member in members]),
                traits,
            )
        )
    return whole


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
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{(fraction or '')[:6]:0<6}Z"


def sliced(batch: pa.RecordBatch, max_bytes: int, *, column: str = "data") -> Iterator[pa.RecordBatch]:
    """Cut a batch into pieces whose `column` holds at most `max_bytes`, but at least one row each."""
    if batch.nbytes <= max_bytes:
        yield batch
        return
    lengths = [len(v) if v is not None else 0 for v in batch.column(column).to_pylist()]
    start = total = 0
    for i, length in enumerate(lengths):
        if i > start and total + length > max_bytes:
            yield batch.slice(start, i - start)
            start, total = i, 0
        total += length
    yield batch.slice(start)
