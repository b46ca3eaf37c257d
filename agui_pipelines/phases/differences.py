"""What the first mismatches differ in: a JSON Patch from what was staged to what the target holds, and what is known else.

A version or snapshot is compared as one record, with the members that the format gives it (``/State/…``, ``/Delta``,
``/ParentID``). Documents are user data: what tells of their contents (`Difference.described`) is for the report in the
workspace alone; `Difference.paths` holds JSON pointers only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import jsonpatch
import orjson
import pyarrow as pa

from agui_pipelines import documents
from agui_pipelines.canonical import LARGE, digest
from agui_pipelines.errors import StoreError
from agui_pipelines.phases.comparison import Comparison, name_of
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Store
from agui_pipelines.progress import Meter
from agui_pipelines.records import Kind, id_columns, instant
from agui_pipelines.staging import SnapshotReader
from agui_pipelines.stores.bodies import snapshot_body, version_body

PHASE: Final = "differences"
DESCRIBED: Final = 100
"""Mismatches of each sort that are looked into."""
PATCHED: Final = 64 * 1024
"""Bytes of a record up to which its JSON Patch is made, which takes up to the square of them; of larger ones only the
members that differ are told."""
OPERATIONS: Final = 20
VALUE_BYTES: Final = 200
MEMBERS: Final = 10
"""Operations of a patch, bytes of a value, and members of an object that are told."""

_POINTER: Final = 500

Ids = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One mismatch."""

    id: str
    paths: tuple[str, ...]
    """JSON pointers to what differs, the first `OPERATIONS` of them; none where nothing can be compared."""
    described: dict[str, Any]
    """All that is told of it, as `orjson` can write it."""


Differences = dict[str, dict[str, tuple[Difference, ...]]]
"""By kind, then by finding: ``missing``, ``corrupted``, ``extra``."""


def differences(session: Session, comparison: Comparison, staged: Iterable[SnapshotReader]) -> Differences:
    """Look into the first `DESCRIBED` mismatches of each sort, on both sides."""
    first = {
        kind: {finding: comparison.first(kind, finding, DESCRIBED) for finding in ("missing", "corrupted", "extra")}
        for kind in Kind
    }
    found: Differences = {}
    snapshots = list(staged)
    meter = session.meter(PHASE)
    with session.target() as target:
        there = retried(session, meter, target.exists)
        for kind, findings in first.items():
            if not any(findings.values()):
                continue
            held = partial(_held_after_all, session, meter, target, kind) if there else _nothing
            wanted = {*findings["missing"], *findings["corrupted"]}
            made: dict[str, dict[Ids, Difference]] = {finding: {} for finding in findings}
            for ids, expected in _staged(snapshots, kind, wanted):
                finding = "missing" if ids in findings["missing"] else "corrupted"
                made[finding][ids] = _difference(ids, expected, held)
            made["extra"] = {ids: _extra(ids, held) for ids in findings["extra"]}
            found[str(kind)] = {name: tuple(d for _, d in sorted(some.items())) for name, some in made.items() if some}
    return found


def _difference(ids: Ids, expected: bytes, held: Callable[[Ids], bytes | str | None]) -> Difference:
    actual = held(ids)
    name = name_of(*ids)
    if not isinstance(actual, bytes):
        unreadable = {} if actual is None else {"unreadable": actual}
        return Difference(name, (), {"id": name, "staged": description(expected), **unreadable})
    paths, told = compare(expected, actual)
    return Difference(name, paths, {"id": name, "staged": _measured(expected), "target": _measured(actual), **told})


def _extra(ids: Ids, held: Callable[[Ids], bytes | str | None]) -> Difference:
    actual, name = held(ids), name_of(*ids)
    if isinstance(actual, bytes):
        return Difference(name, (), {"id": name, "target": description(actual)})
    return Difference(name, (), {"id": name, "unreadable": actual or "It has gone since it was found."})


def description(document: bytes) -> dict[str, Any]:
    """Its length in bytes, its digest, and its first members."""
    try:
        members = [_cut(name, VALUE_BYTES) for name in documents.members(document)] if len(document) < LARGE else []
    except ValueError:
        members = []
    return {**_measured(document), "members": members[:MEMBERS]}


def compare(before: bytes, after: bytes) -> tuple[tuple[str, ...], dict[str, Any]]:
    """What leads from one JSON object to another: the pointers of what differs, and for the report the operations.

    Values are compared as JSON values, to the last digit. Neither is told in full where it is large.
    """
    if max(len(before), len(after)) > PATCHED:
        paths = tuple(_differing(before, after)) if max(len(before), len(after)) < LARGE else ()
        shown = tuple(_cut(path, _POINTER) for path in paths[:OPERATIONS])
        return shown, {"differing": list(shown), "differing_count": len(paths), "too_large_to_patch": True}
    try:
        operations = patch(before, after)
    except ValueError as error:
        return (), {"unreadable": f"It cannot be compared: {error}."}
    except Exception as error:  # noqa: BLE001 - a description is not worth that a validation fails at it
        return (), {"unreadable": f"It cannot be compared: {type(error).__name__}."}
    shown = tuple(dict.fromkeys(_cut(operation["path"], _POINTER) for operation in operations[:OPERATIONS]))
    told = [_told(operation) for operation in operations[:OPERATIONS]]
    return shown, {"patch": told, "patch_operations": len(operations)}


def patch(before: bytes, after: bytes) -> list[dict[str, Any]]:
    """The JSON Patch (RFC 6902) that turns one document into another. Raises ValueError for what is no JSON."""
    # Without its optimisation, which would tell a removal here and an equal value there as one move.
    found = jsonpatch.JsonPatch.from_diff(
        documents.loads(before), documents.loads(after), optimization=False, dumps=_canonical
    )
    operations: list[dict[str, Any]] = found.patch
    return operations


def _canonical(value: Any) -> str:
    """Equal for equal JSON values, and only for those: 1 is 1.0, but not true."""
    return digest(documents.dumps(value)).canonical.hex()


def _differing(before: bytes, after: bytes, pointer: str = "", depth: int = 2) -> Iterator[str]:
    """Pointers to the members that differ, down to some depth."""
    try:
        ours, theirs = documents.members(before), documents.members(after)
    except ValueError:
        yield pointer
        return
    for name in {**ours, **theirs}:
        path = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
        one, other = ours.get(name), theirs.get(name)
        if one is None or other is None:
            yield path
        elif one != other and digest(one).canonical != digest(other).canonical:
            if depth > 1 and one.startswith(b"{") and other.startswith(b"{"):
                yield from _differing(one, other, path, depth - 1)
            else:
                yield path


def _told(operation: dict[str, Any]) -> dict[str, Any]:
    """An operation for the report, its pointers and value cut to a length that people read."""
    told: dict[str, Any] = {
        name: _cut(operation[name], _POINTER) for name in ("op", "path", "from") if name in operation
    }
    if "value" not in operation:
        return told
    value = documents.dumps(operation["value"])
    if len(value) <= VALUE_BYTES:
        return {**told, "value": orjson.Fragment(value)}
    return {**told, "value_begins": value[:VALUE_BYTES].decode("utf-8", "ignore"), "value_bytes": len(value)}


def _measured(document: bytes) -> dict[str, Any]:
    return {"bytes": len(document), "digest": digest(document).canonical.hex()}


def _cut(text: str, length: int) -> str:
    shown = text.encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= length else f"{shown[:length]}…"


def _staged(snapshots: Iterable[SnapshotReader], kind: Kind, wanted: set[Ids]) -> Iterator[tuple[Ids, bytes]]:
    """The staged records of some ids. A segment is read in full only if one of them is in it."""
    names = list(id_columns(kind))
    for snapshot in snapshots:
        for segment in snapshot.segments(kind):
            if not wanted:
                return
            ids = {ids for batch in snapshot.segment_batches(segment, names) for ids in _ids(kind, batch)}
            if wanted.isdisjoint(ids):
                continue
            for batch in snapshot.segment_batches(segment):
                for row, id_ in enumerate(_ids(kind, batch)):
                    if id_ in wanted:
                        wanted.discard(id_)
                        yield id_, _document(kind, batch.slice(row, 1).to_pylist()[0])


def _ids(kind: Kind, batch: pa.RecordBatch) -> list[Ids]:
    first, *second = (batch.column(name).to_pylist() for name in id_columns(kind))
    return list(zip(first, second[0] if second else [""] * len(first), strict=True))


def _held_after_all(session: Session, meter: Meter, target: Store, kind: Kind, ids: Ids) -> bytes | str | None:
    return retried(session, meter, partial(_held, target, kind, ids))


def _held(target: Store, kind: Kind, ids: Ids) -> bytes | str | None:
    """What the target holds; why it cannot be read, if it cannot; None if it is not there."""
    state_id, other = ids
    try:
        if kind is Kind.STATE:
            return target.get_state(state_id)
        record = target.get_version(state_id, other) if kind is Kind.VERSION else target.get_snapshot(state_id, other)
    except StoreError as error:
        if error.transient:
            raise
        return error.message
    return None if record is None else _document(kind, asdict(record))


def _nothing(_: Ids) -> None:
    """What a target without any records holds."""


def _document(kind: Kind, row: dict[str, Any]) -> bytes:
    """A record as one JSON object; its time as a moment, however it is spelled."""
    if kind is Kind.STATE:
        document: bytes = row["data"]
        return document
    moment, data, metadata, extra = instant(row["timestamp"]), row["data"], row["metadata"], row["extra"]
    if kind is Kind.VERSION:
        return version_body(row["version_id"], moment, data, row["delta"], metadata, row["parent_id"], extra)
    return snapshot_body(row["snapshot_id"], moment, data, row["version_id"], metadata, extra)
