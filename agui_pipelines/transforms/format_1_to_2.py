"""``format_1_to_2``: documents of data format 1.0 become format 2.0 (store-format, section 6); others stay as they are.

Where ``version`` is ``"1.0"``: it becomes ``"2.0"``, ``data`` is renamed to ``payload`` at its place, and ``schema_version:
"2.0.0"`` is added.

::

    transforms: [format_1_to_2]
    before:     user-1  {"version": "1.0", "data": {"n": 1.0}, "z": 1}
    after:      user-1  {"version":"2.0","payload":{"n":1.0},"z":1,"schema_version":"2.0.0"}
    before:     user-2  {"version": "2.0", "payload": {}}
    after:      user-2  {"version": "2.0", "payload": {}}
    before:     user-3  {"version": "1.0", "data": {}, "payload": {}}
    rejected:   member_exists

A document of format 1.0 that already has a ``payload`` beside ``data``, or another ``schema_version``, is rejected by name. The
documents of versions and snapshots are changed alike.

So that a history can still be replayed, the delta of a version whose document was of format 1.0 is changed with it: pointers
``/data…`` become ``/payload…``; a value ``"1.0"`` given to ``/version`` becomes ``"2.0"``, after which ``/schema_version`` is
set; and a value given to the whole document is changed as a document is. A delta is left as it is where a version's own
document is of another format: what it says of a parent that was of format 1.0 then no longer applies to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from agui_pipelines import documents
from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind
from agui_pipelines.transforms.options import fingerprint, no_options
from agui_pipelines.transforms.rewriting import (
    Document,
    OfDocuments,
    RejectedError,
    changed_document,
    put_in_place,
    rewrite,
)

NAME: Final = "format_1_to_2"
SCHEMA_VERSION: Final = "2.0.0"
"""What the documents say that they are of, and with them the store that holds no others."""

_BEFORE, _AFTER = "1.0", "2.0"
_OLD, _NEW = "/data", "/payload"
_VERSION, _SCHEMA = "/version", "/schema_version"


def build(options: Any, folder: Path) -> FormatOneToTwo:  # noqa: ARG001 - every transform is built alike
    no_options(NAME, options)
    return FormatOneToTwo()


class FormatOneToTwo:
    identity = False
    fingerprint = f"{fingerprint(NAME, None)}+delta"

    def __init__(self) -> None:
        self._documents = OfDocuments(NAME, self.fingerprint, upgrade)

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        if kind is Kind.VERSION:
            return rewrite(kind, batch, on_reject, _version, columns=("data", "delta"))
        return self._documents.apply(kind, batch, on_reject)


def _version(data: bytes, delta: bytes | None) -> tuple[bytes, bytes | None] | None:
    changed = changed_document(NAME, data, upgrade)
    return None if changed is None else (*changed, None if delta is None else upgraded_delta(delta))


def upgraded_delta(delta: bytes) -> bytes:
    """The delta of a version of format 1.0 as one of format 2.0; as it is if it is no list of operations."""
    try:
        operations = documents.loads(delta)
    except (ValueError, ArithmeticError):
        return delta
    if not isinstance(operations, list):
        return delta
    before = documents.dumps(operations)
    changed = [other for operation in operations for other in _operations(operation)]
    return delta if documents.dumps(changed) == before else documents.dumps(changed)


def _operations(operation: Any) -> list[Any]:
    if not isinstance(operation, dict):
        return [operation]
    moved = {key: _pointer(value) if key in ("path", "from") else value for key, value in operation.items()}
    if moved.get("path") == "" and isinstance(moved.get("value"), dict):
        whole = dict(moved["value"])
        try:
            upgrade(whole)
        except RejectedError:
            return [moved]
        return [{**moved, "value": whole}]
    if moved.get("path") != _VERSION or moved.get("value") != _BEFORE:
        return [moved]
    moved["value"] = _AFTER
    if moved.get("op") not in ("add", "replace"):
        return [moved]
    return [moved, {"op": "add", "path": _SCHEMA, "value": SCHEMA_VERSION}]


def _pointer(path: Any) -> Any:
    if isinstance(path, str) and (path == _OLD or path.startswith(f"{_OLD}/")):
        return _NEW + path[len(_OLD) :]
    return path


def upgrade(document: Document) -> bool:
    """Whether the document was of format 1.0. Raises `RejectedError` for a member that would be overwritten."""
    if document.get("version") != _BEFORE:
        return False
    if "data" in document and "payload" in document:
        raise RejectedError("member_exists", "The document has a member 'payload' already, which 'data' would replace.")
    if document.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise RejectedError("member_exists", "The document has another 'schema_version' already, which would be lost.")
    document["version"] = _AFTER
    if "data" in document:
        put_in_place(document, "data", {"payload": document["data"]})
    document["schema_version"] = SCHEMA_VERSION
    return True
