"""What every part of a migration file is made of: sections that refuse unknown keys, durations, file modes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agui_pipelines.errors import SpecError

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_DURATION_HINT: Final = "write it like '30s', '1m30s', '500ms', or as nanoseconds"
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
FLAT_DIALECT: Final = frozenset(
    {
        *("StorageBackend", "Path", "Compression", "ConnectionURL", "Database", "Password", "PoolSize", "MinIdleConns"),
        *("KeyPrefix", "MaxOpenConns", "SchemaName", "SSLMode", "ReadTimeout", "WriteTimeout", "FilePerms"),
    }
)


def _duration(value: object) -> object:
    """Seconds, from ``"1m30s"`` or, as Go writes durations, an integer of nanoseconds."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value / 1e9
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a duration; {_DURATION_HINT}")  # noqa: TRY004 - pydantic wants ValueError
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value.strip():
        raise ValueError(f"{value!r} is not a duration; {_DURATION_HINT}")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _period(value: object) -> object:
    """Seconds, of what is none of AG-UI's own keys: who writes a number there means no nanoseconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value != 0:
        raise ValueError(f"{value!r} has no unit; write it like '30s', '1m30s' or '24h'")
    return _duration(0 if value == 0 and not isinstance(value, str) else value)


def seconds(text: str) -> float:
    """A duration such as ``1m30s``. Raises ValueError."""
    return float(str(_duration(text)))


def seconds_of(text: str) -> float:
    """The same of a word of the command line. Raises `SpecError`."""
    try:
        return seconds(text)
    except ValueError as error:
        raise SpecError(str(error)[:1].upper() + str(error)[1:] + ".") from None


def _file_mode(value: object) -> object:
    """Permission bits, from an octal string (``"0600"``) or, as Go writes them, a decimal integer (``384``)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(str(value), 8)
    except ValueError:
        raise ValueError(f"{value!r} is not an octal file mode such as '0600'") from None


Duration = Annotated[float, BeforeValidator(_duration), Field(ge=0)]
Period = Annotated[float, BeforeValidator(_period), Field(ge=0)]
FileMode = Annotated[int, BeforeValidator(_file_mode), Field(ge=0, le=0o7777)]


class Section(BaseModel):
    """Part of a migration file. Unknown keys are refused, with the nearest valid one named."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        known = {field.alias or name for name, field in cls.model_fields.items()}
        for key in values:
            if key not in known:
                raise ValueError(unknown_key(str(key), known))
        return values


def unknown_key(key: str, known: set[str]) -> str:
    if key in FLAT_DIALECT:
        return (
            f"the key '{key}' belongs to the flat configuration dialect (format 2.0); "
            "write the nested keys of format 2.1 (type, connection_url, redis_options, …) instead"
        )
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"known here: {', '.join(sorted(known))}"
    return f"unknown key '{key}'; {hint}"
