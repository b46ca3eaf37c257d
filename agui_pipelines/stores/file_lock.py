"""The lock of a store in files: a file ``.agui-lock`` below its base that holds the owner, and goes when it is released.

Whoever changes what the file says locks it exclusively (flock) for that moment; whoever puts a batch in its place locks it
for sharing while it does, and sees whose it is before. So nobody takes the lock over in the middle of a batch, and after
that the old owner's next batch is refused. A process that ends, however it does, leaves no flock behind.

When the lock expires is counted by the clock that gives files their times, which on a network file system is the server's:
the file's own time is when it was last renewed.
"""
# ruff: noqa: PTH106, PTH108, PTH116, PTH120 - pathlib does not take bytes

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import orjson

from agui_pipelines.errors import StoreBusyError
from agui_pipelines.owner import Owner, locked, lost
from agui_pipelines.stores.file_changes import as_store_error, make_folder, store_error
from agui_pipelines.stores.file_layout import LOCK, PROBE

_MAX_BYTES: Final = 64 * 1024
_WAIT_SECONDS: Final = 10.0
"""How long somebody else may be in the middle of a batch, or of taking the lock."""
_PAUSE_SECONDS: Final = 0.01
_NS: Final = 10**9


@dataclass(frozen=True, slots=True)
class _Held:
    """What the file says: who holds the lock, and how many seconds of it are left."""

    owner: Owner
    left: float


@dataclass(frozen=True, slots=True)
class LockFile:
    """The lock of the store below `base`. `mode`: permission bits of the file."""

    base: bytes
    mode: int

    @property
    def path(self) -> bytes:
        return self.base + b"/" + LOCK

    @property
    def name(self) -> str:
        return f"files below {os.fsdecode(self.base)}"

    def take(self, owner: Owner, seconds: float) -> FileLease:
        """Raises `LockedError`; `StoreBusyError` if the last owner is suspended in the middle of a batch."""
        made = _missing(self.base)
        with self._opened(fcntl.LOCK_SH, create=True) as file:
            self._refuse_if_held(file)  # told at once, even while the owner is in the middle of a batch
        with self._opened(fcntl.LOCK_EX, create=True) as file:
            self._refuse_if_held(file)
            with as_store_error(self.path):
                os.ftruncate(file, 0)
                os.pwrite(file, orjson.dumps({"owner": owner.to_json().decode(), "seconds": seconds}), 0)
        return FileLease(self, owner.token, made)

    def require_free(self) -> None:
        """Raises `LockedError`; `StoreBusyError` as `take` does."""
        with suppress(FileNotFoundError), self._opened(fcntl.LOCK_SH, create=False) as file:
            self._refuse_if_held(file)

    @contextmanager
    def passing(self, token: str) -> Iterator[int]:
        """The open file, for a block in which nobody takes the lock from the owner with this token.

        Raises `LockLostError` if that is not, or no longer, the one who holds it.
        """
        with ExitStack() as stack:
            try:
                file = stack.enter_context(self._opened(fcntl.LOCK_SH, create=False))
            except FileNotFoundError:
                raise lost(self.name) from None
            held = self._held(file)
            if held is None or held.owner.token != token or held.left <= 0:
                raise lost(self.name)
            yield file

    def release(self, token: str) -> None:
        """Remove the file, if it is still that of the owner with this token. Raises `StoreError`."""
        with suppress(FileNotFoundError), self._opened(fcntl.LOCK_EX, create=False) as file:
            held = self._held(file)
            if held is not None and held.owner.token == token:
                with as_store_error(self.path), suppress(FileNotFoundError):
                    os.unlink(self.path)

    def _refuse_if_held(self, file: int) -> None:
        held = self._held(file)
        if held is not None and held.left > 0 and not held.owner.is_gone():
            raise locked(self.name, held.owner, held.left)

    def _held(self, file: int) -> _Held | None:
        """None if the file names no owner: whoever made it was killed before it held the lock."""
        with as_store_error(self.path):
            try:
                content = orjson.loads(os.pread(file, _MAX_BYTES, 0))
                owner, seconds = Owner.parsed(content["owner"]), float(content["seconds"])
            except (ValueError, TypeError, KeyError):
                return None
            age = (self._now() - os.fstat(file).st_mtime_ns) / _NS
        return None if owner is None else _Held(owner, seconds - age)

    def _now(self) -> int:
        """Nanoseconds, by the clock that gives files their times."""
        probe = self.base + b"/" + PROBE + secrets.token_hex(6).encode()
        file = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self.mode)
        try:
            return os.fstat(file).st_mtime_ns
        finally:
            os.close(file)
            os.unlink(probe)

    @contextmanager
    def _opened(self, how: int, *, create: bool) -> Iterator[int]:
        """The file, locked, until the block ends. Raises `FileNotFoundError` if it is not there and not to be made."""
        until = time.monotonic() + _WAIT_SECONDS
        while True:
            file = self._open(create=create)
            try:
                if self._is_locked(file, how, until):
                    yield file
                    return
            finally:
                os.close(file)

    def _open(self, *, create: bool) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            try:
                if create:
                    make_folder(self.base)
                return os.open(self.path, flags | (os.O_CREAT if create else 0), self.mode)
            except FileNotFoundError:
                if not create:
                    raise  # otherwise the folder has just gone with the lock of its last owner
            except OSError as error:
                raise store_error(error, self.path) from error

    def _is_locked(self, file: int, how: int, until: float) -> bool:
        """Lock the file; whether it still has its name then. Raises `StoreBusyError`."""
        with as_store_error(self.path):
            while not _flocked(file, how):
                if time.monotonic() > until:
                    raise StoreBusyError(
                        f"{os.fsdecode(self.path)} has been in use for {_WAIT_SECONDS:g} s.",
                        why="A process that writes to this store is in the middle of a batch, and seems to be suspended.",
                        remedy="End that process (fuser tells which it is), then run again.",
                    )
                time.sleep(_PAUSE_SECONDS)
            try:
                return os.path.samestat(os.fstat(file), os.stat(self.path, follow_symlinks=False))
            except FileNotFoundError:
                return False


@dataclass(slots=True)
class FileLease:
    """See `ports.Lease`."""

    file: LockFile
    token: str
    made: list[bytes]
    """Folders that were made for the lock, the innermost first; they go with it unless something was put there."""

    def renew(self) -> None:
        with self.file.passing(self.token) as file, as_store_error(self.file.path):
            os.utime(file)

    def release(self) -> None:
        self.file.release(self.token)
        with suppress(OSError):  # not empty, or gone
            for folder in self.made:
                os.rmdir(folder)
        self.made = []


def _flocked(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _missing(folder: bytes) -> list[bytes]:
    """The folder and those above it that do not exist."""
    missing: list[bytes] = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing
