"""Python's values as exact JSON."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from decimal import Decimal
from enum import Enum
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agui_pipelines import documents
from agui_pipelines.sources.values import UnfitError, duration, exact, typed


class Colour(Enum):
    RED = b"\x00"


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (Decimal("1E+400"), Decimal("1E+400")),
        (Decimal("NaN"), "NaN"),
        (Decimal("sNaN"), "NaN"),
        (Decimal("-Infinity"), "-Infinity"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (-0.0, -0.0),
        (10**4000, 10**4000),
        (bytearray(b"\xff"), {"base64": "/w=="}),
        (memoryview(b"ab"), {"base64": "YWI="}),
        (dt.datetime(2024, 1, 1, 10, 0, 0, 1), "2024-01-01T10:00:00.000001"),  # noqa: DTZ001 - as a database may store it
        (dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3))), "2024-01-01T00:00:00-03:00"),
        (dt.date(1, 1, 1), "0001-01-01"),
        (dt.time(1, 2, 3, 40), "01:02:03.000040"),
        (dt.timedelta(days=-1, microseconds=1), "-PT23H59M59.999999S"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (np.int64(7), 7),
        (np.float64(0.1), 0.1),
        (np.float32(0.1), 0.10000000149011612),
        (np.bool_(True), True),
        (Colour.RED, {"base64": "AA=="}),
        ((1, [b"a"], {"k": frozenset([2])}), [1, [{"base64": "YQ=="}], {"k": [2]}]),
    ],
)
def test_every_value_has_one_form(value, form):
    assert repr(exact(value)) == repr(form)
    documents.dumps({"v": exact(value)})


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, {"deep": [object()]}, 1j, lambda: None, np.datetime64(1, "ns"), np.zeros(2)]
)
def test_what_has_no_form_is_told(value):
    with pytest.raises(UnfitError) as caught:
        exact(value)
    assert caught.value.reason == "unsupported_value"


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_duration_can_be_read_back(nanoseconds):
    text = duration(nanoseconds)
    match = re.fullmatch(r"(-?)P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d{1,9}))?S)?)?", text)
    assert match is not None
    sign, days, hours, minutes, seconds, fraction = match.groups()
    whole = ((int(days or 0) * 24 + int(hours or 0)) * 60 + int(minutes or 0)) * 60 + int(seconds or 0)
    assert (-1 if sign else 1) * (whole * 10**9 + int((fraction or "").ljust(9, "0") or 0)) == nanoseconds
    assert not text.endswith(("P", "T"))


@pytest.mark.parametrize(
    ("value", "type_", "read"),
    [
        ("007", "integer", 7),
        ("-" + "9" * 5000, "integer", Decimal("-" + "9" * 5000)),
        (7, "integer", 7),
        ("1.10", "number", Decimal("1.10")),
        (" 5 ", "number", 5),
        (0.5, "number", 0.5),
        ("1e-400", "number", Decimal("1e-400")),
        (1, "boolean", True),
        ("No", "boolean", False),
        ('{"n":1.10}', "json", {"n": Decimal("1.10")}),
        (b"[1]", "json", [1]),
        ("", "number", None),
        (None, "json", None),
    ],
)
def test_a_type_is_read_exactly(value, type_, read):
    assert typed(value, type_, "c") == read
    assert type(typed(value, type_, "c")) is type(read)


@pytest.mark.parametrize(
    ("value", "type_"), [(True, "integer"), (1.5, "integer"), ("", "json"), (2, "boolean"), ("0x1", "number"), (b"1", "number")]
)  # fmt: skip
def test_what_is_not_of_its_type_is_told(value, type_):
    with pytest.raises(UnfitError, match="The column 'c' does not hold"):
        typed(value, type_, "c")
