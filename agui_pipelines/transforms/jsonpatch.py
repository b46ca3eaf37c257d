"""``jsonpatch: [operations]``: applies a JSON Patch (RFC 6902) to every document.

::

    transforms:
      - jsonpatch:
          - {op: test, path: /kind, value: chat}
          - {op: move, from: /msgs, path: /messages}
          - {op: add, path: /messages/-, value: {text: bye, score: 1.50}}
    before:     user-1  {"kind": "chat", "msgs": [{"score": 2.50}]}
    after:      user-1  {"kind":"chat","messages":[{"score":2.50},{"text":"bye","score":1.50}]}
    before:     user-2  {"kind": "game"}
    rejected:   patch_failed

A document to which the patch does not apply (a ``test`` that fails, a path that is not there) is rejected by name, with the
operation that failed. Numbers are exact, and ``test`` compares by value. A document that the patch leaves with the same content
keeps its bytes. The documents of versions and snapshots are changed alike, and rejected where the patch does not apply to
what they recorded; a version's delta is kept, and tells what changed between the documents as they were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import jsonpatch
from jsonpointer import JsonPointer, JsonPointerException

from agui_pipelines import documents
from agui_pipelines.transforms.options import exact, fingerprint, wrong
from agui_pipelines.transforms.rewriting import Document, OfDocuments, RejectedError

_NAME: Final = "jsonpatch"
_EXAMPLE: Final = "jsonpatch: [{op: replace, path: /kind, value: chat}, {op: remove, path: /tmp}]"
_NEEDS: Final = {
    "add": {"path", "value"},
    "remove": {"path"},
    "replace": {"path", "value"},
    "move": {"from", "path"},
    "copy": {"from", "path"},
    "test": {"path", "value"},
}


def build(options: Any, folder: Path) -> OfDocuments:  # noqa: ARG001 - every transform is built alike
    if not isinstance(options, list) or not options:
        raise wrong(_NAME, "needs a list of operations", _EXAMPLE)
    return patching(_NAME, exact(_NAME, options, _EXAMPLE))


def patching(name: str, operations: list[Any]) -> OfDocuments:
    """The step, called `name`, that applies operations whose numbers are exact. Raises `SpecError`."""
    steps = [(_told(operation), _single(number, operation)) for number, operation in enumerate(operations, 1)]

    def patched(document: Document) -> bool:
        before = documents.dumps(document)
        result: Any = document
        for told, step in steps:
            result = _applied(told, step, result)
        if not isinstance(result, dict):
            raise RejectedError("patch_failed", "After the patch, the document is no object.")
        if result is not document:
            members = dict(result)
            document.clear()
            document.update(members)
        return documents.dumps(document) != before

    return OfDocuments(name, fingerprint(name, operations), patched)


def _single(number: int, operation: Any) -> jsonpatch.JsonPatch:
    """A patch of one operation, so that the one that does not apply can be named."""
    needed = _NEEDS.get(str(operation.get("op"))) if isinstance(operation, dict) else None
    if needed is None:
        raise wrong(_NAME, f"takes add, remove, replace, move, copy and test; operation {number} is none", _EXAMPLE)
    for member in sorted(needed):
        if member not in operation:
            raise wrong(_NAME, f"needs '{member}' for operation {number}, {operation['op']}", _EXAMPLE)
    for member in needed & {"path", "from"}:
        try:
            JsonPointer(operation[member])
        except (JsonPointerException, TypeError):
            what = f"needs a JSON pointer as '{member}' of operation {number}"
            raise wrong(_NAME, what, _EXAMPLE) from None
    return jsonpatch.JsonPatch([operation])


def _told(operation: Any) -> str:
    return f"{operation.get('op')} {operation.get('path')}" if isinstance(operation, dict) else ""


def _applied(told: str, step: jsonpatch.JsonPatch, document: Any) -> Any:
    try:
        return step.apply(document, in_place=True)
    except (jsonpatch.JsonPatchException, JsonPointerException, LookupError, TypeError):
        # The library's own message would quote the document.
        raise RejectedError("patch_failed", f"The operation '{told}' does not apply to the document.") from None
