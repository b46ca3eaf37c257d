"""Parquet files, written by Arrow and pandas, as a source: every type becomes exact JSON."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agui_pipelines.errors import SourceError
from agui_pipelines.sources import parquet
from agui_pipelines.sources.arrow_values import values

NANOS = 1_700_000_000_123_456_789


def months(*parts: int) -> pa.Array:
    return pa.array([pa.MonthDayNano(parts), None], pa.month_day_nano_interval())


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None], pa.uint64()), [1, None]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array([True, None]), [True, None]),
        (pa.nulls(2), [None, None]),
        (pa.array([0.1, -0.0, float("nan"), float("inf"), -float("inf"), None]), None),
        (pa.array([0.1], pa.float32()), [0.10000000149011612]),
        (pa.array([np.float16(0.5)], pa.float16()), [0.5]),
        (pa.array([Decimal("1.10"), None], pa.decimal128(38, 2)), [Decimal("1.10"), None]),
        (pa.array([Decimal("9" * 70 + ".000001")], pa.decimal256(76, 6)), [Decimal("9" * 70 + ".000001")]),
        (pa.array(["x", None], pa.large_string()), ["x", None]),
        (pa.array(["x", None], pa.string_view()), ["x", None]),
        (pa.array([b"\xff", None], pa.binary()), [{"base64": "/w=="}, None]),
        (pa.array([b"ab"], pa.binary(2)), [{"base64": "YWI="}]),
        (pa.array([NANOS, None], pa.timestamp("ns")), ["2023-11-14T22:13:20.123456789", None]),
        (pa.array([NANOS], pa.timestamp("ns", "Europe/Berlin")), ["2023-11-14T22:13:20.123456789Z"]),
        (pa.array([-1], pa.timestamp("ns", "UTC")), ["1969-12-31T23:59:59.999999999Z"]),
        (pa.array([1500], pa.timestamp("ms")), ["1970-01-01T00:00:01.5"]),
        (pa.array([253_402_300_800, -62_167_219_200, -62_198_755_200], pa.timestamp("s")), None),
        (pa.array([dt.date(2024, 2, 29), None]), ["2024-02-29", None]),
        (pa.array([-719_529, 2_932_897], pa.date32()), ["-0001-12-31", "+10000-01-01"]),
        (pa.array([86_400_000], pa.date64()), ["1970-01-02"]),
        (pa.array([3_723_000], pa.time32("ms")), ["01:02:03"]),
        (pa.array([86_399_999_999_999], pa.time64("ns")), ["23:59:59.999999999"]),
        (pa.array([1, -93_784_500_000_000, 0], pa.duration("ns")), ["PT0.000000001S", "-P1DT2H3M4.5S", "PT0S"]),
        (pa.array([90], pa.duration("s")), ["PT1M30S"]),
        (months(14, 3, -5_000_000_001), ["P14M3DT-5.000000001S", None]),
        (pa.array(["a", "b", None, "a"]).dictionary_encode(), ["a", "b", None, "a"]),
        (pa.array([[1, None], None, []], pa.list_(pa.int64())), [[1, None], None, []]),
        (pa.array([[NANOS], None], pa.list_(pa.timestamp("ns"))), [["2023-11-14T22:13:20.123456789"], None]),
        (pa.array([[b"a", b"b"], None], pa.list_(pa.binary(), 2)), [[{"base64": "YQ=="}, {"base64": "Yg=="}], None]),
        (pa.array([{"a": 1, "b": [b"a"]}, None], pa.struct({"a": pa.int8(), "b": pa.list_(pa.binary())})), None),
        (pa.array([{}, None], pa.struct([])), [{}, None]),
        (
            pa.array([[("k", 1), ("l", None)], None, []], pa.map_(pa.string(), pa.int64())),
            [{"k": 1, "l": None}, None, {}],
        ),
        (pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64())), [[["k", 1], ["k", 2]]]),
        (pa.array([[(7, b"a")]], pa.map_(pa.int64(), pa.binary())), [[[7, {"base64": "YQ=="}]]]),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([UUID(int=1).bytes, None], pa.binary(16))), None),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_every_arrow_type_has_an_exact_form(column, expected):
    special = {
        "double": [0.1, -0.0, "NaN", "Infinity", "-Infinity", None],
        "timestamp[s]": ["+10000-01-01T00:00:00", "0000-01-01T00:00:00", "-0001-01-01T00:00:00"],
        "struct<a: int8, b: list<item: binary>>": [{"a": 1, "b": [{"base64": "YQ=="}]}, None],
        "extension<arrow.uuid>": [str(UUID(int=1)), None],
    }
    wanted = special[str(column.type)] if expected is None else expected
    assert values(column) == wanted
    assert values(pa.concat_arrays([column, column]).slice(len(column))) == wanted
    assert values(column.slice(1)) == wanted[1:]


def test_rows_become_documents(scan, tmp_path):
    table = pa.table(
        {
            "tenant": ["t:1", "t"],
            "id": pa.array([1, 2], pa.int64()),
            "n": pa.array([Decimal("0.1000000000000000055"), None], pa.decimal128(38, 19)),
            "nested": pa.array([{"at": NANOS}, None], pa.struct({"at": pa.timestamp("ns", "UTC")})),
            "raw": pa.array([b"\x00", None]),
            "changed": pa.array([NANOS, None], pa.timestamp("ns", "UTC")),
        }
    )
    pq.write_table(table, tmp_path / "s.parquet")
    found = scan(type="parquet", path="s.parquet", id=["tenant", "id"], updated="changed")
    assert found.documents == {
        "t%3A1:1": b'{"n":0.1000000000000000055,"nested":{"at":"2023-11-14T22:13:20.123456789Z"},'
        b'"raw":{"base64":"AA=="},"changed":"2023-11-14T22:13:20.123456789Z"}',
        "t:2": b'{"n":null,"nested":null,"raw":null,"changed":null}',
    }
    assert [row["updated_at"] for row in found.rows] == ["2023-11-14T22:13:20.123456789Z", None]


@pytest.mark.parametrize(
    "documents",
    [
        pa.array(['{"n": 1.50}', None]),
        pa.array([b'{"n": 1.50}', None], pa.large_binary()),
        pa.array([[("n", Decimal("1.50"))], None], pa.map_(pa.string(), pa.decimal128(5, 2))),
    ],
)
def test_a_column_may_hold_the_document(scan, tmp_path, documents):
    pq.write_table(pa.table({"id": [b"a", b"b"], "doc": documents, "other": [1, 2]}), tmp_path / "s.parquet")
    found = scan(type="parquet", path="s.parquet", id="id", data="doc")
    assert found.documents["a"].replace(b" ", b"") == b'{"n":1.50}'
    assert found.rejected == [(b"b", "no_document", b'{"id":{"base64":"Yg=="},"doc":null}')]


def test_what_pandas_writes_is_read(scan, tmp_path):
    frame = pd.DataFrame(
        {
            "id": ["a"],
            "when": [pd.Timestamp("2024-01-01 10:00:00.000000001", tz="Europe/Berlin")],
            "kind": pd.Categorical(["x"]),
            "took": [pd.Timedelta("1s")],
            "maybe": pd.array([None], dtype="Int64"),
        }
    )
    frame.to_parquet(tmp_path / "s.parquet")
    assert json.loads(scan(type="parquet", path="*.parquet", id="id").documents["a"]) == {
        "when": "2024-01-01T09:00:00.000000001Z",
        "kind": "x",
        "took": "PT1S",
        "maybe": None,
    }


@pytest.mark.parametrize("content", [b"", b"PAR1 no PAR1", b"PAR1"])
def test_a_file_of_another_kind_ends_the_scan(scan, tmp_path, content):
    (tmp_path / "s.parquet").write_bytes(content)
    with pytest.raises(SourceError, match=r"s\.parquet cannot be read to its end"):
        scan(type="parquet", path="s.parquet", id="id")


def test_a_file_without_the_id_ends_the_scan(scan, tmp_path):
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "s.parquet")
    with pytest.raises(SourceError, match="has no column 'id', which the migration file names; it has: key"):
        scan(type="parquet", path="s.parquet", id="id")


def test_large_rows_are_read_a_few_at_a_time(scan, tmp_path, monkeypatch):
    noise = np.random.default_rng(1)
    documents = [json.dumps({"x": noise.bytes(500_000).hex()}) for _ in range(40)]
    pq.write_table(pa.table({"id": [f"{i:02}" for i in range(40)], "doc": documents}), tmp_path / "s.parquet")
    monkeypatch.setattr(parquet, "values", lambda column: sizes.append(column.nbytes) or values(column))
    sizes: list[int] = []
    found = scan(type="parquet", path="s.parquet", id="id", data="doc")
    assert list(found.documents.values()) == [document.encode() for document in documents]
    assert max(sizes) < 10_000_000
