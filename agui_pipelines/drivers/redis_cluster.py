"""A Redis Cluster: one connection to each primary, and which of them owns a key.

The map of slots is asked for once, and again when a node says that a slot is no longer its own. Keys are listed node by
node, which finds each key only as long as no slot changes its owner: if one does, the listing is refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import hiredis
from redis.crc import key_slot

from agui_pipelines.drivers.redis import Burst, RedisWire
from agui_pipelines.drivers.redis_target import Target
from agui_pipelines.errors import SlotMovedError, StoreBusyError, StoreError
from agui_pipelines.spec import RedisKeysConfig

SLOTS: Final = 16384
_REFRESHES: Final = 5
_PAUSE_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class _Map:
    """`owners` has the index of the primary that owns each slot; primaries are (id, host, port)."""

    primaries: tuple[tuple[str, str, int], ...]
    owners: tuple[int, ...]


class RedisCluster:
    """The primaries of the cluster that one of its nodes, named by ``connection_url``, belongs to. Connects when used.

    Every method raises what `RedisWire` raises, and `StoreError` if what answers is no whole cluster.
    """

    def __init__(self, config: RedisKeysConfig) -> None:
        self._config = config
        self._seed = RedisWire(config, clustered=True)
        self._wires: dict[tuple[str, int], RedisWire] = {}
        self._map: _Map | None = None

    @property
    def identity(self) -> str:
        """The same, whichever node was named; until a primary is replaced."""
        return min(id_ for id_, _, _ in self._known().primaries)

    def close(self) -> None:
        for wire in (self._seed, *self._wires.values()):
            wire.close()

    def ping(self) -> None:
        for wire in self._primaries():
            wire.call(b"PING")

    def now(self) -> int:
        """The time of the primary whose clock is furthest behind: what had expired by then has on every one of them."""
        return min(wire.now() for wire in self._primaries())

    def scan(self, match: bytes) -> Iterator[list[bytes]]:
        """The keys that match, of one primary after the other. Raises `StoreBusyError` if slots move meanwhile."""
        self._map = before = self._asked()
        self._require_settled()
        for wire in self._primaries():
            yield from wire.scan(match)
        self._require_settled()
        if self._asked() != before:
            raise _moving("slots have changed their owner")

    def parted(self, keys: list[bytes]) -> list[tuple[RedisWire, list[bytes]]]:
        """The keys by the primary that owns them."""
        known = self._known()
        parts: list[list[bytes]] = [[] for _ in known.primaries]
        for key in keys:
            parts[known.owners[key_slot(key)]].append(key)
        return [(wire, part) for wire, part in zip(self._primaries(), parts, strict=True) if part]

    def refresh(self, attempt: int) -> None:
        """Ask anew who owns what, after a pause that grows with `attempt` (from 0)."""
        time.sleep(_PAUSE_SECONDS * 2**attempt)
        self._map = self._asked()

    def primaries(self) -> list[RedisWire]:
        """A connection to each primary."""
        return self._primaries()

    @property
    def size(self) -> int:
        """The number of primaries."""
        return len(self._known().primaries)

    @property
    def attempts(self) -> int:
        """How often a reading is tried whose keys are moved."""
        return _REFRESHES

    def _known(self) -> _Map:
        if self._map is None:
            self._map = self._asked()
        return self._map

    def _primaries(self) -> list[RedisWire]:
        return [self._wire(host, port) for _, host, port in self._known().primaries]

    def _wire(self, host: str, port: int) -> RedisWire:
        wire = self._wires.get((host, port))
        if wire is None:
            target = Target.of(self._config).at(host, port)
            wire = self._wires[host, port] = RedisWire(self._config, target, clustered=True)
        return wire

    def _asked(self) -> _Map:
        [reply] = self._seed.receive(self._seed.send(_burst(b"CLUSTER", b"SLOTS")))
        if isinstance(reply, hiredis.ReplyError):
            raise self._seed.failure(reply)
        primaries: dict[tuple[str, str, int], int] = {}
        owners = [-1] * SLOTS
        for first, last, primary, *_ in reply:
            # A node that does not know its own address leaves it to us: it is the one that we have asked.
            host = (primary[0] or b"").decode() or self._seed.host
            node = (primary[2].decode(), self._seed.host if host == "?" else host, int(primary[1]))
            index = primaries.setdefault(node, len(primaries))
            owners[first : last + 1] = [index] * (last + 1 - first)
        if missing := owners.count(-1):
            raise StoreError(
                f"In the cluster of Redis at {self._seed.address}, {missing:,} of {SLOTS:,} slots belong to no node.",
                why="Keys in those slots cannot be read, and would be missed.",
                remedy="Bring the missing primaries back; see CLUSTER INFO.",
            )
        return _Map(tuple(primaries), tuple(owners))

    def _require_settled(self) -> None:
        """While a slot moves, its keys lie on two nodes, and go from one that is not listed yet to one that already is."""
        for wire in self._primaries():
            lines = wire.call(b"CLUSTER", b"NODES").decode("utf-8", "replace").splitlines()
            # Only of itself does a node tell which slots it gives away or takes: [93->-id], [93-<-id].
            if any("myself" in line and " [" in line for line in lines):
                raise _moving(f"{wire.address} is moving slots")


def moved_for_good(error: SlotMovedError) -> StoreBusyError:
    """What is said when the keys of a slot cannot be had after several tries."""
    return StoreBusyError(
        f"The cluster keeps moving keys: {error.message}",
        why="They could not be read from where they are said to be.",
        remedy="Wait until resharding is done (CLUSTER NODES shows it), then run again.",
    )


def _moving(what: str) -> StoreBusyError:
    return StoreBusyError(
        f"The cluster is being resharded: {what} while its keys were listed.",
        why="A key that moves meanwhile would be missed.",
        remedy="Wait until resharding is done (CLUSTER NODES shows it), then run again.",
    )


def _burst(*command: bytes) -> Burst:
    burst = Burst()
    burst.add(*command)
    return burst
