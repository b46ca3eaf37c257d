"""What an AG-UI store on Redis can say of itself cheaply, and whether it can take what is to be written; see `ports`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import hiredis
import pyarrow as pa

from agui_pipelines.drivers.redis import Burst, RedisWire, glob_escaped
from agui_pipelines.drivers.redis_gauge import RedisGauge, first_keys, of_memory
from agui_pipelines.drivers.redis_strings import BATCH_KEYS
from agui_pipelines.errors import MigrationError
from agui_pipelines.keyspace import span_of
from agui_pipelines.pace import Pace
from agui_pipelines.ports import Examination, Measurement, OnReject, Privilege, Reader
from agui_pipelines.records import Kind
from agui_pipelines.stores.redis_layout import Layout, key_bytes

OLDEST: Final = (6, 2)
"""The first Redis that sets an absolute expiry together with the value."""
HISTORIES: Final = 200
"""States whose histories are sampled."""

_EXPIRE: Final = "set an expiry (PEXPIRE)"
_DELETE: Final = "delete a key (DEL)"
_SCRATCH_MS: Final = 60_000
"""A scratch key goes by itself after this time, should nobody be able to delete it."""
_REMEDIES: Final = {
    "OOM": "Raise maxmemory, or make room there.",
    "READONLY": "Name the primary in the target's configuration: this server is a replica.",
    "MISCONF": "Mend what keeps the server from saving, or set stop-writes-on-bgsave-error to no.",
}
"""Of refusals that are no matter of what the user may do, by their code."""
_OVERHEAD: Final = 90
"""Bytes that a string key takes beside its value: an entry of the table, two objects and their headers, about."""


def measured(wire: RedisWire, layout: Layout, pace: Pace) -> Measurement:
    """See `ports.Measured.measure`."""
    server, gauge = wire.server, RedisGauge([wire])
    counted = gauge.counted(glob_escaped(layout.prefix) + b"*", layout.records, pace)
    states, versions, snapshots = counted.keys
    return Measurement(
        system=server.name,
        version=server.version,
        states=states,
        versions=versions,
        snapshots=snapshots,
        estimated=("states", "versions", "snapshots") if counted.estimated else (),
        sizes=counted.sizes,
        **gauge.of_server(states=states, versions=versions, snapshots=snapshots),
    )


def sampled(
    reader: Reader, wire: RedisWire, layout: Layout, states: int, pace: Pace, on_reject: OnReject
) -> Iterator[tuple[Kind, pa.RecordBatch]]:
    """See `ports.Measured.sampled`."""
    head = layout.state(b"")
    told = 0
    for keys in first_keys(wire.scan(glob_escaped(head) + b"*"), states, pace):
        for start in range(0, len(keys), BATCH_KEYS):
            ids = [key[len(head) :] for key in keys[start : start + BATCH_KEYS]]
            for batch in reader.read(Kind.STATE, span_of(ids), on_reject):
                yield Kind.STATE, batch
            some = ids[: max(0, HISTORIES - told)]
            told += len(some)
            for kind in (Kind.VERSION, Kind.SNAPSHOT) if some else ():
                for batch in reader.read(kind, span_of(some), on_reject):
                    yield kind, batch


def history_lengths(wire: RedisWire, layout: Layout, ids: Sequence[str], pace: Pace) -> dict[Kind, list[int]]:
    """See `ports.Measured.history_lengths`: a sorted set knows its size."""
    lengths: dict[Kind, list[int]] = {Kind.VERSION: [], Kind.SNAPSHOT: []}
    for start in range(0, len(ids), BATCH_KEYS):
        some = [key_bytes(id_) for id_ in ids[start : start + BATCH_KEYS]]
        for kind, found in lengths.items():
            burst = Burst()
            burst.add_each(b"ZCARD", [layout.index(kind, id_) for id_ in some])
            found += [size if isinstance(size, int) else 0 for size in wire.receive(wire.send(burst))]
        if not pace(len(some)):
            break
    return lengths


def holding(wire: RedisWire, layout: Layout, ids: Sequence[str]) -> list[str]:
    """See `ports.Examined.holding`."""
    found: list[str] = []
    for start in range(0, len(ids), BATCH_KEYS):
        some = ids[start : start + BATCH_KEYS]
        burst = Burst()
        burst.add_each(b"EXISTS", layout.states([key_bytes(id_) for id_ in some]))
        found += [id_ for id_, there in zip(some, wire.run(burst), strict=True) if there]
    return found


def examined(wire: RedisWire, layout: Layout, *, trying: bool) -> Examination:
    """See `ports.Examined.examine`."""
    server, gauge = wire.server, RedisGauge([wire])
    memory = of_memory(gauge)
    limit, policy = memory["limit"], memory["policy"]
    too_old = ""
    if server.compatible and server.compatible < OLDEST:
        too_old = "Versions before 6.2 cannot set an expiry together with the value."
    unmeasured = {}
    if limit is None or policy is None:
        denied = " and ".join(f"{name} is {said}" for name, said in sorted(gauge.denied.items()))
        unmeasured["memory limit and eviction policy"] = denied or "the server does not tell them"
    return Examination(
        system=server.name,
        version=server.version,
        too_old=too_old,
        privileges=_tried(wire, layout) if trying else (),
        memory_limit=limit if isinstance(limit, int) else None,
        memory_used=memory["used"] if isinstance(memory["used"], int) else None,
        memory_of_machine=memory["machine"] if isinstance(memory["machine"], int) else None,
        eviction="" if policy in (None, "noeviction") else str(policy),
        record_overhead=_OVERHEAD + len(layout.state(b"")),
        unmeasured=unmeasured,
    )


def _tried(wire: RedisWire, layout: Layout) -> tuple[Privilege, ...]:
    """Everything that an import does, done to keys of a random name beside those of the store, which expire by themselves.

    Their names begin with ``meta:``, where no record of the store is. What leaves a key that does not expire is done together
    with what makes it expire, and not at all by who may neither do that nor delete it.
    """
    scratch = layout.prefix + b"meta:scratch:" + uuid.uuid4().hex.encode()
    index, other = scratch + b":index", scratch + b":other"
    steps: list[tuple[str, tuple[bytes | int, ...], bool]] = [
        ("create a key (SET)", (b"SET", scratch, b"{}", b"PX", _SCRATCH_MS), True),
        ("read keys (MGET)", (b"MGET", scratch), True),
        ("ask for an expiry (PTTL)", (b"PTTL", scratch), True),
        (_EXPIRE, (b"PEXPIRE", scratch, _SCRATCH_MS), True),
        (_DELETE, (b"DEL", scratch), True),
        ("write several keys (MSET)", (b"MSET", scratch, b"{}", other, b"{}"), True),
        ("add to a sorted set (ZADD)", (b"ZADD", index, 0, b"x"), True),
        ("read a sorted set (ZRANGE)", (b"ZRANGE", index, 0, -1), True),
        ("remove from a sorted set (ZREM)", (b"ZREM", index, b"x"), False),
        ("list keys (SCAN)", (b"SCAN", 0, b"MATCH", glob_escaped(scratch), b"COUNT", 1), True),
        ("lock (WATCH)", (b"WATCH", scratch), True),
        ("lock (UNWATCH)", (b"UNWATCH",), True),
        ("begin a transaction (MULTI)", (b"MULTI",), True),
        ("end a transaction (EXEC)", (b"EXEC",), True),
    ]
    found: dict[str, Privilege] = {}
    try:
        for action, command, needed in steps:
            lasting = {b"MSET": (scratch, other), b"ZADD": (index,)}.get(bytes(command[0]), ())
            if lasting and found[_EXPIRE].denied and found[_DELETE].denied:
                continue
            denied = _denial(wire, command, *((b"PEXPIRE", key, _SCRATCH_MS) for key in lasting))
            if action not in found or denied:
                found[action] = Privilege(action, denied, needed, _remedy(command[0], denied) if denied else "")
    finally:
        with suppress(MigrationError):
            # A transaction that could be begun and not ended would swallow what comes after it.
            wire.receive(wire.send(Burst.of((b"DISCARD",), (b"DEL", scratch, index, other))))
    return tuple(found.values())


def _denial(wire: RedisWire, command: tuple[bytes | int, ...], *after: tuple[bytes | int, ...]) -> str:
    """What the server says against a command; `after` is sent along with it, whatever comes of that."""
    reply, *_ = wire.receive(wire.send(Burst.of(command, *after)))
    text = str(reply) if isinstance(reply, hiredis.ReplyError) else ""
    # Without MULTI, which is told by itself, there is nothing for EXEC to end.
    return "" if text.startswith("ERR EXEC without MULTI") else text.partition(", with args beginning")[0].rstrip(".")


def _remedy(command: bytes | int, said: str) -> str:
    code = said.partition(" ")[0]
    if code in _REMEDIES:
        return _REMEDIES[code]
    name = command.decode().lower() if isinstance(command, bytes) else ""
    return f"Grant it: ACL SETUSER <user> +{name}, for keys of the store's prefix."
