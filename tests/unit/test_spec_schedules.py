"""When schedules come: cron lines and time zones of the migration file."""

from __future__ import annotations

import pytest

from agui_pipelines import spec
from agui_pipelines.errors import SpecError


def parsed(**schedules):
    text = {"name": "m", "source": {"type": "redis_keys"}, "target": {"type": "file"}, "schedules": schedules}
    return spec.parse(text).schedules


@pytest.mark.parametrize(
    "line", ["*/15 * * * *", "0 3 * * mon-fri", "5,35 8-18/2 1 jan *", "0 0 * * 7", "  0  0 1 */3 * "]
)
def test_cron_lines(line):
    assert parsed(sync=line).sync == " ".join(line.split())


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("sync", "* * * *", "has 4 fields"),
        ("sync", "* * * * * *", "has 6 fields"),
        ("sync", "60 * * * *", "is no cron line: Bad minute"),
        ("sync", "*/0 * * * *", "Bad minute"),
        ("sync", "0 18-8 * * *", "Bad hour"),
        ("sync", "0 0 31 2 *", "Bad day-of-month"),
        ("sync", "0 0 L * *", "'#' or 'L'"),
        ("sync", "0 0 * * mon#1", "'#' or 'L'"),
        ("verify", "0 3 * * someday", "Bad day-of-week"),
        ("time_zone", "Mars/Olympus", "no time zone of the IANA database"),
        ("max_lag", 900, "has no unit"),
        ("max_lag", "90s", "greater than or equal to 120"),
        ("max_lag", "8761h", "less than or equal to 31536000"),
        ("max_lag", "99999999999h", "less than or equal to 31536000"),
        ("every", "5m", "unknown key 'every'"),
    ],
)
def test_what_is_no_time_is_refused(key, value, problem):
    with pytest.raises(SpecError, match=problem):
        parsed(**{key: value})


@pytest.mark.parametrize(("text", "seconds"), [("2m", 120), ("8760h", 365 * 24 * 3600)])
def test_how_old_a_target_may_be(text, seconds):
    assert parsed(max_lag=text).max_lag == seconds


def test_whose_it_is():
    text = {"name": "m", "source": {"type": "redis_keys"}, "target": {"type": "file"}}
    made = spec.parse({**text, "owners": ["team:data", "ann@example.com"], "tags": {"cost-center": "42"}})
    assert (made.owners, made.tags) == (("team:data", "ann@example.com"), {"cost-center": "42"})
    with pytest.raises(SpecError, match="owners"):
        spec.parse({**text, "owners": ["ann"]})
    with pytest.raises(SpecError, match="tags"):
        spec.parse({**text, "tags": {"a b": "c"}})
