"""Files that a source reads from end to end: finding them by path or glob, and telling their trouble."""

from __future__ import annotations

import glob
import gzip
import os
import platform
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ClassVar, Final, cast

from agui_pipelines.errors import SourceError
from agui_pipelines.ports import Place
from agui_pipelines.records import Kind

_MAGIC: Final = frozenset("*?[")
_GZIP: Final = b"\x1f\x8b"


class Files:
    """The files that a path or a glob names; a relative one counts from `folder`."""

    def __init__(self, path: str, folder: Path) -> None:
        self._folder = folder
        self.pattern = str(folder / Path(path).expanduser())

    def __str__(self) -> str:
        return self.pattern

    def found(self) -> list[Path]:
        """The files there are now, in order of their names."""
        if Path(self.pattern).is_file():  # a name may hold what looks like a pattern
            return [Path(self.pattern)]
        paths = map(Path, glob.iglob(self.pattern, recursive=True))  # noqa: PTH207 - the pattern may be absolute
        return sorted(path for path in paths if path.is_file())

    def name(self, file: Path) -> str:
        """A file as people know it: as short as its place allows."""
        name = file.relative_to(self._folder) if file.is_relative_to(self._folder) else file
        return str(name).encode("utf-8", "backslashreplace").decode()

    def place(self) -> Place:
        """The file; of a glob the folder below which all its files are, or what it says of files in one folder."""
        fixed = Path(self.pattern)
        while not fixed.exists() and _MAGIC & set(str(fixed)):
            fixed = fixed.parent
        nearest = next(path for path in (fixed, *fixed.parents) if path.exists())
        container = Path(os.path.realpath(fixed))
        if "**" not in self.pattern:  # whatever lies deeper is no file of the source's
            container /= Path(self.pattern).relative_to(fixed)
        return Place("file", f"{platform.node()} device {nearest.stat().st_dev}", str(container))

    def ping(self) -> str:
        found = self.found()
        for file in found:
            with opened(file, self.name(file)):
                pass
        return f"{len(found):,} file{'s' if len(found) != 1 else ''}"

    def fingerprint(self) -> str:
        """Changes when a file is changed, added or removed: names, sizes and times."""
        stats = [(self.name(file), file.stat()) for file in self.found()]
        return " ".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)


class FilesSource:
    """What all sources of files have in common; a `ports.Scanner` but for ``scan``."""

    FORMAT: ClassVar[str]
    """What the files are, for people."""
    tells_changes: ClassVar[bool] = True

    def __init__(self, path: str, folder: Path) -> None:
        self._files = Files(path, folder)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.STATE,)

    @property
    def fingerprint(self) -> str:
        return self._files.fingerprint()

    def place(self) -> Place:
        return self._files.place()

    def describe(self) -> str:
        return f"{self.FORMAT} in {self._files}"

    def ping(self) -> str:
        return self._files.ping()

    def exists(self) -> bool:
        return bool(self._files.found())

    def close(self) -> None:
        """Nothing stays open between scans."""


@contextmanager
def opened(file: Path, name: str) -> Iterator[IO[bytes]]:
    """A file's content, unpacked if it is gzipped. Raises `SourceError` if it cannot be read, or is cut off within."""
    try:
        with file.open("rb") as content:
            packed = content.read(2) == _GZIP
            content.seek(0)
            with cast("IO[bytes]", gzip.open(content, "rb")) if packed else content as text:
                yield text
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(name, getattr(error, "strerror", None) or str(error)) from error


def unreadable(name: str, why: str) -> SourceError:
    return SourceError(
        f"{name} cannot be read to its end: {why}.",
        why="A part of the source would be missing.",
        remedy="Mend or remove the file, or give permission to read it, and run again.",
    )


def require_columns(columns: Sequence[str], named: Sequence[str], where: str) -> None:
    """Raises `SourceError` if a column is missing that the migration file names, or there are two of one name."""
    missing = next((column for column in named if column not in columns), None)
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if missing is not None:
        raise SourceError(
            f"{where} has no column '{missing}', which the migration file names; it has: {', '.join(columns)}.",
            why="No state could be made of its rows.",
            remedy="Look at the source's columns in the migration file.",
        )
    if twice is not None:
        raise SourceError(
            f"{where} has two columns called '{twice}'.",
            why="An object keeps only one member of a name, so a value of every row would be lost.",
            remedy="Give the columns different names.",
        )
