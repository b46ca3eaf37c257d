"""Records on their way out of files: one by one, or by key range in batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.errors import StoreError
from agui_pipelines.keyspace import Span
from agui_pipelines.ports import BATCH_BYTES, OnReject, Snapshot, Version
from agui_pipelines.records import SCHEMAS, Kind, Reject, document_column
from agui_pipelines.stores.bodies import SnapshotParts, VersionParts, rfc3339
from agui_pipelines.stores.file_content import Content, UnreadableError, read, read_raw
from agui_pipelines.stores.file_history import HISTORY, FolderHistory, Parts, Record, attribute, read_record
from agui_pipelines.stores.file_layout import SUFFIX, Layout, as_text, name_problem
from agui_pipelines.stores.file_memory import FolderMemory

_PHASE: Final = "export"
_KEYS: Final = 1000
_ROWS: Final = 2000
"""Rows per batch of small records."""

_MISPLACED: Final = {
    "not_a_file": "{} is named like a record, but it is no file.",
    "nested": "{} lies deeper than the format keeps anything: its id would hold a '/'.",
}

_REJECTED: Final = Content(b"", 0)
"""Stands for the content of a file that is there and was rejected."""

_histories: Final[FolderMemory[FolderHistory]] = FolderMemory()
_strays: Final[FolderMemory[tuple[bytes, ...]]] = FolderMemory()


@dataclass(slots=True)
class _Rows:
    """Collects rows of one schema into batches of at most `BATCH_BYTES` of documents."""

    schema: pa.Schema
    _rows: list[tuple[Any, ...]] = field(default_factory=list)
    _bytes: int = 0

    def add(self, row: tuple[Any, ...], size: int) -> pa.RecordBatch | None:
        """Take a row with `size` bytes of documents; returns the batch that is full before it, if one is."""
        full = None
        if self._rows and (self._bytes + size > BATCH_BYTES or len(self._rows) == _ROWS):
            full = self._batch()
        self._rows.append(row)
        self._bytes += size
        return full

    def rest(self) -> Iterator[pa.RecordBatch]:
        if self._rows:
            yield self._batch()

    def _batch(self) -> pa.RecordBatch:
        columns = zip(*self._rows, strict=True)
        arrays = [
            document_column(column) if pa.types.is_binary(field_.type) else pa.array(column, field_.type)
            for column, field_ in zip(columns, self.schema, strict=True)
        ]
        self._rows, self._bytes = [], 0
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads the files of one layout. May raise OSError for a folder; what is wrong with a single file is told of it."""

    layout: Layout
    _verified: set[bytes] = field(default_factory=set)
    """Folders that are known to lie in the base."""

    def state(self, state_id: str) -> bytes | None:
        """The document of a state, wherever it lies. Raises `StoreError` if its file cannot be read."""
        if name_problem(state_id) is not None:
            return None
        folder, key = self.layout.folder(state_id), state_id.encode()
        self._verify(Kind.STATE, folder)
        document = self._document(self.layout.path(Kind.STATE, folder, key))
        if document is not None:
            return document
        elsewhere = (self._document(path) for path in self.layout.state_paths(key)[1:])
        return next((document for document in elsewhere if document is not None), None)

    def _document(self, path: bytes) -> bytes | None:
        try:
            content = read(path, self.layout.base)
        except UnreadableError as error:
            raise _store_error(error) from error
        return None if content is None else content.data

    def state_ids(self) -> Iterator[bytes]:
        """The ids of all states, each once."""
        strays = self._strays()
        for folder in self.layout.folders(Kind.STATE):
            yield from (key for key in self.layout.keys(Kind.STATE, folder) if key not in strays)
        yield from strays

    def state_sizes(self) -> Iterator[tuple[bytes, int]]:
        """Ids of states, possibly with repetitions, with the sizes of their files in bytes."""
        for folder in self.layout.folders(Kind.STATE):
            for entry in self.layout.entries(Kind.STATE, folder):
                try:
                    yield entry.name[: -len(SUFFIX)], max(1, entry.stat(follow_symlinks=False).st_size)
                except FileNotFoundError:
                    continue

    def historical_ids(self) -> Iterator[bytes]:
        """Ids of states that have versions or snapshots, possibly with repetitions."""
        folders = {folder for kind in HISTORY for folder in self.layout.folders(kind)}
        for folder in sorted(folders):
            history = self.history(folder)
            for kind in HISTORY:
                yield from history.owned[kind]

    def history(self, folder: bytes) -> FolderHistory:
        """Whose the history files of a folder are."""
        trees = [self.layout.tree(kind, folder) for kind in Kind]
        return _histories.get(trees, lambda: attribute(self.layout, folder))

    def version(self, state_id: str, version_id: str) -> Version | None:
        """Raises `StoreError` if the file cannot be read."""
        parts = self._owned(Kind.VERSION, state_id, version_id)
        return parts.of(state_id) if isinstance(parts, VersionParts) else None

    def snapshot(self, state_id: str, snapshot_id: str) -> Snapshot | None:
        """Raises as `version`."""
        parts = self._owned(Kind.SNAPSHOT, state_id, snapshot_id)
        return parts.of(state_id) if isinstance(parts, SnapshotParts) else None

    def versions(self, state_id: str) -> Iterator[Version]:
        """All of a state, in no order. Raises as `version`."""
        for parts in self._all_owned(Kind.VERSION, state_id):
            if isinstance(parts, VersionParts):
                yield parts.of(state_id)

    def snapshots(self, state_id: str) -> Iterator[Snapshot]:
        """All of a state, in no order. Raises as `version`."""
        for parts in self._all_owned(Kind.SNAPSHOT, state_id):
            if isinstance(parts, SnapshotParts):
                yield parts.of(state_id)

    def states_in(self, span: Span, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        """The states of a key range. What only looks like one is rejected with the first range."""
        self._reject_misplaced(Kind.STATE, span, on_reject)
        strays = self._strays()
        rows = _Rows(SCHEMAS[Kind.STATE])
        for keys in span.keys(_KEYS):
            usable = self._usable(keys, on_reject)
            for key, path in zip(usable, self.layout.paths(usable), strict=True):
                content = self._content(key, path, on_reject)
                if key in strays:
                    content = self._with_strays(key, content, strays[key], on_reject)
                if content is not None and content is not _REJECTED:
                    row = (key, content.data, None, _time(content.mtime_ns), None)
                    if full := rows.add(row, len(content.data)):
                        yield full
        yield from rows.rest()

    def histories_in(self, kind: Kind, span: Span, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        """The versions or snapshots of a key range. What belongs to no state is rejected with the first range."""
        self._reject_misplaced(kind, span, on_reject)
        histories = [(folder, self.history(folder)) for folder in self.layout.folders(kind)]
        if span.lower is None:
            for odd in (odd for _, history in histories for odd in history.odd if odd.kind is kind):
                self._report(kind, odd.key, odd.path, odd.reason, odd.detail, on_reject)
        rows = _Rows(SCHEMAS[kind])
        for keys in span.keys(_KEYS):
            for key in keys:
                found = [(folder, ids) for folder, history in histories if (ids := history.keys(kind, key))]
                for parts in self._records_of(kind, key, found, on_reject):
                    row, size = _row(key.decode(), parts)
                    if full := rows.add(row, size):
                        yield full
        yield from rows.rest()

    def _strays(self) -> Mapping[bytes, Sequence[bytes]]:
        """The states that do not lie where they belong, with the folders in which they do; about 200 bytes each."""
        strays: dict[bytes, list[bytes]] = {}
        for folder in self.layout.folders(Kind.STATE):
            tree = self.layout.tree(Kind.STATE, folder)
            for key in _strays.get([tree], partial(self.layout.strays, folder), given=self.layout.shards):
                strays.setdefault(key, []).append(folder)
        return strays

    def _owned(self, kind: Kind, state_id: str, id_: str) -> Parts | None:
        if name_problem(id_) is not None:
            return None
        folder, key = self.layout.folder(state_id), id_.encode()
        record = self._record(kind, folder, key)
        if record is None or record.state_id not in (None, state_id):
            return None
        if record.state_id is None and self._belongs_to_another(kind, folder, state_id, key):
            return None
        return record.parts

    def _all_owned(self, kind: Kind, state_id: str) -> Iterator[Parts]:
        folder = self.layout.folder(state_id)
        for key in self.history(folder).keys(kind, _encoded(state_id)):
            record = self._record(kind, folder, key)
            if record is not None and record.state_id in (None, state_id):
                yield record.parts

    def _usable(self, keys: list[bytes], on_reject: OnReject) -> list[bytes]:
        """The keys that can be ids of states here. The others have no file, or one whose name is not UTF-8."""
        joined = b"\0".join(keys)
        if b"/" not in joined and joined.count(b"\0") == len(keys) - 1 and is_text(joined):
            return keys
        usable = []
        for key in keys:
            if b"/" in key or b"\0" in key:  # a key of another place
                continue
            if is_text(key):
                usable.append(key)
                continue
            for path in self.layout.state_paths(key):
                self._report(Kind.STATE, key, path, *_not_text(path), on_reject)
        return usable

    def _reject_misplaced(self, kind: Kind, span: Span, on_reject: OnReject) -> None:
        """With the range that has no lower bound: once in a plan."""
        if span.lower is None:
            for key, path, reason in self.layout.misplaced(kind):
                self._report(kind, key, path, reason, _MISPLACED[reason].format(os.fsdecode(path)), on_reject)

    def _content(self, key: bytes, path: bytes, on_reject: OnReject) -> Content | None:
        """What a state's file holds; None if there is none, `_REJECTED` if it cannot be read."""
        try:
            return read(path, self.layout.base)
        except UnreadableError as error:
            on_reject(Reject(Kind.STATE, key, error.raw, _PHASE, error.reason, error.detail))
            return _REJECTED

    def _with_strays(
        self, key: bytes, content: Content | None, folders: Sequence[bytes], on_reject: OnReject
    ) -> Content | None:
        """The content of a state some of whose files lie in wrong folders: of the right one, else the first of those."""
        for folder in folders:
            path = self.layout.path(Kind.STATE, folder, key)
            if content is None:
                content = self._content(key, path, on_reject)
            else:
                self._report(Kind.STATE, key, path, *_shadowed(path), on_reject)
        return content

    def _records_of(
        self, kind: Kind, key: bytes, found: Sequence[tuple[bytes, Sequence[bytes]]], on_reject: OnReject
    ) -> Iterator[Parts]:
        """The versions or snapshots of one state, of which `found` are the folders and ids."""
        state_id = as_text(key)
        seen: set[bytes] = set()
        belongs = self.layout.folder(state_id)
        for folder, ids in sorted(found, key=lambda item: item[0] != belongs):
            for id_ in ids:
                path, name = self.layout.path(kind, folder, id_), key + b"/" + id_
                if id_ in seen or not is_text(key):
                    why = _shadowed(path) if id_ in seen else _not_text(path)
                    self._report(kind, name, path, *why, on_reject)
                    continue
                seen.add(id_)
                try:
                    record = read_record(self.layout, kind, path, id_)
                except UnreadableError as error:
                    on_reject(Reject(kind, name, error.raw, _PHASE, error.reason, error.detail))
                    continue
                if record is not None and record.state_id in (None, state_id):
                    yield record.parts

    def _report(self, kind: Kind, id_: bytes, path: bytes, reason: str, detail: str, on_reject: OnReject) -> None:
        """Reject a file with its content; pass over one that is not there."""
        try:
            content = read_raw(path, self.layout.base)
        except UnreadableError as error:
            on_reject(Reject(kind, id_, error.raw, _PHASE, reason, detail))
            return
        if content is not None:
            on_reject(Reject(kind, id_, content.data, _PHASE, reason, detail))

    def _record(self, kind: Kind, folder: bytes, key: bytes) -> Record | None:
        self._verify(kind, folder)
        try:
            return read_record(self.layout, kind, self.layout.path(kind, folder, key), key)
        except UnreadableError as error:
            raise _store_error(error) from error

    def _belongs_to_another(self, kind: Kind, folder: bytes, state_id: str, key: bytes) -> bool:
        """Whether a file that names no state was found to be another state's; one that is nobody's may be asked for."""
        history = self.history(folder)
        return key not in history.keys(kind, _encoded(state_id)) and not any(odd.key == key for odd in history.odd)

    def _verify(self, kind: Kind, folder: bytes) -> None:
        tree = self.layout.tree(kind, folder)
        if tree not in self._verified:
            self.layout.refuse_outside(tree)
            self._verified.add(tree)


def is_text(key: bytes) -> bool:
    """Whether an id is UTF-8, without which it can be in no record."""
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encoded(state_id: str) -> bytes:
    """An id as a key; one with a lone surrogate, which no file can have, becomes a key that no file has either."""
    return state_id.encode("utf-8", "surrogatepass")


def _time(mtime_ns: int) -> str | None:
    try:
        return rfc3339(mtime_ns)
    except ValueError:
        return None


def _row(state_id: str, parts: Parts) -> tuple[tuple[Any, ...], int]:
    """A record as a row of its schema, and the bytes of its documents."""
    if isinstance(parts, VersionParts):
        documents = (parts.data, parts.delta, parts.metadata, parts.extra)
        row: tuple[Any, ...] = (
            state_id,
            parts.version_id,
            parts.timestamp,
            parts.data,
            parts.delta,
            parts.metadata,
            parts.parent_id,
            parts.extra,
        )
    else:
        documents = (parts.data, parts.metadata, parts.extra, None)
        row = (
            state_id,
            parts.snapshot_id,
            parts.timestamp,
            parts.data,
            parts.version_id,
            parts.metadata,
            parts.extra,
        )
    return row, sum(len(document) for document in documents if document is not None)


def _shadowed(path: bytes) -> tuple[str, str]:
    return "shadowed", f"{os.fsdecode(path)} has the id of another file, which lies where that id belongs."


def _not_text(path: bytes) -> tuple[str, str]:
    return "id_not_utf8", f"The name of {path!r} is not UTF-8, so it is no id that another store could hold."


def _store_error(error: UnreadableError) -> StoreError:
    return StoreError(
        error.detail, why="It is a record that was asked for.", remedy="Mend or remove the file.", reason=error.reason
    )
