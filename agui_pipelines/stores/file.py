"""An AG-UI store in files: one JSON file for every state, version and snapshot (store-format.md, section 2).

How the files lie is the business of `file_layout`, whose a version is that of `file_history`; `file_reader` and
`file_writer` carry records from and to them.
"""
# ruff: noqa: PTH112, PTH116, PTH120 - pathlib does not take bytes

from __future__ import annotations

import heapq
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from itertools import chain
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.digests import documents_in
from agui_pipelines.errors import ConnectionFailedError, StoreError
from agui_pipelines.keyspace import CATALOGUE, Span
from agui_pipelines.losses import named as losing
from agui_pipelines.owner import Owner
from agui_pipelines.pace import Pace
from agui_pipelines.ports import (
    Activity,
    Examination,
    Measurement,
    OnReject,
    Place,
    Refusal,
    Removal,
    Snapshot,
    StoreStats,
    Transaction,
    Version,
    Written,
)
from agui_pipelines.records import SCHEMAS, Kind, id_columns
from agui_pipelines.sameness import Sameness, sameness
from agui_pipelines.spec import FileConfig
from agui_pipelines.stores.bodies import STATE_ID, split_state_id
from agui_pipelines.stores.file_changes import Changes, as_store_error, make_folder
from agui_pipelines.stores.file_history import instant
from agui_pipelines.stores.file_layout import BACKUP, Layout, name_problem
from agui_pipelines.stores.file_lock import FileLease, LockFile
from agui_pipelines.stores.file_marks import APPLIED, LIVE, VERSION, Mark
from agui_pipelines.stores.file_measuring import FileGauge, examined
from agui_pipelines.stores.file_reader import FileReader, is_text
from agui_pipelines.stores.file_settling import Settler
from agui_pipelines.stores.file_writer import Folders, Writer, folded, kept_mtime

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
        self._gauge = FileGauge(self._layout, self._reader)
        self._folders = Folders(self._layout)
        self._lock = LockFile(base, options.file_mode)
        self._token = ""
        self._unflushed = False

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

    def exists(self) -> bool:
        return os.path.isdir(self._layout.base)

    def now(self) -> int:
        """By this machine's clock: no file expires."""
        return time.time_ns() // 1_000_000

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
        """What belongs to no state, or is no record at all, is rejected with the range that has no lower bound."""
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
        with self._errors():
            self._refuse_unusable(_nearest(self._layout.base))
            for tree in (self._layout.tree(kind) for kind in Kind):
                if os.path.lexists(tree):
                    self._layout.refuse_outside(tree)
                    self._refuse_unusable(tree)
            for kind in Kind:
                for folder in self._layout.folders(kind):
                    self._refuse_unusable(self._layout.tree(kind, folder))

    def prepare(self) -> None:
        """Create base_dir and its three trees, and clear away what a process that ended long ago left half written."""
        with self._passing(), self._errors():
            for kind in Kind:
                make_folder(self._layout.tree(kind))
            self._layout.remove_leftovers(before_ns=time.time_ns() - _LEFTOVER_NS)

    def lacking(self) -> tuple[str, ...]:
        trees = [self._layout.tree(kind) for kind in Kind]
        return tuple(f"the folder {os.fsdecode(tree)}" for tree in trees if not os.path.isdir(tree))

    def version(self) -> str | None:
        found = self._mark(VERSION).read()
        return None if found is None else found.decode("utf-8", "backslashreplace").strip()

    def set_version(self, version: str | None) -> None:
        self._set_mark(VERSION, None if version is None else f"{version}\n".encode())

    def applied(self) -> bytes | None:
        return self._mark(APPLIED).read()

    def set_applied(self, record: bytes | None) -> None:
        self._set_mark(APPLIED, record)

    def live(self) -> bytes | None:
        return self._mark(LIVE).read()

    def set_live(self, record: bytes | None) -> None:
        self._set_mark(LIVE, record)

    def unsettled(self, kind: Kind, batch: pa.RecordBatch) -> int:
        with self._errors():
            return sum(1 for _ in self._settler.found(kind, list(_rows(kind, batch))))

    def settle(self, kind: Kind, batch: pa.RecordBatch) -> int:
        """See `file_settling`. Of a state, its backup goes with it."""
        settler, count = self._settler, 0
        with self._errors():
            for found in settler.found(kind, list(_rows(kind, batch))):
                settler.settle(found)
                count += 1
        self._unflushed = self._unflushed or count > 0
        return count

    def lock(self, owner: Owner, seconds: float) -> FileLease:
        """A file in base_dir, which is made if it is not there, and goes with the lock if nothing else came there."""
        return self._lock.take(owner, seconds)

    def require_unlocked(self) -> None:
        self._lock.require_free()

    def fence(self, token: str) -> None:
        """A batch is still written aside by one who lost the lock; it does not get its names."""
        self._token = token

    def refusals(self, kind: Kind, batch: pa.RecordBatch) -> list[Refusal]:
        """Ids that name no file, and history ids that two states of one shard have in common."""
        if kind is Kind.STATE:
            reserve = self._reserve
            problems = ((row, name_problem(id_, reserve=reserve)) for row, id_ in enumerate(_column(batch, "state_id")))
            return [Refusal(row, *problem) for row, problem in problems if problem is not None]
        return list(self._history_refusals(kind, batch))

    def slots(self, kind: Kind, batch: pa.RecordBatch) -> pa.StringArray | None:
        """A history file has nothing but its shard and its own id for a name; and a file system may fold case."""
        with self._errors():
            folds = self._layout.will_fold_case(_nearest(self._layout.base))
        if kind is Kind.STATE and not folds:
            return None
        keys = [id_.encode() for id_ in _column(batch, "state_id")]
        names = _column(batch, id_columns(kind)[-1])
        folders = self._layout.folders_of(keys)
        return pa.array(
            [
                f"{os.fsdecode(folder)}/{folded(name.encode()) if folds else name}"
                for folder, name in zip(folders, names, strict=True)
            ],
            pa.string(),
        )

    def losses(self, kind: Kind, batch: pa.RecordBatch) -> dict[str, pa.BooleanArray]:
        """A file has no expiry, and one time only, which is kept as its mtime: ``updated_at``. Documents are indented."""
        layout = {"layout": pa.repeat(pa.scalar(value=True), batch.num_rows)} if "traits" in batch.schema.names else {}
        if kind is not Kind.STATE:
            return losing(layout)
        times = zip(_column(batch, "created_at"), _column(batch, "updated_at"), strict=True)
        timestamps = pa.array([_loses_time(created, updated) for created, updated in times], pa.bool_())
        return losing({"expiry": batch.column("expires_at").is_valid(), "timestamps": timestamps, **layout})

    def times(self, batch: pa.RecordBatch) -> dict[str, pa.Int64Array]:
        """The update, in nanoseconds."""
        kept = [kept_mtime(updated_at) for updated_at in _column(batch, "updated_at")]
        return {"updated_at": pa.array(kept, pa.int64())}

    def write(self, kind: Kind, batch: pa.RecordBatch) -> Written:
        """Nothing of the batch is visible until all of it is written aside; then file by file is put in its place.

        Raises `UnstorableRecordError` for a row that `refusals` names, `StoreError` when the file system does.
        """
        # Also if nothing turns out to be new: it may have been written, and not flushed, before a crash.
        self._unflushed = self._unflushed or batch.num_rows > 0
        with self._writing(synced=False) as writer:
            if kind is Kind.STATE:
                documents = documents_in(batch.column("data"))
                ids, times = _column(batch, "state_id"), _column(batch, "updated_at")
                for state_id, data, updated_at in zip(ids, documents, times, strict=True):
                    writer.put_state(state_id, data, kept_mtime(updated_at))
            elif kind is Kind.VERSION:
                for row in _rows(kind, batch):
                    writer.save_version(Version(**row))
            else:
                for row in _rows(kind, batch):
                    writer.save_snapshot(Snapshot(**row))
        return writer.written

    def remove(self, kind: Kind, batch: pa.RecordBatch) -> int:
        """File by file. The backup of a state stays, as in the reference."""
        self._unflushed = self._unflushed or batch.num_rows > 0
        names = id_columns(kind)
        with self._writing(synced=False) as writer:
            rows = zip(*(_column(batch, name) for name in names), strict=True)
            if kind is Kind.STATE:
                return sum(writer.remove_state(state_id) for (state_id,) in rows)
            return sum(writer.remove_history(kind, state_id, id_) for state_id, id_ in rows)

    def remove_unchanged(self, kind: Kind, batch: pa.RecordBatch) -> Removal:
        """File by file, each read right before it is removed: a file system cannot do both in one step.

        A state that lies in two folders is left, as are files that cannot be read.
        """
        done = Removal()
        for row in range(batch.num_rows):
            one = batch.slice(row, 1)
            try:
                found = Sameness((), 1) if self._is_twofold(kind, one) else sameness(kind, one, self._single(kind, one))
            except StoreError:
                found = Sameness((), 1)
            if found.same:
                self.remove(kind, one)
            done += Removal.of(1, found)
        return done

    def _is_twofold(self, kind: Kind, one: pa.RecordBatch) -> bool:
        if kind is not Kind.STATE:
            return False
        with self._errors():
            paths = self._layout.state_paths(_column(one, "state_id")[0].encode())
            return sum(map(os.path.lexists, paths)) > 1

    def _single(self, kind: Kind, one: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """What there is under the ids of a batch of one row."""
        ids = [_column(one, name)[0] for name in id_columns(kind)]
        if kind is Kind.STATE:
            document = self.get_state(*ids)
            row = None if document is None else {"state_id": ids[0], "data": document}
        else:
            record = self.get_version(*ids) if kind is Kind.VERSION else self.get_snapshot(*ids)
            row = None if record is None else asdict(record)
        if row is not None:
            yield pa.RecordBatch.from_pylist([row], schema=SCHEMAS[kind])

    def flush(self) -> None:
        """Wait until all that `write` wrote is on disk, if the store is configured to be durable.

        By one `sync` of the machine's file systems, since an fsync for each file would make a migration fifteen times
        slower. (On systems whose sync does not wait, macOS for one, a power cut in the next seconds may still take some
        files; a repeated import writes them again.) The single-record operations need no flush: they sync their files.
        """
        if self._options.durable and self._unflushed:
            os.sync()
        self._unflushed = False

    def get_state(self, state_id: str) -> bytes | None:
        with self._errors():
            return self._reader.state(state_id)

    def set_state(self, state_id: str, document: bytes) -> None:
        with self._writing(synced=self._options.durable) as writer:
            writer.set_state(state_id, document)

    def delete_state(self, state_id: str) -> bool:
        """Its backup stays, as in the reference."""
        with self._writing(synced=self._options.durable) as writer:
            return writer.remove_state(state_id)

    def list_states(self) -> Iterator[str]:
        """In no order. Files whose names are not UTF-8 are left out; `keys` and `read` tell of them."""
        with self._errors():
            for key in self._reader.state_ids():
                if is_text(key):
                    yield key.decode()

    def get_version(self, state_id: str, version_id: str) -> Version | None:
        with self._errors():
            return self._reader.version(state_id, version_id)

    def save_version(self, version: Version) -> None:
        with self._writing(synced=self._options.durable) as writer:
            writer.save_version(version)

    def get_version_history(self, state_id: str, limit: int = 0) -> Sequence[Version]:
        with self._errors():
            versions = self._reader.versions(state_id)
            if limit > 0:
                return heapq.nlargest(limit, versions, key=_version_order)
            return sorted(versions, key=_version_order, reverse=True)

    def get_snapshot(self, state_id: str, snapshot_id: str) -> Snapshot | None:
        with self._errors():
            return self._reader.snapshot(state_id, snapshot_id)

    def save_snapshot(self, snapshot: Snapshot) -> None:
        with self._writing(synced=self._options.durable) as writer:
            writer.save_snapshot(snapshot)

    def list_snapshots(self, state_id: str) -> Sequence[Snapshot]:
        with self._errors():
            return sorted(self._reader.snapshots(state_id), key=_snapshot_order, reverse=True)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Files are written aside at once and renamed when the block ends.

        A crash between two of the renames leaves the first changes made and the others not, as a file system knows no
        transaction over several files; no file is ever half written. What is read within the block is as it was before.
        """
        with self._writing(synced=self._options.durable) as writer:
            yield writer

    def stats(self) -> StoreStats:
        """Counts files by their names; their bytes are not added up."""
        with self._errors():
            states, versions, snapshots = (self._count(kind) for kind in Kind)
        details = {"base_dir": self._name, "shards": str(self._layout.shards)}
        return StoreStats(states, versions, snapshots, server=self.ping(), details=details)

    def measure(self, pace: Pace) -> Measurement:
        self._need_base()
        with self._errors():
            return self._gauge.measured(pace)

    def activity(self) -> Activity | None:
        """None: a file system counts neither reads nor writes."""
        return None

    def sampled(self, states: int, pace: Pace, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        with self._errors():
            yield from self._gauge.sampled(self, states, pace, on_reject)

    def history_lengths(self, ids: Sequence[str], pace: Pace) -> dict[Kind, list[int]]:
        with self._errors():
            return self._gauge.history_lengths(ids, pace)

    @property
    def asked(self) -> int:
        return self._gauge.asked

    def examine(self, *, trying: bool) -> Examination:
        with self._errors():
            return examined(self._layout, _nearest(self._layout.base), self._options.file_mode, trying=trying)

    def holding(self, ids: Sequence[str]) -> list[str]:
        with self._errors():
            return self._gauge.holding(ids)

    @property
    def _name(self) -> str:
        return os.fsdecode(self._layout.base)

    @property
    def _reserve(self) -> int:
        """Bytes that a state's file name must leave for that of its backup."""
        return len(BACKUP) if self._options.enable_backups else 0

    def _count(self, kind: Kind) -> int:
        return sum(1 for folder in self._layout.folders(kind) for _ in self._layout.entries(kind, folder))

    @contextmanager
    def _writing(self, *, synced: bool) -> Iterator[Writer]:
        """A writer whose changes are made when the block ends, and dropped if it fails."""
        changes = Changes(self._options.file_mode, synced=synced)
        try:
            yield Writer(self._layout, self._folders, changes, self._reserve, self._reader.history)
            with self._passing():
                changes.commit()
        finally:
            changes.discard()

    def _passing(self) -> AbstractContextManager[object]:
        """Within the block, nobody takes over the lock that a fence asks for. Raises `LockLostError`."""
        return self._lock.passing(self._token) if self._token else nullcontext()

    def _mark(self, name: bytes) -> Mark:
        return Mark(self._layout.base, name, self._options.file_mode)

    def _set_mark(self, name: bytes, content: bytes | None) -> None:
        changes = self._mark(name).change(content)
        try:
            with self._passing():
                changes.commit()
        finally:
            changes.discard()

    @property
    def _settler(self) -> Settler:
        return Settler(self._layout, self._options.file_mode, self._passing)

    def _errors(self) -> AbstractContextManager[None]:
        return as_store_error(self._layout.base)

    def _need_base(self) -> None:
        """A folder that is not there is no empty store: most likely its name is wrong."""
        if not os.path.isdir(self._layout.base):
            raise StoreError(
                f"The folder {self._name} does not exist.",
                why="It is the base_dir of a file store, so nothing can be read.",
                remedy="Correct file_options.base_dir, or mount what belongs there.",
            )

    def _refuse_unusable(self, folder: bytes) -> None:
        problem = ""
        if not os.path.isdir(folder):
            problem = "is not a folder"
        elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            problem = "cannot be written to"
        if problem:
            raise StoreError(
                f"{os.fsdecode(folder)} {problem}.",
                why=f"The file store keeps its files below {self._name}.",
                remedy="Correct file_options.base_dir, or the folder's permissions.",
            )

    def _history_refusals(self, kind: Kind, batch: pa.RecordBatch) -> Iterator[Refusal]:
        _, id_column = id_columns(kind)
        states: dict[tuple[bytes, str], str] = {}
        columns = (_column(batch, name) for name in ("state_id", id_column, "extra"))
        for row, (state_id, id_, extra) in enumerate(zip(*columns, strict=True)):
            problem = name_problem(id_)
            if problem is not None:
                yield Refusal(row, *problem)
                continue
            other = states.setdefault((self._layout.folder(state_id), id_), state_id)
            if other != state_id:
                yield Refusal(
                    row, "shared_name", f"The states {other!r} and {state_id!r} would share the {kind} file {id_!r}."
                )
            elif split_state_id(extra)[0] is not None:
                yield Refusal(
                    row, "reserved_member", f"The {kind} {id_!r} has a member {STATE_ID}, which is the file store's."
                )


def _nearest(path: bytes) -> bytes:
    """The path itself, or the nearest above it at which there is something."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _loses_time(created_at: str | None, updated_at: str | None) -> bool:
    return created_at is not None or (updated_at is not None and kept_mtime(updated_at) is None)


def _version_order(version: Version) -> tuple[int, str]:
    return instant(version.timestamp), version.version_id


def _snapshot_order(snapshot: Snapshot) -> tuple[int, str]:
    return instant(snapshot.timestamp), snapshot.snapshot_id


def _catalogue(keys: list[bytes], weights: list[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(keys, pa.binary()), pa.array(weights, pa.int64())], schema=CATALOGUE)


def _column(batch: pa.RecordBatch, name: str) -> list[Any]:
    values: list[Any] = batch.column(name).to_pylist()
    return values


def _rows(kind: Kind, batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a batch, bare or digested, with the columns of the bare one."""
    names = SCHEMAS[kind].names
    for row in zip(*(_column(batch, name) for name in names), strict=True):
        yield dict(zip(names, row, strict=True))
