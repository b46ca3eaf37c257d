"""Putting files where the configured layout has them, and letting history files say whose they are.

The reference does not write whose a version is; our writer does (``StateID``). Which file is whose is told here by who
calls, who found it out before anything was changed: what `file_history` would tell again, with half of the files settled,
could be something else. So a file without ``StateID`` is taken for a state's record only if it holds exactly that.

A file is first given its ``StateID`` where it lies, and then moved, each by one rename: a process that ends in between
leaves a record that is found again.
"""
# ruff: noqa: PTH104, PTH120 - pathlib does not take bytes

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from agui_pipelines.errors import StoreError
from agui_pipelines.records import SCHEMAS, Kind
from agui_pipelines.stores.bodies import SnapshotParts, VersionParts, snapshot_body, version_body
from agui_pipelines.stores.file_changes import Changes, as_store_error, make_folder
from agui_pipelines.stores.file_content import UnreadableError, indented
from agui_pipelines.stores.file_history import read_record
from agui_pipelines.stores.file_layout import BACKUP, Layout, name_problem


@dataclass(frozen=True, slots=True)
class Found:
    """A file that does not lie where it belongs, or that does not say whose it is."""

    path: bytes
    belongs: bytes
    body: bytes | None
    """What the file is to hold; None if that is what it holds."""


@dataclass(frozen=True, slots=True)
class Settler:
    """Looks at the files of one layout, and settles them. `mode`: permission bits of files that are written."""

    layout: Layout
    mode: int
    passing: Callable[[], AbstractContextManager[object]]
    """Within it, nobody takes over the lock that the store's fence asks for."""

    def found(self, kind: Kind, rows: list[dict[str, Any]]) -> Iterator[Found]:
        """What is to be done for the rows of a bare batch."""
        folders = self.layout.folders(kind)
        for row in rows:
            one = self._state(row["state_id"], folders) if kind is Kind.STATE else self._record(kind, row, folders)
            if one is not None:
                yield one

    def settle(self, found: Found) -> None:
        """Raises `StoreError` if something lies there already."""
        with as_store_error(found.path):
            if found.body is not None:
                changes = Changes(self.mode, synced=True)
                try:
                    changes.put(found.path, found.body)
                    with self.passing():
                        changes.commit()
                finally:
                    changes.discard()
            if found.path != found.belongs:
                make_folder(os.path.dirname(found.belongs))
                with self.passing():
                    self._move(found.path, found.belongs)

    @staticmethod
    def _move(path: bytes, belongs: bytes) -> None:
        if os.path.lexists(belongs):
            raise StoreError(
                f"{os.fsdecode(belongs)} is there already, so {os.fsdecode(path)} cannot be moved to it.",
                why="Both have the same id, and only one of them is the record.",
                remedy="See which of the two is right, remove the other, and run again.",
            )
        if os.path.lexists(path + BACKUP) and not os.path.lexists(belongs + BACKUP):
            os.rename(path + BACKUP, belongs + BACKUP)
        os.rename(path, belongs)

    def _state(self, state_id: str, folders: list[bytes]) -> Found | None:
        if name_problem(state_id) is not None:
            return None
        key = state_id.encode()
        belongs = self.layout.path(Kind.STATE, self.layout.folder(state_id), key)
        if os.path.lexists(belongs):
            return None
        elsewhere = (self.layout.path(Kind.STATE, folder, key) for folder in folders)
        path = next((path for path in elsewhere if os.path.lexists(path)), None)
        return None if path is None else Found(path, belongs, None)

    def _record(self, kind: Kind, row: dict[str, Any], folders: list[bytes]) -> Found | None:
        state_id, id_ = row["state_id"], row["version_id" if kind is Kind.VERSION else "snapshot_id"]
        if name_problem(id_) is not None:
            return None
        folder, key = self.layout.folder(state_id), id_.encode()
        belongs = self.layout.path(kind, folder, key)
        for path in (belongs, *(self.layout.path(kind, other, key) for other in folders if other != folder)):
            owner = self._owner(kind, path, key, row)
            if owner is None:
                continue
            says = owner == state_id
            if says and path == belongs:
                return None
            return Found(path, belongs, None if says else indented(_body(kind, row)))
        return None

    def _owner(self, kind: Kind, path: bytes, key: bytes, row: dict[str, Any]) -> str | None:
        """The row's state if the file says so, ``""`` if it says nothing and holds just that record; else None."""
        try:
            record = read_record(self.layout, kind, path, key)
        except UnreadableError:
            return None
        if record is None:
            return None
        if record.says_itself:
            return record.state_id if record.state_id == row["state_id"] else None
        return "" if _values(record.parts) == _row_values(kind, row) else None


def _values(parts: VersionParts | SnapshotParts) -> dict[str, Any]:
    return {name: getattr(parts, name) for name in type(parts).__slots__}


def _row_values(kind: Kind, row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in SCHEMAS[kind].names if name != "state_id"}


def _body(kind: Kind, row: dict[str, Any]) -> bytes:
    if kind is Kind.VERSION:
        return version_body(
            row["version_id"],
            row["timestamp"],
            row["data"],
            row["delta"],
            row["metadata"],
            row["parent_id"],
            row["extra"],
            state_id=row["state_id"],
        )
    return snapshot_body(
        row["snapshot_id"],
        row["timestamp"],
        row["data"],
        row["version_id"],
        row["metadata"],
        row["extra"],
        state_id=row["state_id"],
    )
