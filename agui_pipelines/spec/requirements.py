"""What the operator asks of the target, and how the source may be looked at before a migration is planned."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from agui_pipelines.spec.section import Duration, Section

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]i?)?B?", re.ASCII)
_POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def _size(value: object) -> object:
    """Bytes, from ``"512MiB"`` (powers of 1024), ``"10GB"`` (powers of 1000), or a number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a size; write it like '512MiB', '10GB', or as bytes")
    number, unit = match.groups(default="")
    return round(float(number) * (1024 if unit.endswith("i") else 1000) ** _POWERS[unit[:1].upper()])


Size = Annotated[int, BeforeValidator(_size), Field(ge=0)]


class Requirements(Section):
    """What the target must be able to do; nothing is required unless given."""

    max_latency: Duration | None = None
    """Seconds in which one state must be read or written."""
    min_throughput: float | None = Field(None, gt=0)
    """States that must be read or written per second."""
    max_memory: Size | None = None
    """Bytes of memory that the target may take for the states."""
    availability: float | None = Field(None, ge=0, le=100)
    """Per cent of the time in which the states must be there."""


class AssessmentOptions(Section):
    """How the source is looked at before a migration is planned."""

    sample: int = Field(10_000, ge=1)
    """States that are read for it."""
    rate: float | None = Field(None, gt=0)
    """Records that are looked at per second; as fast as it goes unless given."""
    accept: tuple[str, ...] = ()
    """Names of compatibility checks whose ``block`` only warns."""
