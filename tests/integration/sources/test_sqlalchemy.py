"""Databases through SQLAlchemy, as a source: PostgreSQL and SQLite stand for all."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from urllib.parse import urlsplit

import psycopg
import pytest

from agui_pipelines.errors import ConnectionFailedError, SourceError, SpecError


@pytest.fixture
def postgres(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def url(postgres_url):
    return postgres_url.replace("postgresql://", "postgresql+psycopg://")


def test_every_value_of_postgresql_is_exact(scan, postgres, url):
    postgres.execute("""
        CREATE SCHEMA app
        CREATE TABLE app.sessions (tenant text, id int, n numeric, j jsonb, at timestamptz, d date, b bytea, u uuid,
            a int[], t time, i interval, ip inet, ok boolean, f float8, nothing text)""")
    postgres.execute("""INSERT INTO app.sessions VALUES ('t:1', 1, 123456789012345678901234567890.10,
        '{"n":0.1000000000000000055,"big":123456789012345678901234567890}', '2024-01-01T10:00:00.123456+05:30', '2024-02-29',
        '\\xff', '00000000-0000-0000-0000-000000000001', '{1,NULL}', '01:02:03', '1 day 00:00:01.5', '10.0.0.1', true, 0.1,
        NULL)""")
    postgres.execute("INSERT INTO app.sessions (tenant, id, n) VALUES ('t', 2, 'NaN')")
    found = scan(
        type="sqlalchemy", connection_url=url, schema="app", table="sessions", id=["tenant", "id"], updated="at"
    )
    assert found.documents["t%3A1:1"] == (
        b'{"n":123456789012345678901234567890.10,'
        b'"j":{"n":0.1000000000000000055,"big":123456789012345678901234567890},'
        b'"at":"2024-01-01T04:30:00.123456+00:00","d":"2024-02-29","b":{"base64":"/w=="},'
        b'"u":"00000000-0000-0000-0000-000000000001","a":[1,null],"t":"01:02:03","i":"P1DT1.5S","ip":"10.0.0.1","ok":true,'
        b'"f":0.1,"nothing":null}'
    )
    assert found.documents["t:2"].startswith(b'{"n":"NaN","j":null')
    assert found.rows[0]["updated_at"] == "2024-01-01T04:30:00.123456Z"


def test_a_query_is_passed_on_as_it_is_and_streamed(scan, postgres, url):
    postgres.execute(
        "CREATE TABLE s AS SELECT i AS id, jsonb_build_object('n', i) AS doc FROM generate_series(1, 5000) i"
    )
    query = "SELECT id::text AS key, doc, '10:20:30 100%' AS note FROM s WHERE id % 2 = 0 AND '%' = '%' ORDER BY id"
    found = scan(type="sqlalchemy", connection_url=url, query=query, id="key", columns=["doc", "note"])
    assert [row["state_id"] for row in found.rows] == [str(i) for i in range(2, 5001, 2)]
    assert found.documents["2"] == b'{"doc":{"n":2},"note":"10:20:30 100%"}'
    assert len(found.batches) == 3


def test_the_database_is_only_read(scan, postgres, url):
    postgres.execute("CREATE SEQUENCE s")
    with pytest.raises(SourceError, match="read-only"):
        scan(type="sqlalchemy", connection_url=url, query="SELECT nextval('s') AS id", id="id")
    assert postgres.execute("SELECT is_called FROM s").fetchall() == [(False,)]


def test_sqlite_through_sqlalchemy(scan, tmp_path):
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("CREATE TABLE s (id, doc)")
        connection.execute("""INSERT INTO s VALUES ('a', '{"n": 1.50}')""")
        connection.commit()
    options = {"type": "sqlalchemy", "connection_url": f"sqlite:///{tmp_path}/app.db", "table": "s", "id": "id"}
    assert scan(**options, data="doc").documents == {"a": b'{"n": 1.50}'}
    assert scan(**options, types={"doc": "json"}).documents == {"a": b'{"doc":{"n":1.50}}'}


def test_whether_there_is_such_a_table_or_view(opened, postgres, url):
    postgres.execute("CREATE VIEW v AS SELECT 1 AS id")
    assert opened(type="sqlalchemy", connection_url=url, table="v", id="id").exists()
    missing = opened(type="sqlalchemy", connection_url=url, table="none", id="id")
    assert not missing.exists()
    assert missing.ping().startswith("postgresql 1")
    missing.close()


def test_secrets_are_not_told(opened, url):
    parts = urlsplit(url)
    wrong = f"postgresql+psycopg://user:c4n4ry@{parts.hostname}:1/db"
    source = opened(type="sqlalchemy", connection_url=wrong, table="s", id="id")
    assert source.describe() == f"postgresql+psycopg://user:***@{parts.hostname}:1/db, table s"
    with pytest.raises(ConnectionFailedError) as caught:
        source.ping()
    assert "c4n4ry" not in str(caught.value)
    assert "c4n4ry" not in str(source.place())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense:c4n4ry", "cannot make anything of"),
        ("nonsense://u:c4n4ry@h/d", "cannot make anything of"),
        ("mysql+pymysql://u:c4n4ry@h/d", "driver 'pymysql', which is not installed"),
    ],
)
def test_a_url_that_leads_nowhere_is_the_migration_files_fault(opened, monkeypatch, text, message):
    monkeypatch.setitem(sys.modules, "pymysql", None)  # wherever it is installed after all
    with pytest.raises(SpecError, match=message):
        opened(type="sqlalchemy", connection_url=text, table="s", id="id").ping()


def test_what_the_database_refuses_is_told(scan, postgres, url):
    with pytest.raises(SourceError, match='column "nothing" does not exist'):
        scan(type="sqlalchemy", connection_url=url, query="SELECT nothing", id="id")
