"""SQLite databases, written by the real library, as a source."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from agui_pipelines.errors import SourceError
from agui_pipelines.records import Kind


@pytest.fixture
def database(tmp_path):
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        yield connection


def test_values_are_what_sqlite_stores(scan, database):
    database.execute('CREATE TABLE "my ""table" (id TEXT, v)')
    stored = {
        "integer": (2**63 - 1, b"9223372036854775807"),
        "real": (0.1, b"0.1"),
        "infinite": (float("inf"), b'"Infinity"'),
        "text": ("é\x00", '"é\\u0000"'.encode()),
        "blob": (b"\xff", b'{"base64":"/w=="}'),
        "null": (None, b"null"),
    }
    database.executemany('INSERT INTO "my ""table" VALUES (?, ?)', [(k, v) for k, (v, _) in stored.items()])
    found = scan(type="sqlite", path="app.db", table='my "table', id="id")
    assert found.documents == {name: b'{"v":%b}' % text for name, (_, text) in stored.items()}


def test_a_column_may_hold_the_document_as_text_or_blob(scan, database):
    database.execute("CREATE TABLE s (id INTEGER PRIMARY KEY, doc, at)")
    rows = [(1, '{"n": 1.50}', 1700000000.25), (2, b'{"n":2}', "2024-01-01 10:00:00"), (3, None, None), (4, 7, None)]
    database.executemany("INSERT INTO s VALUES (?, ?, ?)", rows)
    found = scan(type="sqlite", path="app.db", table="s", id="id", data="doc", created="at")
    assert found.documents == {"1": b'{"n": 1.50}', "2": b'{"n":2}', "4": b"7"}  # the export rejects what is no object
    assert [row["created_at"] for row in found.rows] == ["2023-11-14T22:13:20.25Z", "2024-01-01T10:00:00Z", None]
    assert found.rejected == [(b"3", "no_document", b'{"id":3,"doc":null,"at":null}')]


def test_types_say_what_sqlite_does_not_know(scan, database):
    database.execute("CREATE TABLE s (id, ok, tags, n)")
    database.execute("""INSERT INTO s VALUES ('a', 1, '{"n":1e400}', '0.10000000000000000001')""")
    types = {"ok": "boolean", "tags": "json", "n": "number"}
    found = scan(type="sqlite", path="app.db", table="s", id="id", types=types)
    assert found.documents == {"a": b'{"ok":true,"tags":{"n":1E+400},"n":0.10000000000000000001}'}


def test_text_that_is_not_utf_8_is_rejected_by_name(scan, database):
    database.execute("CREATE TABLE s (id, v)")
    database.execute("INSERT INTO s VALUES ('a', CAST(x'66ff' AS TEXT)), (CAST(x'ff' AS TEXT), 1), ('c', 'fine')")
    found = scan(type="sqlite", path="app.db", table="s", id="id")
    assert found.documents == {"c": b'{"v":"fine"}'}
    assert [(name, reason) for name, reason, _ in found.rejected] == [(b"a", "not_utf8"), (b"row 2", "id_not_utf8")]
    assert b"f\\udcff" in (found.rejects[0].raw or b"")


def test_a_query_is_read_in_one_moment_while_a_writer_writes(opened, database):
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE s (a, b, v)")
    database.executemany("INSERT INTO s VALUES (?, ?, 'old')", [(i, "x:y") for i in range(5000)])
    source = opened(type="sqlite", path="app.db", query="SELECT *, 1 AS one FROM s ORDER BY a;", id=["a", "b"])
    scan = source.scan(pytest.fail)
    kind, first = next(scan)
    assert kind is Kind.STATE
    database.execute("UPDATE s SET v = 'new'")
    rows = [*first.to_pylist(), *(row for _, batch in scan for row in batch.to_pylist())]
    assert [row["state_id"] for row in rows] == [f"{i}:x%3Ay" for i in range(5000)]
    assert {row["data"] for row in rows} == {b'{"v":"old","one":1}'}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "missing"}, "no such table"),
        ({"query": "SELECT absent FROM s"}, "no such column"),
        ({"query": "DELETE FROM s RETURNING id"}, "readonly"),
        ({"query": "SELECT 1 AS id; SELECT 2"}, "one statement"),
        ({"query": "SELECT id, id FROM s"}, "two columns called 'id'"),
        ({"table": "s", "updated": "changed"}, "no column 'changed'"),
    ],
)
def test_what_cannot_be_read_whole_ends_the_scan(scan, database, options, message):
    database.execute("CREATE TABLE s (id)")
    database.execute("INSERT INTO s VALUES (1)")
    with pytest.raises(SourceError, match=message):
        scan(type="sqlite", path="app.db", id="id", **options)
    assert database.execute("SELECT id FROM s").fetchall() == [(1,)]


def test_a_missing_database_is_not_made(opened, tmp_path):
    source = opened(type="sqlite", path="none.db", table="s", id="id")
    assert source.ping().startswith("SQLite 3")
    assert not source.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_told(opened, tmp_path):
    (tmp_path / "app.db").write_text("something else entirely, and long enough to be looked at")
    with pytest.raises(SourceError, match="not a database"):
        opened(type="sqlite", path="app.db", table="s", id="id").ping()
