"""The one location under which everything that a migration keeps lies: a local folder or any fsspec URL.

::

    <workspace>/<migration>/ledger/…            what has been finished (see `ledger`)
                           /catalogues/<plan>.parquet
                           /snapshots/<snapshot id>/manifest.json, state-00000.parquet, …, rejects.parquet
                           /spools/<plan>/…            (see `spool`)
                           /progress/<snapshot id>.json (see `phases.import_`)
                           /reports/<plan>-….json
                           /plans/<plan>.json, <plan>.md  (see `phases.proposal`)
                           /rehearsals/<name>/…         a workspace of its own, while a rehearsal goes on

A file is written aside and renamed, so that a name is never seen with half its content; on an object store, where a file
appears only when it is complete, it is written directly. Local folders are 0700 and files 0600: they hold user data.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, cast

from upath import UPath
from xxhash import xxh3_128

from agui_pipelines.errors import StagingError
from agui_pipelines.spec import redacted

_CHUNK: Final = 1024 * 1024


class Workspace:
    """The folder of one migration within a workspace."""

    def __init__(self, url: str, migration: str) -> None:
        root = UPath(url)
        self._local = root.protocol in ("", "file", "local")
        self.root: UPath = (UPath(root.path) if self._local else root) / migration

    def __str__(self) -> str:
        return redacted(str(self.root))

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self._local

    @property
    def exists(self) -> bool:
        with _own_errors(self.root):
            return bool(self.root.exists())

    def path(self, name: str) -> UPath:
        return self.root.joinpath(*name.split("/"))

    @contextmanager
    def writing(self, name: str, *, exclusive: bool = False) -> Iterator[IO[bytes]]:
        """Open `name` for writing; it appears under that name, durable, only when the block ends without an error.

        `exclusive` refuses to replace a file that exists (FileExistsError). Raises `StagingError` if it cannot be written.
        What the block itself raises passes through, and leaves no file.
        """
        final = self.path(name)
        opened = _local_file if self._local else _remote_file
        with opened(final, exclusive=exclusive) as file:
            yield cast("IO[bytes]", _Writing(file, final))

    def write(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        with self.writing(name, exclusive=exclusive) as file:
            file.write(content)

    def read(self, name: str) -> bytes:
        """The content of a file. Raises `StagingError` if it is missing."""
        path = self.path(name)
        with _own_errors(path):
            content = path.read_bytes()
            return bytes(content)

    @contextmanager
    def reading(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file. Raises `StagingError` if it is missing."""
        path = self.path(name)
        with _own_errors(path):
            file = path.open("rb")
        with file:
            yield file

    @contextmanager
    def unnamed(self) -> Iterator[IO[bytes]]:
        """A temporary file without a name, gone when the block or the process ends, however that ends.

        It lies in the workspace, where there is room for the data that is migrated; on an object store there can be none,
        so that it lies in the system's temporary folder.
        """
        folder = Path(str(self.root)) if self._local else None
        with _own_errors(self.root):
            if folder is not None:
                make_private(folder)
            file = tempfile.TemporaryFile(dir=folder, prefix=".")  # noqa: SIM115 - its own errors are told apart
        try:
            yield cast("IO[bytes]", _Writing(cast("IO[bytes]", file), self.root))
        finally:
            with suppress(OSError):  # closing flushes, which fails again on a full disk, and nobody needs it
                file.close()

    def remove_folder(self, folder: str) -> None:
        """Remove a folder that holds nothing but files, with these; one that is not there is no error."""
        path = self.path(folder)
        with _own_errors(path):
            if path.exists():
                for file in path.iterdir():
                    file.unlink(missing_ok=True)
                with suppress(FileNotFoundError):  # an object store has no folders, only names
                    path.rmdir()

    def remove_tree(self, folder: str) -> None:
        """Remove a folder with all below it; one that is not there is no error."""
        path = self.path(folder)
        with _own_errors(path):
            if path.exists():
                path.fs.rm(path.path, recursive=True)

    def used(self, folder: str) -> int:
        """Bytes of the files below a folder."""
        path = self.path(folder)
        with _own_errors(path):
            return int(path.fs.du(path.path)) if path.exists() else 0

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        path = self.path(name)
        with _own_errors(path):
            path.unlink(missing_ok=True)

    def remove_unfinished(self, before: datetime) -> None:
        """Remove files that were written aside before a moment and never got their name: their writer was killed."""
        if not self._local:
            return  # an object store keeps nothing of a file that was not finished
        with _own_errors(self.root):
            for path in Path(str(self.root)).rglob(".*.tmp"):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < before.timestamp():
                        path.unlink()

    def names(self, folder: str) -> list[str]:
        """The names of the files and folders in a folder, sorted; none if it does not exist. Files aside are left out."""
        path = self.path(folder)
        with _own_errors(path):
            if not path.exists():
                return []
            # The ledger lists its folder with each entry, and to make a path of every name takes longer than all the rest.
            found = os.listdir(path.path) if self._local else [entry.name for entry in path.iterdir()]  # noqa: PTH208
            return sorted(name for name in found if not name.startswith("."))

    def checksum(self, name: str) -> str:
        """xxh3_128 of a file, 32 hex digits. Raises `StagingError` if it is missing."""
        checksum = xxh3_128()
        with self.reading(name) as file:
            while chunk := file.read(_CHUNK):
                checksum.update(chunk)
        return checksum.hexdigest()

    def size(self, name: str) -> int:
        path = self.path(name)
        with _own_errors(path):
            return int(path.stat().st_size)

    def has(self, name: str) -> bool:
        path = self.path(name)
        with _own_errors(path):
            return bool(path.exists())


class _Writing:
    """A file whose own errors (a full disk) are told as errors of the workspace."""

    def __init__(self, file: IO[bytes], path: UPath) -> None:
        self._file, self._path = file, path

    def write(self, data: Any) -> int:
        with _own_errors(self._path):
            return self._file.write(data)

    def flush(self) -> None:
        with _own_errors(self._path):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def make_private(folder: Path) -> None:
    """Create a folder with those above it, each for its owner only: `Path.mkdir` gives its mode to the last one."""
    for missing in reversed([part for part in (folder, *folder.parents) if not part.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def _local_file(final: UPath, *, exclusive: bool) -> Iterator[IO[bytes]]:
    path = Path(str(final))
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _own_errors(final):
        make_private(path.parent)
        file = os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    try:
        yield file
        with _own_errors(final):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            if exclusive:
                os.link(aside, path)
            else:
                aside.replace(path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # closing flushes, which fails again on a full disk
            file.close()
        aside.unlink(missing_ok=True)


@contextmanager
def _remote_file(final: UPath, *, exclusive: bool) -> Iterator[IO[bytes]]:
    with _own_errors(final):
        if exclusive and final.exists():
            raise FileExistsError(str(final))
        final.parent.mkdir(parents=True, exist_ok=True)
        file = final.open("wb")
    try:
        yield file
    except BaseException:
        # Closing an object store's file would commit what has been written so far.
        (file.discard if hasattr(file, "discard") else file.close)()
        final.unlink(missing_ok=True)
        raise
    with _own_errors(final):
        file.close()


@contextmanager
def _own_errors(path: UPath) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        raise StagingError(
            f"{redacted(str(path))} is missing from the workspace.",
            why="What was exported cannot be read without it.",
            remedy="Restore the file, or start over with --fresh.",
        ) from error
    except OSError as error:
        raise StagingError(
            f"The workspace cannot be used: {redacted(str(path))}: {error.strerror or error}.",
            why="Snapshots and the ledger must be on disk before anything goes on.",
            remedy="Make room or give permission there, then run the same command again: it resumes.",
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; some file systems cannot sync a folder, and need not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)


def new_id(kind: str) -> str:
    """An id that sorts by time: ``plan-20261122T101500-1f2e3d``."""
    return f"{kind}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
