"""What a bucket lets through in any ten seconds is its rate, whatever the threads that ask are doing otherwise."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agui_pipelines.pace import TokenBucket

WINDOW = 10.0
RATES = st.one_of(st.integers(1, 200_000).map(float), st.floats(0.5, 5000))


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def passed(bucket, clock, seconds, shares, late, work):
    """When how many states went through: a share of a portion at a time, waiting as told, `late`, with `work` after it."""
    found, end, turn = [], clock.now + seconds, 0
    while clock.now < end:
        count = max(1, int(bucket.portion() * shares[turn % len(shares)]))
        wait = bucket.take(count)
        if wait:
            clock.now += wait + late[turn % len(late)]
        else:
            found.append((clock.now, count))
            clock.now += work[turn % len(work)]
            turn += 1
    return found


def most(found, seconds=WINDOW):
    """The most states that went through within any so many seconds."""
    times = [at for at, _ in found]
    sums = [0]
    for _, count in found:
        sums.append(sums[-1] + count)
    return max(sums[bisect_left(times, at + seconds)] - sums[i] for i, at in enumerate(times))


def least(found, seconds=WINDOW):
    """The fewest, of spans that begin right after something went through."""
    times = [at for at, _ in found]
    counts = [
        sum(count for at, count in found[i + 1 :] if at <= first + seconds)
        for i, first in enumerate(times)
        if first + seconds <= times[-1]
    ]
    return min(counts)


def within(rate):
    """Five percent of what ten seconds hold; but a state is not divided."""
    return max(0.05 * rate * WINDOW, 1.5)


@settings(deadline=None, max_examples=100)
@given(
    RATES,
    st.lists(st.floats(0.2, 1), min_size=1, max_size=5),
    st.lists(st.floats(0, 30), min_size=1, max_size=5),
    st.lists(st.floats(0, 12), min_size=1, max_size=5),
)
@example(1000.0, [1.0], [0.0], [0.0])
@example(1000.0, [1.0], [0.0, 0.0, 25.0], [0.0])
def test_no_ten_seconds_hold_more_than_the_rate(rate, shares, late, work):
    clock = Clock()
    bucket = TokenBucket(clock)
    bucket.set_rate(rate)
    clock.now += 100  # nothing is saved up

    found = passed(bucket, clock, 25, shares, late, work)

    assert most(found) <= rate * WINDOW + within(rate)


@settings(deadline=None, max_examples=50)
@given(RATES, st.lists(st.floats(0, 0.1), min_size=1, max_size=5), st.lists(st.floats(0, 0.05), min_size=1, max_size=5))
def test_who_is_ready_in_time_gets_the_whole_rate(rate, late, work):
    clock = Clock()
    bucket = TokenBucket(clock)
    bucket.set_rate(rate)

    found = passed(bucket, clock, 25, [1.0], late, work)

    assert least(found) >= rate * WINDOW - within(rate)


def test_another_rate_holds_at_once_also_for_what_is_owed():
    clock = Clock()
    bucket = TokenBucket(clock)
    bucket.set_rate(0.01)
    assert bucket.take(1) == 0
    assert bucket.take(1) == pytest.approx(100)

    bucket.set_rate(100)
    assert bucket.take(1) == pytest.approx(0.01)
    clock.now += 0.01
    assert most(passed(bucket, clock, 25, [1.0], [0.0], [0.0])) <= 1050

    bucket.set_rate(10)
    assert most(passed(bucket, clock, 25, [1.0], [0.0], [0.0])) <= 105


def test_without_a_rate_everything_goes_through():
    bucket = TokenBucket(Clock())
    assert [bucket.take(10**9) for _ in range(3)] == [0, 0, 0]
    assert bucket.portion() > 10**9

    bucket.set_rate(5)
    assert (bucket.take(1), bucket.portion()) == (0, 1)
    bucket.set_rate(None)
    assert bucket.take(10**9) == 0


def test_what_was_taken_at_a_high_rate_is_not_waited_for_at_a_low_one():
    now = [0.0]
    bucket = TokenBucket(clock=lambda: now[0])
    bucket.set_rate(10_000)
    assert bucket.take(bucket.portion()) == 0

    bucket.set_rate(10)

    assert bucket.take(bucket.portion()) == pytest.approx(0.1)
    now[0] = 0.1
    assert bucket.take(bucket.portion()) == 0
