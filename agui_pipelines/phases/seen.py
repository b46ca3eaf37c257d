"""What a look at a record keeps of it: the digests by which it is known again."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
from xxhash import xxh3_128_digest, xxh3_128_intdigest

from agui_pipelines.digests import WIDTH
from agui_pipelines.records import SCHEMAS, Kind, Reject

_MODULUS: Final = 1 << (8 * WIDTH)
_LENGTH: Final = struct.Struct("<q")
_UNUSABLE: Final = frozenset({"undecodable", "too_deep", "not_an_object"})
"""Reasons by which `export` rejects a document that it could read."""
_NO_STATE: Final = frozenset({"null_id", "not_a_file", "nested"})
"""Reasons by which readers reject what could be no state, along with the key range that has no lower bound."""


@dataclass(slots=True)
class History:
    """Versions and snapshots by the id that they belong to: of each id, the sum of what tells each record from others.

    Sums do not depend on the order, and a record that comes twice counts twice. What a reader could not read of an id, it
    counts too.
    """

    _sums: dict[bytes, int] = field(default_factory=dict)

    @staticmethod
    def columns(kind: Kind) -> list[str]:
        """What `add` needs of a digested batch: all but the document, for which its digest stands."""
        return [*(name for name in SCHEMAS[kind].names if name != "data"), "raw_digest"]

    def add(self, kind: Kind, batch: pa.RecordBatch, raw: list[bytes]) -> None:
        """Take records (bare or digested), with the raw digests of their documents."""
        ids = batch.column("state_id").cast(pa.binary()).to_pylist()
        names = [name for name in SCHEMAS[kind].names if name not in ("state_id", "data")]
        columns = [batch.column(name).cast(pa.binary()).to_pylist() for name in names]
        for id_, *parts in zip(ids, raw, *columns, strict=True):
            self._count(id_, b"".join([kind.encode(), *(_framed(part) for part in parts)]))

    def reject(self, reject: Reject) -> None:
        """Take what could not be read, if it is a state; whose a version or snapshot is, its name does not tell for sure."""
        if reject.kind is Kind.STATE and reject.reason not in _NO_STATE:
            self._count(reject.id, b"".join([b"reject", _framed(reject.reason.encode()), _framed(reject.raw)]))

    def digests(self) -> dict[bytes, bytes]:
        return {id_: total.to_bytes(WIDTH, "little") for id_, total in self._sums.items()}

    def _count(self, id_: bytes, what: bytes) -> None:
        self._sums[id_] = (self._sums.get(id_, 0) + xxh3_128_intdigest(what)) % _MODULUS


def state_digests(batch: pa.RecordBatch, raw: list[bytes]) -> list[bytes]:
    """What tells states from others: the raw digests of their documents, with their times where the source has them.

    Somebody who saves a state again as it was changes nothing but these, and a proof compares them.
    """
    times = [batch.column(name) for name in ("created_at", "updated_at")]
    if all(column.null_count == len(column) for column in times):
        return raw
    return [
        digest
        if created is None and updated is None
        else xxh3_128_digest(b"".join([digest, _framed(_bytes(created)), _framed(_bytes(updated))]))
        for digest, created, updated in zip(raw, *(column.to_pylist() for column in times), strict=True)
    ]


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def is_unusable(reject: Reject) -> bool:
    """Whether a document was read as the source holds it, and is no JSON object."""
    return reject.reason in _UNUSABLE and reject.raw is not None


def raw_of(reject: Reject) -> bytes:
    """The raw digest of a rejected document."""
    return bytes(xxh3_128_digest(reject.raw or b""))


def _framed(part: bytes | None) -> bytes:
    """With its length before it, so that parts cannot shift; null is none that is empty."""
    return _LENGTH.pack(-1) if part is None else _LENGTH.pack(len(part)) + part
