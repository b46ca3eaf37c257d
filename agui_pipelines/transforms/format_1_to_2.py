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
documents of versions and snapshots are changed alike; a version's delta is kept, and tells what changed between the
documents as they were (its paths say ``/data``, not ``/payload``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agui_pipelines.transforms.options import fingerprint, no_options
from agui_pipelines.transforms.rewriting import Document, OfDocuments, RejectedError, put_in_place

_NAME: Final = "format_1_to_2"
_SCHEMA_VERSION: Final = "2.0.0"


def build(options: Any, folder: Path) -> OfDocuments:  # noqa: ARG001 - every transform is built alike
    no_options(_NAME, options)
    return OfDocuments(_NAME, fingerprint(_NAME, None), upgrade)


def upgrade(document: Document) -> bool:
    """Whether the document was of format 1.0. Raises `RejectedError` for a member that would be overwritten."""
    if document.get("version") != "1.0":
        return False
    if "data" in document and "payload" in document:
        raise RejectedError("member_exists", "The document has a member 'payload' already, which 'data' would replace.")
    if document.get("schema_version", _SCHEMA_VERSION) != _SCHEMA_VERSION:
        raise RejectedError("member_exists", "The document has another 'schema_version' already, which would be lost.")
    document["version"] = "2.0"
    if "data" in document:
        put_in_place(document, "data", {"payload": document["data"]})
    document["schema_version"] = _SCHEMA_VERSION
    return True
