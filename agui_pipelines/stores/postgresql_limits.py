"""What PostgreSQL can never hold of a record, and what it holds without keeping it as it was.

Both are told from whole columns at once, and cost next to nothing when the answer is the usual one: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.canonical import Trait
from agui_pipelines.drivers.postgresql_binary import Form, UnknownMomentError, moment, moments
from agui_pipelines.losses import finer_than_microseconds, with_offset, with_trait
from agui_pipelines.losses import named as losing
from agui_pipelines.ports import Refusal
from agui_pipelines.records import Kind
from agui_pipelines.stores.postgresql_tables import TABLES, Column

MAX_ID_CHARACTERS: Final = 255
MAX_DOCUMENT_BYTES: Final = 255 * 1024 * 1024
"""jsonb keeps lengths in 28 bits; see ``JENTRY_OFFLENMASK`` in the server's ``utils/jsonb.h``."""

_TRAITS: Final = {
    Trait.NUL: ("nul", "A string in it holds U+0000, which no text in PostgreSQL can hold."),
    Trait.LONE_SURROGATE: (
        "lone_surrogate",
        "A string in it holds half a surrogate pair, which no text in PostgreSQL can hold.",
    ),
    Trait.EXTREME_NUMBER: (
        "extreme_number",
        "A number in it has more than 131,072 digits before the decimal point or 16,383 after it, more than numeric holds.",
    ),
}


def refusals(kind: Kind, batch: pa.RecordBatch) -> list[Refusal]:
    """The rows of a digested batch that cannot be stored, in order; a row has one refusal for each reason.

    The columns that hold JSON may be missing: ``size`` tells how large the document is.
    """
    found = list(_by_traits(batch.column("traits")))
    found += _by_size("data", batch.column("size"))
    for column in TABLES[kind].columns:
        if column.form is Form.TEXT:
            found += _by_id(column, batch.column(column.field))
        elif column.form is Form.MOMENT:
            found += _by_time(column, batch.column(column.field))
        elif column.field != "data" and column.field in batch.schema.names:
            found += _by_size(column.field, pc.binary_length(batch.column(column.field)))
    if "extra" in batch.schema.names:
        found += _by_extra(batch.column("extra"))
    return sorted(dict.fromkeys(found), key=lambda refusal: refusal.row)


def losses(kind: Kind, batch: pa.RecordBatch) -> dict[str, pa.BooleanArray]:
    """Which rows of a bare or digested batch lose something, by what it is; see `ports.Store.losses`."""
    found = {
        "sub_microseconds": finer_than_microseconds(kind, batch),
        "time_offset": with_offset(kind, batch),
    }
    if kind is Kind.STATE:
        found["expiry"] = batch.column("expires_at").is_valid()
    if "traits" in batch.schema.names:
        found["duplicate_keys"] = with_trait(batch.column("traits"), Trait.DUPLICATE_KEYS)
        found["number_spelling"] = batch.column("spelling").is_valid()
        found["layout"] = pa.repeat(pa.scalar(value=True), batch.num_rows)
    return losing(found)


def times(batch: pa.RecordBatch) -> dict[str, pa.Int64Array]:
    """See `ports.Store.times`. Raises `UnknownMomentError` for what `refusals` names."""
    found = {}
    for column in TABLES[Kind.STATE].columns:
        if column.form is Form.MOMENT:
            micros, present = moments(batch.column(column.field))
            found[column.field] = pa.array(micros, mask=~present)
    return found


def _by_traits(traits: Any) -> Iterator[Refusal]:
    if _count(with_trait(traits, sum(_TRAITS))):
        for trait, (reason, detail) in _TRAITS.items():
            yield from (Refusal(row, reason, detail) for row in _rows(with_trait(traits, trait)))


def _by_id(column: Column, values: Any) -> Iterator[Refusal]:
    name = column.name
    if _longest(values) > MAX_ID_CHARACTERS:
        lengths = pc.utf8_length(values)
        for row in _rows(pc.greater(lengths, MAX_ID_CHARACTERS)):
            yield Refusal(
                row,
                "id_too_long",
                f"Its {name} has {lengths[row].as_py():,} characters; the column holds {MAX_ID_CHARACTERS}.",
            )
    for row in _rows(pc.match_substring(values, "\0")):
        yield Refusal(row, "id_nul", f"Its {name} holds U+0000, which no text in PostgreSQL can hold.")


def _by_size(name: str, sizes: Any) -> Iterator[Refusal]:
    if (pc.max(sizes).as_py() or 0) > MAX_DOCUMENT_BYTES:
        for row in _rows(pc.greater(sizes, MAX_DOCUMENT_BYTES)):
            yield Refusal(
                row,
                "document_too_large",
                f"Its {name} has {sizes[row].as_py():,} bytes; jsonb holds {MAX_DOCUMENT_BYTES:,} (255 MiB).",
            )


def _by_time(column: Column, values: Any) -> Iterator[Refusal]:
    try:
        moments(values)
    except UnknownMomentError:
        for row, text in enumerate(values.to_pylist()):
            if text and moment(text) is None:
                yield Refusal(
                    row,
                    "bad_time",
                    f"Its {column.field} is {text!r}, which is not an RFC 3339 time that PostgreSQL holds.",
                )


def _by_extra(values: Any) -> Iterator[Refusal]:
    if values.null_count < len(values):
        for row in _rows(values.is_valid()):
            yield Refusal(
                row,
                "unknown_members",
                "It has members beside those of the format, and the table has no column for them.",
            )


def _longest(values: Any) -> int:
    """The largest length in bytes, which no length in characters exceeds."""
    return pc.max(pc.binary_length(values)).as_py() or 0


def _count(mask: Any) -> int:
    return pc.sum(mask).as_py() or 0


def _rows(mask: Any) -> list[int]:
    rows: list[int] = pc.indices_nonzero(mask).to_pylist()
    return rows
