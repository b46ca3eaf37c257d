"""What is remarkable about a document."""

from __future__ import annotations

from typing import Final


class Trait:
    """What is remarkable about a document; kept with its digests, so that a target can refuse what it cannot hold.

    Plain integers to be combined with ``|``: an `enum.Flag` would cost more per document than its digest.
    """

    NONE: Final = 0
    INVALID: Final = 1
    """Not a JSON text in UTF-8 (RFC 8259)."""
    NOT_OBJECT: Final = 2
    """JSON, but not an object."""
    NUL: Final = 4
    r"""A string holds U+0000 (``\u0000``)."""
    LONE_SURROGATE: Final = 8
    r"""A string holds an unpaired surrogate (``\ud800``), which UTF-8 cannot encode."""
    DUPLICATE_KEYS: Final = 16
    """An object names a key twice."""
    EXTREME_NUMBER: Final = 32
    """More than 131,072 digits before the decimal point or 16,383 after it: more than PostgreSQL's numeric holds."""
    TOO_DEEP: Final = 64
    """Nested deeper than `MAX_DEPTH`, so it cannot be verified."""


MAX_DEPTH: Final = 254
"""Levels of nesting that are verified, which is what orjson writes; the reference store itself allows 10."""

UNUSABLE: Final = Trait.INVALID | Trait.NOT_OBJECT | Trait.TOO_DEEP
"""Traits with which a document cannot be a state in any store."""
