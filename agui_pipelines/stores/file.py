"""An AG-UI store in files: one JSON file for every state, version and snapshot (store-format.md, section 2).

How the files lie is the business of `file_layout`, whose a version is that of `file_history`; `file_reader` and
`file_writer` carry records from and to them.
"""
# ruff: noqa: PTH103, PTH110, PTH112, PTH116, PTH120 - pathlib does not take bytes

from __future__ import annotations

import heapq
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Final

import pyarrow as pa

from agui_pipelines.errors import ConnectionFailedError, StoreError
from agui_pipelines.keyspace import CATALOGUE, Span
from agui_pipelines.ports import OnReject, Place, Refusal, Snapshot, StoreStats, Transaction, Version, Written
from agui_pipelines.records import Kind, id_columns
from agui_pipelines.spec import FileConfig
from agui_pipelines.stores.bodies import STATE_ID, SnapshotParts, VersionParts, split_state_id
from agui_pipelines.stores.file_changes import Changes, as_store_error
from agui_pipelines.stores.file_history import Parts, instant
from agui_pipelines.stores.file_layout import BACKUP, TREES, Layout, name_problem
from agui_pipelines.stores.file_reader import FileReader
from agui_pipelines.stores.file_writer import Folders, Writer, kept_mtime

_KEYS: Final = 10_000
_LEFTOVER_NS: Final = 24 * 3600 * 10**9
"""A file that has been in the making for a day is left over from a process that ended."""


class FileStore:
    """A store below `file_options.base_dir`.

    States are found in whatever shard folder they lie, but are written only where the configured layout has them; a file
    that lies elsewhere, while another one lies where it belongs, is rejected as ``shadowed``. Single versions and
    snapshots are looked for only where the layout has them.
    """

    def __init__(self, config: FileConfig) -> None:
        options = config.file_options
        base = os.path.realpath(os.fsencode(options.base_dir.expanduser()))
        self._options = options
        self._layout = Layout(base, options.shard_count if options.enable_sharding else 0)
        self._reader = FileReader(self._layout)
        self._folders = Folders(self._layout)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(Kind)

    def place(self) -> Place:
        """The real path of the folder, and the device of this machine that holds it or will hold it."""
        with self._errors():
            device = os.stat(_nearest(self._layout.base)).st_dev
        return Place("file", f"{platform.node()} device {device}", self._name)

    def describe(self) -> str:
        return f"files below {self._name} ({f'{self._layout.shards} shards' if self._layout.shards else 'no shards'})"

    def ping(self) -> str:
        """A folder that does not exist yet answers too, as `prepare` may create it."""
        base = self._layout.base
        if os.path.lexists(base) and not (os.path.isdir(base) and os.access(base, os.R_OK | os.X_OK)):
            raise ConnectionFailedError(
                f"{self._name} is no folder that can be read.",
                why="It is the base_dir of a file store.",
                remedy="Correct file_options.base_dir, or the folder's permissions.",
            )
        return f"{platform.system()} file system"

    def keys(self) -> Iterator[pa.RecordBatch]:
        """Weights are the sizes of the files; an id that has only versions or snapshots weighs 1."""
        self._need_base()
        with self._errors():
            historical = ((key, 1) for key in self._reader.historical_ids())
            keys: list[bytes] = []
            weights: list[int] = []
            for key, weight in chain(self._reader.state_sizes(), historical):
                keys.append(key)
                weights.append(weight)
                if len(keys) == _KEYS:
                    yield _catalogue(keys, weights)
                    keys, weights = [], []
            yield _catalogue(keys, weights)

    def read(self, kind: Kind, span: Span, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        """History files that belong to no state are rejected with the range that has no lower bound: once in a plan."""
        self._need_base()
        with self._errors():
            if kind is Kind.STATE:
                yield from self._reader.states_in(span, on_reject)
            else:
                yield from self._reader.histories_in(kind, span, on_reject)

    def close(self) -> None:
        """Nothing is held open."""

    def check(self) -> None:
        """See that files could be made below base_dir, or in the nearest folder above it that exists."""
        nearest = _nearest(self._layout.base)
        with self._errors():
            trees = [self._layout.tree(kind) for kind in Kind]
            for folder in [nearest, *(tree for tree in trees if os.path.lexists(tree))]:
                self._layout.refuse_outside(folder) if folder is not nearest else None
                if not os.path.isdir(folder):
                    raise StoreError(
                        f"{os.fsdecode(folder)} is not a folder.",
                        why=f"The file store keeps its files below {self._name}.",
                        remedy="Correct file_options.base_dir, or move what is in the way.",
                    )
                if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                    raise StoreError(
                        f"The folder {os.fsdecode(folder)} is not writable.",
                        why=f"The file store keeps its files below {self._name}.",
                        remedy="Give the user that runs this the right to write there.",
                    )

    def prepare(self) -> None:
        """Create base_dir and its three trees, and clear away what a process that ended long ago left half written."""
        with self._errors():
            for kind in Kind:
                os.makedirs(self._layout.tree(kind), 0o755, exist_ok=True)
            self._layout.remove_leftovers(before_ns=time.time_ns() - _LEFTOVER_NS)
