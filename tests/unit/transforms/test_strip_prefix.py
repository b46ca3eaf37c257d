from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines.errors import SpecError
from agui_pipelines.records import SCHEMAS, STATE, VERSION, Kind, Reject
from agui_pipelines.transforms import strip_prefix


def build(options: Any) -> strip_prefix.StripPrefix:
    return strip_prefix.build(options, Path())


def states(*ids: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"state_id": i, "data": f"{{{i!r}}}".encode()} for i in ids], schema=STATE)


def stripped(prefix: str, *ids: str) -> tuple[list[str], list[Reject]]:
    rejects: list[Reject] = []
    out = build({"prefix": prefix}).apply(Kind.STATE, states(*ids), rejects.append)
    assert out.schema.equals(STATE)
    return out.column("state_id").to_pylist(), rejects


@pytest.mark.parametrize(
    ("prefix", "before", "after"),
    [
        ("session:", "session:a", "a"),
        ("session:", "session:session:a", "session:a"),
        ("session:", "a", "a"),
        ("session:", "a session:", "a session:"),
        ("session:", "Session:a", "Session:a"),
        ("session:", "", ""),
        ("é", "éa", "a"),
        ("é", "e\u0301a", "e\u0301a"),
        ("😀:", "😀:東京", "東京"),
        ("東", "東東京", "東京"),
        (".*", ".*a", "a"),
        (".*", "xa", "xa"),
        ("%", "%a", "a"),
        ("\x00", "\x00a", "a"),
        (" ", " a", "a"),
    ],
)
def test_the_prefix_is_taken_off_the_ids_that_begin_with_it(prefix: str, before: str, after: str) -> None:
    assert stripped(prefix, before) == ([after], [])


@settings(max_examples=150, deadline=None)
@given(st.text("aé😀:", min_size=1, max_size=3), st.lists(st.text("aé😀:", max_size=6), max_size=8))
def test_it_is_what_removeprefix_does_but_for_what_would_be_left_empty(prefix: str, ids: list[str]) -> None:
    found, rejects = stripped(prefix, *ids)
    assert found == [i.removeprefix(prefix) for i in ids if i != prefix]
    assert [reject.id for reject in rejects] == [i.encode() for i in ids if i == prefix]


def test_an_id_that_is_nothing_but_the_prefix_is_rejected_with_its_document() -> None:
    found, (reject,) = stripped("é:", "é:a", "é:", "b")
    assert found == ["a", "b"]
    assert reject.id == "é:".encode()
    assert reject.raw == b"{'\xc3\xa9:'}"
    assert (reject.kind, reject.phase, reject.reason) == (Kind.STATE, "transform", "empty_id")
    assert "é:" in reject.detail


def test_the_other_columns_stay_with_their_rows() -> None:
    rows = [
        {"state_id": i, "version_id": f"v{i}", "timestamp": "t", "data": i.encode(), "delta": None, "parent_id": "p"}
        for i in ("p:a", "p:", "b", "p:c")
    ]
    rejects: list[Reject] = []
    out = build("p:").apply(Kind.VERSION, pa.RecordBatch.from_pylist(rows, schema=VERSION), rejects.append)
    assert out.schema.equals(VERSION)
    assert [(r["state_id"], r["version_id"], r["data"]) for r in out.to_pylist()] == [
        ("a", "vp:a", b"p:a"),
        ("b", "vb", b"b"),
        ("c", "vp:c", b"p:c"),
    ]
    assert [(r.kind, r.raw) for r in rejects] == [(Kind.VERSION, b"p:")]


def test_a_rejected_version_is_named_by_its_own_id_too() -> None:
    rows = [{"state_id": "p:", "version_id": v, "timestamp": "t", "data": b"{}", "parent_id": ""} for v in ("v1", "v2")]
    rejects: list[Reject] = []
    build("p:").apply(Kind.VERSION, pa.RecordBatch.from_pylist(rows, schema=VERSION), rejects.append)
    assert [reject.id for reject in rejects] == [b"p:/v1", b"p:/v2"]


@pytest.mark.parametrize("kind", list(Kind))
def test_an_empty_batch_stays_empty(kind: Kind) -> None:
    empty = pa.RecordBatch.from_pylist([], schema=SCHEMAS[kind])
    assert build("p").apply(kind, empty, lambda _: None).num_rows == 0


def test_a_slice_of_a_batch_is_stripped_like_a_batch_of_its_own() -> None:
    out = build("p").apply(Kind.STATE, states("pa", "pb", "p", "pd").slice(1, 3), lambda _: None)
    assert out.column("state_id").to_pylist() == ["b", "d"]


@pytest.mark.parametrize(
    "options",
    [None, "", {}, {"prefix": ""}, {"prefix": None}, {"prefix": 5}, {"prefx": "a"}, {"prefix": "a", "x": 1}, 5, ["a"]],
)
def test_without_a_prefix_it_is_refused(options: Any) -> None:
    with pytest.raises(SpecError, match="needs a prefix"):
        build(options)


def test_a_prefix_that_no_id_can_have_is_refused_or_strips_nothing() -> None:
    # YAML can hold a lone surrogate as an escape; UTF-8 ids cannot.
    try:
        step = build("\ud800")
    except SpecError:
        return
    out = step.apply(Kind.STATE, states("a"), lambda _: None)
    assert out.column("state_id").to_pylist() == ["a"]


def test_the_short_form_is_the_long_one() -> None:
    assert build("p:").fingerprint == build({"prefix": "p:"}).fingerprint != build("q:").fingerprint
    assert not build("p:").identity
