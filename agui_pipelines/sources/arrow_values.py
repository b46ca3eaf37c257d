"""Arrow columns as Python values that `documents.dumps` writes exactly: every type, nanoseconds and nesting included.

The forms are those of `values`. Arrow's own conversion to Python would cut or refuse nanoseconds, and years beyond 9999.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.sources.values import base64, duration, exact, not_finite

_NANOS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_DIGITS: Final = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_DAYS_IN_400_YEARS: Final = 146_097
_EPOCH_DAY: Final = dt.date(1970, 1, 1).toordinal()
_DAY: Final = 86_400


def values(column: Any) -> list[Any]:
    """The values of an array, null as None. Raises `UnfitError` for a type that has no JSON form."""
    type_ = column.type
    for is_type, convert in _CONVERSIONS:
        if is_type(type_):
            converted: list[Any] = convert(column)
            return converted
    return [exact(value) for value in column.to_pylist()]


def _plain(column: Any) -> list[Any]:
    found: list[Any] = column.to_pylist()
    return found


def _floats(column: Any) -> list[Any]:
    found = column.cast(pa.float64()) if not pa.types.is_float64(column.type) else column
    if pc.all(pc.is_finite(found)).as_py() is not False:
        return _plain(found)
    return [v if v is None or math.isfinite(v) else not_finite(v) for v in found.to_pylist()]


def _binaries(column: Any) -> list[Any]:
    return [None if v is None else base64(v) for v in column.to_pylist()]


def _timestamps(column: Any) -> list[Any]:
    """The moment in UTC if the column has a time zone, else the local time that it holds."""
    unit, end = column.type.unit, "Z" if column.type.tz else ""
    per_second = 10**9 // _NANOS[unit]

    def text(value: int) -> str:
        seconds, rest = divmod(value, per_second)
        days, clock = divmod(seconds, _DAY)
        return f"{_date(days)}T{_clock(clock, rest, _DIGITS[unit])}{end}"

    return _each(column, pa.int64(), text)


def _dates(column: Any) -> list[Any]:
    if pa.types.is_date32(column.type):
        return _each(column, pa.int32(), _date)
    return _each(column, pa.int64(), lambda ms: _date(ms // (_DAY * 1000)))


def _times(column: Any) -> list[Any]:
    unit = column.type.unit
    per_second = 10**9 // _NANOS[unit]
    kind = pa.int32() if pa.types.is_time32(column.type) else pa.int64()
    return _each(column, kind, lambda value: _clock(*divmod(value, per_second), _DIGITS[unit]))


def _durations(column: Any) -> list[Any]:
    factor = _NANOS[column.type.unit]
    return _each(column, pa.int64(), lambda value: duration(value * factor))


def _intervals(column: Any) -> list[Any]:
    """Months, days and nanoseconds do not add up to one length, so each stays what it is: ``P14M3DT-5.000000001S``."""

    def text(months: int, days: int, nanoseconds: int) -> str:
        seconds, rest = divmod(abs(nanoseconds), 10**9)
        fraction = f".{rest:09}".rstrip("0").rstrip(".")
        return f"P{months}M{days}DT{'-' if nanoseconds < 0 else ''}{seconds}{fraction}S"

    return [None if v is None else text(v.months, v.days, v.nanoseconds) for v in column.to_pylist()]


def _each(column: Any, kind: pa.DataType, text: Callable[[int], str]) -> list[Any]:
    return [None if value is None else text(value) for value in column.cast(kind).to_pylist()]


def _date(days: int) -> str:
    """A day counted from 1970, in ISO 8601 with as many digits of the year as it takes."""
    cycles, day = divmod(days + _EPOCH_DAY - 1, _DAYS_IN_400_YEARS)
    date = dt.date.fromordinal(day + 1)
    year = date.year + 400 * cycles
    sign = "-" if year < 0 else "+" if year > dt.MAXYEAR else ""
    return f"{sign}{abs(year):04}-{date:%m-%d}"


def _clock(seconds: int, rest: int, digits: int) -> str:
    fraction = f".{rest:0{digits}}" if rest else ""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction.rstrip('0')}"


def _lists(column: Any) -> list[Any]:
    """The items of all lists at once, handed out again by the lists' lengths."""
    items = iter(values(column.flatten()))
    return [None if n is None else [next(items) for _ in range(n)] for n in pc.list_value_length(column).to_pylist()]


def _maps(column: Any) -> list[Any]:
    """An object if the keys are distinct texts, else an array of pairs."""
    keys, items = iter(values(_kept(column, column.keys))), iter(values(_kept(column, column.items)))
    found: list[Any] = []
    for n in _map_lengths(column):
        pairs = None if n is None else [(next(keys), next(items)) for _ in range(n)]
        if pairs is None:
            found.append(None)
        elif all(isinstance(key, str) for key, _ in pairs) and len({key for key, _ in pairs}) == len(pairs):
            found.append(dict(pairs))
        else:
            found.append([list(pair) for pair in pairs])
    return found


def _map_lengths(column: Any) -> list[int | None]:
    offsets = column.offsets.to_pylist()
    valid = column.is_valid().to_pylist()
    return [end - start if ok else None for start, end, ok in zip(offsets, offsets[1:], valid, strict=False)]


def _kept(column: Any, part: Any) -> Any:
    """The keys or items that belong to rows that are not null, in order."""
    offsets, lengths = column.offsets.to_pylist(), _map_lengths(column)
    indices = [i for start, n in zip(offsets, lengths, strict=False) for i in range(start, start + (n or 0))]
    return part.take(pa.array(indices, pa.int64()))


def _structs(column: Any) -> list[Any]:
    names = [field.name for field in column.type]
    if not names:
        return [{} if ok else None for ok in column.is_valid().to_pylist()]
    rows = zip(*(values(child) for child in column.flatten()), strict=True)
    pairs = zip(column.is_valid().to_pylist(), rows, strict=True)
    return [dict(zip(names, row, strict=True)) if ok else None for ok, row in pairs]


_TEXTS: Final = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BINARIES: Final = (
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
    pa.types.is_fixed_size_binary,
)
_LISTS: Final = (
    *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    *(pa.types.is_list_view, pa.types.is_large_list_view),
)
_PLAIN: Final = (pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, *_TEXTS)


def _any(predicates: Iterable[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    return lambda kind: any(predicate(kind) for predicate in predicates)


_CONVERSIONS: Final[tuple[tuple[Callable[[Any], bool], Callable[[Any], list[Any]]], ...]] = (
    (_any(_PLAIN), _plain),
    (pa.types.is_floating, _floats),
    (pa.types.is_decimal, _plain),
    (_any(_BINARIES), _binaries),
    (pa.types.is_timestamp, _timestamps),
    (pa.types.is_date, _dates),
    (pa.types.is_time, _times),
    (pa.types.is_duration, _durations),
    (pa.types.is_interval, _intervals),
    (pa.types.is_dictionary, lambda c: values(c.dictionary_decode())),
    (pa.types.is_run_end_encoded, lambda c: values(pc.run_end_decode(c))),
    (lambda t: isinstance(t, pa.UuidType), lambda c: [None if v is None else str(v) for v in c.to_pylist()]),
    (lambda t: isinstance(t, pa.BaseExtensionType), lambda c: values(c.storage)),
    (_any(_LISTS), _lists),
    (pa.types.is_map, _maps),
    (pa.types.is_struct, _structs),
)
