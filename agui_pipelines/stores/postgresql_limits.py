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

_MICROSECONDS: Final = len("2000-01-01T00:00:00.000000Z")
_FINER: Final = r"\.[0-9]{6}[0-9]*[1-9]"
_OFFSET: Final = r"[0-9][+-][0-9]{2}:[0-9]{2}$"


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


def losses(kind: Kind, batch: pa.RecordBatch) -> dict[str, int]:
    """How many rows of a bare or digested batch lose something, by what it is; what no row loses is not named."""
    found = {}
    if "expires_at" in batch.schema.names:
        found["expiry"] = _count(batch.column("expires_at").is_valid())
    times = [batch.column(column.field) for column in TABLES[kind].columns if column.form is Form.MOMENT]
    found["sub_microseconds"] = _count_any([_finer(column) for column in times])
    found["time_offset"] = _count_any([_with_offset(column) for column in times])
    if "traits" in batch.schema.names:
        found["duplicate_keys"] = _count(_has(batch.column("traits"), Trait.DUPLICATE_KEYS))
    return {name: count for name, count in found.items() if count}


def _by_traits(traits: Any) -> Iterator[Refusal]:
    if _count(_has(traits, sum(_TRAITS))):
        for trait, (reason, detail) in _TRAITS.items():
            yield from (Refusal(row, reason, detail) for row in _rows(_has(traits, trait)))


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


def _finer(column: Any) -> Any:
    if _longest(column) <= _MICROSECONDS:
        return pa.scalar(value=False)
    return pc.match_substring_regex(column, _FINER)


def _with_offset(column: Any) -> Any:
    if column.null_count == len(column) or pc.all(pc.ends_with(column, "Z")).as_py():
        return pa.scalar(value=False)
    return pc.match_substring_regex(column, _OFFSET)


def _has(traits: Any, wanted: int) -> Any:
    return pc.not_equal(pc.bit_wise_and(traits, pa.scalar(wanted, traits.type)), pa.scalar(0, traits.type))


def _longest(values: Any) -> int:
    """The largest length in bytes, which no length in characters exceeds."""
    return pc.max(pc.binary_length(values)).as_py() or 0


def _count(mask: Any) -> int:
    return pc.sum(mask).as_py() or 0


def _count_any(masks: list[Any]) -> int:
    """Rows that any of the masks names; a mask may be the scalar False."""
    named = [mask.fill_null(fill_value=False) for mask in masks if not isinstance(mask, pa.Scalar)]
    if not named:
        return 0
    combined = named[0]
    for mask in named[1:]:
        combined = pc.or_(combined, mask)
    return _count(combined)


def _rows(mask: Any) -> list[int]:
    rows: list[int] = pc.indices_nonzero(mask).to_pylist()
    return rows
