from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agui_pipelines.errors import TransformError
from agui_pipelines.records import Kind
from agui_pipelines.transforms import chain
from agui_pipelines.transforms.json_schema import _multiple_of


def schema(**keywords: Any) -> Any:
    return {"json_schema": {"schema": keywords}}


def about(**keywords: Any) -> Any:
    """A schema for the member ``n``."""
    return schema(properties={"n": keywords})


@pytest.mark.parametrize(
    ("step", "document"),
    [
        (about(type="integer", minimum=0), b'{ "n" : 123456789012345678901234567890 }'),
        (about(type="integer"), b'{ "n" : 1.0 }'),
        (about(type="integer"), b'{ "n" : 1e3 }'),
        (about(type="integer"), b'{ "n" : 1e999999999 }'),
        (about(type="number", exclusiveMinimum=0), b'{ "n" : 1e-400 }'),
        (about(const=1), b'{ "n" : 1.0 }'),
        (about(enum=[0.1]), b'{ "n" : 0.10 }'),
        (about(multipleOf=0.01), b'{ "n" : 0.07 }'),
        (about(multipleOf=0.01), b'{ "n" : 123456789012345678901234567890123456789.01 }'),
        (about(multipleOf=3), b'{ "n" : 3e999999999 }'),
        (about(uniqueItems=True), b'{ "n" : [1, 0.1, true, 0.1000000000000000055] }'),
        (schema(**{"$defs": {"x": {"type": "string"}}, "properties": {"n": {"$ref": "#/$defs/x"}}}), b'{ "n" : "a" }'),
        (about(**{"$ref": "https://json-schema.org/draft/2020-12/schema"}), b'{ "n" : {"type": "object"} }'),
        (about(format="date-time"), b'{ "n" : "yesterday" }'),
        ({"json_schema": {"schema": True}}, b"{ }"),
    ],
)
def test_a_document_that_fits_keeps_its_bytes(step: Any, document: bytes, apply: Any) -> None:
    assert apply(step, ("s", document)) == ([("s", document)], [])


@pytest.mark.parametrize(
    ("step", "document", "told"),
    [
        (about(type="integer"), b'{"n":1.5}', "'/n' breaks the schema's type \"integer\"."),
        (about(type="integer"), b'{"n":true}', "'/n' breaks the schema's type \"integer\"."),
        (about(type="number"), b'{"n":"1"}', "'/n' breaks the schema's type \"number\"."),
        (about(maximum=0.1), b'{"n":0.1000000000000000055}', "'/n' breaks the schema's maximum 0.1."),
        (about(const=0.1), b'{"n":0.1000000000000000055}', "'/n' breaks the schema's const 0.1."),
        (about(const=1), b'{"n":true}', "'/n' breaks the schema's const 1."),
        (about(multipleOf=0.01), b'{"n":0.075}', "'/n' breaks the schema's multipleOf 0.01."),
        (about(multipleOf=0.01), b'{"n":123456789012345678901234567890123456789.001}', "multipleOf 0.01."),
        (about(multipleOf=7), b'{"n":1e999999999}', "multipleOf 7."),
        (about(multipleOf=10), b'{"n":1e-999999999}', "multipleOf 10."),
        (about(items={"properties": {"a/b": {"maxLength": 1}}}), b'{"n":[{},{"a/b":"secret"}]}', "'/n/1/a~1b' breaks"),
        (schema(required=["n"]), b"{}", "'the document itself' breaks the schema's required [\"n\"]."),
        (schema(additionalProperties=False), b'{"secret":1}', "breaks the schema's additionalProperties false."),
        (about(enum=["x" * 100]), b'{"n":"secret"}', "x…."),
        ({"json_schema": {"schema": False}}, b"{}", "'the document itself' breaks the schema"),
    ],
)
def test_a_document_that_does_not_is_rejected_with_the_path(step: Any, document: bytes, told: str, apply: Any) -> None:
    kept, [reject] = apply(step, ("s", document))
    assert kept == []
    assert (reject.id, reject.raw, reject.reason) == (b"s", document, "schema_violation")
    assert told in reject.detail
    assert "secret" not in reject.detail


NUMBERS = st.one_of(st.integers(-(10**6), 10**6), st.decimals(-1000, 1000, places=3))


@settings(max_examples=500, deadline=None)
@given(NUMBERS, NUMBERS.filter(lambda unit: unit > 0))
@example(0, Decimal("0.001"))
@example(Decimal("0.000"), 7)
@example(1000, Decimal("1E+3"))
@example(Decimal("1E+2"), 1000)
def test_multiples_are_decided_as_fractions_would(value: Any, unit: Any) -> None:
    class Numbers:
        @staticmethod
        def is_type(_: Any, __: str) -> bool:
            return True

    from fractions import Fraction  # noqa: PLC0415 - the reference for this test only

    expected = (Fraction(value) / Fraction(unit)).denominator == 1
    assert (not list(_multiple_of(Numbers, unit, value, {}))) == expected


def test_the_schema_may_lie_beside_the_migration_file(tmp_path: Path, apply: Any) -> None:
    (tmp_path / "s.json").write_text('{"properties": {"n": {"maximum": 0.1000000000000000055}}}')
    rows = [("a", b'{"n":0.1000000000000000055}'), ("b", b'{"n":0.1000000000000000056}')]
    for options in ("s.json", {"file": "s.json"}):
        kept, rejects = apply({"json_schema": options}, *rows)
        assert (kept, [r.id for r in rejects]) == ([rows[0]], [b"b"])


def test_another_content_of_the_file_is_another_fingerprint(tmp_path: Path) -> None:
    fingerprints = set()
    for text in ("{}", '{"maximum": 1}', '{"maximum": 1.0}'):
        (tmp_path / "s.json").write_text(text)
        fingerprints.add(chain([{"json_schema": "s.json"}], tmp_path).fingerprint)
    assert len(fingerprints) == 3
    (tmp_path / "s.json").write_text('{"maximum":1.0}')
    assert chain([{"json_schema": {"file": "s.json"}}], tmp_path).fingerprint in fingerprints


def test_history_is_checked_unless_it_is_turned_off(history: Any, tmp_path: Path) -> None:
    step = about(type="integer")
    row = {"state_id": "s", "version_id": "v", "data": b'{"n":"x"}'}
    kept, [reject] = history(Kind.VERSION, [step], row)
    assert (kept, reject.id) == ([], b"s/v")
    step["json_schema"]["history"] = False
    [out], rejects = history(Kind.VERSION, [step], row)
    assert (out["data"], rejects) == (row["data"], [])
    assert chain([step], tmp_path).fingerprint != chain([about(type="integer")], tmp_path).fingerprint


@pytest.mark.parametrize("reference", ["#/$defs/missing", "other.json", "http://localhost:1/schema.json"])
def test_a_reference_that_leads_out_of_the_schema_ends_the_run_and_fetches_nothing(reference: str, apply: Any) -> None:
    with pytest.raises(TransformError, match="nothing is fetched") as caught:
        apply(about(**{"$ref": reference}), ("s", b'{"n":1}'))
    assert reference.removeprefix("#") in str(caught.value)


def test_a_document_too_deep_for_the_check_is_rejected(apply: Any) -> None:
    step = schema(**{"$defs": {"x": {"additionalProperties": {"$ref": "#/$defs/x"}}}, "$ref": "#/$defs/x"})
    deep = b'{"a":' * 250 + b"1" + b"}" * 250
    kept, rejects = apply(step, ("s", deep))
    assert [(i, d) for i, d in kept] + [(r.id.decode(), r.raw) for r in rejects] == [("s", deep)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (None, "needs a file or a schema"),
        ({}, "needs a file or a schema"),
        ([], "needs a file or a schema"),
        ({"file": "a", "schema": {}}, "needs a file or a schema"),
        ({"file": ""}, "needs the name of a file"),
        ({"file": 5}, "needs the name of a file"),
        ({"schema": {}, "x": 1}, "only history"),
        ({"schema": {}, "history": "no"}, "only history"),
        ({"schema": {"type": "int"}}, "at /type, 'int' is not valid under any of the given schemas"),
        ({"schema": {"minLength": -1}}, "at /minLength"),
        ({"schema": {"multipleOf": 0}}, "at /multipleOf"),
        ({"schema": {"pattern": "("}}, "at /pattern"),
        ({"schema": {"properties": {"a": {"patternProperties": {"(": {}}}}}}, "is no JSON Schema"),
        ({"schema": [1]}, "is no JSON Schema"),
        ({"schema": {"const": float("nan")}}, "takes JSON values only"),
        ("missing.json", "missing.json cannot be read: No such file or directory. It counts from"),
        (".", "cannot be read: Is a directory"),
        ("broken.json", "broken.json is not JSON"),
        ("bytes.json", "bytes.json is not JSON"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, sentence: str, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(json.dumps({})[:-1])
    (tmp_path / "bytes.json").write_bytes(b'"\xff"')
    assert sentence in refused({"json_schema": options})
