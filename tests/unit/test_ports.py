from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines.ports import Place, Written

REDIS = Place("redis", "run-1", "0", "session:")


@pytest.mark.parametrize(
    ("other", "overlaps"),
    [
        (REDIS, True),
        (Place("redis", "run-1", "0", ""), True),
        (Place("redis", "run-1", "0", "session:a"), True),
        (Place("redis", "run-1", "0", "sess"), True),
        (Place("redis", "run-1", "0", "ag-ui:state:"), False),
        (Place("redis", "run-1", "0", "session;"), False),
        (Place("redis", "run-1", "1", "session:"), False),
        (Place("redis", "run-2", "0", "session:"), False),
        (Place("postgresql", "run-1", "0", "session:"), False),
    ],
)
def test_places_overlap_when_a_key_could_belong_to_both(other: Place, *, overlaps: bool) -> None:
    assert REDIS.overlaps(other) is overlaps


places = st.builds(
    Place, st.sampled_from(["redis", "file"]), st.sampled_from("ab"), st.sampled_from("01"), st.text("ab:", max_size=4)
)


@settings(deadline=None)
@given(places, places)
def test_overlapping_works_both_ways(one: Place, other: Place) -> None:
    assert one.overlaps(other) == other.overlaps(one)
    assert one.overlaps(one)


@settings(deadline=None)
@given(st.text("ab", max_size=4), st.text("ab", max_size=4), st.text("ab", max_size=8))
def test_places_that_share_a_key_overlap(one: str, other: str, key: str) -> None:
    if key.startswith(one) and key.startswith(other):
        assert Place("redis", "s", "0", one).overlaps(Place("redis", "s", "0", other))


def test_what_was_written_adds_up() -> None:
    written = Written(1, 2, 3) + Written(10, 20, 30)
    assert written == Written(11, 22, 33)
    assert written.total == 66
    assert Written().total == 0
