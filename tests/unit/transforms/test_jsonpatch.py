from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agui_pipelines.records import Kind
from agui_pipelines.transforms import chain


def patch(*operations: Any) -> Any:
    return {"jsonpatch": [dict(zip(("op", "path", "value"), each, strict=False)) for each in operations]}


MOVE = {"op": "move", "from": "/a", "path": "/b"}


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        (patch(("add", "/a", 1)), b'{ "b": 1.50 }', b'{"b":1.50,"a":1}'),
        (patch(("add", "/a/1", {"n": 0.1})), b'{"a":[1,2]}', b'{"a":[1,{"n":0.1},2]}'),
        (patch(("remove", "/a/0")), b'{"a":[1,2]}', b'{"a":[2]}'),
        (patch(("replace", "/a~1b", None)), b'{"a/b":1}', b'{"a/b":null}'),
        ({"jsonpatch": [MOVE]}, b'{"a":123456789012345678901234567890}', b'{"b":123456789012345678901234567890}'),
        ({"jsonpatch": [{**MOVE, "op": "copy"}]}, b'{"a":0.10}', b'{"a":0.10,"b":0.10}'),
        (patch(("replace", "", {"x": 1})), b'{"a":1}', b'{"x":1}'),
        ({"jsonpatch": [{"op": "move", "from": "/a", "path": ""}]}, b'{"a":{"x":1}}', b'{"x":1}'),
    ],
)
def test_a_patch_is_applied(step: Any, before: bytes, after: bytes, apply: Any) -> None:
    assert apply(step, ("s", before)) == ([("s", after)], [])


@pytest.mark.parametrize(
    ("step", "document"),
    [
        (patch(("test", "/a", 1)), b'{ "a" : 1.0 }'),
        (patch(("add", "/a", 1)), b'{ "a" : 1 }'),
        (patch(("add", "/b", 1), ("remove", "/b")), b'{ "a" : 1e5, "a" : 2 }'),
    ],
)
def test_a_document_that_ends_as_it_was_keeps_its_bytes(step: Any, document: bytes, apply: Any) -> None:
    assert apply(step, ("s", document)) == ([("s", document)], [])


def test_another_spelling_of_a_number_is_a_change(apply: Any) -> None:
    assert apply(patch(("add", "/a", 1)), ("s", b'{"a":1.0}')) == ([("s", b'{"a":1}')], [])


@pytest.mark.parametrize(
    ("step", "document", "told"),
    [
        (patch(("test", "/a", 1)), b'{"a":2}', "'test /a'"),
        (patch(("test", "/a", 1)), b'{"a":true}', "'test /a'"),
        (patch(("test", "/a", 0.1)), b'{"a":0.1000000000000000055}', "'test /a'"),
        (patch(("test", "/a", None)), b"{}", "'test /a'"),
        (patch(("add", "/x", 1), ("remove", "/a")), b'{"b":"secret"}', "'remove /a'"),
        (patch(("replace", "/a", 1)), b"{}", "'replace /a'"),
        (patch(("add", "/a/b", 1)), b'{"a":"secret"}', "'add /a/b'"),
        (patch(("add", "/a/5", 1)), b'{"a":[]}', "'add /a/5'"),
        (patch(("add", "/a/x", 1)), b'{"a":[]}', "'add /a/x'"),
        ({"jsonpatch": [MOVE]}, b"{}", "'move /b'"),
        ({"jsonpatch": [{**MOVE, "path": "/a/x"}]}, b'{"a":{}}', "'move /a/x'"),
        (patch(("replace", "", [1])), b'{"a":1}', "no object"),
        (patch(("remove", "")), b'{"a":1}', "'remove '"),
    ],
)
def test_a_document_to_which_it_does_not_apply_is_rejected(step: Any, document: bytes, told: str, apply: Any) -> None:
    kept, [reject] = apply(step, ("s", document))
    assert kept == []
    assert (reject.id, reject.raw, reject.reason) == (b"s", document, "patch_failed")
    assert told in reject.detail
    assert "secret" not in reject.detail


def test_one_document_does_not_show_in_the_next(apply: Any) -> None:
    step = patch(("add", "/list", []), ("add", "/list/-", 1))
    kept, _ = apply(step, ("1", b"{}"), ("2", b"{}"))
    assert [data for _, data in kept] == [b'{"list":[1]}', b'{"list":[1]}']


def test_versions_are_patched_and_keep_the_delta(history: Any) -> None:
    rows = [
        {"state_id": "s", "version_id": v, "data": data, "delta": b'[{"op":"remove","path":"/a"}]'}
        for v, data in (("v1", b'{"a":1}'), ("v2", b"{}"))
    ]
    [out], [reject] = history(Kind.VERSION, [patch(("remove", "/a"))], *rows)
    assert (out["data"], out["delta"]) == (b"{}", rows[0]["delta"])
    assert (reject.kind, reject.id) == (Kind.VERSION, b"s/v2")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (None, "needs a list of operations"),
        ([], "needs a list of operations"),
        ({"op": "add"}, "needs a list of operations"),
        (["add"], "operation 1 is none"),
        ([{"path": "/a"}], "operation 1 is none"),
        ([MOVE, {"op": "merge", "path": "/a"}], "operation 2 is none"),
        ([{"op": ["add"], "path": "/a"}], "operation 1 is none"),
        ([{"op": "add", "path": "/a"}], "needs 'value' for operation 1, add"),
        ([{"op": "remove"}], "needs 'path' for operation 1, remove"),
        ([{"op": "move", "path": "/a"}], "needs 'from' for operation 1, move"),
        ([{"op": "remove", "path": "a"}], "needs a JSON pointer as 'path' of operation 1"),
        ([{"op": "remove", "path": 5}], "needs a JSON pointer as 'path' of operation 1"),
        ([{**MOVE, "from": "a/b"}], "needs a JSON pointer as 'from' of operation 1"),
        ([{"op": "add", "path": "/a", "value": float("nan")}], "takes JSON values only, not float"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, sentence: str, refused: Any) -> None:
    said = refused({"jsonpatch": options})
    assert sentence in said
    assert "jsonpatch: [{op: replace, path: /kind, value: chat}" in said


def test_the_operations_and_their_order_are_in_the_fingerprint() -> None:
    one, other = ("add", "/a", 1), ("add", "/a", 1.0)
    steps = [patch(one), patch(other), patch(one, other), patch(other, one)]
    assert len({chain([step], Path()).fingerprint for step in steps}) == len(steps)
