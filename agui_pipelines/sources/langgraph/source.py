"""LangGraph's checkpoints as states and versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.ports import BATCH_BYTES, OnReject, Place
from agui_pipelines.records import SCHEMAS, Kind, Reject
from agui_pipelines.sources.langgraph.checkpoints import (
    Checkpoint,
    Content,
    Database,
    Leftover,
    Write,
    content,
    metadata_of,
    raw,
    raw_leftover,
    state_id,
)
from agui_pipelines.sources.langgraph.values import UnusableError

_BATCH_ROWS: Final = 4_000
_PHASE: Final = "export"


class LangGraphSource:
    """See `ports.Scanner`. A state is a thread and namespace, a version one of its checkpoints.

    A state's document is that of its newest checkpoint, its times are those of the first and the newest one. Versions have
    no delta: to compare every checkpoint with its parent would take the parents of all branches in memory, and the usual
    comparison of values takes 1, 1.0 and true for equal.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.STATE, Kind.VERSION)

    def place(self) -> Place:
        return self._database.place()

    def describe(self) -> str:
        return self._database.describe()

    def ping(self) -> str:
        return self._database.ping()

    def exists(self) -> bool:
        return self._database.exists()

    def close(self) -> None:
        self._database.close()

    def scan(self, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        """All as it is at one moment. A checkpoint that cannot become a version is rejected. If it is the newest one, and it
        is not only a pending write of which there is no JSON, so is the state: an older document would not be the state.
        """
        if not self._database.exists():
            return
        batches = {kind: _Batch(kind) for kind in self.kinds}
        with self._database.opened() as (checkpoints, leftovers):
            for kind, row in _records(checkpoints, on_reject):
                yield from batches[kind].add(row)
            for kind in self.kinds:
                yield from batches[kind].rest()
            for leftover in leftovers:
                on_reject(_unattributed(leftover))


@dataclass(slots=True)
class _Thread:
    """What of a thread and namespace has been read so far: its oldest time, and what became of its newest checkpoint."""

    state_id: str
    created_at: str | None
    newest: Content | Reject


def _records(checkpoints: Iterator[Checkpoint], on_reject: OnReject) -> Iterator[tuple[Kind, dict[str, Any]]]:
    """Rows of bare batches: the versions of a state in order, and then the state."""
    thread: _Thread | None = None
    for checkpoint in checkpoints:
        id_ = checkpoint.state_id
        found = _read(checkpoint)
        if thread is None or thread.state_id != id_:
            yield from _state(thread, on_reject)
            thread = _Thread(id_, found.timestamp if isinstance(found, Content) else None, found)
        thread.newest = found
        version = found if isinstance(found, Reject) else _version(checkpoint, found)
        if isinstance(version, Reject):
            on_reject(version)
        else:
            yield Kind.VERSION, version
    yield from _state(thread, on_reject)


def _read(checkpoint: Checkpoint) -> Content | Reject:
    try:
        for text in (checkpoint.state_id, checkpoint.checkpoint_id, checkpoint.parent_id):
            text.encode("utf-8")
        return content(checkpoint)
    except UnicodeEncodeError:
        return _rejected(checkpoint, "id_not_utf8", "An id of it is not UTF-8 text.")
    except UnusableError as error:
        return _rejected(checkpoint, error.reason, error.detail)


def _rejected(checkpoint: Checkpoint, reason: str, detail: str) -> Reject:
    id_ = f"{checkpoint.state_id}/{checkpoint.checkpoint_id}".encode("utf-8", "surrogateescape")
    return Reject(Kind.VERSION, id_, raw(checkpoint), _PHASE, reason, detail)


def _version(checkpoint: Checkpoint, found: Content) -> dict[str, Any] | Reject:
    try:
        metadata = metadata_of(checkpoint, found)
    except UnusableError as error:
        return _rejected(checkpoint, error.reason, error.detail)
    return {
        "state_id": checkpoint.state_id,
        "version_id": checkpoint.checkpoint_id,
        "timestamp": found.timestamp,
        "data": found.data,
        "delta": None,
        "metadata": metadata,
        "parent_id": checkpoint.parent_id,
        "extra": None,
    }


def _state(thread: _Thread | None, on_reject: OnReject) -> Iterator[tuple[Kind, dict[str, Any]]]:
    if thread is None:
        return
    newest = thread.newest
    if isinstance(newest, Reject):
        detail = f"Its newest checkpoint cannot become its document. {newest.detail}"
        id_ = thread.state_id.encode("utf-8", "surrogateescape")
        on_reject(Reject(Kind.STATE, id_, newest.raw, _PHASE, newest.reason, detail))
        return
    yield (
        Kind.STATE,
        {
            "state_id": thread.state_id,
            "data": newest.data,
            "created_at": thread.created_at,
            "updated_at": newest.timestamp,
            "expires_at": None,
        },
    )


def _unattributed(leftover: Leftover) -> Reject:
    what, owner = leftover.what, state_id(leftover.thread_id, leftover.namespace)
    if isinstance(what, Write):
        name = f"{owner}/{what.checkpoint_id}/{what.task_id}/{what.idx}"
        detail = f"A task wrote it to the channel {what.channel!r} after a checkpoint that is not there."
    else:
        name = f"{owner}/{what.channel}/{what.version}"
        detail = f"It is a value of the channel {what.channel!r} that no checkpoint refers to."
    id_ = name.encode("utf-8", "surrogateescape")
    return Reject(Kind.VERSION, id_, raw_leftover(leftover), _PHASE, "unattributed", detail)


@dataclass(slots=True)
class _Batch:
    """Rows of one kind that wait until they are enough for a batch."""

    kind: Kind
    rows: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0

    def add(self, row: dict[str, Any]) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        size = len(row["data"]) + len(row.get("metadata") or b"")
        if self.rows and (self.size + size > BATCH_BYTES or len(self.rows) == _BATCH_ROWS):
            yield from self.rest()
        self.rows.append(row)
        self.size += size

    def rest(self) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        if self.rows:
            batch = pa.RecordBatch.from_pylist(self.rows, schema=SCHEMAS[self.kind])
            self.rows, self.size = [], 0
            yield self.kind, batch
