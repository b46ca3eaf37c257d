"""Values of databases and files as JSON values, exactly: what JSON has no form for becomes text that can be turned back.

==========================  ===========================================================================
null, boolean, integer      themselves; integers of any size
decimal, float              numbers, every digit kept; NaN and the infinities are the texts ``NaN``, ``Infinity``, ``-Infinity``
text                        itself
bytes                       ``{"base64": "…"}``
date, time, timestamp       ISO 8601, with as many digits as there are; an offset only where the value has one
duration                    ISO 8601: ``P1DT2H3.5S``
UUID, network address       its text
list, tuple, set            an array
mapping                     an object, if its keys are texts
==========================  ===========================================================================
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import math
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import numpy as np

from agui_pipelines import documents
from agui_pipelines.spec import ColumnType

_TEXTS: Final = (
    UUID,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
)
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "on"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "off"), False),
}
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LONG: Final = 4000
"""Python refuses to convert integers of more than 4,300 digits; longer ones are carried as decimals."""


class UnfitError(Exception):
    """A value or row that cannot become part of a state: `reason` is a stable code, the text a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def exact(value: Any) -> Any:
    """A value as `documents.dumps` can write it. Raises `UnfitError` for a type that is not in the table above."""
    if value is None or type(value) in (str, int, bool):
        return value
    for types, convert in _FORMS:
        if isinstance(value, types):
            return convert(value)
    raise UnfitError("unsupported_value", f"There is no JSON form for a value of the type {type(value).__name__}.")


def is_finite(value: float | Decimal) -> bool:
    """Asked of a decimal itself: as a float, 1E+400 would be infinite."""
    return value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)


def _number_or_text(value: float | Decimal) -> Any:
    if not is_finite(value):
        return not_finite(value)
    return value if isinstance(value, Decimal) else float(value)  # NumPy's float64 is one, but not to JSON writers


def _object(value: Mapping[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in value):
        raise UnfitError("unsupported_value", "A mapping has keys that are no texts, which JSON has no form for.")
    return {key: exact(item) for key, item in value.items()}


def _array(value: Iterable[Any]) -> list[Any]:
    return [exact(item) for item in value]


def base64(data: bytes) -> dict[str, str]:
    return {"base64": b64encode(data).decode("ascii")}


def not_finite(value: float | Decimal) -> str:
    if value.is_nan() if isinstance(value, Decimal) else math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def duration(nanoseconds: int) -> str:
    """A length of time in ISO 8601: ``P1DT2H3M4.000000005S``, ``-PT1S``, ``PT0S``."""
    seconds, nanos = divmod(abs(nanoseconds), 10**9)
    days, seconds = divmod(seconds, 86_400)
    hours, seconds = divmod(seconds, 3_600)
    minutes, seconds = divmod(seconds, 60)
    fraction = f".{nanos:09}".rstrip("0").rstrip(".")
    time = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M")) if n)
    if seconds or nanos or not (days or time):
        time += f"{seconds}{fraction}S"
    date = f"{days}D" if days else ""
    return f"{'-' if nanoseconds < 0 else ''}P{date}{f'T{time}' if time else ''}"


_FORMS: Final[tuple[tuple[Any, Callable[[Any], Any]], ...]] = (
    (Enum, lambda value: exact(value.value)),
    ((bool, int, str), lambda value: value),
    ((float, Decimal), _number_or_text),
    ((np.integer, np.floating, np.bool_), lambda value: exact(value.item())),
    ((bytes, bytearray, memoryview), lambda value: base64(bytes(value))),
    ((dt.date, dt.time), lambda value: value.isoformat()),  # a datetime is a date
    (dt.timedelta, lambda value: duration(value // dt.timedelta(microseconds=1) * 1000)),
    (_TEXTS, str),
    (Mapping, _object),
    ((list, tuple, set, frozenset), _array),
)


def typed(value: Any, type_: ColumnType, column: str) -> Any:
    """What the text or stored value of a column is said to be. Raises `UnfitError` if it is not; null stays null."""
    if value is None or (value == "" and type_ != "json"):
        return None
    try:
        return _READ[type_](value)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UnfitError("bad_value", f"The column '{column}' does not hold {_CALLED[type_]}.") from None


def _integer(value: Any) -> int | Decimal:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value.strip()
    if not _INTEGER.fullmatch(text):
        raise ValueError(text)
    return int(text) if len(text) < _LONG else Decimal(text)


def _number(value: Any) -> Any:
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return value
    text = value.strip()
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return _integer(text) if _INTEGER.fullmatch(text) else Decimal(text)


def _boolean(value: Any) -> bool:
    return _BOOLEANS[str(value).strip().lower()]


def _json(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        return value
    return documents.loads(value if isinstance(value, bytes) else value.encode())


_READ: Final = {"integer": _integer, "number": _number, "boolean": _boolean, "json": _json}
_CALLED: Final = {"integer": "an integer", "number": "a number", "boolean": "a boolean", "json": "JSON"}
