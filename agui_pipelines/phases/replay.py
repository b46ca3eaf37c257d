"""History replay: a version's `Delta`, applied to the `State` of its parent, must give the version's own `State`.

What is replayed is what was exported, so a deviation is the source's own: transforms may change documents, deltas stay.
Which version is whose parent is found on disk (by ids alone); the documents go into an unnamed file, from which a parent is
fetched wherever it stood. So memory does not grow with a history, and each document is written and read once.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import jsonpatch
import pyarrow as pa
from jsonpointer import JsonPointerException

from agui_pipelines import documents
from agui_pipelines.canonical import LARGE, digest
from agui_pipelines.keyspace import sorted_on_disk
from agui_pipelines.phases.comparison import name_of
from agui_pipelines.phases.differences import compare
from agui_pipelines.phases.observation import LIST_LIMIT, Names
from agui_pipelines.phases.session import Session
from agui_pipelines.progress import Meter
from agui_pipelines.records import Kind
from agui_pipelines.staging import SnapshotReader
from agui_pipelines.staging.arrivals import Heap

PHASE: Final = "replay"
REASONS: Final = 100
"""Deviations that are told with what deviates."""

_LINKS: Final = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("state_id", pa.string()),
        pa.field("version_id", pa.string()),
        pa.field("parent_id", pa.string()),
        pa.field("changes", pa.bool_()),
    ]
)
_PAIRS: Final = """
    SELECT c.row AS child, p.row AS parent FROM rows c JOIN rows p ON p.state_id = c.state_id AND p.version_id = c.parent_id
    WHERE c.changes AND c.parent_id <> '' ORDER BY child
"""
_NONE: Final = (-1, -1)
_VALUED: Final = ("add", "replace", "test")  # no set: an operation may be named by a list, which has no hash


@dataclass(frozen=True, slots=True)
class Replay:
    """What replaying all histories came to."""

    versions: int = 0
    """With a `Delta` and a parent that is there."""
    deviating: Names = field(default_factory=Names)
    reasons: dict[str, str] = field(default_factory=dict)
    """Of the first `REASONS` of them, what deviates: operations and JSON pointers, never contents."""
    too_large: int = 0
    """Not replayed, as a document is larger than can be held several times over."""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "replayed_versions": self.versions,
            "deviating_versions": list(self.deviating.ids),
            "deviating_versions_count": self.deviating.count,
            "reasons": self.reasons,
            "too_large": self.too_large,
            "seconds": round(self.seconds, 3),
        }


def replay(session: Session, plan_id: str, staged: Sequence[SnapshotReader]) -> Replay:
    """Replay every history, of the exported snapshots that the staged ones were made from."""
    exported = [SnapshotReader(session.workspace, id_) for s in staged for id_ in s.manifest.parents]
    histories = [snapshot for snapshot in exported if snapshot.segments(Kind.VERSION)]
    if not histories:
        return Replay()
    meter = session.meter(PHASE, total=sum(s.manifest.summary(Kind.VERSION).records for s in histories))
    found = _Found()
    session.in_parallel(partial(_replay_range, session, found, meter), histories)
    return found.replay(session.conclude(meter, plan_id).seconds)


@dataclass(slots=True)
class _Found:
    """Collects what several ranges come to."""

    versions: int = 0
    too_large: int = 0
    deviating: dict[str, str] = field(default_factory=dict)
    count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, reason: str | None) -> None:
        with self._lock:
            self.versions += 1
            if reason is None:
                return
            self.count += 1
            if len(self.deviating) < LIST_LIMIT:
                self.deviating[name] = reason

    def pass_over(self) -> None:
        with self._lock:
            self.too_large += 1

    def replay(self, seconds: float) -> Replay:
        ordered = sorted(self.deviating.items())
        names = Names(tuple(name for name, _ in ordered), self.count)
        return Replay(self.versions, names, dict(ordered[:REASONS]), self.too_large, seconds)


def _replay_range(session: Session, found: _Found, meter: Meter, snapshot: SnapshotReader) -> None:
    pairs = ((row["child"], row["parent"]) for batch in _pairs(snapshot) for row in batch.to_pylist())
    child, parent = next(pairs, _NONE)
    if child < 0:
        meter.add(snapshot.manifest.summary(Kind.VERSION).records)
        return
    with session.workspace.unnamed() as file:
        states = _States(Heap(file), snapshot)
        first = 0
        for batch in snapshot.batches(Kind.VERSION, ["state_id", "version_id", "delta"]):
            session.require_going()
            versions = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
            while first <= child < first + batch.num_rows:
                _replay_version(found, states, versions[child - first], child, parent)
                child, parent = next(pairs, _NONE)
            first += batch.num_rows
            meter.add(batch.num_rows, batch.nbytes)


def _replay_version(found: _Found, states: _States, version: tuple[str, str, bytes], child: int, parent: int) -> None:
    state_id, version_id, delta = version
    sizes = (states.size(child), states.size(parent), len(delta))
    if max(sizes) >= LARGE:
        found.pass_over()
        return
    try:
        located = len(found.deviating) < REASONS
        reason = deviation(states.get(parent), delta, states.get(child), located=located)
        found.add(name_of(state_id, version_id), reason)
    except _TooLargeError:
        found.pass_over()


class _States:
    """The documents of all versions of a snapshot by their row; 16 bytes of memory for each."""

    def __init__(self, heap: Heap, snapshot: SnapshotReader) -> None:
        self._heap = heap
        self._places, self._sizes = array("q"), array("q")
        for batch in snapshot.batches(Kind.VERSION, ["data"]):
            places, sizes = heap.put(batch.column("data"))
            self._places.extend(places.to_pylist())
            self._sizes.extend(sizes.to_pylist())

    def size(self, row: int) -> int:
        return self._sizes[row]

    def get(self, row: int) -> bytes:
        return self._heap.get(self._places[row], self._sizes[row])


def _pairs(snapshot: SnapshotReader) -> Iterator[pa.RecordBatch]:
    """Rows of the snapshot's versions that have a `Delta`, in order, each with the row of its parent."""
    yield from sorted_on_disk(_links(snapshot), _LINKS, _PAIRS)


def _links(snapshot: SnapshotReader) -> Iterator[pa.RecordBatch]:
    first = 0
    for batch in snapshot.batches(Kind.VERSION, ["state_id", "version_id", "parent_id", "delta"]):
        rows = pa.array(range(first, first + batch.num_rows), pa.int64())
        ids = [batch.column(name) for name in ("state_id", "version_id", "parent_id")]
        yield pa.RecordBatch.from_arrays([rows, *ids, batch.column("delta").is_valid()], schema=_LINKS)
        first += batch.num_rows


def deviation(parent: bytes, delta: bytes, state: bytes, *, located: bool = True) -> str | None:
    """What deviates, and where if that is to be `located`, when a delta is applied to the state of the parent; else None.

    Raises `_TooLargeError`.
    """
    try:
        result = _applied(documents.loads(parent), documents.loads(delta))
        after = documents.dumps(result)
    except _PatchError as error:
        return str(error)
    except _TooLargeError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a source's own delta does to the library is no failure of the migration
        return f"It cannot be replayed: {type(error).__name__}."
    if digest(after).canonical == digest(state).canonical:
        return None
    paths, _ = compare(after, state) if located else ((), None)
    return f"Its Delta gives another State{f', at {paths[0]}' if paths else ''}."


class _TooLargeError(Exception):
    """A delta makes more of a document than is replayed."""


class _PatchError(Exception):
    """A delta that does not apply; says which operation."""


def _applied(document: Any, delta: Any) -> Any:
    """The document after the operations of a delta, in which a value that is null may have been left out."""
    if not isinstance(delta, list):
        raise _PatchError("Its Delta is no list of operations.")
    for operation in delta:
        if isinstance(operation, dict) and operation.get("op") in _VALUED:
            operation.setdefault("value", None)
        try:
            document = jsonpatch.JsonPatch([operation]).apply(document, in_place=True)
        except (jsonpatch.JsonPatchException, JsonPointerException, LookupError, TypeError, AttributeError):
            # The library's own message would quote the document.
            raise _PatchError(f"The operation '{_told(operation)}' does not apply to its parent's State.") from None
        # A few copies of a document into itself would fill the memory.
        if isinstance(operation, dict) and operation.get("op") == "copy" and len(documents.dumps(document)) >= LARGE:
            raise _TooLargeError
    return document


def _told(operation: Any) -> str:
    """What it does and where; a document's contents may have slipped into what is neither text nor a number."""
    if not isinstance(operation, dict):
        return "?"
    parts = (operation.get("op"), operation.get("path"))
    return " ".join(str(part) if isinstance(part, str | int | None) else "?" for part in parts)[:LIST_LIMIT]
