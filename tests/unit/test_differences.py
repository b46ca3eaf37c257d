"""What differs between two documents is told exactly, briefly, and without saying more than it may."""

from __future__ import annotations

import json

import jsonpatch
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agui_pipelines import documents
from agui_pipelines.canonical import digest
from agui_pipelines.phases.differences import OPERATIONS, PATCHED, VALUE_BYTES, compare, description, patch
from agui_pipelines.phases.replay import deviation

NUMBERS = ["1", "1.0", "-0.0", "1e5", "100000", "0.1", "0.1000000000000000055", "123456789012345678901234567890"]
SCALARS = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(["true", "false", "null"]), st.text().map(json.dumps))


def _array(items):
    return f"[{','.join(items)}]"


def _object(members):
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in members.items()) + "}"


KEYS = st.one_of(st.sampled_from(["a", "b", "~/", "0"]), st.text(max_size=3))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(_array), st.dictionaries(KEYS, inner, max_size=4).map(_object)
    ),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=4).map(lambda members: _object(members).encode())


def value_of(document):
    return digest(document).canonical


@given(DOCUMENTS, DOCUMENTS)
def test_a_patch_leads_from_one_document_to_the_other_and_is_empty_for_equal_ones(before, after):
    operations = patch(before, after)

    result = jsonpatch.apply_patch(documents.loads(before), operations)
    assert value_of(documents.dumps(result)) == value_of(after)
    assert (operations == []) == (value_of(before) == value_of(after))


@given(DOCUMENTS, DOCUMENTS)
def test_a_delta_replays_even_with_its_nulls_dropped_and_only_to_its_own_state(before, after):
    operations = patch(before, after)
    dropped = [
        {name: value for name, value in operation.items() if name != "value" or value is not None}
        for operation in operations
    ]

    assert deviation(before, documents.dumps(dropped), after) is None
    other = b'{"another":"state"}'
    assert value_of(after) == value_of(other) or deviation(before, documents.dumps(dropped), other) is not None


@pytest.mark.parametrize(
    ("delta", "told"),
    [
        (b'[{"op":"replace","path":"/gone","value":1}]', "'replace /gone'"),
        (b'[{"op":"test","path":"/n","value":true}]', "'test /n'"),
        (b'[{"op":"fly","path":"/n"}]', "'fly /n'"),
        (b'["remove"]', "'?'"),
        (b"[7]", "'?'"),
        (b'[{"op":"add","path":7,"value":1}]', "'add 7'"),
        (b'[{"op":[],"path":"/n"}]', "'? /n'"),
        (b'[{"op":{"secret":"canary"},"path":["canary"]}]', "'? ?'"),
        (b'{"op":"remove","path":"/n"}', "no list"),
        (b"[{]", "cannot be replayed"),
        (b'[{"op":"replace","path":"/n","value":2}]', "another State, at /n"),
    ],
)
def test_what_deviates_is_told_without_contents(delta, told):
    reason = deviation(b'{"n":1,"secret":"canary"}', delta, b'{"n":3,"secret":"canary"}')

    assert reason is not None
    assert told in reason
    assert "canary" not in reason


def test_what_breaks_the_library_is_a_deviation_and_no_failure(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("canary")

    monkeypatch.setattr(jsonpatch.JsonPatch, "apply", broken)
    reason = deviation(b"{}", b'[{"op":"add","path":"/n","value":1}]', b'{"n":1}')
    assert reason is not None
    assert "ZeroDivisionError" in reason
    assert "canary" not in reason

    monkeypatch.setattr(jsonpatch.JsonPatch, "from_diff", broken)
    paths, told = compare(b"{}", b'{"n":1}')
    assert paths == ()
    assert told == {"unreadable": "It cannot be compared: ZeroDivisionError."}


def test_a_number_is_told_to_its_last_digit():
    before, after = (b'{"n":12345678901234567890123456789%d}' % n for n in (0, 1))

    paths, told = compare(before, after)

    assert paths == ("/n",)
    assert orjson.dumps(told["patch"]) == b'[{"op":"replace","path":"/n","value":123456789012345678901234567891}]'


def test_one_and_true_differ_and_one_and_one_point_nought_do_not():
    assert compare(b'{"a":1,"b":1}', b'{"a":true,"b":1.0}')[0] == ("/a",)


def test_long_values_and_long_patches_are_cut_and_their_length_told():
    before = b"{}"
    after = json.dumps({f"m{i:03}": "x" * 1000 for i in range(OPERATIONS + 5)}).encode()

    paths, told = compare(before, after)

    assert len(paths) == len(told["patch"]) == OPERATIONS
    assert told["patch_operations"] == OPERATIONS + 5
    assert len(told["patch"][0]["value_begins"]) == VALUE_BYTES
    assert told["patch"][0]["value_bytes"] == 1002


def test_of_a_large_document_the_members_that_differ_are_told():
    large = {"State": {"a/b": 1, "text": "x" * PATCHED, "same": [1]}, "gone": 1}
    other = {"State": {"a/b": 2, "text": "x" * PATCHED + "y", "same": [1.0]}, "new": 1}

    paths, told = compare(json.dumps(large).encode(), json.dumps(other).encode())

    assert sorted(paths) == ["/State/a~1b", "/State/text", "/gone", "/new"]
    assert told["too_large_to_patch"]
    assert told["differing_count"] == 4


def test_what_cannot_be_parsed_is_told_and_not_raised():
    assert compare(b"{}", b'{"half":')[0] == ()
    assert "unreadable" in compare(b"{}", b'{"half":')[1]
    assert description(b'{"half":')["members"] == []
    assert description(b'{"a":1,"b":2}')["members"] == ["a", "b"]
