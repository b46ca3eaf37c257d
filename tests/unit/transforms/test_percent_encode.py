from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agui_pipelines.records import Kind
from agui_pipelines.stores.file_layout import name_problem
from agui_pipelines.transforms import chain
from agui_pipelines.transforms.percent_encode import decoded, encoded
from agui_pipelines.transforms.rewriting import RejectedError

IDS = st.text(
    st.one_of(st.sampled_from("./%\x00\x1f\x7f\x85aA02Fé"), st.characters(codec="utf-8")), min_size=1, max_size=20
)


@settings(max_examples=500, deadline=None)
@given(IDS)
@example("..")
@example("%2F")
@example("a%")
def test_whatever_is_encoded_is_storable_and_comes_back(state_id: str) -> None:
    name = encoded(state_id)
    assert name_problem(name) is None
    assert len(name) >= len(state_id)
    assert not name.startswith(".")
    assert decoded(name) == state_id


@settings(max_examples=500, deadline=None)
@given(IDS)
@example("%2f")
@example("%41")
@example("%C2")
@example("%")
def test_what_can_be_decoded_is_what_encoding_writes(name: str) -> None:
    try:
        state_id = decoded(name)
    except RejectedError:
        return
    assert encoded(state_id) == name


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("plain-id:é東😀 +\\*?", "plain-id:é東😀 +\\*?"),
        ("a/b", "a%2Fb"),
        ("a\0b\n\x7f", "a%00b%0A%7F"),
        ("\x85", "%C2%85"),
        ("..", "%2E%2E"),
        (".a.b.", "%2Ea.b."),
        ("50%", "50%25"),
        ("../../x", "%2E%2E%2F..%2Fx"),
        ("", ""),
    ],
)
def test_only_what_no_file_name_may_hold_is_encoded(before: str, after: str, apply: Any) -> None:
    assert apply("percent_encode", (before, b"{ }")) == ([(after, b"{ }")], [])
    assert apply({"percent_encode": {"decode": True}}, (after, b"{ }")) == ([(before, b"{ }")], [])


@pytest.mark.parametrize("name", ["%zz", "%", "a%4", "a%41", "%2f", "a/b", ".a", "%FF", "%C2", "a.%2E", "\n"])
def test_what_encoding_never_writes_is_rejected_and_not_guessed(name: str, apply: Any) -> None:
    kept, [reject] = apply({"percent_encode": {"decode": True}}, (name, b"{}"), ("a%2Fb", b"{}"))
    assert kept == [("a/b", b"{}")]
    assert (reject.id, reject.reason) == (name.encode(), "not_encoded")
    assert repr(name) in reject.detail


def test_versions_follow_their_state(history: Any) -> None:
    [out], _ = history(Kind.VERSION, ["percent_encode"], {"state_id": "a/b", "version_id": "v/1", "data": b"{}"})
    assert (out["state_id"], out["version_id"]) == ("a%2Fb", "v/1")


@pytest.mark.parametrize("options", [5, "decode", True, {"decode": 1}, {"decode": "true"}, {"encode": True}, []])
def test_other_options_are_refused(options: Any, refused: Any) -> None:
    assert refused({"percent_encode": options}) == (
        "The transform 'percent_encode' takes nothing but decode, true or false: percent_encode: {decode: true}."
    )


def test_the_direction_is_in_the_fingerprint() -> None:
    steps = [None, {"decode": True}, {"decode": False}]
    one, other, same = (chain([{"percent_encode": options}], Path()).fingerprint for options in steps)
    assert one == same != other
