"""A maintenance window: whether a moment lies in it, until when, and when it opens next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from agui_pipelines.spec import MaintenanceWindow

WEEKLY = {"days": ["sat", "sun"], "hours": "22:00-04:00", "time_zone": "Europe/Berlin"}
ONCE = {"start": "2026-11-28T22:00:00", "end": "2026-11-29T02:00:00", "time_zone": "Europe/Berlin"}


def window(**keys):
    return MaintenanceWindow.model_validate(keys)


def at(text):
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("now", "ends"),
    [
        ("2026-11-28T20:59:59Z", None),
        ("2026-11-28T21:00:00Z", "2026-11-29T03:00:00Z"),  # 22:00 in Berlin, in winter
        ("2026-11-29T02:59:59Z", "2026-11-29T03:00:00Z"),
        ("2026-11-29T03:00:00Z", None),
        ("2026-11-30T02:00:00Z", "2026-11-30T03:00:00Z"),  # Monday's first hours belong to Sunday's window
        ("2026-11-30T21:30:00Z", None),
        ("2026-07-04T20:00:00Z", "2026-07-05T02:00:00Z"),  # in summer, an hour earlier
    ],
)
def test_a_weekly_window_counts_by_the_clock_of_its_zone(now, ends):
    found = window(**WEEKLY).ends(at(now))

    assert found == (None if ends is None else at(ends))


def test_a_night_in_which_the_clocks_go_back_is_an_hour_longer():
    found = window(**WEEKLY)
    opens = found.opens(at("2026-10-24T12:00:00Z"))

    assert found.ends(opens).astimezone(UTC) - opens.astimezone(UTC) == timedelta(hours=7)


def test_a_window_that_was_given_once_is_over_afterwards():
    found = window(**ONCE)

    assert found.opens(at("2026-11-23T12:00:00Z")) == at("2026-11-28T22:00:00+01:00")
    assert found.ends(at("2026-11-28T21:30:00Z")) == at("2026-11-29T02:00:00+01:00")
    assert found.ends(at("2026-11-29T01:00:00Z")) is None
    assert found.opens(at("2026-11-29T01:00:00Z")) is None


def test_without_days_it_is_every_day():
    assert window(hours="01:00-02:00").opens(at("2026-11-25T01:30:00Z")) == at("2026-11-26T01:00:00Z")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "a start and an end, or hours"),
        ({"start": "2026-11-28T22:00:00"}, "a start and an end, or hours"),
        ({**ONCE, "hours": "22:00-04:00"}, "a start and an end, or hours"),
        ({**ONCE, "days": "sat"}, "a start and an end, or hours"),
        ({"start": ONCE["end"], "end": ONCE["start"]}, "ends before it starts"),
        ({"hours": "22-4"}, "write it like '22:00-04:00'"),
        ({"hours": "24:00-04:00"}, "write it like '22:00-04:00'"),
        ({"hours": "22:00-04:00", "time_zone": "Europe/Nowhere"}, "no time zone 'Europe/Nowhere'"),
        ({"hours": "22:00-04:00", "time_zone": "../../etc/passwd"}, "no time zone"),
        ({"days": "caturday", "hours": "22:00-04:00"}, "'mon', 'tue'"),
    ],
)
def test_what_is_no_window_is_refused_with_what_to_write(keys, said):
    with pytest.raises(ValidationError, match=said):
        window(**keys)
