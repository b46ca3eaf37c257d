"""Exact digests of JSON documents: equal values, equal digests; different values, different digests.

Plain parse-and-dump comparison is wrong for JSON: every fast parser passes numbers through a double, so
``0.1000000000000000055`` and ``0.1`` would count as equal and integers above 64 bits would lose digits. PostgreSQL's
jsonb, on the other hand, keeps numbers exactly but spells them differently (``1e5`` comes back as ``100000``), drops all
but the last of duplicate keys and reorders members. So two digests are made:

``canonical``
    xxh3_128 of the document with sorted keys, no white space, and every number in one spelling that depends only on
    its exact decimal value. Two documents have the same canonical digest exactly if they are the same JSON value
    (of duplicate keys the last one counts, as in jsonb and Go).
``spelling``
    the same, with every number as it is spelled. It differs from ``canonical`` only when some number is not in its
    canonical spelling; a pair of equal canonical and different spelling digests was *normalised* on the way.

`forms` makes the two forms of a document, `large` digests a large one without holding them.
"""

from __future__ import annotations

from typing import Final

from agui_pipelines.canonical.forms import Digests, digest_whole
from agui_pipelines.canonical.large import digest_in_pieces
from agui_pipelines.canonical.numbers import canonical_number
from agui_pipelines.canonical.traits import MAX_DEPTH, UNUSABLE, Trait

__all__ = ["LARGE", "MAX_DEPTH", "UNUSABLE", "Digests", "Trait", "canonical_number", "digest"]

LARGE: Final = 4 * 1024 * 1024
"""Bytes of a document from which on it is digested in pieces."""


def digest(document: bytes | memoryview) -> Digests:
    """Digest one JSON document, given as the bytes that a store holds. Never raises for its content."""
    return digest_whole(document) if len(document) < LARGE else digest_in_pieces(document)
