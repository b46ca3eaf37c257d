"""The options of a transform, read from the migration file: every error says how to write them right."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from xxhash import xxh3_128_hexdigest

from agui_pipelines import documents
from agui_pipelines.errors import SpecError
from agui_pipelines.spec.text import WrittenFloat

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def wrong(name: str, needs: str, example: str) -> SpecError:
    """The error for options that make no sense: what the transform needs, and how that is written."""
    return SpecError(f"The transform '{name}' {needs}: {example}.")


def fingerprint(name: str, options: Any) -> str:
    """Identifies a step by its options. A digest, as a fingerprint is stored and options may come from the environment."""
    return f"{name}:{xxh3_128_hexdigest(documents.dumps(options))}"


def no_options(name: str, options: Any) -> None:
    """Raises `SpecError` if a transform that has none was given options."""
    if options:
        raise SpecError(f"The transform '{name}' takes no options.")


def is_text(value: Any) -> bool:
    """Whether an option is text that can stand in an id or a document."""
    return isinstance(value, str) and not _LONE_SURROGATE.search(value)


def only_text(name: str, options: Any, key: str, example: str) -> str:
    """The one text that a transform takes, written as ``{key: text}`` or just as the text."""
    value = options.get(key) if isinstance(options, dict) and set(options) == {key} else options
    if not is_text(value) or not value:
        raise wrong(name, f"needs a {key}", example)
    return str(value)


def exact(name: str, value: Any, example: str) -> Any:
    """A JSON value out of the migration file, its numbers as `documents` has them.

    Raises `SpecError` for what is not JSON, such as a date without quotes.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, WrittenFloat) or (isinstance(value, float) and math.isfinite(value)):
        with suppress(InvalidOperation):  # an exponent that no number can have
            return Decimal(value.written if isinstance(value, WrittenFloat) else repr(value))
    if isinstance(value, list):
        return [exact(name, item, example) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: exact(name, member, example) for key, member in value.items()}
    raise wrong(name, f"takes JSON values only, not {type(value).__name__} (quote dates and keys)", example)
