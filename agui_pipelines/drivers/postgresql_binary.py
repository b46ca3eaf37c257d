"""PostgreSQL's binary formats, a whole batch at a time, from and to Arrow columns.

COPY in binary format sends a row as a count of fields (16 bits) and, for each field, its length (32 bits, -1 for NULL)
and its bytes, all in network order; an array parameter has the same field layout behind a short header. Neither needs a
Python object per value: lengths and positions are computed with NumPy, and Arrow moves the bytes. The formats are those
of https://www.postgresql.org/docs/current/sql-copy.html and of ``jsonb_send``, ``timestamptz_send`` and ``array_send``
in the server's sources. Exact for any content, as nothing is quoted or escaped.

A moment is text outside and microseconds since 2000-01-01 UTC inside. The text is RFC 3339 in UTC with up to six digits
of a second, trailing zeros trimmed. What RFC 3339 cannot say but ``timestamptz`` can is spelled ``infinity``,
``-infinity``, and with a year of five or six digits or a minus sign, where year 0 is 1 BC (``-0043-03-15T00:00:00Z``).
"""

from __future__ import annotations

import datetime as dt
import re
import struct
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import Copy

from agui_pipelines.digests import only_value

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""What a binary COPY begins with: signature, flags, and the length of an extension."""
TRAILER: Final = b"\xff\xff"

_Integers = npt.NDArray[np.int64]


class Form(Enum):
    """How a column travels."""

    TEXT = "text"
    """Arrow ``string`` (or ``binary`` that holds UTF-8, as JSON text does)."""
    JSONB = "jsonb"
    """Arrow ``binary``: JSON text; behind one version byte on the wire."""
    MOMENT = "timestamptz"
    """Arrow ``string``, see the module's docstring."""
    INTEGER = "int8"
    """Arrow ``int64``."""


class UnknownMomentError(ValueError):
    """A text that is no moment which PostgreSQL could keep; `row` tells where it stands."""

    def __init__(self, row: int, text: str) -> None:
        super().__init__(f"{text!r} is not an RFC 3339 time")
        self.row = row
        self.text = text


# Reading


class Rows(NamedTuple):
    """Rows as they came, one behind the other, and where each ends."""

    data: bytearray | memoryview
    ends: list[int]


def received(copy: Copy, max_bytes: int, max_rows: int) -> Iterator[Rows]:
    """The rows of a binary COPY TO, without header and trailer, in runs of bounded size (a larger row goes alone).

    The protocol promises one message per row (https://www.postgresql.org/docs/current/protocol-flow.html). Each is
    gathered at once, as keeping thousands of messages to join them later takes twice as long.
    """
    data, ends, size = bytearray(), list[int](), 0
    header = len(HEADER)
    for message in copy:
        if header:
            message, header = memoryview(message)[header:], 0  # noqa: PLW2901 - the rest of the message
        if len(message) == len(TRAILER):
            continue
        if ends and (size + len(message) > max_bytes or len(ends) == max_rows):
            done = [Rows(data, ends)]
            data, ends, size = bytearray(), [], 0
            yield done.pop()  # so that nothing here holds a large row any longer than whoever takes it
        if len(message) > max_bytes and not ends:
            done = [Rows(memoryview(message), [len(message)])]
            del message
            yield done.pop()
            continue
        data += message
        size = len(data)
        ends.append(size)
    if ends:
        yield Rows(data, ends)


def decoded(rows: Rows, forms: Sequence[Form]) -> list[Any]:
    """The columns of such rows as Arrow arrays. Raises ValueError if they are no rows of these forms."""
    count, fields = len(rows.ends), len(forms)
    ends = np.array(rows.ends, np.int64)
    starts = np.concatenate(([0], ends[:-1]))
    # Offsets of 2 * fields + 1 stretches per row: what lies before a value, the value, … and the next row's start.
    offsets = np.empty((count, 2 * fields + 1), np.int32)
    offsets[:, 0] = starts
    present = np.empty((count, fields), np.bool_)
    length_at = _unaligned(rows.data, ">i4")
    position = starts + 2
    for field, form in enumerate(forms):
        length = length_at[position].astype(np.int64)
        position = position + 4
        present[:, field] = length >= 0
        offsets[:, 2 * field + 1] = position + ((length > 0) & (form is Form.JSONB))
        position = position + np.maximum(length, 0)
        offsets[:, 2 * field + 2] = position
    if not np.array_equal(position, ends):
        raise ValueError("a COPY message does not end where its row does")
    return [_column(form, field, rows.data, offsets, present[:, field]) for field, form in enumerate(forms)]


def _unaligned(buffer: bytearray | memoryview, dtype: str) -> npt.NDArray[Any]:
    """A view that reads a number at any byte position of the buffer."""
    width = np.dtype(dtype).itemsize
    return np.ndarray((max(len(buffer) - width + 1, 0),), dtype, buffer=buffer, strides=(1,))


def _column(
    form: Form,
    field: int,
    buffer: bytearray | memoryview,
    offsets: npt.NDArray[np.int32],
    present: npt.NDArray[np.bool_],
) -> Any:
    starts = offsets[:, 2 * field + 1]
    if form in (Form.MOMENT, Form.INTEGER):
        numbers = _unaligned(buffer, ">i8")[np.where(present, starts, 0)].astype(np.int64)
        return moments_as_text(numbers, present) if form is Form.MOMENT else pa.array(numbers, mask=~present)
    if form is Form.JSONB and not (np.frombuffer(buffer, np.uint8)[starts[present] - 1] == 1).all():
        raise ValueError("a jsonb value is of another version than 1")
    stretches = offsets.size - 1
    every = pa.Array.from_buffers(pa.binary(), stretches, [None, pa.py_buffer(offsets), pa.py_buffer(buffer)])
    wanted = np.arange(len(present), dtype=np.int64) * offsets.shape[1] + 2 * field + 1
    if len(wanted) == 1 and present.all():
        values = every.slice(int(wanted[0]), 1)  # which does not copy what may be very large
    else:
        values = every.take(pa.array(wanted, mask=None if present.all() else ~present))
    return values if form is Form.JSONB else values.cast(pa.string())


# Writing


def wire(form: Form, column: Any) -> Any:
    """A column's values as Arrow ``binary`` in binary format (null is NULL). Raises `UnknownMomentError`."""
    if form is not Form.MOMENT:
        return column.cast(pa.binary())
    micros, present = moments(column)
    values = pa.Array.from_buffers(pa.binary(8), len(column), [None, pa.py_buffer(micros.astype(">i8").tobytes())])
    return pc.if_else(pa.array(present), values.cast(pa.binary()), pa.scalar(None, pa.binary()))


def constant(micros: int, rows: int) -> Any:
    """A wire column that holds one moment in every row."""
    return pa.repeat(pa.scalar(struct.pack("!q", micros), pa.binary()), rows)


def copy_rows(columns: Sequence[tuple[Form, Any]]) -> Iterator[bytes | memoryview]:
    """Wire columns as the rows of a binary COPY FROM, to be sent between `HEADER` and `TRAILER`. A single row is not copied."""
    if len(columns[0][1]) == 1:
        yield struct.pack("!h", len(columns))
        for form, column in columns:
            prefix = b"\x01" if form is Form.JSONB else b""
            value = only_value(column)
            yield b"\xff" * 4 if value is None else struct.pack("!i", len(value) + len(prefix)) + prefix
            if value:
                yield value
        return
    parts: list[Any] = [pa.scalar(struct.pack("!h", len(columns)), pa.binary())]
    for form, column in columns:
        parts.extend(_fields(column, b"\x01" if form is Form.JSONB else b""))
    yield _joined(parts)


def array_parameter(column: Any, element: int) -> bytes:
    """A wire column as a one-dimensional array of the type whose oid is `element`, in binary format."""
    header = struct.pack("!iiIii", 1, int(column.null_count > 0), element, len(column), 1)
    return b"".join((header, _joined(_fields(column, b""))))


def _fields(column: Any, prefix: bytes) -> list[Any]:
    """The length of every value, and the values behind the prefix."""
    lengths = pc.add(pc.binary_length(column), len(prefix))
    numbers = lengths.fill_null(-1).to_numpy(zero_copy_only=False).astype(">i4")
    fixed = pa.Array.from_buffers(pa.binary(4), len(column), [None, pa.py_buffer(numbers.tobytes())])
    # A NULL has no bytes at all, so the prefix must vanish with it.
    prefixes = [pc.if_else(column.is_valid(), pa.scalar(prefix, pa.binary()), b"")] if prefix else []
    return [fixed.cast(pa.binary()), *prefixes, column]


def _joined(parts: list[Any]) -> memoryview:
    """Row by row the parts' bytes, which Arrow lays one behind the other."""
    rows = pc.binary_join_element_wise(
        *parts, pa.scalar(b"", pa.binary()), null_handling="replace", null_replacement=b""
    )
    offsets = np.frombuffer(rows.buffers()[1], np.int32)[rows.offset :]
    return memoryview(rows.buffers()[2])[offsets[0] : offsets[len(rows)]]


# Moments

_UNIX: Final = 946_684_800_000_000
"""Microseconds from 1970, which Arrow counts from, to 2000."""
_DAY: Final = 86_400_000_000
_CYCLE: Final = 146_097 * _DAY
"""400 Gregorian years, after which the calendar repeats itself."""
_YEAR_0: Final = -5 * _CYCLE
_YEAR_10000: Final = 20 * _CYCLE
_FIRST: Final = -211_813_488_000_000_000
_END: Final = 9_223_371_331_200_000_000
"""The range of ``timestamptz``: 4714-11-24 BC to the end of 294276, from the server's ``datatype/timestamp.h``."""
_INFINITY: Final = 2**63 - 1
_NAMED: Final = {"infinity": _INFINITY, "-infinity": -(2**63)}

_OFFSET: Final = r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_RFC_3339: Final = rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(?:\.[0-9]+)?{_OFFSET}$"
_WIDE: Final = re.compile(
    rf"(-?[0-9]{{4,6}})-([0-9]{{2}})-([0-9]{{2}})[Tt ]([0-9]{{2}}):([0-9]{{2}}):([0-9]{{2}})(?:\.([0-9]+))?({_OFFSET}|z)"
)
_MICROSECOND_LENGTH: Final = len("2000-01-01T00:00:00.000000Z")


def moments_as_text(micros: _Integers, present: npt.NDArray[np.bool_]) -> Any:
    """Moments as an Arrow ``string`` column, null where not present."""
    usual = (micros >= _YEAR_0) & (micros < _YEAR_10000)
    text = pa.array(np.where(usual, micros, 0) + _UNIX).cast(pa.timestamp("us")).cast(pa.string())
    text = pc.ascii_rtrim(pc.ascii_rtrim(pc.utf8_replace_slice(text, 10, 11, "T"), "0"), ".")
    text = pc.binary_join_element_wise(text, "Z", "")
    unusual = np.flatnonzero(present & ~usual)
    if len(unusual):
        values = text.to_pylist()
        for row in unusual.tolist():
            values[row] = _unusual_text(int(micros[row]))
        text = pa.array(values, pa.string())
    return text if present.all() else pc.if_else(pa.array(present), text, pa.scalar(None, pa.string()))


def _unusual_text(micros: int) -> str:
    for name, value in _NAMED.items():
        if micros == value:
            return name
    cycles, rest = divmod(micros, _CYCLE)
    moment = dt.datetime(2000, 1, 1) + dt.timedelta(microseconds=rest)  # noqa: DTZ001 - UTC by definition
    year = moment.year + 400 * cycles
    fraction = f".{moment.microsecond:06}".rstrip("0").rstrip(".")
    return f"{'-' if year < 0 else ''}{abs(year):04}-{moment:%m-%dT%H:%M:%S}{fraction}Z"


def moments(column: Any) -> tuple[_Integers, npt.NDArray[np.bool_]]:
    """Text as moments, and where there is one: null and the empty text are none. Digits below microseconds are cut.

    Raises `UnknownMomentError` for the first text that is no moment.
    """
    present = pc.fill_null(pc.greater(pc.binary_length(column), 0), fill_value=False)
    if not present.true_count:
        return np.zeros(len(column), np.int64), np.zeros(len(column), np.bool_)
    try:
        return _usual_moments(column, present), present.to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        values = np.zeros(len(column), np.int64)
    for row, text in enumerate(column.to_pylist()):
        if text:
            value = moment(text)
            if value is None:
                raise UnknownMomentError(row, text)
            values[row] = value
    return values, present.to_numpy(zero_copy_only=False)


def _usual_moments(column: Any, present: Any) -> _Integers:
    """Moments within the years 0 to 9999, all at once. Raises ArrowInvalid if there is anything else."""
    text = pc.if_else(present, column, "2000-01-01T00:00:00Z")
    if not pc.all(pc.match_substring_regex(text, _RFC_3339)).as_py():
        raise pa.ArrowInvalid("not RFC 3339")
    if (pc.max(pc.binary_length(text)).as_py() or 0) > _MICROSECOND_LENGTH:
        text = pc.replace_substring_regex(text, r"(\.[0-9]{6})[0-9]+", r"\1")
    numbers = text.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(zero_copy_only=False)
    return np.asarray(numbers - _UNIX, np.int64)


def moment(text: str) -> int | None:
    """One text as microseconds since 2000, or None if it is no moment that PostgreSQL could keep."""
    if text in _NAMED:
        return _NAMED[text]
    match = _WIDE.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(group) for group in match.groups()[:6])
    cycles = (year - 2000) // 400
    try:
        clock = dt.datetime(year - 400 * cycles, month, day, hour, minute, second)  # noqa: DTZ001 - see the offset
    except ValueError:
        return None
    micros = (clock - dt.datetime(2000, 1, 1)) // dt.timedelta(microseconds=1)  # noqa: DTZ001 - likewise
    micros += cycles * _CYCLE + int((match[7] or "")[:6].ljust(6, "0")) - _offset(match[8])
    return micros if _FIRST <= micros < _END else None


def _offset(text: str) -> int:
    """Microseconds by which a zone's clock is ahead of UTC."""
    if text in "Zz":
        return 0
    minutes = int(text[1:3]) * 60 + int(text[4:6])
    return minutes * (-60_000_000 if text[0] == "-" else 60_000_000)
