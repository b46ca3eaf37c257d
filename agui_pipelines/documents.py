"""JSON documents as Python values and back, without losing a digit.

Only where somebody wants to look inside a document (a user's transform, the state manager) is it parsed at all; integers
stay integers of any size, other numbers become `decimal.Decimal`, and both are written back as they were. A version or
snapshot record is cut into its members without parsing them.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec
import orjson
import simplejson

_LONG: Final = 4000
"""Python refuses to convert integers of more than 4,300 digits; longer ones are carried as decimals."""


def loads(document: bytes) -> Any:
    """Parse a document exactly. Raises ValueError, also for NaN and Infinity, which are not JSON, and for absurd depth."""
    try:
        return json.loads(document.decode("utf-8"), parse_int=_integer, parse_float=Decimal, parse_constant=_constant)
    except (InvalidOperation, RecursionError) as error:
        raise ValueError(f"it cannot be held: {type(error).__name__}") from error


def dumps(value: Any) -> bytes:
    """Write a value as compact JSON in UTF-8; lone surrogates become escapes.

    Raises TypeError or ValueError for what is not JSON (NaN, keys that are no strings, dates), rather than to change it.
    """
    try:
        _require_json(value)
        return orjson.dumps(value, default=_decimal)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except orjson.JSONEncodeError as error:
        if isinstance(error, _NotJsonError):
            raise
        # Integers over 64 bits, lone surrogates, many levels: the slower writer can.
        try:
            return _slowly(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return _slowly(value, ensure_ascii=True).encode("ascii")


def _slowly(value: Any, *, ensure_ascii: bool) -> str:
    text: str = simplejson.dumps(
        value, use_decimal=True, separators=(",", ":"), ensure_ascii=ensure_ascii, allow_nan=False
    )
    return text


def members(document: bytes) -> dict[str, bytes]:
    """The members of a JSON object as raw JSON text, of repeated keys the last. Raises ValueError for anything else."""
    document.decode("utf-8")  # msgspec passes raw members on without looking inside their strings
    try:
        raw = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return _members_exactly(document)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return {key: bytes(value) for key, value in raw.items()}


def _members_exactly(document: bytes) -> dict[str, bytes]:
    """What msgspec refuses may still be JSON: it does not take lone surrogates."""
    value = loads(document)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - it is the text's content that is wrong
    return {key: dumps(member) for key, member in value.items()}


class _NotJsonError(TypeError):
    """Raised before anything is written; told from the writers' own TypeErrors by its class, shown as one of them."""


_NotJsonError.__name__ = "TypeError"


def _require_json(value: Any) -> None:
    """The writers would silently turn NaN into null, and names, dates and numbers as keys into strings."""
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str):
                raise _NotJsonError(f"a key is {type(key).__name__}, not a string")
            _require_json(member)
    elif type(value) in (list, tuple):
        for item in value:
            _require_json(item)
    elif isinstance(value, (float, Decimal)):
        if not (value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)):
            raise ValueError(f"{value} is not JSON")
    else:
        raise _NotJsonError(f"{type(value).__name__} is not JSON")


def _integer(token: str) -> int | Decimal:
    return int(token) if len(token) < _LONG else Decimal(token)


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _decimal(value: Any) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} is not JSON")
