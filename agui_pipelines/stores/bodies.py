"""Version and snapshot records as JSON text, cut into their parts and put together again; and their times.

The reference writes both as JSON objects with Go-cased keys in a fixed order (store-format.md, section 1). Here they
are cut without being parsed: `State`, `Delta` and `Metadata` stay the text of the record, so that no digit is lost.
Nothing here reads or writes anything, and no error says what a record holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final

import orjson

from agui_pipelines import documents
from agui_pipelines.ports import Snapshot, Version

ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""How Go writes a time that was never set."""

STATE_ID: Final = "StateID"
"""The member that our file store adds, since a version file does not say whose it is. Go ignores it."""

_STATE_ID: Final = STATE_ID.encode()
_VERSION_KEYS: Final = frozenset({"id", "timestamp", "state", "delta", "metadata", "parentid"})
_SNAPSHOT_KEYS: Final = frozenset({"id", "timestamp", "state", "version", "metadata"})
_NULL: Final = b"null"
_JSON_TYPES: Final = {b"{": "an object", b"[": "an array", b"t": "a boolean", b"f": "a boolean"}
"""By their first byte, those that are neither a string nor a number. Errors tell no contents."""
_RFC3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_SECOND: Final = 10**9
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_DAYS_IN_400_YEARS: Final = 146_097
_HTML: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_HTML_CHARACTERS: Final = re.compile("[" + "".join(_HTML) + "]")


@dataclass(frozen=True, slots=True)
class VersionParts:
    """A version record without its state's id; the fields are those of `records.VERSION`."""

    version_id: str
    timestamp: str
    data: bytes
    delta: bytes | None
    metadata: bytes | None
    parent_id: str
    extra: bytes | None

    def of(self, state_id: str) -> Version:
        """The version as one of a state's."""
        return Version(
            version_id=self.version_id,
            state_id=state_id,
            timestamp=self.timestamp,
            data=self.data,
            delta=self.delta,
            metadata=self.metadata,
            parent_id=self.parent_id,
            extra=self.extra,
        )


@dataclass(frozen=True, slots=True)
class SnapshotParts:
    """A snapshot record without its state's id; the fields are those of `records.SNAPSHOT`."""

    snapshot_id: str
    timestamp: str
    data: bytes
    version_id: str
    metadata: bytes | None
    extra: bytes | None

    def of(self, state_id: str) -> Snapshot:
        """The snapshot as one of a state's."""
        return Snapshot(
            snapshot_id=self.snapshot_id,
            state_id=state_id,
            timestamp=self.timestamp,
            data=self.data,
            version_id=self.version_id,
            metadata=self.metadata,
            extra=self.extra,
        )


def version_parts(body: bytes) -> VersionParts:
    """Cut a version record. A missing or null member is what Go makes of it: ``""``, the zero time, ``{}`` or None.

    Raises ValueError if the body is not a JSON object, or a member that must be a string is none.
    """
    known, extra = _cut(body, _VERSION_KEYS)
    return VersionParts(
        version_id=_string(known, "id"),
        timestamp=_string(known, "timestamp") or ZERO_TIME,
        data=_json(known, "state") or b"{}",
        delta=_json(known, "delta"),
        metadata=_json(known, "metadata"),
        parent_id=_string(known, "parentid"),
        extra=extra,
    )


def snapshot_parts(body: bytes) -> SnapshotParts:
    """Cut a snapshot record; see `version_parts`."""
    known, extra = _cut(body, _SNAPSHOT_KEYS)
    return SnapshotParts(
        snapshot_id=_string(known, "id"),
        timestamp=_string(known, "timestamp") or ZERO_TIME,
        data=_json(known, "state") or b"{}",
        version_id=_string(known, "version"),
        metadata=_json(known, "metadata"),
        extra=extra,
    )


def version_body(
    version_id: str,
    timestamp: str,
    data: bytes,
    delta: bytes | None,
    metadata: bytes | None,
    parent_id: str,
    extra: bytes | None = None,
    *,
    state_id: str | None = None,
) -> bytes:
    """Put a version record together, its members in the order of the Go struct and its JSON parts as they are.

    Members of `extra` follow, and `state_id`, if given, comes last as ``StateID``.
    """
    return b'{"ID":%b,"Timestamp":%b,"State":%b,"Delta":%b,"Metadata":%b,"ParentID":%b%b}' % (
        quoted(version_id),
        quoted(timestamp),
        data,
        delta or _NULL,
        metadata or _NULL,
        quoted(parent_id),
        _tail(extra, state_id),
    )


def snapshot_body(
    snapshot_id: str,
    timestamp: str,
    data: bytes,
    version_id: str,
    metadata: bytes | None,
    extra: bytes | None = None,
    *,
    state_id: str | None = None,
) -> bytes:
    """Put a snapshot record together; see `version_body`."""
    return b'{"ID":%b,"Timestamp":%b,"State":%b,"Version":%b,"Metadata":%b%b}' % (
        quoted(snapshot_id),
        quoted(timestamp),
        data,
        quoted(version_id),
        metadata or _NULL,
        _tail(extra, state_id),
    )


def split_state_id(extra: bytes | None) -> tuple[str | None, bytes | None]:
    """The value of ``StateID`` among the extra members, if it is there and a string, and the members without it."""
    if extra is None or _STATE_ID not in extra:
        return None, extra
    members = documents.members(extra)
    raw = members.pop(STATE_ID, _NULL)
    if raw[:1] != b'"':
        return None, extra
    return str(orjson.loads(raw)), _object(members)


def quoted(text: str) -> bytes:
    """A string as Go's encoding/json writes it: ``<``, ``>``, ``&``, U+2028 and U+2029 escaped, all else in UTF-8."""
    try:
        json_text = orjson.dumps(text)
    except orjson.JSONEncodeError:  # a lone surrogate, which only an escape can express
        return json.dumps(text).encode("ascii")
    if _HTML_CHARACTERS.search(text):
        return _HTML_CHARACTERS.sub(lambda match: _HTML[match.group()], json_text.decode()).encode()
    return json_text


def nanoseconds(timestamp: str) -> int:
    """Nanoseconds since the Unix epoch of an RFC 3339 time of any offset and of the years 0000 to 9999.

    Digits beyond nanoseconds are cut off. Raises ValueError for anything else.
    """
    match = _RFC3339.fullmatch(timestamp)
    if match is None:
        raise ValueError(f"a text of {len(timestamp):,} characters is not an RFC 3339 time")
    year, month, day, hour, minute, second = (int(part) for part in match.group(1, 2, 3, 4, 5, 6))
    fraction, sign, offset_hours, offset_minutes = match.group(7, 8, 9, 10)
    if hour > 23 or minute > 59 or second > 59:  # noqa: PLR2004 - the parts of a day
        raise ValueError("it is not a time of day")
    # Python's calendar begins with year 1, Go's with year 0; the calendar repeats after 400 years.
    days = date(year or 400, month, day).toordinal() - (0 if year else _DAYS_IN_400_YEARS)
    seconds = (days - _EPOCH_DAY) * 86400 + hour * 3600 + minute * 60 + second
    if sign:
        offset = int(offset_hours) * 3600 + int(offset_minutes) * 60
        seconds += offset if sign == "-" else -offset
    return seconds * _SECOND + (int(fraction[:9].ljust(9, "0")) if fraction else 0)


def unix_seconds(timestamp: str) -> int:
    """Whole seconds since the Unix epoch, rounded down, as Go's ``Time.Unix``. Raises ValueError; see `nanoseconds`."""
    return nanoseconds(timestamp) // _SECOND


def rfc3339(nanoseconds_: int) -> str:
    """A moment (nanoseconds since the Unix epoch) in UTC with trailing zeros trimmed, as Go writes times.

    Raises ValueError outside the years 1 to 9999.
    """
    seconds, fraction = divmod(nanoseconds_, _SECOND)
    try:
        text = _to_the_second(seconds)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{nanoseconds_} ns lies outside the years 1 to 9999") from error
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


@lru_cache(maxsize=64)  # what was written together was mostly written in the same second
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def _cut(body: bytes, keys: frozenset[str]) -> tuple[dict[str, bytes], bytes | None]:
    """The members named by `keys`, matched as Go does (any case, the last one wins), and the others as one object."""
    try:
        members = documents.members(body)
    except (ArithmeticError, RecursionError) as error:  # an exponent or a depth that nothing can read
        raise ValueError("a number or the depth of the record is beyond what can be read") from error
    known: dict[str, bytes] = {}
    others: dict[str, bytes] = {}
    for key, raw in members.items():
        folded = _folded(key)
        if folded in keys:
            known[folded] = raw
        else:
            others[key] = raw
    return known, _object(others)


@lru_cache(maxsize=256)
def _folded(key: str) -> str:
    """Go folds case by Unicode's simple folding, in which the long s is an s (and the names have no k)."""
    return key.lower().replace("ſ", "s")


def _string(members: Mapping[str, bytes], key: str) -> str:
    raw = members.get(key, _NULL)
    if raw == _NULL:
        return ""
    if raw[:1] != b'"':
        found = _JSON_TYPES.get(raw[:1], "a number")
        raise ValueError(f"the member '{key}' is {found}, not a string")
    return str(orjson.loads(raw))


def _json(members: Mapping[str, bytes], key: str) -> bytes | None:
    raw = members.get(key, _NULL)
    return None if raw == _NULL else raw


def _object(members: Mapping[str, bytes]) -> bytes | None:
    if not members:
        return None
    return b"{" + b",".join(quoted(key) + b":" + raw for key, raw in members.items()) + b"}"


def _tail(extra: bytes | None, state_id: str | None) -> bytes:
    """What follows the known members."""
    inner = extra.strip()[1:-1].strip() if extra else b""
    tail = b"," + inner if inner else b""
    return tail if state_id is None else tail + b',"StateID":' + quoted(state_id)
