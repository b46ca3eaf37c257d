from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agui_pipelines.records import Kind
from agui_pipelines.transforms import chain


@pytest.mark.parametrize(
    ("paths", "before", "after"),
    [
        (["a"], b'{ "z": 1.50, "a": 2, "c": 1e400 }', b'{"z":1.50,"c":1E+400}'),
        (["a.b", "c"], b'{"a":{"b":1,"x":2},"c":3}', b'{"a":{"x":2}}'),
        (["a.b"], b'{"a":{"b":1}}', b'{"a":{}}'),
        (["/a~1b"], b'{"a/b":1,"a":{"b":2}}', b'{"a":{"b":2}}'),
        (["/a.b"], b'{"a.b":1,"a":{"b":2}}', b'{"a":{"b":2}}'),
        (["items.1.x"], b'{"items":[{"x":1},{"x":1}]}', b'{"items":[{"x":1},{}]}'),
        (["a", "a"], b'{"a":1}', b"{}"),
        (["a", "missing"], b'{"a":1}', b"{}"),
    ],
)
def test_members_are_dropped(paths: list[str], before: bytes, after: bytes, apply: Any) -> None:
    assert apply({"drop_fields": paths}, ("s", before)) == ([("s", after)], [])


@pytest.mark.parametrize(
    "document", [b"{ }", b'{ "b": {"a": 1e5}, "b": 1 }', b'{ "x" : "text" }', b'{ "x" : [1] }', b'{ "x":null }']
)
def test_a_document_without_them_keeps_its_bytes(document: bytes, apply: Any) -> None:
    paths = ["a", "x.y", "x.y.z", "x.1", "x.5.y"]
    assert apply({"drop_fields": paths}, ("s", document)) == ([("s", document)], [])


def test_an_item_of_an_array_is_not_dropped_but_rejected(apply: Any) -> None:
    kept, [reject] = apply({"drop_fields": ["x.0"]}, ("s", b'{"x":[1,2]}'), ("t", b'{"x":{"0":1}}'))
    assert kept == [("t", b'{"x":{}}')]
    assert (reject.id, reject.raw, reject.reason) == (b"s", b'{"x":[1,2]}', "array_item")
    assert "'/x/0'" in reject.detail


def test_versions_lose_the_member_and_keep_the_delta(history: Any) -> None:
    row = {"state_id": "s", "version_id": "v", "data": b'{"a":1}', "delta": b'[{"op":"add","path":"/a","value":1}]'}
    [out], _ = history(Kind.VERSION, [{"drop_fields": ["a"]}], row)
    assert (out["data"], out["delta"]) == (b"{}", row["delta"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (None, "needs a list of paths"),
        ([], "needs a list of paths"),
        ("a", "needs a list of paths"),
        ({"a": 1}, "needs a list of paths"),
        ([5], "cannot use the path '5'"),
        ([""], "cannot use the path ''"),
        (["a."], "(an empty name)"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, sentence: str, refused: Any) -> None:
    said = refused({"drop_fields": options})
    assert sentence in said
    assert "drop_fields: [cache, user.token, /a~1b]" in said


def test_the_paths_are_in_the_fingerprint() -> None:
    steps = [["a"], ["b"], ["a", "b"], ["a.b"], ["/a.b"]]
    assert len({chain([{"drop_fields": paths}], Path()).fingerprint for paths in steps}) == len(steps)
