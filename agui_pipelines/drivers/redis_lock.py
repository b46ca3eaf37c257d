"""A lock on Redis: a key with an expiry, which holds the owner, and transactions that watch it.

No script is used, as a server may forbid them to us. What must only happen while the key holds a certain value is a
transaction of a connection that watches the key (https://redis.io/docs/latest/develop/using-commands/transactions/): if the
key changes or expires after it was read, nothing of the transaction is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from agui_pipelines.drivers.redis import Burst, Pending, RedisWire
from agui_pipelines.owner import Owner, locked, lost

_MULTI: Final = Burst.of((b"MULTI",))
_EXEC: Final = Burst.of((b"EXEC",))


@dataclass(slots=True)
class RedisLease:
    """See `ports.Lease`."""

    wire: RedisWire
    key: bytes
    value: bytes
    milliseconds: int
    place: str

    def renew(self) -> None:
        if not _change(self.wire, self.key, self.value, b"PEXPIRE", self.key, self.milliseconds):
            raise lost(self.place)

    def release(self) -> None:
        _change(self.wire, self.key, self.value, b"DEL", self.key)


def lock(wire: RedisWire, key: bytes, owner: Owner, seconds: float, place: str) -> RedisLease:
    """Take the lock that lies in a key. Raises `LockedError`."""
    lease = RedisLease(wire, key, owner.to_json(), round(seconds * 1000), place)
    expiring = b"PX", lease.milliseconds
    while wire.call(b"SET", key, lease.value, b"NX", *expiring) is None:
        value = require_free(wire, key, place)  # None if it has just been released, or expired
        if value is not None and _change(wire, key, value, b"SET", key, lease.value, *expiring):
            break
    return lease


def require_free(wire: RedisWire, key: bytes, place: str) -> bytes | None:
    """What an owner that is gone has left in the key, or None if nobody has. Raises `LockedError` if somebody else did."""
    [value, left] = wire.run(Burst.of((b"GET", key), (b"PTTL", key)))
    if value is None:
        return None
    holder = Owner.parsed(value)
    if holder is None or not holder.is_gone():
        raise locked(place, holder, left / 1000 if left >= 0 else None, named=f"whoever set the key {key!r}")
    return bytes(value)


@dataclass(slots=True)
class Fence:
    """Lets changes through; with a token, only while the lock is held by the owner that has it."""

    wire: RedisWire
    key: bytes
    place: str
    token: str = ""

    def run(self, burst: Burst) -> list[Any]:
        """The replies to commands, which are one transaction where there is a token. Raises `LockLostError`."""
        return self.transaction(lambda: [burst]) if self.token else self.wire.run(burst)

    def transaction(self, commands: Callable[[], Iterable[Burst]]) -> list[Any]:
        """Carry out commands together; their replies. `commands` is called again if the lock was renewed in between.

        Raises `LockLostError`.
        """
        while True:
            if self.token:
                self._watch()
            *queued, [replies] = [self.wire.receive(each) for each in self._sent(commands())]
            # What is wrong with a command is told when it is queued, and after that only that nothing was carried out.
            for each in (*queued, [replies]):
                self.wire.checked(each)
            if replies is not None:
                return self.wire.checked(replies)

    def _sent(self, commands: Iterable[Burst]) -> list[Pending]:
        try:
            return [self.wire.send(burst) for burst in chain((_MULTI,), commands, (_EXEC,))]
        except BaseException:
            self.wire.close()  # or it would stay within the transaction
            raise

    def _watch(self) -> None:
        """See that the lock is ours, and have the next transaction fail if it changes before that."""
        _, value = self.wire.run(Burst.of((b"WATCH", self.key), (b"GET", self.key)))
        holder = Owner.parsed(value)
        if holder is None or holder.token != self.token:
            self.wire.call(b"UNWATCH")
            raise lost(self.place)


def _change(wire: RedisWire, key: bytes, value: bytes, *command: bytes | int) -> bool:
    """Run a command if a key holds a value, together with looking; whether it did."""
    while True:
        _, present = wire.run(Burst.of((b"WATCH", key), (b"GET", key)))
        if present != value:
            wire.call(b"UNWATCH")
            return False
        *_, replies = wire.run(Burst.of((b"MULTI",), command, (b"EXEC",)))
        if replies is not None:
            wire.checked(replies)
            return True
