"""Scratch places of a store in files: folders beside ``base_dir``, so on the same file system where that can be."""

from __future__ import annotations

import glob
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from agui_pipelines.owner import Owner
from agui_pipelines.spec import FileConfig
from agui_pipelines.stores.file_changes import as_store_error
from agui_pipelines.stores.scratch import NAME, SCRATCH

_OWNER: Final = "REHEARSAL"
_STORE: Final = "store"


class FileScratches:
    """See `scratch.Scratches`. To make one takes permission to write to the folder that ``base_dir`` lies in."""

    def __init__(self, config: FileConfig, folder: Path) -> None:
        self._config = config
        base = folder / config.file_options.base_dir.expanduser()
        self._base = Path(os.path.realpath(base))

    def make(self, name: str, owner: Owner) -> FileConfig:
        place = self._folders()[0] / f"{self._head}{name}"
        with as_store_error(os.fsencode(place)):
            place.mkdir(mode=0o700)
            (place / _OWNER).write_bytes(owner.to_json())
        options = self._config.file_options.model_copy(update={"base_dir": place / _STORE})
        return self._config.model_copy(update={"file_options": options})

    def existing(self) -> dict[str, Owner | None]:
        """One that was killed before it had an owner is only told by its age."""
        found: dict[str, Owner | None] = {}
        for place in self._places():
            with as_store_error(os.fsencode(place)), suppress(FileNotFoundError):
                file = place / _OWNER
                owner = Owner.parsed(file.read_bytes()) if file.is_file() else None
                found[place.name.removeprefix(self._head)] = owner
        return found

    def remove(self, name: str) -> None:
        """The owner's file goes last, so that what was killed in between is known for what it is."""
        for place in self._places():
            if place.name == f"{self._head}{name}":
                with as_store_error(os.fsencode(place)), suppress(FileNotFoundError):
                    if (place / _STORE).exists():
                        shutil.rmtree(place / _STORE)
                    shutil.rmtree(place)

    def where(self, name: str) -> str:
        found = [place for place in self._places() if place.name == f"{self._head}{name}"]
        return f"the folder {found[0] if found else self._folders()[0] / f'{self._head}{name}'}"

    def close(self) -> None:
        """Nothing is held open."""

    @property
    def _head(self) -> str:
        return f".{self._base.name}.{SCRATCH}-"

    def _folders(self) -> list[Path]:
        """The folders above ``base_dir`` that exist, the nearest first: none is made that would have to stay."""
        return [folder for folder in self._base.parents if folder.is_dir()]

    def _places(self) -> list[Path]:
        """Scratch places that are there. They lie in another folder if that of ``base_dir`` was made meanwhile."""
        found = []
        for folder in self._folders():
            with suppress(OSError):  # what is far above need not be ours to read
                found += [place for place in folder.glob(f"{glob.escape(self._head)}*") if not place.is_symlink()]
        return [place for place in found if NAME.fullmatch(place.name.removeprefix(self._head))]
