"""Records on their way into files: what has to be refused, what is there already, and what becomes of each path."""
# ruff: noqa: PTH110, PTH208 - pathlib does not take bytes

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agui_pipelines.errors import StoreError, UnstorableRecordError
from agui_pipelines.ports import Snapshot, Version, Written
from agui_pipelines.records import Kind
from agui_pipelines.stores.bodies import nanoseconds, snapshot_body, version_body
from agui_pipelines.stores.file_changes import Changes, as_store_error
from agui_pipelines.stores.file_content import Content, UnreadableError, indented, read_raw
from agui_pipelines.stores.file_history import FolderHistory, read_record
from agui_pipelines.stores.file_layout import SUFFIX, Layout, as_text, name_problem

_SECOND: Final = 10**9
_SECONDS: Final = range(-(2**31), 2**31)
"""Times that every file system can hold (1901 to 2038); others are clamped by some, so they are not kept at all."""

_UNKNOWN: Final = Content(b"", 0)
"""Stands for a file that is there and cannot be read."""


def kept_mtime(updated_at: str | None) -> int | None:
    """The time that a state's file gets, nanoseconds since the epoch; None if there is none that a file can keep."""
    if updated_at is None:
        return None
    try:
        moment = nanoseconds(updated_at)
    except ValueError:
        return None
    return moment if moment // _SECOND in _SECONDS else None


@dataclass(slots=True)
class Folders:
    """The folders that one store writes to, each looked at once before the first file goes there."""

    layout: Layout
    _folds: bool | None = None
    _names: dict[bytes, dict[str, bytes]] = field(default_factory=dict)
    """By folder, file names by their folded form; filled only where the file system folds case."""

    def admit(self, kind: Kind, folder: bytes, key: bytes) -> bytes:
        """The path of a record that may be written. Raises `StoreError` if it would fall outside, or on another id's."""
        tree = self.layout.tree(kind, folder)
        with as_store_error(tree):
            if self._folds is None:
                self._folds = self.layout.folds_case()
            if tree not in self._names:
                self.layout.refuse_outside(tree)
                names = os.listdir(tree) if self._folds and os.path.exists(tree) else []
                self._names[tree] = {folded(name): name for name in names}
        if self._folds:
            self._refuse_twin(tree, key + SUFFIX)
        return self.layout.path(kind, folder, key)

    def _refuse_twin(self, tree: bytes, name: bytes) -> None:
        present = self._names[tree].setdefault(folded(name), name)
        if present != name:
            raise StoreError(
                f"'{os.fsdecode(name)}' would overwrite '{os.fsdecode(present)}' in {os.fsdecode(tree)}.",
                why="The file system takes names that differ in case only for one, so one of the two would be lost.",
                remedy="Put the store on a file system that tells them apart, or rename one of the two ids.",
            )


def folded(name: bytes) -> str:
    """The form in which such file systems compare names; they ignore how accents are composed as well."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", os.fsdecode(name)).casefold())


@dataclass(slots=True)
class Writer:
    """Collects records; `changes` then makes them visible. Is what `ports.Transaction` asks for."""

    layout: Layout
    folders: Folders
    changes: Changes
    reserve: int
    """Bytes that the name of a state's file must leave for that of its backup; 0 where none are kept."""
    history: Callable[[bytes], FolderHistory]
    """Tells whose the history files of a folder are."""
    written: Written = field(default_factory=Written)
    _owners: dict[tuple[Kind, bytes], dict[bytes, bytes]] = field(default_factory=dict)
    """By kind and folder, the states of the files that were there before, if one of them was to be replaced."""
    _states: dict[bytes, str] = field(default_factory=dict)
    """Whose the history files are that were collected, by path."""

    def set_state(self, state_id: str, document: bytes) -> None:
        """As `put_state`; the file's time becomes now even if its content stays."""
        self.put_state(state_id, document, touched=True)

    def put_state(
        self, state_id: str, document: bytes | memoryview, mtime_ns: int | None = None, *, touched: bool = False
    ) -> None:
        """Raises `UnstorableRecordError` for an id or a document that cannot be a state's file, else `StoreError`."""
        refuse_name(state_id, reserve=self.reserve)
        content = _laid_out(document, f"The state {state_id!r}")
        path = self.folders.admit(Kind.STATE, self.layout.folder(state_id), state_id.encode())
        present = self._present(path)
        if present is None or present.data != content:
            previous = path if self.reserve and present is not None else None
            self.changes.put(path, content, mtime_ns=mtime_ns, previous=previous)
            self.written += Written(updated=1) if present is not None else Written(inserted=1)
        elif touched or mtime_ns not in (None, present.mtime_ns):
            self.changes.touch(path, mtime_ns)
            self.written += Written(updated=1)
        else:
            self.changes.keep(path)
            self.written += Written(unchanged=1)

    def delete_state(self, state_id: str) -> None:
        self.remove_state(state_id)

    def remove_state(self, state_id: str) -> bool:
        """Whether there was one. It goes from every folder in which it lies."""
        if name_problem(state_id) is not None:
            return False
        with as_store_error(self.layout.base):
            paths = self.layout.state_paths(state_id.encode())
        present = [path for path in paths if os.path.lexists(path)]
        for path in paths:  # also where there is none yet: it may have been collected before
            self.changes.remove(path)
        return bool(present)

    def remove_history(self, kind: Kind, state_id: str, id_: str) -> bool:
        """Whether there was one, of this state. Raises `StoreError`."""
        if name_problem(id_) is not None:
            return False
        folder, key = self.layout.folder(state_id), id_.encode()
        path = self.layout.path(kind, folder, key)
        with as_store_error(path):
            self.layout.refuse_outside(self.layout.tree(kind, folder))
            if not os.path.lexists(path) or self._owner(kind, folder, path, key) != state_id:
                return False
        self.changes.remove(path)
        return True

    def save_version(self, version: Version) -> None:
        """Raises as `put_history`."""
        body = version_body(
            version.version_id,
            version.timestamp,
            version.data,
            version.delta,
            version.metadata,
            version.parent_id,
            version.extra,
            state_id=version.state_id,
        )
        self.put_history(Kind.VERSION, version.state_id, version.version_id, body)

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Raises as `put_history`."""
        body = snapshot_body(
            snapshot.snapshot_id,
            snapshot.timestamp,
            snapshot.data,
            snapshot.version_id,
            snapshot.metadata,
            snapshot.extra,
            state_id=snapshot.state_id,
        )
        self.put_history(Kind.SNAPSHOT, snapshot.state_id, snapshot.snapshot_id, body)

    def put_history(self, kind: Kind, state_id: str, id_: str, body: bytes) -> None:
        """Raises `UnstorableRecordError` if the id names no file, or names the file of another state's record."""
        refuse_name(id_)
        content = _laid_out(body, f"The {kind} {id_!r} of the state {state_id!r}")
        folder, key = self.layout.folder(state_id), id_.encode()
        path = self.folders.admit(kind, folder, key)
        if self._states.setdefault(path, state_id) != state_id:
            raise _shared(kind, id_, self._states[path], state_id)
        present = self._present(path)
        if present is not None and present.data == content:
            self.changes.keep(path)
            self.written += Written(unchanged=1)
            return
        if present is not None and (owner := self._owner(kind, folder, path, key)) not in (None, state_id):
            raise _shared(kind, id_, str(owner), state_id)
        self.changes.put(path, content)
        self.written += Written(updated=1) if present is not None else Written(inserted=1)

    def _present(self, path: bytes) -> Content | None:
        try:
            return read_raw(path, self.layout.base)
        except UnreadableError:
            return _UNKNOWN

    def _owner(self, kind: Kind, folder: bytes, path: bytes, key: bytes) -> str | None:
        """The state that a file names as its own, or is found to belong to; None if neither, or if it is no record."""
        try:
            record = read_record(self.layout, kind, path, key)
        except UnreadableError:
            return None
        if record is None or record.state_id is not None:
            return record.state_id if record else None
        if (kind, folder) not in self._owners:
            self._owners[kind, folder] = self.history(folder).owners(kind)
        owner = self._owners[kind, folder].get(key)
        return None if owner is None else as_text(owner)


def refuse_name(id_: str, *, reserve: int = 0) -> None:
    """Raises `UnstorableRecordError` if an id cannot name a file; see `file_layout.name_problem`."""
    problem = name_problem(id_, reserve=reserve)
    if problem is not None:
        reason, detail = problem
        raise UnstorableRecordError(
            detail,
            why="The file store keeps each record in a file of that name.",
            remedy="The transform percent_encode gives such ids safe names, reversibly; or choose another target.",
            reason=reason,
        )


def _laid_out(document: bytes | memoryview, whose: str) -> bytes:
    try:
        return indented(document)
    except ValueError as error:
        raise UnstorableRecordError(
            f"{whose} cannot be stored: {error}.",
            why="A file of the store holds one JSON object.",
            reason="undecodable",
        ) from error


def _shared(kind: Kind, id_: str, one: str, other: str) -> UnstorableRecordError:
    return UnstorableRecordError(
        f"The {kind} {id_!r} of the state {other!r} would overwrite that of the state {one!r}.",
        why=f"Both states are in one shard, in which a {kind} file has nothing but the {kind}'s id for its name.",
        remedy=f"Make the ids of {kind}s unique, or choose a target other than files.",
        reason="shared_name",
    )
