"""What a Redis key holds as a JSON document that names its type, and back again.

::

    string    the JSON object that it holds, as it is; otherwise  {"value": "text", "type": "string"}
    hash      {"type": "hash", "value": {"field": "text", …}}, and "field_expires_at": {"field": ms, …} where fields expire
    list      {"type": "list", "value": ["text", …]}
    set       {"type": "set", "value": ["text", …]}, sorted by bytes
    zset      {"type": "zset", "value": [["member", "score"], …]}, in the order and with the scores that Redis prints
    stream    {"type": "stream", "value": {"entries": [["1-0", ["field", "text", …]], …], "entries_added": 1,
              "groups": [{"consumers": ["text", …], "entries_read": 1, "last_id": "1-0", "name": "text",
              "pending": [["1-0", "consumer", delivered at ms, times delivered], …]}, …],
              "last_id": "1-0", "max_deleted_id": "0-0"}}
    json      {"type": "json", "value": <the JSON value>}  (the type of the JSON module)

``"text"`` stands for bytes that are UTF-8; any other bytes are ``{"base64": "…"}``, which no text is written as. A hash with
a field whose name is not UTF-8 has lists of pairs instead of the two objects. Moments are milliseconds since the epoch.
The members of objects are sorted, which is the form that is digested with the least memory.

A string that holds what would be taken for such a document is written as text, so that nothing has two meanings.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import orjson

from agui_pipelines import documents
from agui_pipelines.drivers.redis_strings import is_utf8
from agui_pipelines.errors import UnstorableRecordError

MODULE_TYPES: Final = {"ReJSON-RL": "json"}
"""How the server calls the types that are called otherwise here."""
TYPES: Final = frozenset({"string", "hash", "list", "set", "zset", "stream", "json"})
MAX_BYTES: Final = 1024 * 1024 * 1024
"""The largest document: an Arrow column of binaries holds two gigabytes, and digesting takes several times its size."""

_MEMBERS: Final = frozenset({"value", "type", "field_expires_at"})
_CHUNK: Final = 5000
_LARGE: Final = 1024 * 1024
"""From here on copies are worth avoiding."""
_ESCAPED: Final = re.compile(rb'["\\\x00-\x1f]')
"""What JSON writes otherwise than it is."""
_WS: Final = rb"[ \t\r\n]*"
_UNLIKE: Final = re.compile(rb'\{(?!%b"(?:value"|type"|field_expires_at"|[^"\\]{0,16}\\))' % _WS)
"""Begins an object whose first name is none of ours, however it is spelled. The documents of most keys are such."""
_ENTRY_ID: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_SCORE: Final = re.compile(r"-?(?:inf|[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")

begins_unlike_ours = _UNLIKE.match
"""Whether a value begins like a JSON object that cannot be mistaken for a document of this module (None: perhaps it is)."""


class MalformedError(ValueError):
    """A document names a type, but has not the form that the type has."""


def text(raw: bytes) -> str | dict[str, str]:
    """Bytes as a JSON value."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def bytes_of(value: object) -> bytes:
    """The inverse of `text`. Raises `MalformedError`."""
    if isinstance(value, str):
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MalformedError("a text holds a lone surrogate") from error
    if isinstance(value, dict) and value.keys() == {"base64"}:
        try:
            return base64.b64decode(value["base64"], validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise MalformedError("a base64 member is not base64") from error
    raise MalformedError("a value is neither text nor base64")


def string_document(value: bytes) -> bytes:
    """Any string as a document."""
    if len(value) >= _LARGE:
        if not is_utf8(value):
            return b'{"value":{"base64":"%b"},"type":"string"}' % base64.b64encode(value)
        if not _ESCAPED.search(value):
            return b'{"value":"%b","type":"string"}' % value
    return orjson.dumps({"value": text(value), "type": "string"})


def is_taken(value: bytes) -> bool:
    """Whether a JSON object would be taken for a document of this module: it has its members, and names a type."""
    try:
        members = documents.members(value)
        return _MEMBERS.issuperset(members) and {"value", "type"} <= members.keys() and _type(members) in TYPES
    except ValueError:
        return False


class Elements:
    """The text of a JSON array or object, grown page by page. Raises `UnstorableRecordError` beyond `MAX_BYTES`."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def add(self, page: Sequence[Any] | Mapping[str, Any]) -> None:
        if not page:
            return
        part = orjson.dumps(page)[1:-1]
        self.size += len(part) + 1
        if self.size > MAX_BYTES:
            raise UnstorableRecordError(f"As a document the key has more than {MAX_BYTES:,} bytes.")
        self._parts.append(part)

    def document(self, type_: str, opening: bytes = b"[", closing: bytes = b"]", before: bytes = b"") -> bytes:
        """The whole document, with the members `before` its type; the parts are given up."""
        parts, self._parts = self._parts, []
        for i in range(1, len(parts)):
            parts[i] = b"," + parts[i]
        return b"".join([b'{%b"type":"%b","value":' % (before, type_.encode()), opening, *parts, closing, b"}"])


def hash_document(fields: Mapping[bytes, bytes], expiries: Mapping[bytes, int]) -> bytes:
    """A hash; `expiries` are those of fields that expire."""
    names, expiring = sorted(fields), sorted(expiries)
    elements = Elements()
    if all(map(is_utf8, names)):
        for some in _chunks(names):
            elements.add({name.decode("utf-8"): text(fields[name]) for name in some})
        before = _expiries({name.decode("utf-8"): expiries[name] for name in expiring})
        return elements.document("hash", b"{", b"}", before)
    for some in _chunks(names):
        elements.add([[text(name), text(fields[name])] for name in some])
    return elements.document("hash", before=_expiries([[text(name), expiries[name]] for name in expiring]))


def _expiries(moments: dict[str, int] | list[list[Any]]) -> bytes:
    return b'"field_expires_at":%b,' % orjson.dumps(moments) if moments else b""


def set_document(members: Iterable[bytes]) -> bytes:
    elements = Elements()
    for some in _chunks(sorted(members)):
        elements.add([text(member) for member in some])
    return elements.document("set")


def json_document(value: bytes) -> bytes:
    """`value` is JSON text."""
    return b'{"type":"json","value":%b}' % value


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group of a stream. `pending` are (entry id, consumer, delivered at ms, times delivered)."""

    name: bytes
    last_id: bytes
    entries_read: int | None
    consumers: list[bytes]
    pending: list[tuple[bytes, bytes, int, int]]

    def as_json(self) -> dict[str, Any]:
        return {
            "consumers": [text(name) for name in sorted(self.consumers)],
            "entries_read": self.entries_read,
            "last_id": self.last_id.decode(),
            "name": text(self.name),
            "pending": [[id_.decode(), text(who), at, times] for id_, who, at, times in self.pending],
        }


@dataclass(frozen=True, slots=True)
class StreamHead:
    """What a stream is beside its entries. The last two are None before Redis 7, which does not know them."""

    last_id: bytes
    max_deleted_id: bytes | None = None
    entries_added: int | None = None
    groups: list[Group] = field(default_factory=list)


def add_entries(elements: Elements, entries: Iterable[tuple[bytes, list[bytes]]]) -> None:
    """Entries as XRANGE gives them."""
    elements.add([[id_.decode(), [text(part) for part in parts]] for id_, parts in entries])


def stream_document(entries: Elements, head: StreamHead) -> bytes:
    more = orjson.dumps(
        {
            "entries_added": head.entries_added,
            "groups": [group.as_json() for group in sorted(head.groups, key=lambda group: group.name)],
            "last_id": head.last_id.decode(),
            "max_deleted_id": None if head.max_deleted_id is None else head.max_deleted_id.decode(),
        }
    )
    return entries.document("stream", b'{"entries":[', b"]," + more[1:])


@dataclass(frozen=True, slots=True)
class Content:
    """What a document stands for: a type, and its content as Redis has it, bytes throughout.

    `value` is bytes (string; json, as JSON text), a list (list, set), a list of pairs (hash, zset), or a list of
    (entry id, [field, text, …]), with `head`, for a stream.
    """

    type: str
    value: Any
    field_expiries: list[tuple[bytes, int]] = field(default_factory=list)
    head: StreamHead | None = None


def content(document: bytes) -> Content:  # noqa: PLR0911 - one for each type
    """What a document stands for. A JSON object that is not of this module is a string. Raises `MalformedError`."""
    if not is_taken(document):
        return Content("string", document)
    members = documents.members(document)
    type_ = _type(members)
    if type_ != "hash" and "field_expires_at" in members:
        raise MalformedError("only the fields of a hash can expire")
    if type_ == "json":
        return Content("json", members["value"])
    value = documents.loads(members["value"])
    match type_:
        case "string":
            return Content("string", bytes_of(value))
        case "hash":
            expiries = documents.loads(members.get("field_expires_at", b"[]"))
            return Content("hash", _pairs(value), [(name, _integer(at)) for name, at in _items(expiries)])
        case "zset":
            return Content("zset", [(bytes_of(member), _score(score)) for member, score in _lists(value, 2)])
        case "stream":
            return _stream(value)
    return Content(type_, [bytes_of(item) for item in _list(value)])


def formed(document: bytes) -> bytes:
    """The document that would be read of a key which is made of a document. Raises `MalformedError` where none could be made.

    A JSON object that is not of this module stays as it is. Repeated members of sets and fields of hashes are one, and what
    has an order is put into it.
    """
    if begins_unlike_ours(document) or not is_taken(document):
        return document
    found = content(document)
    match found.type:
        case "string":
            return _string_formed(found.value)
        case "hash":
            fields = dict(_some(found))
            expiries = {name: at for name, at in found.field_expiries if name in fields}
            return hash_document(fields, expiries)
        case "set":
            return set_document(set(_some(found)))
        case "list" | "zset":
            elements = Elements()
            elements.add(
                _ranked(found.value) if found.type == "zset" and _some(found) else [text(item) for item in _some(found)]
            )
            return elements.document(found.type)
        case "stream":
            _require_made(found)
    return document


def _string_formed(value: bytes) -> bytes:
    """A string is read as the JSON object that it holds, unless that would be taken for another document."""
    try:
        is_object = isinstance(documents.loads(value), dict)
    except ValueError:
        is_object = False
    return value if is_object and not is_taken(value) else string_document(value)


def _some(found: Content) -> Any:
    """No key is empty but a stream."""
    if not found.value:
        raise MalformedError(f"there is no empty {found.type} in a Redis")
    return found.value


def _ranked(scored: list[tuple[bytes, bytes]]) -> list[list[Any]]:
    """The members of a sorted set in its order; of a repeated one, the last score counts."""
    ranked = sorted(dict(scored).items(), key=lambda pair: (float(pair[1]), pair[0]))
    return [[text(member), score.decode()] for member, score in ranked]


def _require_made(found: Content) -> None:
    """Raises `MalformedError` for a stream that no server would make."""
    head = found.head or StreamHead(b"0-0")
    ids = [_numbers(id_) for id_, _ in found.value]
    if ids != sorted(set(ids)) or (0, 0) in ids:
        raise MalformedError("the entries of a stream are not in the order of their ids, or one has the id 0-0")
    if ids and max(ids) > _numbers(head.last_id):
        raise MalformedError("a stream has an entry after its last id")
    names = [group.name for group in head.groups]
    if len(set(names)) < len(names):
        raise MalformedError("a stream has two groups of one name")


def _numbers(id_: bytes) -> tuple[int, ...]:
    return tuple(map(int, id_.split(b"-")))


def _type(members: Mapping[str, bytes]) -> str:
    named = json.loads(members["type"])
    return named if isinstance(named, str) else ""


def _stream(value: object) -> Content:
    if not isinstance(value, dict) or value.keys() != {
        "entries",
        "last_id",
        "max_deleted_id",
        "entries_added",
        "groups",
    }:
        raise MalformedError("a stream lacks a member, or has one too many")
    entries = []
    for id_, parts in _lists(value["entries"], 2):
        fields = [bytes_of(part) for part in _list(parts)]
        if not fields or len(fields) % 2:
            raise MalformedError("an entry of a stream has fields without values")
        entries.append((_entry_id(id_), fields))
    deleted, added = value["max_deleted_id"], value["entries_added"]
    head = StreamHead(
        _entry_id(value["last_id"]),
        None if deleted is None else _entry_id(deleted),
        None if added is None else _integer(added),
        [_group(group) for group in _list(value["groups"])],
    )
    return Content("stream", entries, head=head)


def _group(value: object) -> Group:
    if not isinstance(value, dict) or value.keys() != {"name", "last_id", "entries_read", "consumers", "pending"}:
        raise MalformedError("a group of a stream lacks a member, or has one too many")
    read = value["entries_read"]
    return Group(
        bytes_of(value["name"]),
        _entry_id(value["last_id"]),
        None if read is None else _integer(read),
        [bytes_of(name) for name in _list(value["consumers"])],
        [
            (_entry_id(id_), bytes_of(who), _integer(at), _integer(times))
            for id_, who, at, times in _lists(value["pending"], 4)
        ],
    )


def _pairs(value: object) -> list[tuple[bytes, bytes]]:
    return [(name, bytes_of(item)) for name, item in _items(value)]


def _items(value: object) -> Iterator[tuple[bytes, Any]]:
    """The members of an object, or of a list of pairs."""
    items = value.items() if isinstance(value, dict) else _lists(value, 2)
    for name, item in items:
        yield bytes_of(name), item


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedError("there is no list where one belongs")
    return value


def _lists(value: object, length: int) -> Iterator[list[Any]]:
    for item in _list(value):
        if len(_list(item)) != length:
            raise MalformedError(f"there is no list of {length} where one belongs")
        yield item


def _entry_id(value: object) -> bytes:
    if not isinstance(value, str) or not _ENTRY_ID.fullmatch(value):
        raise MalformedError("an id of a stream is not of the form 1-0")
    return value.encode()


def _score(value: object) -> bytes:
    if not isinstance(value, str) or not _SCORE.fullmatch(value):
        raise MalformedError("a score is not a number as Redis prints it")
    return value.encode()


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MalformedError("there is no integer where one belongs")
    return value


def _chunks(items: list[bytes]) -> Iterator[list[bytes]]:
    iterator = iter(items)
    while some := list(islice(iterator, _CHUNK)):
        yield some
