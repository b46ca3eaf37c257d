"""The one location under which everything that a migration keeps lies: a local folder or any fsspec URL.

::

    <workspace>/<migration>/ledger/…            what has been finished (see `ledger`)
                           /catalogues/<plan>.parquet
                           /snapshots/<snapshot id>/manifest.json, state-00000.parquet, …, rejects.parquet
                           /reports/<plan>-….json

A file is written aside and renamed, so that a name is never seen with half its content; on an object store, where a file
appears only when it is complete, it is written directly. Local folders are 0700 and files 0600: they hold user data.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from upath import UPath

from agui_pipelines.errors import StagingError


class Workspace:
    """The folder of one migration within a workspace."""

    def __init__(self, url: str, migration: str) -> None:
        self.root: UPath = UPath(url) / migration
        self._local = isinstance(self.root, Path)

    def __str__(self) -> str:
        return str(self.root)

    @property
    def exists(self) -> bool:
        return bool(self.root.exists())

    def path(self, name: str) -> UPath:
        return self.root.joinpath(*name.split("/"))

    @contextmanager
    def writing(self, name: str, *, exclusive: bool = False) -> Iterator[IO[bytes]]:
        """Open `name` for writing; it appears under that name, durable, only when the block ends without an error.

        `exclusive` refuses to replace a file that exists (FileExistsError). Raises `StagingError` if it cannot be written.
        """
        final = self.path(name)
        with self._errors(final):
            self._make_folder(final)
            if not self._local:
                with final.open("xb" if exclusive else "wb") as file:
                    yield file
                return
            local = Path(str(final))
            aside = local.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
            try:
                descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                if exclusive:
                    os.link(aside, local)
                else:
                    aside.replace(local)
            finally:
                aside.unlink(missing_ok=True)
            _sync_folder(local.parent)

    def write(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        with self.writing(name, exclusive=exclusive) as file:
            file.write(content)

    def read(self, name: str) -> bytes:
        """The content of a file. Raises `StagingError` if it is missing."""
        path = self.path(name)
        with self._errors(path):
            content = path.read_bytes()
            return bytes(content)

    @contextmanager
    def reading(self, name: str) -> Iterator[IO[bytes]]:
        path = self.path(name)
        with self._errors(path), path.open("rb") as file:
            yield file

    def names(self, folder: str) -> list[str]:
        """The names of the files and folders in a folder, sorted; none if it does not exist. Files aside are left out."""
        path = self.path(folder)
        if not path.exists():
            return []
        return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))

    def size(self, name: str) -> int:
        path = self.path(name)
        with self._errors(path):
            return int(path.stat().st_size)

    def has(self, name: str) -> bool:
        return bool(self.path(name).exists())

    def _make_folder(self, final: UPath) -> None:
        if self._local:
            missing = [folder for folder in Path(str(final)).parents if not folder.exists()]
            for folder in reversed(missing):
                folder.mkdir(mode=0o700, exist_ok=True)
        else:
            final.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _errors(self, path: UPath) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            raise StagingError(
                f"{path} is missing from the workspace.",
                why="What was exported cannot be read without it.",
                remedy="Restore the file, or start over with --fresh.",
            ) from error
        except OSError as error:
            raise StagingError(
                f"The workspace cannot be used: {path}: {error.strerror or error}.",
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
