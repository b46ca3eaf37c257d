"""Writing the records of a store to a Redis: many at once, telling what that changed, or one by one.

Every row is written, whatever was there: only the count depends on what was there before. To count costs one EXISTS per
few hundred rows where nothing was there yet, and a reading of the old values where something was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from agui_pipelines.drivers.redis import Burst, Pending, RedisWire, framed
from agui_pipelines.drivers.redis_lock import Fence
from agui_pipelines.drivers.redis_strings import BATCH_KEYS, StringReader, cuts
from agui_pipelines.errors import UnstorableRecordError
from agui_pipelines.ports import BATCH_BYTES, Snapshot, Version, Written
from agui_pipelines.records import Kind
from agui_pipelines.stores.redis_layout import (
    MAX_VALUE_BYTES,
    RECORD_ID,
    Layout,
    Owned,
    body_of,
    id_in,
    key_bytes,
    owned,
    row_of,
    score,
)

_CHUNK_BYTES: Final = 4 * 1024 * 1024
"""What one MSET carries at most: it keeps other clients of the server waiting for some milliseconds."""
_IN_FLIGHT: Final = 4
_ZADD_MEMBERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Rows:
    """Keys to write with their values. `expiries` are milliseconds since the epoch, None where there is to be none."""

    keys: list[bytes]
    values: Sequence[bytes | memoryview]
    expiries: Sequence[int | None]

    def chunks(self) -> Iterator[range]:
        """Rows that go out in one command."""
        for first in range(0, len(self.keys), BATCH_KEYS):
            sizes = [len(value) for value in self.values[first : first + BATCH_KEYS]]
            for start, end in cuts(sizes, _CHUNK_BYTES):
                yield range(first + start, first + end)


def put(
    wire: RedisWire,
    fence: Fence,
    rows: Rows,
    on_replaced: Callable[[int, bytes], None] | None = None,
    after: Burst | None = None,
) -> Written:
    """Write all rows, and run what is to come `after` them.

    `on_replaced` sees each value that is about to be replaced by another, and may raise.

    An expiry that has passed by the server's clock leaves no key behind; such a row counts as unchanged if there was none
    before. If this raises, some rows may have been written; to write them again does no harm. Behind a fence that has a
    token, the rows and what comes after them become visible together, which costs the server's other clients some
    milliseconds more.
    """
    chunks = list(rows.chunks())
    written = _counted(wire, rows, chunks, on_replaced)
    if fence.token:
        fence.transaction(lambda: chain((_write(rows, chunk) for chunk in chunks), [] if after is None else [after]))
        return written
    in_flight: deque[Pending] = deque()
    for chunk in chunks:
        in_flight.append(wire.send(_write(rows, chunk)))
        if len(in_flight) > _IN_FLIGHT:
            wire.checked(wire.receive(in_flight.popleft()))
    for pending in in_flight:
        wire.checked(wire.receive(pending))
    if after is not None:
        wire.run(after)
    return written


def put_history(wire: RedisWire, fence: Fence, layout: Layout, kind: Kind, rows: list[dict[str, Any]]) -> Written:
    """Write versions or snapshots: the bodies first, so that no sorted set ever names one that is not there yet.

    Behind a fence both are written together, so that no body is left alone if the connection breaks.

    Raises `UnstorableRecordError` if the ids of two records would share a key.
    """
    ids = [owned(kind, row) for row in rows]
    keys = layout.bodies(kind, ids)
    if len(set(keys)) < len(keys):
        raise _shared(kind, rows[next(i for i, key in enumerate(keys) if key in keys[:i])])

    def refuse_other(i: int, body: bytes) -> None:
        if not _may_replace(kind, body, ids[i][1]):
            raise _shared(kind, rows[i])

    bodies = [_body(kind, row) for row in rows]
    members: dict[bytes, list[tuple[int, bytes]]] = {}
    for (state_id, record_id), row in zip(ids, rows, strict=True):
        members.setdefault(state_id, []).append((score(row["timestamp"]), record_id))
    burst = Burst()
    for state_id, scored in members.items():
        for first in range(0, len(scored), _ZADD_MEMBERS):
            pairs = (part for pair in scored[first : first + _ZADD_MEMBERS] for part in pair)
            burst.add(b"ZADD", layout.index(kind, state_id), *pairs)
    return put(wire, fence, Rows(keys, bodies, [None] * len(keys)), refuse_other, after=burst)


def take(fence: Fence, keys: list[bytes]) -> int:
    """Delete keys; how many there were."""
    burst = Burst()
    for first in range(0, len(keys), BATCH_KEYS):
        burst.add(b"DEL", *keys[first : first + BATCH_KEYS])
    return sum(fence.run(burst)) if keys else 0


def take_history(wire: RedisWire, fence: Fence, layout: Layout, kind: Kind, ids: list[Owned]) -> int:
    """Delete versions or snapshots with their members of the sorted sets; how many bodies or members there were."""
    removed = 0
    for first in range(0, len(ids), BATCH_KEYS):
        some = ids[first : first + BATCH_KEYS]
        keys = layout.bodies(kind, some)
        # With a colon in an id, the key may be that of another record's body.
        doubtful = [i for i, (state_id, id_) in enumerate(some) if b":" in state_id + id_]
        bodies = wire.call(b"MGET", *(keys[i] for i in doubtful)) if doubtful else []
        others = {
            i
            for i, body in zip(doubtful, bodies, strict=True)
            if body is not None and not _may_replace(kind, body, some[i][1])
        }
        removed += _take_some(fence, layout, kind, [(ids, i not in others) for i, ids in enumerate(some)])
    return removed


def _take_some(fence: Fence, layout: Layout, kind: Kind, some: list[tuple[Owned, bool]]) -> int:
    """Delete records together, each with whether its body is its own; how many bodies or members there were."""
    burst = Burst()
    for ids, is_own in some:
        burst.add(b"ZREM", layout.index(kind, ids[0]), ids[1])
        if is_own:
            burst.add(b"DEL", layout.body(kind, ids))
    done = iter(fence.transaction(lambda: [burst]))
    return sum(any([next(done), is_own and next(done)]) for _, is_own in some)


def taking(layout: Layout, kind: Kind, ids: list[Owned]) -> Burst:
    """The commands that delete versions or snapshots, whose bodies are known to be their own."""
    burst = Burst()
    for each in ids:
        burst.add(b"ZREM", layout.index(kind, each[0]), each[1])
        burst.add(b"DEL", layout.body(kind, each))
    return burst


def saving(layout: Layout, record: Version | Snapshot) -> Burst:
    """The commands that save one version or snapshot."""
    kind = _kind_of(record)
    ids = owned(kind, row := row_of(record))
    burst = Burst()
    burst.add(b"SET", layout.body(kind, ids), _body(kind, row))
    burst.add(b"ZADD", layout.index(kind, ids[0]), score(record.timestamp), ids[1])
    return burst


def require_own_keys(wire: RedisWire, layout: Layout, records: Sequence[Version | Snapshot]) -> None:
    """Raises `UnstorableRecordError` if one of the records would overwrite another one, whose ids give the same key."""
    doubtful: dict[bytes, tuple[Kind, dict[str, Any]]] = {}
    for record in records:
        kind, row = _kind_of(record), row_of(record)
        ids = owned(kind, row)
        key = layout.body(kind, ids)
        if key in doubtful and owned(*doubtful[key]) != ids:
            raise _shared(kind, row)
        if b":" in ids[0] + ids[1]:  # without another colon the key can be cut in one way only
            doubtful[key] = kind, row
    if not doubtful:
        return
    for body, (kind, row) in zip(wire.call(b"MGET", *doubtful), doubtful.values(), strict=True):
        if body is not None and not _may_replace(kind, body, owned(kind, row)[1]):
            raise _shared(kind, row)


@dataclass(frozen=True, slots=True)
class Buffered:
    """Collects the commands of a transaction, and the versions and snapshots that they save."""

    layout: Layout
    commands: Burst
    records: list[Version | Snapshot] = field(default_factory=list)

    def set_state(self, state_id: str, document: bytes) -> None:
        self.commands.add(b"SET", self.layout.state(key_bytes(state_id)), document)

    def delete_state(self, state_id: str) -> None:
        self.commands.add(b"DEL", self.layout.state(key_bytes(state_id)))

    def save_version(self, version: Version) -> None:
        self.commands.extend(saving(self.layout, version))
        self.records.append(version)

    def save_snapshot(self, snapshot: Snapshot) -> None:
        self.commands.extend(saving(self.layout, snapshot))
        self.records.append(snapshot)


def _kind_of(record: Version | Snapshot) -> Kind:
    return Kind.VERSION if isinstance(record, Version) else Kind.SNAPSHOT


def _body(kind: Kind, row: Mapping[str, Any]) -> bytes:
    body = body_of(kind, row)
    if len(body) > MAX_VALUE_BYTES:
        raise UnstorableRecordError(
            f"The {kind} {row[RECORD_ID[kind]]!r} of the state {row['state_id']!r} has {len(body):,} bytes.",
            why="Redis holds strings up to 512 MiB.",
            remedy="Leave it out, or shrink it by a transform.",
        )
    return body


def _may_replace(kind: Kind, body: bytes, id_: bytes) -> bool:
    """Whether a body is that of the record itself, or of none at all."""
    try:
        return key_bytes(id_in(kind, body)) in (id_, b"")
    except ValueError:
        return True


def _shared(kind: Kind, row: Mapping[str, Any]) -> UnstorableRecordError:
    return UnstorableRecordError(
        f"The {kind} {row[RECORD_ID[kind]]!r} of the state {row['state_id']!r} has the same Redis key as another record.",
        why="The key joins both ids by ':', so that one of the two records would overwrite the other.",
        remedy="Change one of the ids by a transform.",
    )


def _write(rows: Rows, chunk: range) -> Burst:
    burst = Burst()
    plain = [i for i in chunk if rows.expiries[i] is None]
    if plain:
        burst.add(b"MSET", *chain.from_iterable((rows.keys[i], rows.values[i]) for i in plain))
    if len(plain) < len(chunk):
        for i in chunk:
            expiry = rows.expiries[i]
            if expiry is not None:  # the server takes no moment before 1970, which has passed like any other
                burst.add(b"SET", rows.keys[i], rows.values[i], b"PXAT", max(1, expiry))
    return burst


def _counted(
    wire: RedisWire, rows: Rows, chunks: list[range], on_replaced: Callable[[int, bytes], None] | None
) -> Written:
    burst = Burst()
    burst.add(b"TIME")
    for chunk in chunks:
        burst.add(b"EXISTS", *rows.keys[chunk.start : chunk.stop])
    time, *existing = wire.run(burst)
    now = int(time[0]) * 1000 + int(time[1]) // 1000
    passed = {i for i, expiry in enumerate(rows.expiries) if expiry is not None and expiry <= now}
    occupied = [list(chunk) for chunk, count in zip(chunks, existing, strict=True) if count]
    reader: StringReader[int] = StringReader(
        wire, lambda some: framed([rows.keys[i] for i in some]), expiries=True, max_bytes=BATCH_BYTES
    )
    before: set[int] = set()
    unchanged = 0
    for found in reader.read(occupied) if occupied else ():
        before.update(found.tags, (i for i, _ in found.others))
        for i, value, expiry in zip(found.tags, found.values, found.expiries, strict=True):
            if value != rows.values[i]:
                if on_replaced is not None:
                    on_replaced(i, value)
            elif rows.expiries[i] == (expiry if expiry >= 0 else None) and i not in passed:
                unchanged += 1
    inserted = len(rows.keys) - len(before | passed)
    return Written(inserted, updated=len(before) - unchanged, unchanged=unchanged + len(passed - before))
