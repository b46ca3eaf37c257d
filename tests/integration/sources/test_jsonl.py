"""JSON Lines as a source: every line is carried as it is, and what is broken is named."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pytest

from agui_pipelines.errors import SourceError
from agui_pipelines.ports import BATCH_BYTES


def test_a_whole_line_is_the_document_byte_by_byte(scan, tmp_path):
    lines = [
        b'{"id": "a", "n": 0.1000000000000000055,  "big": 123456789012345678901234567890, "z": -0.0, "e": 1e400}',
        b'{"id":"b","x":1,"x":2}',
        '{"id":"ü","t":"\\ud83d\\ude00 \\u0000"}'.encode(),
    ]
    (tmp_path / "s.jsonl").write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\n  \n" + lines[1] + b"\n" + lines[2])
    found = scan(type="jsonl", path="s.jsonl", id="id")
    assert found.documents == {"a": lines[0], "b": lines[1], "ü": lines[2]}
    assert found.rejects == []


def test_broken_lines_are_rejected_by_file_and_line_with_their_bytes(scan, tmp_path):
    broken = [b'{"id": "a"', b"[1]", b"\xff\xfe", b'{"id":"a","n":NaN}', b"nonsense\r"]
    (tmp_path / "s.jsonl").write_bytes(b'{"id":"good"}\n' + b"\n".join(broken) + b"\n" + b'{"id":"last"}\n')
    found = scan(type="jsonl", path="s.jsonl", id="id")
    assert list(found.documents) == ["good", "last"]
    assert found.rejected == [
        (b"s.jsonl:%d" % number, "undecodable", line.rstrip(b"\r")) for number, line in enumerate(broken, 2)
    ]
    assert all(r.phase == "export" for r in found.rejects)


@pytest.mark.parametrize(
    ("line", "name", "reason"),
    [
        (b'{"x":1}', b"s.jsonl:1", "no_id"),
        (b'{"id":null}', b"s.jsonl:1", "no_id"),
        (b'{"id":{"a":1}}', b"s.jsonl:1", "no_id"),
        (rb'{"id":"\ud800"}', b"s.jsonl:1", "id_not_utf8"),
        (b'{"id":"a","until":"next week"}', b"a", "bad_expiry"),
    ],
)
def test_a_line_that_cannot_become_a_state_is_rejected(scan, tmp_path, line, name, reason):
    (tmp_path / "s.jsonl").write_bytes(line)
    assert scan(type="jsonl", path="s.jsonl", id="id", expires="until").rejected == [(name, reason, line)]


@pytest.mark.parametrize(
    ("value", "state_id"),
    [
        ("7", "7"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("1.50", "1.50"),
        ("true", "true"),
        ('""', ""),
    ],
)
def test_an_id_is_the_text_of_a_value(scan, tmp_path, value, state_id):
    (tmp_path / "s.jsonl").write_text(f'{{"id":{value}}}')
    assert list(scan(type="jsonl", path="s.jsonl", id="id").documents) == [state_id]


def test_ids_of_several_fields_cannot_be_confused(scan, tmp_path):
    pairs = [("a", "b:c"), ("a:b", "c"), ("a%3A", "b"), ("a:", "b"), ("", ""), ("", ":")]
    (tmp_path / "s.jsonl").write_text("\n".join(json.dumps({"t": t, "s": s}) for t, s in pairs))
    found = list(scan(type="jsonl", path="s.jsonl", id=["t", "s"]).documents)
    assert found == ["a:b%3Ac", "a%3Ab:c", "a%253A:b", "a%3A:b", ":", ":%3A"]


@pytest.mark.parametrize(
    ("member", "document"),
    [
        (b'{"n": 1.0,"a":[ ]}', b'{"n": 1.0,"a":[ ]}'),
        (b'"{\\"n\\": 1.0}"', b'{"n": 1.0}'),
        (b"[1]", b"[1]"),  # the export rejects it, as it does with any source
    ],
)
def test_the_document_may_be_a_field(scan, tmp_path, member, document):
    (tmp_path / "s.jsonl").write_bytes(b'{"id":"a","state": %b ,"other":1}' % member)
    assert scan(type="jsonl", path="s.jsonl", id="id", data="state").documents == {"a": document}


@pytest.mark.parametrize("line", [b'{"id":"a"}', b'{"id":"a","state":null}'])
def test_a_line_without_its_document_is_rejected(scan, tmp_path, line):
    (tmp_path / "s.jsonl").write_bytes(line)
    assert scan(type="jsonl", path="s.jsonl", id="id", data="state").rejected == [(b"a", "no_document", line)]


def test_the_document_may_be_made_of_fields_each_in_its_own_bytes(scan, tmp_path):
    (tmp_path / "s.jsonl").write_bytes(b'{"id":"a","x":1.00,"y":{"k": [1e5]},"z":3}\n{"id":"b","x":"\\u00e9"}')
    found = scan(type="jsonl", path="s.jsonl", id="id", columns=["y", "x"])
    assert found.documents == {"a": b'{"y":{"k": [1e5]},"x":1.00}', "b": b'{"x":"\\u00e9"}'}


def test_times_are_taken_from_fields(scan, tmp_path):
    lines = [
        {"id": "a", "c": "2024-02-29 23:59:59.123456789+0530", "u": 1700000000, "x": "2100-01-01T00:00:00.1239Z"},
        {"id": "b", "c": "2024-02-30T00:00:00Z", "u": "2024-01-01", "x": 4102444800.123},
        {"id": "c", "c": "", "u": None},
    ]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = scan(type="jsonl", path="s.jsonl", id="id", created="c", updated="u", expires="x")
    times = [
        (row["state_id"], row["created_at"], row["updated_at"]) for batch in found.batches for row in batch.to_pylist()
    ]
    assert times == [
        ("a", "2024-02-29T23:59:59.123456789+05:30", "2023-11-14T22:13:20Z"),
        ("b", "2024-02-30T00:00:00Z", "2024-01-01T00:00:00Z"),  # no such day: the target will say so
        ("c", None, None),
    ]
    [batch] = found.batches
    assert batch.column("expires_at").cast(pa.int64()).to_pylist() == [4102444800123, 4102444800123, None]


def test_globs_and_gzip(scan, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    with gzip.open(tmp_path / "deep" / "b.jsonl.gz", "wb") as file:
        file.write(b'{"id":"packed"}\nbroken\n')
    (tmp_path / "deep" / "er" / "a.jsonl").write_text('{"id":"plain"}')
    (tmp_path / "deep" / "other.txt").write_text("not ours")
    found = scan(type="jsonl", path="deep/**/*.jsonl*", id="id")
    assert sorted(found.documents) == ["packed", "plain"]
    assert found.rejected == [(b"deep/b.jsonl.gz:2", "undecodable", b"broken")]


def test_a_name_with_brackets_is_that_file(scan, tmp_path):
    (tmp_path / "a[1].jsonl").write_text('{"id":"a"}')
    assert list(scan(type="jsonl", path="a[1].jsonl", id="id").documents) == ["a"]


def test_a_packed_file_that_is_cut_off_ends_the_scan(scan, tmp_path):
    whole = gzip.compress(b'{"id":"a"}\n' * 1000)
    (tmp_path / "s.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"s\.jsonl\.gz cannot be read to its end"):
        scan(type="jsonl", path="*.gz", id="id")


def test_no_file_is_no_source(opened, tmp_path):
    source = opened(type="jsonl", path="none/*.jsonl", id="id")
    assert not source.exists()
    assert source.ping() == "0 files"
    assert source.place().container == str(tmp_path / "none" / "*.jsonl")


def test_a_large_document_travels_alone(scan, tmp_path):
    with (tmp_path / "s.jsonl").open("wb") as file:
        for i in range(5):
            size = BATCH_BYTES + 1 if i == 2 else BATCH_BYTES // 3
            file.write(b'{"id":%d,"x":"%b"}\n' % (i, b"x" * size))
    found = scan(type="jsonl", path="s.jsonl", id="id")
    assert [batch.column("state_id").to_pylist() for batch in found.batches] == [["0", "1"], ["2"], ["3", "4"]]


def test_the_fingerprint_tells_whether_a_file_changed(opened, tmp_path):
    file = tmp_path / "s.jsonl"
    file.write_text('{"id":"a"}')
    source = opened(type="jsonl", path="*.jsonl", id="id")
    before = source.fingerprint
    assert before == opened(type="jsonl", path="*.jsonl", id="id").fingerprint
    file.write_text('{"id":"ab"}')
    assert source.fingerprint != before
