from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agui_pipelines.records import Kind
from agui_pipelines.spec.text import _loaded
from agui_pipelines.transforms import chain


def step(text: str) -> Any:
    return {"set_fields": _loaded(f"# as in a migration file\n{text}")}


@pytest.mark.parametrize(
    ("fields", "before", "after"),
    [
        ("{a: 1}", b"{}", b'{"a":1}'),
        ("{a: 1}", b'{ "b": 1.50, "a": 2, "c": 3 }', b'{"b":1.50,"a":1,"c":3}'),
        ("{a.b.c: x}", b'{"z":0}', b'{"z":0,"a":{"b":{"c":"x"}}}'),
        ("{/a~1b/c.d/~0: null}", b"{}", b'{"a/b":{"c.d":{"~":null}}}'),
        ("{/: 1}", b"{}", b'{"":1}'),
        ("{items.1: x, /items/0/n: y}", b'{"items":[{},2]}', b'{"items":[{"n":"y"},"x"]}'),
        ("{a: {}, a.b: 1}", b'{"a":5}', b'{"a":{"b":1}}'),
        (
            "{n: 123456789012345678901234567890, x: 0.1000000000000000055, y: 1.0, z: -1.50e+400}",
            b"{}",
            b'{"n":123456789012345678901234567890,"x":0.1000000000000000055,"y":1.0,"z":-1.50E+400}',
        ),
        ("{a: 1}", b'{"a":true}', b'{"a":1}'),
        ("{a: 1}", b'{"a":1.0}', b'{"a":1}'),
        ("{b: 1}", b'{"a":1,"a":2}', b'{"a":2,"b":1}'),
    ],
)
def test_members_are_set(fields: str, before: bytes, after: bytes, apply: Any) -> None:
    assert apply(step(fields), ("s", before)) == ([("s", after)], [])


@pytest.mark.parametrize(
    ("fields", "document"),
    [
        ("{a: 1}", b'{ "a" : 1 }'),
        ("{a: {x: [1.0]}}", b'{ "a" : { "x" : [ 1.0 ] } }'),
        ("{a.b: x}", b'{ "a" : {"b":"x"}, "a" : {"b":"x"} }'),
    ],
)
def test_a_document_that_has_it_so_already_keeps_its_bytes(fields: str, document: bytes, apply: Any) -> None:
    assert apply(step(fields), ("s", document)) == ([("s", document)], [])


def test_one_document_does_not_show_in_the_next(apply: Any) -> None:
    # The second path leads into the first one's value, which belongs to the options.
    kept, _ = apply([step("{a: {k: []}}"), step("{a.x: 1}")], ("1", b"{}"), ("2", b"{}"))
    assert {data for _, data in kept} == {b'{"a":{"k":[],"x":1}}'}
    steps = step("{a: {}, a.b: 1}")
    kept, _ = apply(steps, ("1", b"{}"), ("2", b'{"a":{"b":1}}'))
    assert kept == [("1", b'{"a":{"b":1}}'), ("2", b'{"a":{"b":1}}')]


@pytest.mark.parametrize(
    ("fields", "document", "named"),
    [
        ("{a.b: 1}", b'{"a":"text"}', "'/a'"),
        ("{a.b.c: 1}", b'{"a":{"b":null}}', "'/a/b'"),
        ("{a.b.c: 1}", b'{"a":7}', "'/a'"),
        ("{items.2: 1}", b'{"items":[1,2]}', "'/items/2'"),
        ("{items.-: 1}", b'{"items":[1,2]}', "'/items/-'"),
        ("{items.01: 1}", b'{"items":[1,2]}', "'/items/01'"),
        ("{items.9.x: 1}", b'{"items":[1,2]}', "'/items/9'"),
    ],
)
def test_a_document_without_a_place_for_it_is_rejected(fields: str, document: bytes, named: str, apply: Any) -> None:
    kept, [reject] = apply(step(fields), ("s", document), ("t", b"{}"))
    assert [state_id for state_id, _ in kept] == ["t"]
    assert (reject.id, reject.raw, reject.reason) == (b"s", document, "no_place")
    assert named in reject.detail


def test_the_documents_of_versions_are_set_too(history: Any) -> None:
    row = {"state_id": "s", "version_id": "v", "data": b"{}", "delta": b'[ {"op":"remove","path":"/a"} ]'}
    [out], _ = history(Kind.VERSION, [step("{a: 1}")], row)
    assert (out["data"], out["delta"]) == (b'{"a":1}', row["delta"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (None, "needs paths with their values"),
        ({}, "needs paths with their values"),
        (["a"], "needs paths with their values"),
        ({"": 1}, "cannot use the path ''"),
        ({"a..b": 1}, "(an empty name)"),
        ({".a": 1}, "(an empty name)"),
        ({"/a~2": 1}, "(a ~ that is neither ~0 nor ~1)"),
        ({5: 1}, "cannot use the path '5'"),
        ({"a": float("nan")}, "takes JSON values only, not float"),
        ({"a": [float("inf")]}, "takes JSON values only, not float"),
        ({"a": yaml.safe_load("2026-11-22")}, "takes JSON values only, not date"),
        ({"a": {1: 2}}, "takes JSON values only"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, sentence: str, refused: Any) -> None:
    said = refused({"set_fields": options})
    assert sentence in said
    assert 'set_fields: {tenant: "acme"' in said


def test_path_value_and_order_are_in_the_fingerprint() -> None:
    texts = ["{a: 1}", "{b: 1}", "{a: 1.0}", '{a: "1"}', "{a: true}", "{a: {}, a.b: 1}", "{a.b: 1, a: {}}", "{a.b: 1}"]
    assert len({chain([step(text)], Path()).fingerprint for text in texts}) == len(texts)
    assert chain([step("{a.b: 1}")], Path()).fingerprint == chain([step("{/a/b: 1}")], Path()).fingerprint
