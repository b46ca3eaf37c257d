"""Times of foreign records."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agui_pipelines.sources.times import as_milliseconds, as_text
from agui_pipelines.sources.values import UnfitError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2024-01-01T10:00:00Z", "2024-01-01T10:00:00Z"),
        ("2024-01-01 10:00", "2024-01-01T10:00:00Z"),
        ("2024-01-01", "2024-01-01T00:00:00Z"),
        ("2024-01-01 10:00:00.120 UTC", "2024-01-01T10:00:00.12Z"),
        ("2024-01-01t10:00:00.123456789z", "2024-01-01T10:00:00.123456789Z"),
        ("2024-01-01T10:00:00+00", "2024-01-01T10:00:00Z"),
        ("2024-01-01T10:00:00-0330", "2024-01-01T10:00:00-03:30"),
        (" 2024-01-01 ", "2024-01-01T00:00:00Z"),
        ("1700000000", "2023-11-14T22:13:20Z"),
        (0, "1970-01-01T00:00:00Z"),
        (-0.5, "1969-12-31T23:59:59.5Z"),
        (Decimal("1700000000.123456789"), "2023-11-14T22:13:20.123456789Z"),
        (1700000000.1, "2023-11-14T22:13:20.1Z"),
        (-62135596800, "0001-01-01T00:00:00Z"),
        (dt.datetime(2024, 1, 1, 10), "2024-01-01T10:00:00Z"),  # noqa: DTZ001 - taken as UTC
        (dt.date(2024, 1, 1), "2024-01-01T00:00:00Z"),
        (None, None),
        ("", None),
        # What is not understood stays as it is.
        ("2024-02-30", "2024-02-30"),
        ("2024-01-01T25:00:00Z", "2024-01-01T25:00:00Z"),
        ("yesterday", "yesterday"),
        ("2024-01-01T10:00:00.1234567891Z", "2024-01-01T10:00:00.1234567891Z"),
        (1700000000000, "1700000000000"),
        (float("nan"), "nan"),
        (Decimal("1E+999999"), "1E+999999"),
        (True, "True"),
    ],
)
def test_times_become_rfc_3339_or_stay_as_they_are(value, text):
    assert as_text(value) == text


@given(st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=st.timezones()))  # noqa: DTZ001 - bounds
def test_a_datetime_is_the_same_moment(moment):
    text = as_text(moment)
    assert re.fullmatch(r"[-0-9T:.]{19,26}(Z|[+-]\d\d:\d\d)", text)
    assert dt.datetime.fromisoformat(text).astimezone(dt.UTC) == moment.astimezone(dt.UTC)


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_milliseconds_are_exact(milliseconds):
    text = as_text(Decimal(milliseconds) / 1000)
    assert as_milliseconds(text) == milliseconds
    assert as_milliseconds(Decimal(milliseconds) / 1000) == milliseconds


def test_finer_digits_of_an_expiry_are_cut():
    assert as_milliseconds("2100-01-01T00:00:00.1239999Z") == 4_102_444_800_123


@pytest.mark.parametrize(
    "value", ["soon", 1e300, float("inf"), True, "2024-02-30", "9" * 30, "9999-12-31T23:59:59-25:00"]
)
def test_what_is_no_moment_cannot_be_an_expiry(value):
    with pytest.raises(UnfitError, match="neither RFC 3339 nor seconds"):
        as_milliseconds(value)
