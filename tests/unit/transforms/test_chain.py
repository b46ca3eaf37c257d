from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agui_pipelines.errors import SpecError
from agui_pipelines.records import STATE, Kind, Reject
from agui_pipelines.transforms import chain


def states(*rows: tuple[str, bytes]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"state_id": i, "data": d} for i, d in rows], schema=STATE)


def test_no_steps_change_nothing(tmp_path: Path) -> None:
    steps = chain([], tmp_path)
    batch = states(("a", b"{}"))
    assert steps.identity
    assert steps.fingerprint == "identity"
    assert steps.apply(Kind.STATE, batch, lambda _: None) is batch


@pytest.mark.parametrize("steps", [["identity"], ["identity", {"identity": None}], [{"identity": {}}]])
def test_identity_steps_are_no_steps(steps: list[Any], tmp_path: Path) -> None:
    assert chain(steps, tmp_path).identity
    assert chain(steps, tmp_path).fingerprint == "identity"


def test_one_step_that_changes_something_makes_a_chain_that_does(tmp_path: Path) -> None:
    steps = chain(["identity", {"strip_prefix": {"prefix": "a"}}], tmp_path)
    assert not steps.identity
    assert steps.fingerprint == chain([{"strip_prefix": {"prefix": "a"}}], tmp_path).fingerprint


def test_steps_are_applied_in_order(tmp_path: Path) -> None:
    one = chain([{"strip_prefix": "a:"}, {"strip_prefix": "b:"}], tmp_path)
    other = chain([{"strip_prefix": "b:"}, {"strip_prefix": "a:"}], tmp_path)
    batch = states(("a:b:x", b"{}"))
    assert one.apply(Kind.STATE, batch, lambda _: None).column("state_id").to_pylist() == ["x"]
    assert other.apply(Kind.STATE, batch, lambda _: None).column("state_id").to_pylist() == ["b:x"]
    assert one.fingerprint != other.fingerprint


def test_what_one_step_rejects_the_next_one_does_not_see(tmp_path: Path) -> None:
    rejects: list[Reject] = []
    steps = chain([{"strip_prefix": "a"}, {"strip_prefix": "b"}], tmp_path)
    out = steps.apply(Kind.STATE, states(("a", b"{}"), ("ab", b"{}"), ("abc", b"{}")), rejects.append)
    assert out.column("state_id").to_pylist() == ["c"]
    assert [reject.id for reject in rejects] == [b"a", b"b"]


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ("nope", "There is no transform 'nope'. Known: add_migration_metadata, add_prefix, "),
        ({"nope": {}}, "There is no transform 'nope'."),
        ({"a": 1, "b": 2}, "A transform is a name, or one name with its options, not ['a', 'b']."),
        ({}, "A transform is a name, or one name with its options, not []."),
        ({"identity": {"a": 1}}, "The transform 'identity' takes no options."),
        ("strip_prefix", "The transform 'strip_prefix' needs a prefix"),
        ("python", "The transform 'python' needs a function"),
        ({1: 2}, "There is no transform '1'."),
        ({1: 2, "a": 3}, "A transform is a name"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(step: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        chain(["identity", step], tmp_path)
    assert sentence in str(caught.value)
