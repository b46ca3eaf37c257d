"""An estimate follows from rounds of two sizes, and covers what they differed by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agui_pipelines.phases.estimate import Taken, parts

SECONDS = st.floats(0, 1000)


def taken(keys: int, *, once: float = 0.0, fixed: float = 2.0, per_key: float = 0.001) -> Taken:
    return Taken(keys, once + fixed + per_key * keys)


def test_rounds_that_follow_the_model_give_its_parts_back() -> None:
    found = parts(taken(100, once=5.0), [taken(1_000), taken(10_000), taken(1_000), taken(10_000)])

    assert found.once == pytest.approx(5.0)
    assert found.fixed == pytest.approx(2.0)
    assert found.per_key.expected == pytest.approx(0.001)
    assert found.of(200_000).expected == pytest.approx(207.0)


def test_what_is_done_once_is_not_taken_for_a_part_of_each_key() -> None:
    found = parts(taken(100, once=30.0), [taken(1_000), taken(10_000)])

    assert found.of(1_000_000).expected == pytest.approx(30 + 2 + 1000)


def test_rounds_that_disagree_widen_the_range() -> None:
    agreeing = parts(taken(100), [taken(1_000), taken(10_000), taken(1_000), taken(10_000)]).of(200_000)
    differing = parts(taken(100), [taken(1_000), taken(10_000), taken(1_000), taken(10_000, fixed=4.0)]).of(200_000)

    assert differing.high - differing.low > agreeing.high - agreeing.low


def test_a_smaller_sample_that_took_longer_gives_no_negative_part() -> None:
    found = parts(Taken(10, 1.0), [Taken(100, 9.0), Taken(1_000, 3.0)])

    assert found.per_key.expected == 0.0
    assert found.of(10**6).low >= 0.0


def test_what_is_waited_for_once_passes_while_something_else_is_done() -> None:
    found = parts(taken(100, once=10.0), [taken(1_000), taken(10_000)])

    assert found.overlapping(ready=12.0, elapsed=4.0).once == pytest.approx(8.0)
    assert found.overlapping(ready=12.0, elapsed=40.0).once == 0.0
    assert found.overlapping(ready=100.0, elapsed=0.0).once == pytest.approx(10.0)


@given(
    SECONDS, st.lists(SECONDS, min_size=2, max_size=2), st.lists(SECONDS, min_size=2, max_size=2), st.integers(1, 10**9)
)
def test_a_range_holds_what_is_expected_wherever_the_smaller_rounds_were_the_quicker(first, small, large, keys) -> None:
    if max(small) <= min(large):
        rounds = [Taken(1_000, s) for s in small] + [Taken(10_000, s) for s in large]
        found = parts(Taken(100, first), rounds).of(keys)

        assert 0.0 <= found.low <= found.expected * (1 + 1e-9) + 1e-9
        assert found.expected <= found.high * (1 + 1e-9) + 1e-9


def test_one_size_alone_is_taken_as_it_is() -> None:
    found = parts(Taken(1, 3.0), [Taken(1, 2.0), Taken(1, 2.0)])

    assert found.of(1).expected == pytest.approx(3.0)


def test_one_size_of_few_of_many_keys_is_taken_to_be_the_keys() -> None:
    found = parts(Taken(1, 2.0), [Taken(1, 2.0), Taken(1, 2.0)])

    assert found.of(1_000).expected == pytest.approx(2_000.0)
