"""``unflatten_metadata``: gathers the members ``meta_<key>`` of a document into one object ``metadata``.

::

    transforms: [unflatten_metadata]
    before:     user-1  {"a": 1, "meta_source": "web", "z": 3, "meta_n": 2.50}
    after:      user-1  {"a":1,"metadata":{"source":"web","n":2.50},"z":3}
    before:     user-2  {"metadata": 5, "meta_source": "web"}
    rejected:   member_exists

The object stands where the first such member stood. A document without them stays as it is; one that also has ``metadata`` is
rejected by name, as one of both would be lost. `flatten_metadata` is the inverse, for every document with
such members.

The documents of versions and snapshots are changed alike. A version's delta and the ``Metadata`` of the record itself are
kept: the delta then tells what changed between the documents as they were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agui_pipelines.transforms.flatten_metadata import MEMBER, PREFIX
from agui_pipelines.transforms.options import fingerprint, no_options
from agui_pipelines.transforms.rewriting import Document, OfDocuments, RejectedError, put_in_place

_NAME: Final = "unflatten_metadata"


def build(options: Any, folder: Path) -> OfDocuments:  # noqa: ARG001 - every transform is built alike
    no_options(_NAME, options)
    return OfDocuments(_NAME, fingerprint(_NAME, None), unflatten)


def unflatten(document: Document) -> bool:
    """Whether there was anything to gather. Raises `RejectedError` if the document has the object already."""
    names = [name for name in document if name.startswith(PREFIX)]
    if not names:
        return False
    if MEMBER in document:
        raise RejectedError("member_exists", f"The document has both '{MEMBER}' and '{names[0]}'; one would be lost.")
    metadata = {name.removeprefix(PREFIX): document[name] for name in names}
    for name in names[1:]:
        del document[name]
    put_in_place(document, names[0], {MEMBER: metadata})
    return True
