"""CSV files, written by the real writers of Python and pandas, as a source."""

from __future__ import annotations

import csv
import json

import pandas as pd
import pytest

from agui_pipelines.errors import SourceError


def test_values_are_texts_unless_their_type_is_said(scan, tmp_path):
    file = tmp_path / "s.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["id", "zip", "age", "price", "ok", "tags", "note"])
        writer.writerow(["a", "00123", "42", "1.10", "yes", '{"n":1e400}', 'two\nlines, "quoted"'])
        writer.writerow(["b", "", "", "", "", "null", ""])
        writer.writerow(["c", "1", "123456789012345678901234567890", "-0.1e-400", "0", "[]", "x"])
    types = {"age": "integer", "price": "number", "ok": "boolean", "tags": "json"}
    found = scan(type="csv", path="s.csv", id="id", types=types)
    assert found.documents == {
        "a": rb'{"zip":"00123","age":42,"price":1.10,"ok":true,"tags":{"n":1E+400},"note":"two\nlines, \"quoted\""}',
        "b": b'{"zip":"","age":null,"price":null,"ok":null,"tags":null,"note":""}',
        "c": b'{"zip":"1","age":123456789012345678901234567890,"price":-1E-401,"ok":false,"tags":[],"note":"x"}',
    }


def test_rows_that_do_not_fit_are_rejected_by_line_with_their_bytes(scan, tmp_path):
    content = (
        b"id,a,b\n"  #               1
        b"1,x,y\n"
        b"2,x\n"
        b"3,x,y,z\n"
        b'4,"two\nlines",y\n'  #     5 and 6
        b'5,"closed"badly,y\n'
        b"6,\xff,y\n"
        b"\n"
        b"7,x,y\r\n"  #              10
        b"8,no,number\n"
        b'9,"never closed,y\n10,x,y\n'
    )
    (tmp_path / "s.csv").write_bytes(content)
    found = scan(type="csv", path="s.csv", id="id")
    assert list(found.documents) == ["1", "4", "7", "8"]
    assert found.documents["4"] == rb'{"a":"two\nlines","b":"y"}'
    assert found.rejected == [
        (b"s.csv:3", "broken_row", b"2,x"),
        (b"s.csv:4", "broken_row", b"3,x,y,z"),
        (b"s.csv:7", "broken_row", b'5,"closed"badly,y'),
        (b"6", "not_utf8", b"6,\xff,y"),
        (b"s.csv:12", "broken_row", b'9,"never closed,y\n10,x,y'),
    ]
    assert found.rejects[0].detail == "s.csv:3: The row is broken: it has 2 values, and there are 3 columns."


@pytest.mark.parametrize(
    ("type_", "value"),
    [("integer", "1.5"), ("integer", "x"), ("number", "1,5"), ("number", "NaN"), ("boolean", "maybe"), ("json", "{")],
)
def test_a_value_that_is_not_of_its_type_rejects_the_row_by_name(scan, tmp_path, type_, value):
    with (tmp_path / "s.csv").open("w", newline="") as opened:
        csv.writer(opened).writerows([["id", "v"], ["a", value], ["b", ""]])
    found = scan(type="csv", path="s.csv", id="id", columns=["id"], types={"v": type_})
    assert (b"s.csv:2", "bad_value") in [(name, reason) for name, reason, _ in found.rejected]
    assert "'v'" in found.rejects[0].detail


def test_a_column_may_hold_the_document_and_others_the_times(scan, tmp_path):
    frame = pd.DataFrame(
        {"k": ["a", "b"], "doc": ['{"n": 1.50}', ""], "at": pd.to_datetime(["2024-01-01T10:00:00.5Z", None])}
    )
    frame.to_csv(tmp_path / "s.csv", index=False)
    found = scan(type="csv", path="s.csv", id="k", data="doc", created="at")
    assert found.documents == {"a": b'{"n": 1.50}', "b": b""}
    assert found.rows[0]["created_at"] == "2024-01-01T10:00:00.5Z"


def test_other_delimiters_encodings_and_no_header(scan, tmp_path):
    (tmp_path / "s.csv").write_bytes("käse;1\n'a;b';2\n".encode("latin-1"))
    options = {"type": "csv", "path": "s.csv", "delimiter": ";", "quote": "'", "encoding": "latin-1"}
    assert scan(**options, header=False, id="1").documents == {"käse": b'{"2":"1"}', "a;b": b'{"2":"2"}'}
    assert scan(**options, header=["x", "y"], id="y").documents == {"1": '{"x":"käse"}'.encode(), "2": b'{"x":"a;b"}'}


def test_a_byte_order_mark_is_no_part_of_the_first_column(scan, tmp_path):
    pd.DataFrame({"id": ["a"], "v": ["x"]}).to_csv(tmp_path / "s.csv", index=False, encoding="utf-8-sig")
    assert scan(type="csv", path="s.csv", id="id").documents == {"a": b'{"v":"x"}'}


def test_pandas_compressed_files_of_utf_16_are_read(scan, tmp_path):
    pd.DataFrame({"id": ["ä"], "v": ["x"]}).to_csv(tmp_path / "s.csv.gz", index=False, encoding="utf-16")
    assert scan(type="csv", path="s.csv.gz", id="id", encoding="utf-16").documents == {"ä": b'{"v":"x"}'}


@pytest.mark.parametrize(
    ("header", "message"),
    [("id,v,v", "two columns called 'v'"), ("key,v,w", "no column 'id'"), ('id,"v', "its first row")],
)
def test_a_header_that_cannot_be_used_ends_the_scan(scan, tmp_path, header, message):
    (tmp_path / "s.csv").write_text(f"{header}\n1,2,3\n")
    with pytest.raises(SourceError, match=message):
        scan(type="csv", path="s.csv", id="id")


def test_an_undecodable_file_ends_the_scan(scan, tmp_path):
    (tmp_path / "s.csv").write_bytes("id,v\na,x\n".encode("utf-16") + b"\x00")
    with pytest.raises(SourceError, match="utf-16"):
        scan(type="csv", path="s.csv", id="id", encoding="utf-16")


def test_a_long_value_is_read(scan, tmp_path):
    document = json.dumps({"text": "x" * 1_000_000})
    with (tmp_path / "s.csv").open("w", newline="") as opened:
        csv.writer(opened).writerows([["id", "doc"], ["a", document]])
    assert scan(type="csv", path="s.csv", id="id", data="doc").documents == {"a": document.encode()}
