"""What runs by itself, and when: the section ``schedules``, which Dagster's schedules are made of."""

from __future__ import annotations

import re
from typing import Annotated, Final
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field

from agui_pipelines.spec.section import Period, Section

_FIELDS: Final = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("day of week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
"""Of a cron line (crontab(5)): name, lowest and highest number, and the words that stand for numbers from the lowest on."""

_PART: Final = re.compile(r"(\*|(?P<first>\w+)(-(?P<last>\w+))?)(/(?P<step>\d+))?")


def _cron(line: str) -> str:
    fields = line.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"'{line}' has {len(fields)} fields; a cron line has {len(_FIELDS)}, such as '*/15 * * * *'")
    for text, (name, low, high, words) in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            if not _is_possible(part, low, high, words):
                raise ValueError(f"'{part}' is no {name} of a cron line ({low} to {high})")
    return " ".join(fields)


def _is_possible(part: str, low: int, high: int, words: tuple[str, ...]) -> bool:
    found = _PART.fullmatch(part)
    if found is None or (found["step"] is not None and int(found["step"]) < 1):
        return False
    numbers = [
        low + words.index(text.lower()) if text.lower() in words else int(text) if text.isdecimal() else -1
        for text in (found["first"], found["last"])
        if text is not None
    ]
    return all(low <= number <= high for number in numbers) and numbers == sorted(numbers)


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
    max_lag: Period = Field(3600.0, ge=120)
    """How old the target may be, in seconds, before Dagster shows it as stale: at least two minutes, as it looks seldom."""
