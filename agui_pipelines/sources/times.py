"""Times of foreign records as RFC 3339 text and as moments; nothing of what is not understood is lost."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from agui_pipelines.sources.values import UnfitError

_ISO: Final = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)(?:[Tt ](?P<minute>\d\d:\d\d)(?P<second>:\d\d)?(?:\.(?P<fraction>\d{1,9}))?"
    r" ?(?P<offset>[Zz]|UTC|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
_SECONDS: Final = re.compile(r"[+-]?\d{1,12}(?:\.\d+)?", re.ASCII)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NANOS: Final = 10**9


def as_text(value: Any) -> str | None:
    """A time as RFC 3339; without an offset it is taken as UTC, a number as seconds since 1970.

    What is neither stays as it is: a target that cannot hold it says so, by name. None and the empty text are none.
    """
    if value is None or value == "":
        return None
    if isinstance(value, dt.datetime):
        offset = value.utcoffset()
        # Local mean times are off by seconds, for which RFC 3339 has no offset.
        moment = value.astimezone(dt.UTC) if offset is not None and offset % dt.timedelta(minutes=1) else value
        return _rfc3339(moment.isoformat()) or moment.isoformat()
    if isinstance(value, dt.date):
        return f"{value.isoformat()}T00:00:00Z"
    if isinstance(value, str):
        return _rfc3339(value) or (_of_seconds(Decimal(value)) if _SECONDS.fullmatch(value) else None) or value
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return _of_seconds(_decimal(value)) or str(value)
    return str(value)


def as_milliseconds(value: Any) -> int | None:
    """A moment as milliseconds since 1970, finer digits cut. Raises `UnfitError` for what is no time."""
    text = as_text(value)
    if text is None:
        return None
    match = _ISO.fullmatch(text)
    try:
        if match is None or (not text[-1].isdigit() and text[-1] != "Z"):
            raise ValueError(text)
        whole = dt.datetime.fromisoformat(re.sub(r"\.\d+", "", text))
        fraction = (match["fraction"] or "").ljust(3, "0")[:3]
        return (whole - _EPOCH) // dt.timedelta(seconds=1) * 1000 + int(fraction)
    except (ValueError, OverflowError, TypeError):
        raise UnfitError("bad_expiry", "Its expiry is neither RFC 3339 nor seconds since 1970.") from None


def _rfc3339(text: str) -> str | None:
    match = _ISO.fullmatch(text.strip())
    if match is None:
        return None
    fraction = f".{match['fraction']}".rstrip("0").rstrip(".") if match["fraction"] else ""
    offset = match["offset"] or "Z"
    if offset in ("Z", "z", "UTC", "+00", "+00:00", "+0000"):
        offset = "Z"
    elif ":" not in offset:
        offset = f"{offset[:3]}:{offset[3:] or '00'}"
    found = f"{match['date']}T{match['minute'] or '00:00'}{match['second'] or ':00'}{fraction}{offset}"
    try:
        dt.datetime.fromisoformat(f"{match['date']}T{match['minute'] or '00:00'}{match['second'] or ':00'}{offset}")
    except ValueError:
        return None
    return found


def _of_seconds(seconds: Decimal) -> str | None:
    """Seconds since 1970 as RFC 3339 with up to nine digits; None beyond the years 1 to 9999."""
    if not seconds.is_finite() or seconds.adjusted() > len("999999999999"):
        return None
    nanos = int(seconds.scaleb(9))
    try:
        whole = _EPOCH + dt.timedelta(seconds=nanos // _NANOS)
    except OverflowError:
        return None
    fraction = f".{nanos % _NANOS:09}".rstrip("0").rstrip(".")
    return f"{whole:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + f"{fraction}Z"


def _decimal(value: float | Decimal) -> Decimal:
    """A float as the shortest decimal that stands for it."""
    try:
        return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except InvalidOperation:
        return Decimal("NaN")
