from __future__ import annotations

from typing import Any

import pytest

from agui_pipelines.records import Kind

STEP = "format_1_to_2"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            b'{"a":1,"version":"1.0","data":{"n":1.0,"big":123456789012345678901234567890},"z":[1e400]}',
            b'{"a":1,"version":"2.0","payload":{"n":1.0,"big":123456789012345678901234567890},"z":[1E+400],"schema_version":"2.0.0"}',
        ),
        (b'{"version":"1.0"}', b'{"version":"2.0","schema_version":"2.0.0"}'),
        (b'{"version":"1.0","data":null}', b'{"version":"2.0","payload":null,"schema_version":"2.0.0"}'),
        (b'{"version":"1.0","payload":1}', b'{"version":"2.0","payload":1,"schema_version":"2.0.0"}'),
        (b'{"schema_version":"2.0.0","version":"1.0"}', b'{"schema_version":"2.0.0","version":"2.0"}'),
    ],
)
def test_format_1_becomes_format_2(before: bytes, after: bytes, apply: Any) -> None:
    assert apply(STEP, ("a", before)) == ([("a", after)], [])
    assert apply(STEP, ("a", after)) == ([("a", after)], [])


@pytest.mark.parametrize(
    "document",
    [
        b'{ "version" : "2.0", "data": 1 }',
        b'{ "version" : 1.0, "data": 1 }',
        b'{ "version" : "1.0.0", "data": 1 }',
        b'{ "version" : ["1.0"], "data": 1 }',
        b'{ "data" : {"version": "1.0"} }',
        b"{ }",
    ],
)
def test_others_keep_their_bytes(document: bytes, apply: Any) -> None:
    assert apply(STEP, ("a", document)) == ([("a", document)], [])


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (b'{"version":"1.0","data":1,"payload":1}', "'payload'"),
        (b'{"version":"1.0","schema_version":"1.0.0"}', "'schema_version'"),
    ],
)
def test_nothing_is_overwritten(document: bytes, named: str, apply: Any) -> None:
    kept, [reject] = apply(STEP, ("a", document))
    assert (kept, reject.raw, reject.reason) == ([], document, "member_exists")
    assert named in reject.detail


def test_snapshots_are_upgraded_too(history: Any) -> None:
    row = {"state_id": "s", "snapshot_id": "x", "data": b'{"version":"1.0","data":{}}'}
    [out], _ = history(Kind.SNAPSHOT, [STEP], row)
    assert out["data"] == b'{"version":"2.0","payload":{},"schema_version":"2.0.0"}'


def test_options_are_refused(refused: Any) -> None:
    assert refused({STEP: True}) == f"The transform '{STEP}' takes no options."


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            b'[{"op": "replace", "path": "/data/n", "value": 1.50}]',
            b'[{"op":"replace","path":"/payload/n","value":1.50}]',
        ),
        (
            b'[{"op":"move","path":"/data/b","from":"/data/a"}]',
            b'[{"op":"move","path":"/payload/b","from":"/payload/a"}]',
        ),
        (b'[{"op":"add","path":"/data","value":{}}]', b'[{"op":"add","path":"/payload","value":{}}]'),
        (
            b'[{"op":"add","path":"/version","value":"1.0"}]',
            b'[{"op":"add","path":"/version","value":"2.0"},{"op":"add","path":"/schema_version","value":"2.0.0"}]',
        ),
        (b'[{"op":"test","path":"/version","value":"1.0"}]', b'[{"op":"test","path":"/version","value":"2.0"}]'),
        (
            b'[{"op":"replace","path":"","value":{"version":"1.0","data":1}}]',
            b'[{"op":"replace","path":"","value":{"version":"2.0","payload":1,"schema_version":"2.0.0"}}]',
        ),
        (
            b'[ {"op": "add", "path": "/database", "value": "/data"} ]',
            b'[ {"op": "add", "path": "/database", "value": "/data"} ]',
        ),
        (b'[ {"op": "remove", "path": "/other/data"} ]', b'[ {"op": "remove", "path": "/other/data"} ]'),
        (b'{"no":"list"}', b'{"no":"list"}'),
        (b'[1, null, {"path": 3}]', b'[1, null, {"path": 3}]'),
        (None, None),
    ],
)
def test_the_delta_of_a_version_follows_its_document(before: bytes | None, after: bytes | None, history: Any) -> None:
    row = {"state_id": "s", "version_id": "v", "data": b'{"version":"1.0","data":{}}', "delta": before}
    [out], _ = history(Kind.VERSION, [STEP], row)
    assert (out["data"], out["delta"]) == (b'{"version":"2.0","payload":{},"schema_version":"2.0.0"}', after)


def test_the_delta_of_a_version_of_another_format_stays(history: Any) -> None:
    row = {
        "state_id": "s",
        "version_id": "v",
        "data": b'{ "version":"2.0" }',
        "delta": b'[{"op":"remove","path":"/data"}]',
    }
    [out], _ = history(Kind.VERSION, [STEP], row)
    assert (out["data"], out["delta"]) == (row["data"], row["delta"])
