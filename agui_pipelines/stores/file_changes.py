"""Changes to files that become visible together: everything is written aside first, then renamed.

What a crash leaves: before `commit` began, files beside the records whose names nobody takes for records (see
`file_layout.ASIDE`). In the middle of `commit`, the changes made so far, in the order in which they were asked for; a
file system knows no transaction over several files, so the rest is lost and must be asked for again. A record's file
is always either the old or the new one, never a part.
"""
# ruff: noqa: PTH102, PTH105, PTH108, PTH112, PTH120 - pathlib does not take bytes

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from agui_pipelines.errors import StoreError, UnstorableRecordError
from agui_pipelines.stores.file_layout import ASIDE, BACKUP

_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_DIRECTORY_MODE: Final = 0o755
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNLINKABLE: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""With these a file system says that it cannot give a file a second name."""


@dataclass(frozen=True, slots=True)
class _Put:
    """A file written aside takes the path; `previous` is the file whose content is kept as its backup."""

    aside: bytes
    previous: bytes | None


@dataclass(frozen=True, slots=True)
class _Touch:
    mtime_ns: int | None


@dataclass(frozen=True, slots=True)
class _Remove:
    pass


@dataclass(slots=True)
class Changes:
    """Collects changes and makes them with `commit`. `mode`: permission bits of new files, whatever the umask says.

    With `synced`, every file is on disk before it is renamed, and its new name is when `commit` returns.
    """

    mode: int
    synced: bool = False
    _changes: dict[bytes, _Put | _Touch | _Remove] = field(default_factory=dict)
    _prefix: bytes = field(default_factory=lambda: ASIDE + f"{os.getpid()}-{secrets.token_hex(6)}-".encode())
    _count: int = 0

    def put(self, path: bytes, content: bytes, *, mtime_ns: int | None = None, previous: bytes | None = None) -> None:
        """Give a path a new content, and the file `previous` to its backup. Raises `StoreError`."""
        with as_store_error(path):
            aside = self._write_aside(os.path.dirname(path), content, mtime_ns)
        self._set(path, _Put(aside, previous))

    def touch(self, path: bytes, mtime_ns: int | None) -> None:
        """Give a file another time; None is now."""
        self._set(path, _Touch(mtime_ns))

    def remove(self, path: bytes) -> None:
        self._set(path, _Remove())

    def keep(self, path: bytes) -> None:
        """Leave a path as it is, whatever was asked for before."""
        self._drop(path)

    def commit(self) -> None:
        """Make all changes, in order. Raises `StoreError`; what is not made by then is left to `discard`."""
        folders = {os.path.dirname(path) for path in self._changes} if self.synced else set()
        folders |= {os.path.dirname(folder) for folder in folders}  # a folder may be new itself
        for path in list(self._changes):
            with as_store_error(path):
                self._make(path, self._changes[path])
            del self._changes[path]
        for folder in folders:
            with as_store_error(folder):
                _sync_folder(folder)

    def discard(self) -> None:
        """Drop all changes that are not made; none are left after a `commit` that went well."""
        for path in list(self._changes):
            self._drop(path)

    def _set(self, path: bytes, change: _Put | _Touch | _Remove) -> None:
        """The last change of a path is the one that counts, and takes its turn."""
        self._drop(path)
        self._changes[path] = change

    def _drop(self, path: bytes) -> None:
        change = self._changes.pop(path, None)
        if isinstance(change, _Put):
            with suppress(
                OSError
            ):  # it has its name already, or the file system is in trouble, which is being reported
                os.unlink(change.aside)

    def _make(self, path: bytes, change: _Put | _Touch | _Remove) -> None:
        if isinstance(change, _Put):
            if change.previous is not None:
                self._back_up(change.previous, path + BACKUP)
            os.replace(change.aside, path)
        elif isinstance(change, _Remove):
            with suppress(FileNotFoundError):
                os.unlink(path)
        else:
            _set_time(path, change.mtime_ns)

    def _back_up(self, previous: bytes, backup: bytes) -> None:
        """Make `backup` hold what `previous` holds, in one step and without a moment in which `previous` is missing."""
        aside = self._aside(os.path.dirname(backup))
        try:
            os.link(previous, aside, follow_symlinks=False)
        except FileNotFoundError:
            return  # somebody deleted it meanwhile
        except OSError as error:
            if error.errno not in _UNLINKABLE:
                raise
            shutil.copy2(previous, aside, follow_symlinks=False)
        os.replace(aside, backup)

    def _aside(self, folder: bytes) -> bytes:
        self._count += 1
        return folder + b"/" + self._prefix + str(self._count).encode() + b".tmp"

    def _write_aside(self, folder: bytes, content: bytes, mtime_ns: int | None) -> bytes:
        aside = self._aside(folder)
        try:
            descriptor = os.open(aside, _WRITE, self.mode)
        except FileNotFoundError:
            make_folder(folder)
            descriptor = os.open(aside, _WRITE, self.mode)
        try:
            _fill(descriptor, content)
            os.fchmod(descriptor, self.mode)
            if mtime_ns is not None:
                _set_time(descriptor, mtime_ns)
            if self.synced:
                os.fsync(descriptor)
        except BaseException:
            os.unlink(aside)
            raise
        finally:
            os.close(descriptor)
        return aside


def make_folder(folder: bytes) -> None:
    """Create a folder with those above it. Each for itself, as Python gives its mode to the last one only."""
    if not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        if parent != folder:
            make_folder(parent)
        with suppress(FileExistsError):  # somebody else was quicker, or it is a file, which the next step will tell
            os.mkdir(folder, _DIRECTORY_MODE)


def _fill(descriptor: int, content: bytes) -> None:
    written = os.write(descriptor, content)
    while written < len(content):  # a single write takes 2 GiB at most, and less when the disk fills up
        written += os.write(descriptor, memoryview(content)[written:])


def _set_time(file: bytes | int, mtime_ns: int | None) -> None:
    if mtime_ns is None:
        os.utime(file)
    else:
        os.utime(file, ns=(mtime_ns, mtime_ns))


def _sync_folder(folder: bytes) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:  # a file was to be removed from it, and so it is
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def as_store_error(path: bytes) -> Iterator[None]:
    """Turn what the operating system says of a path into a `StoreError`."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path) from error


def store_error(error: OSError, path: bytes) -> StoreError:
    """What the operating system says of a path, as an error of ours."""
    name = os.fsdecode(path)
    if error.errno == errno.ENAMETOOLONG:
        return UnstorableRecordError(f"The file system takes no name as long as {name}.")
    remedy = ""
    if error.errno in _FULL:
        remedy = "Free space on that file system, then run again: what is written stays and is not written twice."
    elif error.errno in _FORBIDDEN:
        remedy = "Give the user that runs this the right to read and write below the store's base_dir."
    return StoreError(
        f"{name}: {error.strerror}.", why="A file store keeps its records there.", remedy=remedy, errno=error.errno
    )
