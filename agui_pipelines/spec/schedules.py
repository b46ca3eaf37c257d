"""What runs by itself, and when: the section ``schedules``, which Dagster's schedules are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field

from agui_pipelines.spec.section import Period, Section

_FIELDS: Final = 5
"""Of a cron line, as crontab(5) has it: minute, hour, day of the month, month, day of the week."""

_YEAR: Final = 365 * 24 * 3600.0
"""Seconds. A bound is needed, as Dagster cannot hold just any period, and nobody waits for longer."""


def _cron(line: str) -> str:
    fields = line.split()
    if len(fields) != _FIELDS:
        raise ValueError(f"'{line}' has {len(fields)} fields; a cron line has {_FIELDS}, such as '*/15 * * * *'")
    if "#" in line or "l" in (fields[2] + fields[4]).lower():
        raise ValueError(
            f"'{line}' has '#' or 'L', which Dagster does not take everywhere; give numbers or names of days"
        )
    try:
        CronSim(line, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(f"'{line}' is no cron line: {error}") from error
    return " ".join(fields)


def _time_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"'{name}' is no time zone of the IANA database, such as Europe/Berlin")
    return name


Cron = Annotated[str, AfterValidator(_cron)]


class Schedules(Section):
    """When Dagster's schedules run. They are off until somebody switches them on."""

    sync: Cron = "*/15 * * * *"
    """When the source's changes are brought over."""
    verify: Cron = "7 3 * * *"
    """When a sample of the target is compared with what it is to hold."""
    time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"
    sample: int = Field(1000, ge=1)
    """Ids of that sample."""
    max_lag: Period = Field(3600.0, ge=120, le=_YEAR)
    """How old the target may be, in seconds, before Dagster shows it as stale: at least two minutes, as it looks seldom."""
