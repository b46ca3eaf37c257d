"""Whether records are still what they were: what is read of them now, held against a batch from earlier.

That is told by value (the canonical digest), and of a state by its expiry too. When it was last written does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.records import SCHEMAS, Kind, digested, document_column, id_columns

EXPIRY_MILLISECONDS: Final = 100
"""What two expiries may differ by and be one: some servers tell only what is left of it."""

Salvage = Callable[[bytes], bytes | None]
"""Another form of a document that is no JSON object; None if there is none."""


@dataclass(frozen=True, slots=True)
class Sameness:
    """What has become of the rows of a batch."""

    same: tuple[int, ...]
    """Rows of which there is the same now, in order."""
    there: int
    """Rows of which there is anything that can be read."""


def sameness(
    kind: Kind, batch: pa.RecordBatch, read: Iterable[pa.RecordBatch], salvage: Salvage | None = None
) -> Sameness:
    """Hold bare batches of what is there now, among which others may be, against a *digested* batch from earlier."""
    rows = {ids: row for row, ids in enumerate(_ids(kind, batch))}
    before = _contents(kind, batch)
    same: set[int] = set()
    there: set[int] = set()
    for found in read:
        found_ids = _ids(kind, found)
        wanted = [at for at, ids in enumerate(found_ids) if ids in rows]
        there.update(rows[found_ids[at]] for at in wanted)
        now = _digested(kind, found.take(pa.array(wanted, pa.int64())), salvage)
        for ids, content in zip(_ids(kind, now), _contents(kind, now), strict=True):
            row = rows[ids]
            if _is_same(before[row], content):
                same.add(row)
    return Sameness(tuple(sorted(same)), len(there))


def _digested(kind: Kind, batch: pa.RecordBatch, salvage: Salvage | None) -> pa.RecordBatch:
    """The digested batch of all rows that are records, in whatever form."""
    usable, unusable = digested(kind, batch)
    if not unusable or salvage is None:
        return usable
    forms = {row: salvage(batch.column("data")[row].as_py()) for row, _ in unusable}
    again = [row for row, form in forms.items() if form is not None]
    some = batch.take(pa.array(again, pa.int64())).select(SCHEMAS[kind].names)
    index = some.schema.get_field_index("data")
    formed, _ = digested(
        kind, some.set_column(index, some.schema.field(index), document_column([forms[r] for r in again]))
    )
    return pa.concat_batches([usable, formed])


def _ids(kind: Kind, batch: pa.RecordBatch) -> list[tuple[str, ...]]:
    return list(zip(*(batch.column(name).to_pylist() for name in id_columns(kind)), strict=True))


def _contents(kind: Kind, batch: pa.RecordBatch) -> list[tuple[Any, Any]]:
    canonical = batch.column("canonical").to_pylist()
    if kind is not Kind.STATE:
        return [(each, None) for each in canonical]
    return list(zip(canonical, batch.column("expires_at").cast(pa.int64()).to_pylist(), strict=True))


def _is_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    if one[0] != other[0]:
        return False
    if one[1] is None or other[1] is None:
        return one[1] is other[1]
    return bool(abs(one[1] - other[1]) <= EXPIRY_MILLISECONDS)
