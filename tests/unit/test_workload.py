from __future__ import annotations

import json
from collections import Counter
from itertools import islice

import pytest
import redis

from agui_pipelines import documents
from agui_pipelines.canonical import UNUSABLE, Trait, canonical_number, digest
from agui_pipelines.embedded.workload import PREFIX, LegacyState, fill, legacy_states

COUNT = 2000


@pytest.fixture(scope="module")
def states() -> list[LegacyState]:
    return list(legacy_states(COUNT))


def is_object(value: str) -> bool:
    return not digest(value.encode()).traits & UNUSABLE


def test_the_workload_is_the_same_for_a_seed_and_another_one_for_another(states: list[LegacyState]) -> None:
    assert list(legacy_states(COUNT, seed=7)) == states
    assert list(legacy_states(50, seed=8)) != states[:50]


def test_a_smaller_workload_is_the_beginning_of_a_larger_one(states: list[LegacyState]) -> None:
    assert list(legacy_states(100)) == states[:100]
    assert list(islice(legacy_states(10**9), 100)) == states[:100]


def test_keys_are_sorted_distinct_and_begin_with_the_prefix(states: list[LegacyState]) -> None:
    keys = [state.key for state in states]
    assert keys == sorted(set(keys))
    assert all(key.startswith(PREFIX) and len(key) > len(PREFIX) for key in keys)


def test_most_values_are_json_objects_and_a_few_plain_strings(states: list[LegacyState]) -> None:
    plain = [state.value for state in states if not is_object(state.value)]
    assert 0 < len(plain) <= COUNT // 50
    assert any(digest(value.encode()).traits & Trait.INVALID for value in plain)
    assert any(digest(value.encode()).traits & Trait.NOT_OBJECT for value in plain)


def test_some_keys_expire(states: list[LegacyState]) -> None:
    ttls = [state.ttl for state in states if state.ttl is not None]
    assert 0 < len(ttls) < COUNT // 10
    assert all(3600 <= ttl < 86_400 for ttl in ttls)


def test_the_awkward_values_hold_what_parsers_of_doubles_lose(states: list[LegacyState]) -> None:
    awkward = [state.value for state in states if digest(state.value.encode()).traits & Trait.DUPLICATE_KEYS]
    assert len(awkward) >= COUNT // 200
    for value in awkward:
        numbers = documents.members(value.encode())
        for name in ("snowflake", "balance", "tiny"):
            through_double = repr(float(numbers[name]))
            assert canonical_number(through_double) != canonical_number(numbers[name].decode()), name
        for name in ("zero", "rounded", "limit"):
            assert canonical_number(numbers[name].decode()) != numbers[name].decode(), name
    # And none of it is what PostgreSQL would refuse: the demo is to go through.
    refused = Trait.NUL | Trait.LONE_SURROGATE | Trait.EXTREME_NUMBER
    assert not any(digest(state.value.encode()).traits & refused for state in states)


def test_some_integers_are_above_two_to_the_53rd(states: list[LegacyState]) -> None:
    ids = [json.loads(s.value)["user"]["id"] for s in states if is_object(s.value)]
    assert any(float(id_) != id_ for id_ in ids)


def test_values_are_spelled_by_different_writers(states: list[LegacyState]) -> None:
    spelled: Counter[str] = Counter()
    for state in filter(lambda s: is_object(s.value), states):
        spelled["spaced" if '": ' in state.value else "compact"] += 1
        spelled["escaped" if "\\u" in state.value else "raw"] += not state.value.isascii() or "\\u" in state.value
    assert min(spelled["spaced"], spelled["compact"], spelled["escaped"], spelled["raw"]) >= COUNT // 50


@pytest.mark.parametrize("text_bytes", [300, 600, 3000])
def test_values_have_about_the_text_that_is_asked_for(text_bytes: int) -> None:
    sizes = [len(state.value.encode()) for state in legacy_states(300, text_bytes=text_bytes) if is_object(state.value)]
    assert text_bytes / 2 < sum(sizes) / len(sizes) - 300 < text_bytes * 2


def test_filling_a_redis_writes_every_state_with_its_expiry_and_tells_the_bytes(redis_url: str) -> None:
    count = 1234  # not a multiple of what is sent at once
    expected = list(legacy_states(count))
    with redis.Redis.from_url(redis_url) as client:
        assert fill(client, count) == sum(len(state.value.encode()) for state in expected)
        assert client.dbsize() == count
        for state in expected[:100]:
            assert client.get(state.key) == state.value.encode()
            ttl = client.ttl(state.key)
            assert (ttl == -1) if state.ttl is None else (state.ttl - 60 <= ttl <= state.ttl)
