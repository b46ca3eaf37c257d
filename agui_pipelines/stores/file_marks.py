"""What a file store says of itself: the files ``VERSION``, ``SCHEMA.json`` and ``LIVE.json`` in its base.

See store-format.md, section 6. They lie beside the three trees, in which alone records are looked for.
"""
# ruff: noqa: PTH118 - pathlib does not take bytes

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from agui_pipelines.errors import StoreError
from agui_pipelines.stores.file_changes import Changes
from agui_pipelines.stores.file_content import UnreadableError, read_raw

VERSION: Final = b"VERSION"
"""One line."""
APPLIED: Final = b"SCHEMA.json"
LIVE: Final = b"LIVE.json"


@dataclass(frozen=True, slots=True)
class Mark:
    """One of these files, below `base`. `mode`: permission bits."""

    base: bytes
    name: bytes
    mode: int

    @property
    def path(self) -> bytes:
        return os.path.join(self.base, self.name)

    def read(self) -> bytes | None:
        """None if there is no such file. Raises `StoreError` if it cannot be read."""
        try:
            content = read_raw(self.path, self.base)
        except UnreadableError as error:
            raise StoreError(
                error.detail, why="It says what the store holds.", remedy="Mend or remove the file."
            ) from error
        return None if content is None else content.data

    def change(self, content: bytes | None) -> Changes:
        """The change that gives it this content, or removes it; to be committed, or discarded."""
        changes = Changes(self.mode, synced=True)
        if content is None:
            changes.remove(self.path)
        else:
            changes.put(self.path, content)
        return changes
