"""``flatten_metadata``: the members of ``metadata`` become ``meta_<key>`` of the document itself, at its place.

::

    transforms: [flatten_metadata]
    before:     user-1  {"a": 1, "metadata": {"source": "web", "tags": {"x": [2.50]}}, "z": 3}
    after:      user-1  {"a":1,"meta_source":"web","meta_tags":{"x":[2.50]},"z":3}
    before:     user-2  {"metadata": {"source": "web"}, "meta_source": "app"}
    rejected:   member_exists

A ``metadata`` that is no object, or an empty one, stays as it is. If the document already has a member of such a name, the
record is rejected by name; nothing is overwritten. `unflatten_metadata` is the inverse for every document that had no member
beginning with ``meta_`` of its own.

The documents of versions and snapshots are changed alike. A version's delta and the ``Metadata`` of the record itself are
kept: the delta then tells what changed between the documents as they were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agui_pipelines.transforms.options import fingerprint, no_options
from agui_pipelines.transforms.rewriting import Document, OfDocuments, RejectedError, put_in_place

MEMBER: Final = "metadata"
PREFIX: Final = "meta_"
_NAME: Final = "flatten_metadata"


def build(options: Any, folder: Path) -> OfDocuments:  # noqa: ARG001 - every transform is built alike
    no_options(_NAME, options)
    return OfDocuments(_NAME, fingerprint(_NAME, None), flatten)


def flatten(document: Document) -> bool:
    """Whether there was anything to flatten. Raises `RejectedError` for a member that exists already."""
    metadata = document.get(MEMBER)
    if not isinstance(metadata, dict) or not metadata:
        return False
    members = {PREFIX + key: value for key, value in metadata.items()}
    for name in members:
        if name in document:
            raise RejectedError("member_exists", f"The document has a member '{name}' already, which would be lost.")
    put_in_place(document, MEMBER, members)
    return True
