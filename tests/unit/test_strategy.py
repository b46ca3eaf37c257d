"""A strategy is recommended from volume, updates and availability, with the reasons."""

from __future__ import annotations

import pytest

from agui_pipelines.phases.strategy import SWITCH, Facts, recommend
from agui_pipelines.phases.timeline import Seconds
from agui_pipelines.spec import Strategy

MINUTE = Seconds(50, 60, 70)
HOURS = Seconds(3 * 3600, 4 * 3600, 5 * 3600)


def facts(**changes) -> Facts:
    return Facts(**{"keys": 1_000_000, "bytes": 10**9, "updates": 5.0, "availability": 99.9, "ranges": 16, **changes})


@pytest.mark.parametrize(
    ("known", "total", "expected"),
    [
        (facts(), MINUTE, "big_bang"),
        (facts(updates=0.1), HOURS, "rolling"),
        (facts(updates=100.0), HOURS, "blue_green"),
        (facts(updates=None), HOURS, "blue_green"),
        (facts(updates=0.0), HOURS, "big_bang"),
        (facts(updates=0.1, availability=99.99), HOURS, "blue_green"),
        (facts(availability=90.0), HOURS, "big_bang"),
        (facts(availability=None), MINUTE, "big_bang"),
        (facts(availability=None, updates=None), HOURS, "blue_green"),
        (facts(updates=None), None, "big_bang"),
        (facts(bytes=None, updates=None), None, "blue_green"),
        (facts(bytes=10**12, updates=None), None, "blue_green"),
    ],
)
def test_the_strategy_follows_from_what_is_known(known, total, expected) -> None:
    assert recommend(known, total).recommended == expected


def test_every_number_that_decides_stands_among_the_reasons() -> None:
    reasons = " ".join(recommend(facts(), HOURS).reasons)

    for told in ("1,000,000 keys", "953.7 MiB", "5.0 of them change", "99.9 %", "43 min", "5 h 1 min"):
        assert told in reasons


def test_what_is_not_known_is_said() -> None:
    reasons = " ".join(recommend(Facts(keys=3), None).reasons)

    assert "unknown size" in reasons
    assert "not known" in reasons
    assert "No availability is required" in reasons
    assert "not measured" in reasons


def test_what_the_migration_file_asks_for_is_what_the_window_is_of() -> None:
    found = recommend(facts(), MINUTE, asked=Strategy.model_validate("rolling"))

    assert (found.recommended, found.asked, found.chosen) == ("big_bang", "rolling", "rolling")
    assert found.window is not None
    assert found.window.high == pytest.approx(70 / 16 + SWITCH)
    assert "asks for rolling" in " ".join(found.reasons)


def test_a_rate_holds_a_rolling_migration_back() -> None:
    found = recommend(facts(), MINUTE, asked=Strategy.model_validate({"type": "rolling", "rate": 100}))

    assert found.window is not None
    assert found.window.low == pytest.approx(1_000_000 / 16 / 100)


def test_a_blue_green_window_is_for_what_changes_meanwhile() -> None:
    asked = Strategy.model_validate("blue_green")
    few = recommend(facts(updates=0.1), HOURS, asked=asked)
    unknown = recommend(facts(updates=None), HOURS, asked=asked)

    assert few.window is not None
    assert few.window.high < HOURS.low
    assert unknown.window is None
