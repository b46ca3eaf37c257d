from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines.records import STATE, VERSION, Kind
from agui_pipelines.transforms import chain

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


def ids(steps: list[Any], *given_: str) -> list[str]:
    batch = pa.RecordBatch.from_pylist([{"state_id": i, "data": b"{}"} for i in given_], schema=STATE)
    out = chain(steps, Path()).apply(Kind.STATE, batch, pytest.fail)
    assert out.schema.equals(STATE)
    found: list[str] = out.column("state_id").to_pylist()
    return found


@settings(max_examples=150, deadline=None)
@given(TEXT.filter(bool), st.lists(TEXT.filter(bool), max_size=6))
def test_a_prefix_that_was_added_can_be_stripped_again(prefix: str, given_: list[str]) -> None:
    assert ids([{"add_prefix": {"prefix": prefix}}], *given_) == [prefix + i for i in given_]
    assert ids([{"add_prefix": prefix}, {"strip_prefix": prefix}], *given_) == given_


def test_versions_follow_their_state(history: Any) -> None:
    row = {"state_id": "a", "version_id": "v", "data": b'{ "a" : 1 }', "delta": b"[ ]", "metadata": b"{}"}
    [out], rejects = history(Kind.VERSION, [{"add_prefix": "é:"}], row)
    assert rejects == []
    assert {name: out[name] for name in row} == {**row, "state_id": "é:a"}
    assert set(out) == set(VERSION.names)


@pytest.mark.parametrize(
    "options", [None, "", {}, {"prefix": ""}, {"prefix": 5}, {"prefix": "a", "x": 1}, ["a"], "\ud800"]
)
def test_without_a_prefix_it_is_refused(options: Any, refused: Any) -> None:
    said = refused({"add_prefix": options})
    assert said == "The transform 'add_prefix' needs a prefix: add_prefix: {prefix: \"tenant-1:\"}."


def test_another_prefix_is_another_fingerprint() -> None:
    one, other = (chain([{"add_prefix": prefix}], Path()).fingerprint for prefix in ("a", "b"))
    assert one != other
    # Two steps are not mistaken for one whose prefix looks like two.
    assert chain([{"add_prefix": "a"}, {"add_prefix": "b"}], Path()).fingerprint != one
    assert "a | add_prefix" not in chain([{"add_prefix": "a | add_prefix:b"}], Path()).fingerprint
