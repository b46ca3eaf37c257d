"""Holding the lock of a store for as long as something in this process writes there.

The lock is renewed by a thread of its own, on a connection of its own. It is found by whoever opens the same store for the
same migration in this process: the phases of a run open their sessions one by one. Two migrations never share one, and
neither do two workspaces.

If it cannot be renewed in time it is lost. Then the stores refuse to be changed, since they look at the lock themselves,
and what only reads stops at its next batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from agui_pipelines.errors import LockLostError, MigrationError
from agui_pipelines.owner import Owner, lost
from agui_pipelines.ports import Lease, Store

LIFETIME: Final = 90.0
"""Seconds for which a lock lasts if its owner does not renew it: what others wait for when the owner's machine died.

Longer than `retry` waits for a server, so that one that is started again finds its writer's lock alive.
"""

_AGAIN_SECONDS: Final = 1.0
"""After a renewal that failed."""

Key = tuple[str, str]
"""A store as it describes itself, and the workspace of a migration.

Not its `ports.Place`: to find that out takes a connection, and a Redis that is restarted has another one.
"""


@dataclass(slots=True)
class Holding:
    """A lock that this process holds, by a store that is opened for nothing else."""

    store: Store
    owner: Owner
    lease: Lease
    users: int = 0
    is_lost: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @classmethod
    def take(cls, store: Store, migration: str) -> Holding:
        owner = Owner.here(migration)
        holding = cls(store, owner, store.lock(owner, LIFETIME))
        holding._thread = threading.Thread(target=holding._keep, name="agui-lock", daemon=True)
        holding._thread.start()
        return holding

    def end(self) -> None:
        """Release it. Should that fail, it expires by itself, which is no reason to call what was done a failure."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with closing(self.store), suppress(MigrationError):
            self.lease.release()
        self.owner.leave()

    def _keep(self) -> None:
        renewed = time.monotonic()
        pause = LIFETIME / 3
        while not self.is_lost and not self._ended.wait(pause):
            try:
                self.lease.renew()
            except LockLostError:
                self.is_lost = True
            except MigrationError:  # a connection that broke may be had again
                self.is_lost = time.monotonic() - renewed > LIFETIME
                pause = min(_AGAIN_SECONDS, LIFETIME / 3)
            else:
                renewed = time.monotonic()
                pause = LIFETIME / 3


_held: Final[dict[Key, Holding]] = {}
_changing: Final = threading.Lock()


@contextmanager
def held(open_: Callable[[], Store], migration: str, workspace: str) -> Iterator[None]:
    """Hold the lock of a store until the block ends, together with other such blocks of this process.

    Raises `LockedError` if somebody else holds it.
    """
    store = open_()
    key = store.describe(), workspace
    with _changing:
        holding = _held.get(key)
        if holding is None:
            try:
                holding = _held[key] = Holding.take(store, migration)
            except BaseException:
                store.close()
                raise
        holding.users += 1
    try:
        yield
    finally:
        with _changing:
            holding.users -= 1
            if not holding.users:
                del _held[key]
                holding.end()


def token(store: Store, workspace: str) -> str:
    """What names the lock of a store that this process holds, from when it was taken until it ends; empty if it does not."""
    holding = _held.get((store.describe(), workspace))
    return "" if holding is None else holding.owner.token


def fence(store: Store, workspace: str) -> None:
    """Have a store of which this process holds the lock be changed only as long as that is so."""
    if held_by := token(store, workspace):
        store.fence(held_by)


def require_held(workspace: str) -> None:
    """Raises `LockLostError` if a lock that is being held for a migration was lost."""
    for (name, place), holding in list(_held.items()):
        if place == workspace and holding.is_lost:
            raise lost(name)
