"""Sizes and durations as people read them."""

from __future__ import annotations

import pytest

from agui_pipelines.units import amount, duration


@pytest.mark.parametrize(
    ("seconds", "told"), [(42.4, "42 s"), (119, "119 s"), (120, "2 min"), (8000, "2 h 13 min"), (3600, "1 h 0 min")]
)
def test_a_duration_is_told_in_words(seconds, told) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("size", "told"), [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB"), (2**41, "2.0 TiB")]
)
def test_an_amount_is_told_in_words(size, told) -> None:
    assert amount(size) == told
