"""Ranges of texts as intervals of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from agui_pipelines.sources.postgresql_narrowing import intervals, narrowed

_BOUND = st.none() | st.integers(-(2**15), 2**15 - 1).map(lambda n: str(n).encode()) | st.binary(max_size=6)


@settings(deadline=None)
@given(_BOUND, _BOUND)
def test_the_intervals_are_exactly_the_numbers_whose_text_lies_in_between(
    lower: bytes | None, upper: bytes | None
) -> None:
    found = list(intervals(16, lower, upper))
    inside = sorted(n for first, last in found for n in range(first, last + 1))
    texts = ((n, str(n).encode()) for n in range(-(2**15), 2**15))
    assert inside == [n for n, t in texts if (lower is None or t >= lower) and (upper is None or t < upper)]


def test_the_ends_of_every_type_are_included() -> None:
    for bits in (16, 32, 64):
        found = list(intervals(bits, None, b"~"))
        assert min(first for first, _ in found) == -(2 ** (bits - 1))
        assert max(last for _, last in found) == 2 ** (bits - 1) - 1
        assert sum(last - first + 1 for first, last in found) == 2**bits


@pytest.mark.parametrize("bound", [b"", b"a0eebc99", b"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", b"\xff"])
def test_what_is_no_uuid_narrows_nothing(bound: bytes) -> None:
    assert narrowed("uuid", sql.Identifier("u"), bound, bound) is None
