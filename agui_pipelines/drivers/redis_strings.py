"""Reading many string keys at once: values by MGET, expiries beside them, never more than a bounded number of bytes.

How large the values are is asked first (STRLEN), a batch ahead: an MGET of a few hundred keys could otherwise make the
server and us hold many gigabytes. While the caller works on one piece, the server already prepares the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

import hiredis
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128_digest

from agui_pipelines.drivers.redis import Burst, Pending, RedisWire
from agui_pipelines.ports import Glance
from agui_pipelines.records import STATE, document_column

BATCH_KEYS: Final = 500
"""Keys per MGET: more is no faster, and keeps other clients of the server waiting."""

T = TypeVar("T")

_GONE: Final = -2
"""What PEXPIRETIME and PTTL say of a key that does not exist."""


@dataclass(frozen=True, slots=True)
class Strings(Generic[T]):
    """Values of string keys, in the order of `tags`, which are the caller's names for the keys.

    `expiries` are milliseconds since the epoch, negative where there is none; the list is empty if they were not asked
    for. `others` are keys that exist, but hold no string, with the type that they hold; `gone` are those that do not exist.
    """

    tags: list[T]
    values: list[bytes]
    expiries: list[int]
    others: list[tuple[T, str]]
    gone: list[T]


@dataclass(frozen=True, slots=True)
class _Piece(Generic[T]):
    """Keys, as `framed` formats them, that have been asked for together."""

    tags: list[T]
    keys: list[bytes]
    pending: Pending


class StringReader(Generic[T]):
    """Reads the keys that `framed_of` makes, as `framed` does, of the caller's tags, with their expiries if `expiries`.

    A piece has at most `max_bytes` of values, or one value.
    """

    def __init__(
        self, wire: RedisWire, framed_of: Callable[[list[T]], list[bytes]], *, expiries: bool, max_bytes: int
    ) -> None:
        self._wire = wire
        self._framed_of = framed_of
        self._expiry = wire.expiry_command if expiries else b""
        self._max_bytes = max_bytes

    def read(self, batches: Iterable[list[T]]) -> Iterator[Strings[T]]:
        """The strings of all batches, piece by piece. Raises what `RedisWire` raises."""
        before: _Piece[T] | None = None
        for tags, keys, sizes in self._sized(batches):
            for start, end in cuts(sizes, self._max_bytes):
                piece = self._asked(tags[start:end], keys[start:end])
                if before is not None:
                    yield from self._told(before)
                before = piece
        if before is not None:
            yield from self._told(before)

    def _sized(self, batches: Iterable[list[T]]) -> Iterator[tuple[list[T], list[bytes], list[int]]]:
        """Each batch with its keys and the sizes of their values, which are asked for while the one before is read."""
        before: _Piece[T] | None = None
        for tags in batches:
            keys = self._framed_of(tags)
            burst = Burst()
            burst.add_each_framed(b"STRLEN", keys)
            piece = _Piece(tags, keys, self._wire.send(burst))
            if before is not None:
                yield before.tags, before.keys, self._sizes(before.pending)
            before = piece
        if before is not None:
            yield before.tags, before.keys, self._sizes(before.pending)

    def _sizes(self, pending: Pending) -> list[int]:
        sizes = self._wire.receive(pending)
        if set(map(type, sizes)) <= {int}:
            return sizes
        return [0 if _is_wrong_type(size) else self._wire.checked([size])[0] for size in sizes]

    def _asked(self, tags: list[T], keys: list[bytes]) -> _Piece[T]:
        burst = Burst()
        if self._wire.clustered:
            burst.add_each_framed(b"GET", keys)
        else:
            burst.add_framed(b"MGET", keys)
        if self._expiry == b"PTTL":
            burst.add(b"TIME")
        if self._expiry:
            burst.add_each_framed(self._expiry, keys)
        return _Piece(tags, keys, self._wire.send(burst))

    def _told(self, piece: _Piece[T]) -> Iterator[Strings[T]]:
        replies = self._wire.receive(piece.pending)
        if self._wire.clustered:
            gets = [None if _is_wrong_type(reply) else reply for reply in replies[: len(piece.keys)]]
            replies = [self._wire.checked(gets), *replies[len(piece.keys) :]]
        values, *more = self._wire.checked(replies)
        expiries = _from_now(more) if self._expiry == b"PTTL" else more
        if None not in values and _GONE not in expiries:
            yield Strings(piece.tags, values, expiries, [], [])
            return
        nil = {i for i, value in enumerate(values) if value is None}
        expired = {i for i, expiry in enumerate(expiries) if expiry == _GONE} - nil
        there = [i for i in range(len(values)) if i not in nil and i not in expired]
        types = dict(zip(sorted(nil), self._types([piece.keys[i] for i in sorted(nil)]), strict=True))
        yield Strings(
            [piece.tags[i] for i in there],
            [values[i] for i in there],
            [expiries[i] for i in there] if expiries else [],
            others=[(piece.tags[i], kind) for i, kind in types.items() if kind not in ("none", "string")],
            gone=[piece.tags[i] for i in sorted(expired | nil) if types.get(i, "none") == "none"],
        )
        again = [piece.tags[i] for i, kind in types.items() if kind == "string"]
        if again:  # there was no string a moment ago, now there is one
            yield from self.read([again])

    def _types(self, keys: list[bytes]) -> list[str]:
        if not keys:
            return []
        burst = Burst()
        burst.add_each_framed(b"TYPE", keys)
        return [kind.decode() for kind in self._wire.run(burst)]


def state_batch(found: Strings[bytes], on_unreadable: Callable[[bytes, bytes], None]) -> pa.RecordBatch:
    """Strings that are tagged with their state ids as states. Those whose id is not UTF-8 go to `on_unreadable`."""
    named = _named(found, on_unreadable)
    ids = pa.array(named.tags, pa.binary()).cast(pa.string())
    moments = pa.array(named.expiries, pa.int64())
    moments = pc.if_else(pc.less(moments, 0), pa.scalar(None, pa.int64()), moments).cast(STATE.field("expires_at").type)
    unknown = pa.nulls(len(ids), pa.string())
    return pa.RecordBatch.from_arrays([ids, document_column(named.values), unknown, unknown, moments], schema=STATE)


def glance(found: Strings[bytes], on_unreadable: Callable[[bytes, bytes], None]) -> Glance:
    """What `state_batch` makes of strings, by what tells them from others."""
    named = _named(found, on_unreadable)
    expiries = [None if expiry < 0 else expiry for expiry in named.expiries]
    return Glance(named.tags, list(map(xxh3_128_digest, named.values)), expiries, sum(map(len, named.values)))


def _named(found: Strings[bytes], on_unreadable: Callable[[bytes, bytes], None]) -> Strings[bytes]:
    """The strings whose tags are UTF-8."""
    if is_utf8(b" ".join(found.tags)):
        return found
    keep = [i for i, tag in enumerate(found.tags) if is_utf8(tag)]
    for i in sorted(set(range(len(found.tags))).difference(keep)):
        on_unreadable(found.tags[i], found.values[i])
    return replace(
        found,
        tags=[found.tags[i] for i in keep],
        values=[found.values[i] for i in keep],
        expiries=[found.expiries[i] for i in keep],
    )


def is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def cuts(sizes: Sequence[int], max_bytes: int) -> Iterator[tuple[int, int]]:
    """Runs of rows that together have at most `max_bytes`, but at least one row each."""
    start = total = 0
    if sum(sizes) > max_bytes:
        for i, size in enumerate(sizes):
            if i > start and total + size > max_bytes:
                yield start, i
                start, total = i, 0
            total += size
    if sizes:
        yield start, len(sizes)


def _is_wrong_type(reply: object) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("WRONGTYPE")


def _from_now(replies: list[list[bytes] | int]) -> list[int]:
    """Moments of expiry from the server's time and the milliseconds that are left: accurate to a few milliseconds."""
    [time, *left] = replies
    if not isinstance(time, list):
        return []
    now = int(time[0]) * 1000 + int(time[1]) // 1000
    return [now + ms if ms >= 0 else ms for ms in left if isinstance(ms, int)]
