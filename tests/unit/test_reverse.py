"""The way back of a migration: its ends swapped, its transforms turned round, or a refusal that says what to do."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines import spec
from agui_pipelines.errors import RefusedError
from agui_pipelines.phases.reverse import inverse, reverse
from agui_pipelines.records import STATE, Kind
from agui_pipelines.transforms import chain

MINIMAL = {"name": "m", "source": {"type": "redis"}, "target": {"type": "file"}}


def migration(**changes):
    return spec.parse({**MINIMAL, **changes})


def there_and_back(steps, states, tmp_path):
    """What becomes of states that go through some transforms and then through their inverse."""
    rows = [{"state_id": id_, "data": data, "metadata": None} for id_, data in states]
    batch = pa.RecordBatch.from_pylist([{name: row.get(name) for name in STATE.names} for row in rows], STATE)
    rejects = []
    for chained in (chain(steps, tmp_path), chain(inverse(steps), tmp_path)):
        batch = chained.apply(Kind.STATE, batch, rejects.append)
    assert rejects == []
    return list(zip(batch.column("state_id").to_pylist(), batch.column("data").to_pylist(), strict=True))


REVERSIBLE = [
    ["identity"],
    [{"add_prefix": {"prefix": "tenant:"}}],
    ["percent_encode"],
    [{"rename_ids": "a-{id}/z{{}}"}],
    [{"rename_ids": {"template": "(?P<x>.*){id}"}}],
    [{"rename_fields": {"a": "b", "n": "c", "/o/x.y": "top"}}],
    [{"rename_fields": {"o.p": "o.q", "o.q": "o.r"}}],
    [{"add_prefix": {"prefix": "a/"}}, "percent_encode", {"rename_ids": "x{id}"}, {"rename_fields": {"a": "b"}}],
]


@pytest.mark.parametrize("steps", REVERSIBLE, ids=str)
@given(ids=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), unique=True, max_size=8))
@settings(max_examples=25, deadline=None)
def test_an_inverse_brings_every_id_and_document_back(steps, ids, tmp_path_factory):
    states = [(id_, b'{"a":{"x":1.0},"n":10000000000000000000001,"o":{"p":1,"x.y":[]}}') for id_ in ids]

    assert there_and_back(steps, states, tmp_path_factory.getbasetemp()) == states


def test_a_prefix_that_was_stripped_is_added_again(tmp_path):
    states = [("session:1", b"{}"), ("session:session:2", b"{}")]

    assert there_and_back([{"strip_prefix": {"prefix": "session:"}}], states, tmp_path) == states


@pytest.mark.parametrize(
    "step",
    [
        {"drop_fields": ["a"]},
        {"set_fields": {"a": 1}},
        {"python": "shapes:upgrade"},
        {"rename_ids": {"pattern": "s:(?P<user>[^:]+):(?P<n>.+)", "template": "{user}-{n}"}},
        {"rename_ids": "{id}{id}"},
        {"rename_fields": {"a": "b.c"}},
        {"rename_fields": {"a": "c", "b": "c"}},
    ],
    ids=str,
)
def test_a_transform_without_an_inverse_is_named_with_the_two_ways_out(step):
    with pytest.raises(RefusedError, match=f"'{next(iter(step))}' has no inverse") as refused:
        reverse(migration(transforms=[step]))

    assert "reverse_transforms" in refused.value.remedy
    assert "--no-way-back" in refused.value.remedy


def test_reverse_transforms_take_the_place_of_all_inverses():
    step = {"python": "shapes:upgrade"}
    back = reverse(migration(transforms=[step], reverse_transforms=[{"python": "shapes:downgrade"}]))

    assert back.transforms == ({"python": "shapes:downgrade"},)


def test_the_ends_are_swapped_and_the_ledger_is_another():
    forward = migration(keep=["timestamps"], history_limit=3, transforms=[{"strip_prefix": {"prefix": "p:"}}])
    back = reverse(forward)

    assert (back.name, back.source, back.target) == ("m-back", forward.target, forward.source)
    assert back.transforms == ({"add_prefix": {"prefix": "p:"}},)
    assert (back.keep, back.restore_kept, back.history_limit) == ((), True, None)
    assert back.text["source"] == forward.text["target"]
    assert back.fingerprint != forward.fingerprint
    assert back.folder == forward.folder


@pytest.mark.parametrize(
    "source",
    [{"type": "jsonl", "path": "x", "id": "a"}, {"type": "redis_keys", "redis_cluster": True}],
    ids=lambda s: s["type"],
)
def test_a_source_that_is_only_read_has_no_way_back(source):
    with pytest.raises(RefusedError, match=f"no way back to a source of the type {source['type']}") as refused:
        reverse(migration(source=source))

    assert "--no-way-back" in refused.value.remedy


def test_what_documents_carried_and_lost_cannot_be_put_back_exactly():
    with pytest.raises(RefusedError, match="restore_kept"):
        reverse(migration(restore_kept=True))


def test_a_foreign_redis_has_a_way_back():
    assert reverse(migration(source={"type": "redis_keys"})).target.type == "redis_keys"
