"""Reading hashes, lists, sets, sorted sets, streams and JSON values as documents.

What is small is read many keys at a time, each by one command. What is large is read page by page, so that neither the
server nor this process ever holds more than the document that it becomes. While that goes on the key is watched (WATCH):
if it changed, it is read again, and if it does so each time, by one command after all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import hiredis
from xxhash import xxh3_128_digest

from agui_pipelines.drivers.redis import Burst, RedisWire
from agui_pipelines.drivers.redis_strings import Strings, cuts
from agui_pipelines.errors import UnstorableRecordError
from agui_pipelines.sources import redis_documents as form
from agui_pipelines.sources.redis_documents import MODULE_TYPES, Elements, Group, StreamHead

PAGE: Final = 5000
"""Elements per page at most; the server is busy with a page for a millisecond or so."""
PAGE_BYTES: Final = 4 * 1024 * 1024
SMALL: Final = 1000
"""Elements up to which a key may be read by one command."""
ATTEMPTS: Final = 5

READABLE: Final = frozenset({"hash", "list", "set", "zset", "stream", *MODULE_TYPES})
"""Types, as the server names them, that are read here."""

_GONE: Final = -2
_COUNT: Final = {"hash": b"HLEN", "list": b"LLEN", "set": b"SCARD", "zset": b"ZCARD", "stream": b"XLEN"}
_WHOLE: Final[dict[str, Callable[[bytes], tuple[bytes, ...]]]] = {
    "hash": lambda key: (b"HGETALL", key),
    "list": lambda key: (b"LRANGE", key, b"0", b"-1"),
    "set": lambda key: (b"SMEMBERS", key),
    "zset": lambda key: (b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"),
    "stream": lambda key: (b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"),
    "ReJSON-RL": lambda key: (b"JSON.GET", key),
}

Reject = Callable[[bytes, bytes | None, str, str], None]


class _ChangedError(Exception):
    """The key is gone, or holds another type by now."""


@dataclass(frozen=True, slots=True)
class _Sized:
    """A key with its type, its number of elements, and the bytes it takes on the server (None: it does not tell)."""

    key: bytes
    type: str
    elements: int
    bytes: int | None

    @property
    def is_small(self) -> bool:
        return self.elements <= SMALL and self.bytes is not None and self.bytes <= PAGE_BYTES

    @property
    def page(self) -> int:
        """Elements per page, so that a page has `PAGE_BYTES` if all elements are of one size."""
        if self.bytes is None:
            return SMALL
        return max(1, min(PAGE, PAGE_BYTES * max(1, self.elements) // max(1, self.bytes)))


class CollectionReader:
    """Reads keys of the types in `READABLE`. What is too large for a document goes to `reject`."""

    def __init__(self, wire: RedisWire, *, max_bytes: int, reject: Reject) -> None:
        self._wire = wire
        self._max_bytes = max_bytes
        self._reject = reject
        self._field_expiries = self._has_field_expiries()

    def read(self, keys: list[tuple[bytes, str]], on_changed: Callable[[bytes], None]) -> Iterator[Strings[bytes]]:
        """Documents, in pieces of about `max_bytes`, or of one document.

        Keys that are gone, or hold something else than they were said to, go to `on_changed`. Raises what `RedisWire` does.
        """
        sized = self._sized(keys, on_changed)
        small = [key for key in sized if key.is_small]
        for start, end in cuts([key.bytes or 0 for key in small], self._max_bytes):
            yield self._piece(small[start:end], on_changed)
        for key in sized:
            if not key.is_small:
                found = self._large(key, on_changed)
                if found.tags:
                    yield found
                del found  # or it would still be held while the next one is read

    def _sized(self, keys: list[tuple[bytes, str]], on_changed: Callable[[bytes], None]) -> list[_Sized]:
        burst = Burst()
        for key, type_ in keys:
            burst.add(_COUNT.get(type_, b"EXISTS"), key)
        counted: list[tuple[bytes, str, int]] = []
        for (key, type_), count in zip(keys, self._replies(burst), strict=True):
            if _is_wrong_type(count):
                on_changed(key)
            else:
                [elements] = self._wire.checked([count])
                if elements or type_ == "stream":  # which may be empty; all others are gone then
                    counted.append((key, type_, elements))
                else:
                    on_changed(key)
        burst = Burst()
        for key, _, elements in counted:
            burst.add(b"MEMORY", b"USAGE", key, b"SAMPLES", 0 if elements <= SMALL else 5)
        return [
            _Sized(key, type_, elements, size if isinstance(size, int) else None)
            for (key, type_, elements), size in zip(counted, self._replies(burst), strict=True)
        ]

    def _piece(self, keys: list[_Sized], on_changed: Callable[[bytes], None]) -> Strings[bytes]:
        """Keys that are read by one command each."""
        burst = Burst()
        for key in keys:
            burst.add(self._wire.expiry_command, key.key)
            burst.add(*_WHOLE[key.type](key.key))
        now = self._now()
        replies = self._replies(burst)
        contents = dict(zip([key.key for key in keys], replies[1::2], strict=True))
        expiring = self._fields_expire({k.key: contents[k.key] for k in keys if k.type == "hash"})
        found: Strings[bytes] = Strings([], [], [], [], [])
        for key, expiry in zip(keys, replies[::2], strict=True):
            reply = contents.pop(key.key)
            if _is_wrong_type(reply) or _is_missing(reply) or not reply or expiry == _GONE:
                on_changed(key.key)
                continue
            self._wire.checked([reply, expiry])
            try:
                document = _document(key.type, reply, expiring.get(key.key, {}))
            except UnstorableRecordError as error:
                self._reject(key.key, None, "document_too_large", error.message)
            else:
                self._append(found, key.key, document, now + expiry if expiry >= 0 else expiry)
        return found

    def _large(self, key: _Sized, on_changed: Callable[[bytes], None]) -> Strings[bytes]:
        """One key, page by page."""
        found: Strings[bytes] = Strings([], [], [], [], [])
        before = b""
        for _ in range(ATTEMPTS):
            watched = self._watch(key.key)
            try:
                now = self._now()
                [expiry] = self._ask((self._wire.expiry_command, key.key))
                document = self._paged(key)
            except _ChangedError:
                self._is_unchanged()
                on_changed(key.key)
                return found
            except UnstorableRecordError as error:
                self._is_unchanged()
                self._reject(key.key, None, "document_too_large", error.message)
                return found
            # Who may not watch keys reads until the same comes twice.
            digest = b"" if watched else xxh3_128_digest(document)
            if self._is_unchanged() if watched else digest == before:
                self._append(found, key.key, document, now + expiry if expiry >= 0 else expiry)
                return found
            before = digest
            del document
        return self._piece([key], on_changed)

    def _append(self, found: Strings[bytes], key: bytes, document: bytes, expiry: int) -> None:
        found.tags.append(key)
        found.values.append(document)
        found.expiries.append(expiry)

    def _paged(self, key: _Sized) -> bytes:
        match key.type:
            case "hash":
                return self._hash(key)
            case "set":
                return form.set_document({member for page in self._scanned(b"SSCAN", key) for member in page})
            case "stream":
                return self._stream(key)
            case "list" | "zset":
                return self._ranged(key)
            case _:
                [reply] = self._ask(_WHOLE[key.type](key.key))
                return _document(key.type, _there(reply), {})

    def _hash(self, key: _Sized) -> bytes:
        fields: dict[bytes, bytes] = {}
        expiries: dict[bytes, int] = {}
        for page in self._scanned(b"HSCAN", key):
            fields.update(zip(page[::2], page[1::2], strict=True))
            expiries.update(self._fields_expire({key.key: page}).get(key.key, {}))
        return form.hash_document(_there(fields), expiries)

    def _scanned(self, command: bytes, key: _Sized) -> Iterator[list[bytes]]:
        cursor = b"0"
        while True:
            [[cursor, page]] = self._ask((command, key.key, cursor, b"COUNT", key.page))
            yield page
            if cursor == b"0":
                return

    def _ranged(self, key: _Sized) -> bytes:
        elements, start = Elements(), 0
        while True:
            bounds = (start, start + key.page - 1)
            if key.type == "list":
                [page] = self._ask((b"LRANGE", key.key, *bounds))
                rows: list[Any] = [form.text(item) for item in page]
            else:
                [page] = self._ask((b"ZRANGE", key.key, *bounds, b"WITHSCORES"))
                rows = _scored(page)
            elements.add(rows if start else _there(rows))
            start += len(rows)
            if len(rows) < key.page:
                return elements.document(key.type)

    def _stream(self, key: _Sized) -> bytes:
        [facts, groups] = self._ask((b"XINFO", b"STREAM", key.key), (b"XINFO", b"GROUPS", key.key))
        head = _head(facts)
        for facts_of in map(_facts, groups):
            [consumers] = self._ask((b"XINFO", b"CONSUMERS", key.key, facts_of[b"name"]))
            group = _group(facts_of, [_facts(consumer)[b"name"] for consumer in consumers])
            for page in self._pending(key.key, group.name):
                group.pending.extend(page)
            head.groups.append(group)
        elements, start = Elements(), b"-"
        while True:
            [page] = self._ask((b"XRANGE", key.key, start, b"+", b"COUNT", key.page))
            if not page:
                return form.stream_document(elements, head)
            form.add_entries(elements, page)
            start = b"(" + page[-1][0]

    def _pending(self, key: bytes, group: bytes) -> Iterator[list[tuple[bytes, bytes, int, int]]]:
        """What consumers have not acknowledged. The server tells since when: the moment is exact if its clock stood still."""
        start = b"-"
        while True:
            for _ in range(20):
                [before, page, after] = self._ask((b"TIME",), (b"XPENDING", key, group, start, b"+", PAGE), (b"TIME",))
                if _milliseconds(before) == _milliseconds(after):
                    break
            if not page:
                return
            now = _milliseconds(before)
            yield [(id_, consumer, now - idle, times) for id_, consumer, idle, times in page]
            start = b"(" + page[-1][0]

    def _watch(self, key: bytes) -> bool:
        """Whether the key can be watched: not every user may."""
        [reply] = self._replies(_burst((b"WATCH", key)))
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOPERM"):
            return False
        self._wire.checked([reply])
        return True

    def _is_unchanged(self) -> bool:
        """Whether what was watched is as it was; ends the watching."""
        *_, done = self._replies(_burst((b"MULTI",), (b"EXEC",)))
        return isinstance(done, list)

    def _has_field_expiries(self) -> bool:
        [reply] = self._replies(_burst((b"HPEXPIRETIME", b"", b"FIELDS", 1, b"")))
        return not (isinstance(reply, hiredis.ReplyError) and str(reply).startswith("ERR unknown command"))

    def _fields_expire(self, hashes: dict[bytes, Any]) -> dict[bytes, dict[bytes, int]]:
        """When fields of hashes expire, for those that do. `hashes` are fields and values in turn, or an error."""
        asked = {key: parts[::2] for key, parts in hashes.items() if isinstance(parts, list) and parts}
        if not self._field_expiries or not asked:
            return {}
        burst = Burst()
        for key, names in asked.items():
            burst.add(b"HPEXPIRETIME", key, b"FIELDS", len(names), *names)
        found = {}
        for (key, names), moments in zip(asked.items(), self._replies(burst), strict=True):
            if _is_wrong_type(moments):
                continue
            self._wire.checked([moments])
            found[key] = {name: at for name, at in zip(names, moments, strict=True) if at >= 0}
        return found

    def _ask(self, *commands: tuple[bytes | int, ...]) -> list[Any]:
        """Replies. Raises `_ChangedError` if one says that the key is of another type by now, or gone."""
        replies = self._replies(_burst(*commands))
        if any(_is_wrong_type(reply) or _is_missing(reply) for reply in replies):
            raise _ChangedError
        return self._wire.checked(replies)

    def _replies(self, burst: Burst) -> list[Any]:
        return self._wire.receive(self._wire.send(burst))

    def _now(self) -> int:
        """What expiries are counted from: the server's time if it tells what is left, 0 if it tells the moment itself."""
        return _milliseconds(self._wire.call(b"TIME")) if self._wire.expiry_command == b"PTTL" else 0


def _document(type_: str, reply: Any, expiries: dict[bytes, int]) -> bytes:
    """What one command replied for a whole key."""
    if type_ == "hash":
        return form.hash_document(dict(zip(reply[::2], reply[1::2], strict=True)), expiries)
    if type_ == "set":
        return form.set_document(reply)
    if type_ in MODULE_TYPES:
        return form.json_document(reply)
    elements = Elements()
    if type_ == "stream":
        facts = _facts(reply)
        head = _head(reply)
        head.groups.extend(_whole_group(_facts(group)) for group in facts[b"groups"])
        form.add_entries(elements, facts[b"entries"])
        return form.stream_document(elements, head)
    elements.add([form.text(item) for item in reply] if type_ == "list" else _scored(reply))
    return elements.document(type_)


def _scored(page: list[bytes]) -> list[list[Any]]:
    return [[form.text(member), score.decode()] for member, score in zip(page[::2], page[1::2], strict=True)]


def _head(reply: list[Any]) -> StreamHead:
    facts = _facts(reply)
    return StreamHead(facts[b"last-generated-id"], facts.get(b"max-deleted-entry-id"), facts.get(b"entries-added"))


def _group(facts: dict[bytes, Any], consumers: list[bytes]) -> Group:
    return Group(facts[b"name"], facts[b"last-delivered-id"], facts.get(b"entries-read"), consumers, [])


def _whole_group(facts: dict[bytes, Any]) -> Group:
    group = _group(facts, [_facts(consumer)[b"name"] for consumer in facts[b"consumers"]])
    group.pending.extend((id_, who, at, times) for id_, who, at, times in facts[b"pending"])
    return group


def _facts(reply: list[Any]) -> dict[bytes, Any]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _there(content: Any) -> Any:
    """No key is empty but a stream: what is empty is gone."""
    if not content:
        raise _ChangedError
    return content


def _burst(*commands: tuple[bytes | int, ...]) -> Burst:
    burst = Burst()
    for command in commands:
        burst.add(*command)
    return burst


def _milliseconds(time: list[bytes]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000


def _is_wrong_type(reply: object) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("WRONGTYPE", "Existing key has wrong"))


def _is_missing(reply: object) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("ERR no such key", "NOGROUP"))
