"""The reverse of the source ``redis_keys``: states back into keys of a Redis, with the type and the expiry that they had.

    with closing(RedisRestorer(config)) as restorer:
        counts = restorer.restore(batches, on_reject)

The state's id is the key. A document that `redis_documents` did not make is a JSON object that a string held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.drivers.redis import Burst, RedisWire
from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind, Reject
from agui_pipelines.sources.redis_documents import Content, Group, StreamHead, content
from agui_pipelines.spec import RedisKeysConfig

_ARGUMENTS: Final = 1000
"""Elements per command."""
_BURST_BYTES: Final = 1024 * 1024


class RedisRestorer:
    """Writes keys to the server that a ``redis_keys`` configuration names; connects when it is first used."""

    def __init__(self, config: RedisKeysConfig) -> None:
        self._wire = RedisWire(config)

    def close(self) -> None:
        self._wire.close()

    def restore(self, batches: Iterable[pa.RecordBatch], on_reject: OnReject) -> Counter[str]:
        """Write states (batches of `records.STATE`) as keys; gives the number of keys by type.

        A key that exists is replaced. One whose expiry has passed is not there afterwards. A document that names a type
        without having its form goes to `on_reject`, and its key is left alone. Raises `ConnectionFailedError` or
        `StoreError`, which leaves the keys before it written; to restore them again does no harm.
        """
        counts: Counter[str] = Counter()
        waiting = Burst()
        size = 0
        for key, document, expiry in _rows(batches):
            try:
                found = content(document)
            except ValueError as error:
                detail = f"The document is not that of a Redis key: {error}."
                on_reject(Reject(Kind.STATE, key, document, "restore", "malformed", detail))
                continue
            counts[found.type] += 1
            size += len(document)
            waiting.extend(commands(key, found, expiry))
            if size >= _BURST_BYTES:
                self._run(waiting)
                waiting, size = Burst(), 0
        self._run(waiting)
        return counts

    def _run(self, burst: Burst) -> None:
        for reply in self._wire.run(burst):
            if isinstance(reply, list):  # of EXEC
                self._wire.checked(reply)


def commands(key: bytes, found: Content, expiry: int | None) -> Burst:
    """What makes `key` hold `found`, in one transaction. `expiry` is in milliseconds since the epoch."""
    making = list(made_by(key, found, expiry))
    return Burst.of(*making) if len(making) == 1 else Burst.of((b"MULTI",), *making, (b"EXEC",))


def made_by(key: bytes, found: Content, expiry: int | None) -> Iterator[tuple[bytes | int, ...]]:
    """The commands that make `key` hold `found`, which belong into one transaction. `expiry` as for `commands`."""
    # The server takes no moment before 1970, which has passed like any other.
    if found.type == "string":
        yield b"SET", key, found.value, *(() if expiry is None else (b"PXAT", max(1, expiry)))
        return
    yield b"DEL", key
    yield from _making(key, found)
    if expiry is not None:
        yield b"PEXPIREAT", key, max(1, expiry)


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[bytes, bytes, int | None]]:
    for batch in batches:
        keys = batch.column("state_id").cast(pa.binary())
        documents = batch.column("data")
        expiries = batch.column("expires_at").cast(pa.int64())
        for i in range(batch.num_rows):
            yield keys[i].as_py(), documents[i].as_py(), expiries[i].as_py()


def _making(key: bytes, found: Content) -> Iterator[tuple[bytes | int, ...]]:
    match found.type:
        case "hash":
            yield from _in_parts((b"HSET", key), [*chain.from_iterable(found.value)], 2 * _ARGUMENTS)
            for moment, fields in groupby(sorted(found.field_expiries, key=_second), key=_second):
                names = [name for name, _ in fields]
                for some in _parts(names, _ARGUMENTS):
                    yield b"HPEXPIREAT", key, moment, b"FIELDS", len(some), *some
        case "list":
            yield from _in_parts((b"RPUSH", key), found.value, _ARGUMENTS)
        case "set":
            yield from _in_parts((b"SADD", key), found.value, _ARGUMENTS)
        case "zset":
            scored = [part for member, score in found.value for part in (score, member)]
            yield from _in_parts((b"ZADD", key), scored, 2 * _ARGUMENTS)
        case "json":
            yield b"JSON.SET", key, b"$", found.value
        case "stream":
            yield from _stream(key, found.value, found.head or StreamHead(b"0-0"))


def _stream(
    key: bytes, entries: list[tuple[bytes, list[bytes]]], head: StreamHead
) -> Iterator[tuple[bytes | int, ...]]:
    """What consumers hold may have been deleted since: such entries are there for a moment only, to be claimed."""
    there = {id_ for id_, _ in entries}
    deleted = {id_ for group in head.groups for id_, *_ in group.pending} - there
    yield b"XGROUP", b"CREATE", key, b"", b"0", b"MKSTREAM"
    yield b"XGROUP", b"DESTROY", key, b""
    for id_, parts in sorted([*entries, *((id_, [b"", b""]) for id_ in deleted)], key=_position):
        yield b"XADD", key, id_, *parts
    for group in head.groups:
        yield from _group(key, group)
    if deleted and entries:
        # Trimming leaves no trace in the stream, as it left none when these were trimmed.
        yield b"XTRIM", key, b"MINID", b"=", entries[0][0]
    elif deleted:
        yield b"XTRIM", key, b"MAXLEN", b"=", 0
    if entries:
        first = _position((entries[0][0],))
        later = sorted(id_ for id_ in deleted if _position((id_,)) > first)
        yield from _in_parts((b"XDEL", key), later, _ARGUMENTS)
    yield b"XSETID", key, head.last_id, *_counters(head)


def _group(key: bytes, group: Group) -> Iterator[tuple[bytes | int, ...]]:
    read = () if group.entries_read is None else (b"ENTRIESREAD", group.entries_read)
    yield b"XGROUP", b"CREATE", key, group.name, group.last_id, *read
    for consumer in group.consumers:
        yield b"XGROUP", b"CREATECONSUMER", key, group.name, consumer
    for (consumer, at, times), held in groupby(group.pending, key=_holding):
        ids = [id_ for id_, *_ in held]
        for some in _parts(ids, _ARGUMENTS):
            how = (b"TIME", at, b"RETRYCOUNT", times, b"FORCE", b"JUSTID")
            yield b"XCLAIM", key, group.name, consumer, 0, *some, *how


def _counters(head: StreamHead) -> tuple[bytes | int, ...]:
    if head.entries_added is None or head.max_deleted_id is None:
        return ()
    return b"ENTRIESADDED", head.entries_added, b"MAXDELETEDID", head.max_deleted_id


def _holding(pending: tuple[bytes, bytes, int, int]) -> tuple[bytes, int, int]:
    return pending[1:]


def _position(entry: Sequence[Any]) -> tuple[int, ...]:
    """Where an entry stands in its stream."""
    return tuple(int(part) for part in entry[0].split(b"-"))


def _second(pair: tuple[bytes, int]) -> int:
    return pair[1]


def _in_parts(head: tuple[bytes, bytes], items: list[bytes], size: int) -> Iterator[tuple[bytes, ...]]:
    for some in _parts(items, size):
        yield *head, *some


def _parts(items: list[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
