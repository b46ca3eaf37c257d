from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agui_pipelines.records import Kind
from agui_pipelines.transforms import chain


@pytest.mark.parametrize(
    ("renames", "before", "after"),
    [
        ({"a": "b"}, b'{ "x": 1.50, "a": {"a": 1e400}, "y": 2 }', b'{"x":1.50,"b":{"a":1E+400},"y":2}'),
        ({"u.a": "u.b"}, b'{"u":{"x":1,"a":2,"y":3}}', b'{"u":{"x":1,"b":2,"y":3}}'),
        ({"u.a": "a"}, b'{"u":{"a":1},"z":2}', b'{"u":{},"z":2,"a":1}'),
        ({"a": "u.v.a"}, b'{"a":1,"z":2}', b'{"z":2,"u":{"v":{"a":1}}}'),
        ({"a": "a.b"}, b'{"a":1}', b'{"a":{"b":1}}'),
        ({"a": "tmp", "b": "a", "tmp": "b"}, b'{"a":1,"b":2}', b'{"b":1,"a":2}'),
        ({"/a~1b": "/c.d"}, b'{"a/b":1}', b'{"c.d":1}'),
        ({"x.0.a": "x.0.b"}, b'{"x":[{"a":1}]}', b'{"x":[{"b":1}]}'),
        ({"x.0.a": "b"}, b'{"x":[{"a":1}]}', b'{"x":[{}],"b":1}'),
    ],
)
def test_members_are_renamed(renames: dict[str, str], before: bytes, after: bytes, apply: Any) -> None:
    assert apply({"rename_fields": renames}, ("s", before)) == ([("s", after)], [])


@pytest.mark.parametrize(
    ("renames", "document"),
    [
        ({"a": "b"}, b'{ "b" : 1e5, "b" : 2 }'),
        ({"a.x": "b"}, b'{ "a" : "text", "b" : 1 }'),
        ({"a.5": "b"}, b'{ "a" : [1], "b" : 1 }'),
        ({"a": "a"}, b'{ "a" : 1 }'),
    ],
)
def test_a_document_without_them_keeps_its_bytes(renames: dict[str, str], document: bytes, apply: Any) -> None:
    assert apply({"rename_fields": renames}, ("s", document)) == ([("s", document)], [])


@pytest.mark.parametrize(
    ("renames", "document", "reason", "named"),
    [
        ({"a": "b"}, b'{"a":1,"b":1}', "member_exists", "'/b'"),
        ({"a": "u.b"}, b'{"a":1,"u":{"b":null}}', "member_exists", "'/u/b'"),
        ({"a.b": "a"}, b'{"a":{"b":1}}', "member_exists", "'/a'"),
        ({"a": "c", "b": "c"}, b'{"a":1,"b":1}', "member_exists", "'/c'"),
        ({"a": "u.b"}, b'{"a":1,"u":"text"}', "no_place", "'/u'"),
        ({"a.0": "b"}, b'{"a":[1]}', "array_item", "'/a/0'"),
        ({"a": "x.0"}, b'{"a":1,"x":[]}', "array_item", "'/x/0'"),
    ],
)
def test_nothing_is_overwritten(renames: dict[str, str], document: bytes, reason: str, named: str, apply: Any) -> None:
    kept, [reject] = apply({"rename_fields": renames}, ("s", document), ("t", b'{"t" :1}'))
    assert kept == [("t", b'{"t" :1}')]
    assert (reject.id, reject.raw, reject.reason) == (b"s", document, reason)
    assert named in reject.detail


def test_versions_are_renamed_and_keep_the_delta(history: Any) -> None:
    row = {"state_id": "s", "version_id": "v", "data": b'{"a":1}', "delta": b'[{"op":"add","path":"/a","value":1}]'}
    [out], _ = history(Kind.VERSION, [{"rename_fields": {"a": "b"}}], row)
    assert (out["data"], out["delta"]) == (b'{"b":1}', row["delta"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (None, "needs paths with their new paths"),
        ({}, "needs paths with their new paths"),
        (["a"], "needs paths with their new paths"),
        ({"a": ""}, "cannot rename 'a' to ''"),
        ({"a": 5}, "cannot rename 'a' to '5'"),
        ({"a": None}, "cannot rename 'a' to 'None'"),
        ({"": "a"}, "cannot rename '' to 'a'"),
        ({"a": "b..c"}, "(an empty name)"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, sentence: str, refused: Any) -> None:
    said = refused({"rename_fields": options})
    assert sentence in said
    assert "rename_fields: {msgs: messages, user.mail: user.email}" in said


def test_both_names_and_the_order_are_in_the_fingerprint() -> None:
    steps = [{"a": "b"}, {"a": "c"}, {"c": "b"}, {"a": "b", "b": "c"}, {"b": "c", "a": "b"}]
    assert len({chain([{"rename_fields": renames}], Path()).fingerprint for renames in steps}) == len(steps)
