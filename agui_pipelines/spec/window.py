"""When a cutover may happen: once, from one moment to another, or every week on some days, between two times of the day.

::

    maintenance_window: {start: 2026-11-28T22:00:00, end: 2026-11-29T02:00:00, time_zone: Europe/Berlin}
    maintenance_window: {days: [sat, sun], hours: "22:00-04:00", time_zone: Europe/Berlin}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, field_validator, model_validator

from agui_pipelines.spec.section import Section

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: Final[tuple[Day, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _zone(name: str) -> tzinfo:
    """Raises ValueError for a name that this machine's time zones do not have."""
    if name.upper() in ("UTC", "Z"):
        return UTC  # which needs no database of time zones
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # a name that is no path, that is a folder, or that nobody knows
        raise ValueError(
            f"there is no time zone '{name}' on this machine; write it like 'Europe/Berlin', or UTC"
        ) from None


class MaintenanceWindow(Section):
    """See the module. Without ``days`` every day; hours that end before they begin end on the next day."""

    start: datetime | None = None
    end: datetime | None = None
    days: Annotated[tuple[Day, ...], BeforeValidator(_listed)] = ()
    """Of the week, on which it begins."""
    hours: str | None = Field(None, examples=["22:00-04:00"])
    time_zone: str = "UTC"
    """Of all times that name none."""

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        _zone(name)
        return name

    @field_validator("hours")
    @classmethod
    def _span(cls, hours: str | None) -> str | None:
        if hours is not None and not _HOURS.fullmatch(hours):
            raise ValueError(f"'{hours}' is no span of the day; write it like '22:00-04:00'")
        return hours

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        once = self.start is not None and self.end is not None
        if once == (self.hours is not None) or (once and self.days) or (self.start is None) != (self.end is None):
            raise ValueError("a window has a start and an end, or hours (and days of the week)")
        if self.start is not None and self.end is not None and self._at(self.end) <= self._at(self.start):
            raise ValueError("the window ends before it starts")
        return self

    def ends(self, now: datetime) -> datetime | None:
        """The end of the window that a moment lies in, in its time zone; None if it lies in none."""
        return max((end for start, end in self._around(now) if start <= now < end), default=None)

    def opens(self, now: datetime) -> datetime | None:
        """When the next window after a moment begins; None if there is none any more."""
        return min((start for start, _ in self._around(now) if start > now), default=None)

    def _around(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The windows from a day before a moment until a week after it."""
        if self.start is not None and self.end is not None:
            yield self._at(self.start), self._at(self.end)
            return
        found = _HOURS.fullmatch(self.hours or "")
        if found is None:
            return
        begin, finish = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
        today = now.astimezone(_zone(self.time_zone)).date()
        for offset in range(-1, 8):
            day = today + timedelta(days=offset)
            if self.days and _DAYS[day.weekday()] not in self.days:
                continue
            last = day if finish > begin else day + timedelta(days=1)
            yield self._at(datetime.combine(day, begin)), self._at(datetime.combine(last, finish))

    def _at(self, moment: datetime) -> datetime:
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=_zone(self.time_zone))
