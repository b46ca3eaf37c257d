"""What the definitions take from a migration file: how many key ranges there are, whose it is, which systems, and when.

Dagster wants to know all this when the code location is loaded, before there is a run. So it is that of the default migration
file (see `spec.default_file`), or what holds without one. A missing or broken file is reported by the run that needs it, not
by loading the definitions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from agui_pipelines import spec
from agui_pipelines.errors import SpecError

_KINDS: Final = {
    "postgresql": "postgres",
    "postgresql_rows": "postgres",
    "redis_keys": "redis",
    "langgraph": "langchain",
}
"""What Dagster calls a system, where that is not the type of the source or target."""
_KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,50}")
_UNKNOWN: Final = "database"


def declared(key: str) -> Any:
    """What the migration file says under a key of its own, or what holds if that is missing or cannot be used."""
    field = spec.Migration.model_fields[key]
    try:
        given = spec.resolved(_text().get(key), "migration file", (key,))
        if given is not None:
            return TypeAdapter(field.rebuild_annotation()).validate_python(given)
    except (SpecError, ValidationError):
        pass
    return field.get_default(call_default_factory=True)


def kind(of: Literal["source", "target"]) -> str:
    """What Dagster calls the source's or target's system."""
    section = _text().get(of)
    type_ = section.get("type") if isinstance(section, Mapping) else None
    if not isinstance(type_, str) or not _KIND.fullmatch(type_):
        return _UNKNOWN
    type_ = spec.ALIASES.get(type_, type_)
    return _KINDS.get(type_, type_)


def _text() -> Mapping[str, Any]:
    try:
        return spec.read_mapping(spec.default_file(), what="migration file")
    except SpecError:
        return {}


RANGES: Final[int] = declared("ranges")
OWNERS: Final[tuple[str, ...]] = declared("owners")
TAGS: Final[dict[str, str]] = declared("tags")
SCHEDULES: Final[spec.Schedules] = declared("schedules")
SOURCE_KIND: Final = kind("source")
TARGET_KIND: Final = kind("target")
