"""JSON documents as Python values and back, without losing a digit.

Only where somebody wants to look inside a document (a user's transform, the state manager) is it parsed at all; integers
stay integers of any size, other numbers become `decimal.Decimal`, and both are written back as they were. A version or
snapshot record is cut into its members without parsing them.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final

import msgspec
import orjson
import simplejson

_LONG: Final = 4000
"""Python refuses to convert integers of more than 4,300 digits; longer ones are carried as decimals."""


def loads(document: bytes) -> Any:
    """Parse a document exactly. Raises ValueError (also for NaN and Infinity, which are not JSON)."""
    return json.loads(document, parse_int=_integer, parse_float=Decimal, parse_constant=_constant)


def dumps(value: Any) -> bytes:
    """Write a value as compact JSON in UTF-8; lone surrogates become escapes. Raises TypeError or ValueError."""
    try:
        return orjson.dumps(value, default=_decimal)
    except TypeError:  # integers over 64 bits, lone surrogates, or really not JSON, which the slower writer tells
        text: str = simplejson.dumps(value, use_decimal=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return text.encode("ascii")


def members(document: bytes) -> dict[str, bytes]:
    """The members of a JSON object as raw JSON text, of repeated keys the last. Raises ValueError for anything else."""
    try:
        raw = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _members_exactly(document)
    return {key: bytes(value) for key, value in raw.items()}


def _members_exactly(document: bytes) -> dict[str, bytes]:
    """What msgspec refuses may still be JSON: it does not take lone surrogates."""
    value = loads(document)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - it is the text's content that is wrong
    return {key: dumps(member) for key, member in value.items()}


def _integer(token: str) -> int | Decimal:
    return int(token) if len(token) < _LONG else Decimal(token)


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _decimal(value: Any) -> orjson.Fragment:
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} is not JSON")
