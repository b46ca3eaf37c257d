"""`flatten_metadata` and `unflatten_metadata`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines import documents
from agui_pipelines.records import STATE, Kind, Reject
from agui_pipelines.transforms import chain

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**30), 10**30),
        st.decimals(allow_nan=False, allow_infinity=False),
        st.text(max_size=4),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.one_of(st.sampled_from(["a", "meta", "Metadata", "é"]), st.text(max_size=5)).filter(
    lambda key: not key.startswith("meta_") and key != "metadata"
)
METADATA = st.one_of(VALUES, st.dictionaries(st.text(max_size=5), VALUES, max_size=4))


def through(steps: list[str], document: bytes) -> tuple[list[bytes], list[Reject]]:
    rejects: list[Reject] = []
    batch = pa.RecordBatch.from_pylist([{"state_id": "s", "data": document}], schema=STATE)
    out = chain(list(steps), Path()).apply(Kind.STATE, batch, rejects.append)
    return out.column("data").to_pylist(), rejects


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=3), METADATA, st.dictionaries(KEYS, VALUES, max_size=3))
def test_what_was_flattened_comes_back_with_its_members_in_their_places(
    before: dict[str, Any], metadata: Any, after: dict[str, Any]
) -> None:
    document = documents.dumps({**before, "metadata": metadata, **after})
    [flat], _ = through(["flatten_metadata"], document)
    assert ("metadata" in documents.loads(flat)) == (not isinstance(metadata, dict) or not metadata)
    assert through(["unflatten_metadata"], flat) == ([document], [])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=3), st.dictionaries(st.text(max_size=4), VALUES, min_size=1, max_size=4))
def test_what_was_gathered_comes_back(others: dict[str, Any], members: dict[str, Any]) -> None:
    document = documents.dumps({**others, **{f"meta_{key}": value for key, value in members.items()}})
    assert through(["unflatten_metadata", "flatten_metadata"], document) == ([document], [])


@pytest.mark.parametrize(
    "document",
    [
        b'{ "metadata" : [1.0e5] }',
        b'{ "metadata" : "text", "meta_a": 1 }',
        b'{ "metadata" : null }',
        b'{ "metadata" : { } , "meta_a": 1 }',
        b'{ "meta_a" : 1 }',
        b"{ }",
        b'{ "inner" : {"metadata": {"a": 1}}, "inner" : 2 }',
    ],
)
def test_a_document_without_metadata_to_flatten_keeps_its_bytes(document: bytes) -> None:
    assert through(["flatten_metadata"], document) == ([document], [])


@pytest.mark.parametrize("document", [b'{ "metadata" : {"a": 1e5} }', b'{"meta": 1 }', b'{"x" : {"meta_a": 1}}'])
def test_a_document_without_members_to_gather_keeps_its_bytes(document: bytes) -> None:
    assert through(["unflatten_metadata"], document) == ([document], [])


@pytest.mark.parametrize(
    ("step", "document", "named"),
    [
        ("flatten_metadata", b'{"meta_b": 1, "metadata": {"a": 1, "b": 1}}', "'meta_b'"),
        ("flatten_metadata", b'{"metadata": {"": null}, "meta_": null}', "'meta_'"),
        ("unflatten_metadata", b'{"meta_b": 1, "metadata": {"a": 1}}', "'metadata' and 'meta_b'"),
        ("unflatten_metadata", b'{"metadata": null, "meta_b": 1}', "'metadata' and 'meta_b'"),
    ],
)
def test_nothing_is_overwritten(step: str, document: bytes, named: str) -> None:
    kept, [reject] = through([step], document)
    assert kept == []
    assert (reject.id, reject.raw, reject.reason) == (b"s", document, "member_exists")
    assert named in reject.detail
    assert reject.detail.startswith(f"{step}: ")


def test_the_documents_of_versions_are_flattened_and_all_else_of_them_is_kept(history: Any) -> None:
    row = {
        "state_id": "s",
        "version_id": "v",
        "data": b'{"metadata":{"a":1}}',
        "delta": b'[{"op":"add","path":"/metadata/a","value":1}]',
        "metadata": b'{ "state_id":"s" }',
    }
    [out], _ = history(Kind.VERSION, ["flatten_metadata"], row)
    assert {name: out[name] for name in row} == {**row, "data": b'{"meta_a":1}'}


@pytest.mark.parametrize("step", ["flatten_metadata", "unflatten_metadata"])
def test_options_are_refused(step: str, refused: Any) -> None:
    assert refused({step: {"prefix": "x"}}) == f"The transform '{step}' takes no options."
