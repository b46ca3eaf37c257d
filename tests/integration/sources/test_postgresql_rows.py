"""Any table or query of PostgreSQL as a source: which rows become states, and what of them."""

from __future__ import annotations

import base64
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg
import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from agui_pipelines.errors import (
    ConnectionFailedError,
    RejectLimitError,
    SamePlaceError,
    SpecError,
    StoreError,
)
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.phases.export import export, exported
from agui_pipelines.phases.plan import plan
from agui_pipelines.ports import Consistent, Reader, Stamping
from agui_pipelines.records import STATE, Kind, Reject
from agui_pipelines.sources.postgresql_rows import PostgresRowsSource
from agui_pipelines.spec import PostgresConfig, PostgresRowsConfig
from agui_pipelines.stores.postgresql import PostgresStore

MIGRATED = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
CANARY = "canary-4711"


@pytest.fixture
def database(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def source(postgres_url: str) -> Iterator[Callable[..., PostgresRowsSource]]:
    """Makes a source on the test's database, by default of the table `t` with the id `id` and without metadata."""
    with ExitStack() as stack:

        def make(url: str = postgres_url, **keys: Any) -> PostgresRowsSource:
            text = {"type": "postgresql_rows", "connection_url": url, "migration_metadata": False, "id_column": "id"}
            text |= keys if "query" in keys else {"table": "t", **keys}
            made = PostgresRowsSource(PostgresRowsConfig.model_validate(text))
            return stack.enter_context(closing(made))

        yield make


def spans(reader: Reader, count: int = 1) -> list[Span]:
    file = BytesIO()
    write_catalogue(reader.keys(), file)
    return [Span(key_range, pq.ParquetFile(file)) for key_range in cut(file, count)]


def read(reader: Reader, count: int = 1) -> tuple[dict[str, bytes], list[Reject]]:
    """Documents by id, in the order in which they came, and what was rejected."""
    rejects: list[Reject] = []
    batches = [b for span in spans(reader, count) for b in reader.read(Kind.STATE, span, rejects.append)]
    assert all(batch.schema == STATE for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    found = {row["state_id"]: row["data"] for row in rows}
    assert len(found) == len(rows)
    return found, rejects


def only(reader: Reader) -> bytes:
    found, rejects = read(reader)
    assert not rejects
    [document] = found.values()
    return document


# Types

TYPES = [
    ("int8", "9223372036854775807", "9223372036854775807"),
    ("numeric", "123456789012345678901234567890.000000000000000000000000000010", None),
    ("numeric", "'NaN'", '"NaN"'),
    ("numeric", "'-Infinity'", '"-Infinity"'),
    ("numeric", "1e300::numeric", "1" + "0" * 300),
    ("numeric(10,4)", "1.5", "1.5000"),
    ("float8", "0.1::float8 + 0.2::float8", "0.30000000000000004"),
    ("float8", "5e-324", "5e-324"),
    ("float8", "'-0'", "-0"),
    ("float8", "'Infinity'", '"Infinity"'),
    ("float4", "0.1", "0.1"),
    ("float4", "16777217", "1.6777216e+07"),
    ("bool", "true", "true"),
    ("text", "E'naïve 😀 \"\\\\ \\u2028 \\x01\\n'", None),
    ("varchar(5)", "''", '""'),
    ("char(4)", "'a'", '"a   "'),
    ("timestamptz", "'2026-01-01 12:00:00.123456+02:30'", '"2026-01-01T09:30:00.123456+00:00"'),
    ("timestamptz", "'infinity'", '"infinity"'),
    ("timestamptz", "'-infinity'", '"-infinity"'),
    ("timestamp", "'2026-01-01 12:00:00.5'", '"2026-01-01T12:00:00.5"'),
    ("date", "'2026-02-28'", '"2026-02-28"'),
    ("time", "'23:59:59.999999'", '"23:59:59.999999"'),
    ("timetz", "'12:00+05:30'", '"12:00:00+05:30"'),
    ("interval", "'1 year 2 months 3 days 04:05:06.789'", '"P1Y2M3DT4H5M6.789S"'),
    ("interval", "'-1 day +02:00'", '"P-1DT2H"'),
    ("bytea", r"'\x00ff61'", '{"type":"bytea","base64":"AP9h"}'),
    ("bytea", "''", '{"type":"bytea","base64":""}'),
    ("bytea[]", r"ARRAY['\x61'::bytea, NULL]", '[{"type":"bytea","base64":"YQ=="},null]'),
    ("bytea[]", "'{}'", "[]"),
    ("int[]", "'{{1,2},{3,NULL}}'", "[[1,2],[3,null]]"),
    ("text[]", "ARRAY['a,b', '\"', '{}', NULL]", '["a,b","\\"","{}",null]'),
    ("numeric[]", "ARRAY[1.10, 'NaN']", '[1.10,"NaN"]'),
    ("timestamptz[]", "ARRAY['2026-01-01 00:00Z'::timestamptz]", '["2026-01-01T00:00:00+00:00"]'),
    ("json[]", """ARRAY['{"a": 1e2}'::json]""", '[{"a": 1e2}]'),
    ("int4range", "'[1,5)'", '"[1,5)"'),
    ("numrange", "'(1.10,)'", '"(1.10,)"'),
    (
        "tstzrange",
        "'[2026-01-01 02:00+02,infinity]'",
        '"[\\"2026-01-01 00:00:00+00\\",infinity]"',
    ),
    ("int4multirange", "'{[1,3),[5,7)}'", '"{[1,3),[5,7)}"'),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    ("inet", "'10.1.2.3/8'", '"10.1.2.3/8"'),
    ("cidr", "'2001:db8::/32'", '"2001:db8::/32"'),
    ("macaddr", "'08:00:2b:01:02:03'", '"08:00:2b:01:02:03"'),
    ("bit varying", "B'0101'", '"0101"'),
    ("point", "point(0.1, 1e300)", '"(0.1,1e+300)"'),
    ("tsvector", "'a b'::tsvector", "\"'a' 'b'\""),
    ("oid", "42", '"42"'),
    ("jsonb", """'{"b": 1.10, "a": [1e3, null]}'""", '{"a": [1000, null], "b": 1.10}'),
    ("json", """'{"b": 1e400,  "b":\t"\\u0000"}'""", '{"b": 1e400,  "b":\t"\\u0000"}'),
    ("mood", "'so \"so\"'", '"so \\"so\\""'),
    ("shape", "ROW(1.50, '(x)', NULL)", '{"size":1.50,"name":"(x)","blob":null}'),
    ("shape", r"ROW(NULL, NULL, '\x61')", '{"size":null,"name":null,"blob":{"type":"bytea","base64":"YQ=="}}'),
    ("shape", "ROW(NULL, NULL, NULL)", '{"size":null,"name":null,"blob":null}'),
    (
        "shape[]",
        r"ARRAY[[ROW(1, 'a', '\x61')::shape, NULL]]",
        '[[{"size":1,"name":"a","blob":{"type":"bytea","base64":"YQ=="}},null]]',
    ),
    ("positive", "7", "7"),
    ("blob", r"'\x61'", '{"type":"bytea","base64":"YQ=="}'),
    ("blobs", r"ARRAY['\x61']::bytea[]", '[{"type":"bytea","base64":"YQ=="}]'),
    ("careless", "'exact'", '"exact"'),
]

SCHEMA = [
    """CREATE TYPE mood AS ENUM ('so "so"')""",
    "CREATE TYPE shape AS (size numeric, name text, blob bytea)",
    "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
    "CREATE DOMAIN blob AS bytea",
    "CREATE DOMAIN blobs AS bytea[]",
    "CREATE TYPE careless AS ENUM ('exact')",
    "CREATE FUNCTION rounded(careless) RETURNS json LANGUAGE sql AS $$SELECT '0'::json$$",
    "CREATE CAST (careless AS json) WITH FUNCTION rounded(careless)",
]
"""Types of a user's own; the last one has a cast to json that loses its content."""


def test_every_type_becomes_exact_json(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource], exact: Callable[[bytes], Any]
) -> None:
    for statement in SCHEMA:
        database.execute(statement)
    names = [f"c{i}" for i in range(len(TYPES))]
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in zip(names, TYPES, strict=True))
    database.execute(f"CREATE TABLE t (id int, {columns})")
    database.execute(f"INSERT INTO t VALUES (1, {', '.join(value for _, value, _ in TYPES)})")
    database.execute("INSERT INTO t VALUES (2)")
    found, rejects = read(source())
    assert not rejects
    assert set(exact(found["2"]).values()) == {None}
    document = json.loads(found["1"], object_pairs_hook=list, parse_int=str, parse_float=str)
    for (name, value), (kind, literal, expected) in zip(document, TYPES, strict=True):
        if kind == "text":
            assert (name, value) == (name, 'naïve 😀 "\\ \u2028 \x01\n')
            continue
        wanted = json.loads(expected or literal, object_pairs_hook=list, parse_int=str, parse_float=str)
        assert value == wanted, (name, kind, literal)
    assert b'{"b": 1e400,  "b":\t"\\u0000"}' in found["1"]  # json as it was written


def test_the_text_does_not_depend_on_how_the_database_is_configured(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    database.execute("CREATE TABLE t (id bytea, f float8, i interval, at timestamptz, span tsrange, raw bytea)")
    database.execute(
        "INSERT INTO t VALUES ('\\x61', 0.1::float8 + 0.2::float8, '1 day', '2026-01-01 00:00Z', "
        "'[2026-02-01,2026-03-01)', '\\xff')"
    )
    plain = read(source())
    name = database.info.dbname
    for setting in (
        "extra_float_digits = 0",
        "IntervalStyle = 'postgres_verbose'",
        "DateStyle = 'SQL, DMY'",
        "TimeZone = 'Asia/Tokyo'",
        "bytea_output = 'escape'",
    ):
        database.execute(f"ALTER DATABASE {name} SET {setting}")
    assert read(source()) == plain
    assert list(plain[0]) == [r"\x61"]


_DIGITS = st.text("0123456789", min_size=1, max_size=60)


@given(
    st.lists(
        st.builds(lambda sign, whole, part: f"{sign}{whole}.{part}", st.sampled_from(["", "-"]), _DIGITS, _DIGITS),
        min_size=1,
        max_size=20,
    ),
    st.lists(st.floats(allow_subnormal=True), min_size=1, max_size=20),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_keep_every_digit(
    database: psycopg.Connection,
    source: Callable[..., PostgresRowsSource],
    numerics: list[str],
    floats: list[float],
) -> None:
    database.execute("DROP TABLE IF EXISTS t; CREATE TABLE t (id int, n numeric[], one numeric, f float8[])")
    database.execute(
        "INSERT INTO t VALUES (1, %s::text[]::numeric[], %s::text::numeric, %s::float8[])",
        (numerics, numerics[0], floats),
    )
    document = json.loads(only(source()), parse_float=Decimal, parse_int=Decimal)
    assert [n.as_tuple() for n in document["n"]] == [_unpadded(n).as_tuple() for n in numerics]
    assert document["one"] == Decimal(numerics[0])
    for sent, arrived in zip(floats, document["f"], strict=True):
        back = float(arrived)
        assert back == sent or (math.isnan(sent) and arrived == "NaN")


def _unpadded(text: str) -> Decimal:
    """Of a numeric the digits after the point are kept, and its sign unless it is zero."""
    value = Decimal(text)
    return value or abs(value)


# Documents


@pytest.mark.parametrize(
    ("kind", "text", "document"),
    [
        ("jsonb", '{"b":1.0,"a":2}', '{"a": 2, "b": 1.0}'),
        ("json", '  {"b": 1e2,"b":2} \n', '  {"b": 1e2,"b":2} \n'),
        ("text", ' {"b":1}\n', ' {"b":1}\n'),
        ("jsonb", "[1.50, null]", '{"value":[1.50, null],"type":"jsonb"}'),
        ("jsonb", "null", '{"value":null,"type":"jsonb"}'),
        ("json", ' "a" ', '{"value": "a" ,"type":"json"}'),
        ("text", "[1]", '{"value":"[1]","type":"text"}'),
        ("text", "{not json}", '{"value":"{not json}","type":"text"}'),
        ("varchar(9)", '{"a":NaN}', '{"value":"{\\"a\\":NaN}","type":"text"}'),
        ("text", "", '{"value":"","type":"text"}'),
    ],
)
def test_one_column_holds_the_document(
    database: psycopg.Connection,
    source: Callable[..., PostgresRowsSource],
    kind: str,
    text: str,
    document: str,
) -> None:
    database.execute(f"CREATE TABLE t (id text, doc {kind})")
    database.execute("INSERT INTO t VALUES ('a', %s)", (text,))
    assert only(source(data="doc")) == document.encode()


def test_the_columns_of_the_document_can_be_chosen(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    database.execute("CREATE TABLE t (id int, a int, b text, c int); INSERT INTO t VALUES (1, 2, 'x', 3)")
    assert only(source()) == b'{"a":2,"b":"x","c":3}'
    assert only(source(columns=["c", "id"])) == b'{"c":3,"id":1}'


def test_a_table_may_have_as_many_columns_as_postgresql_allows_and_no_more_than_its_id(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    many = [f"c{i}" for i in range(1200)]
    database.execute(f"CREATE TABLE t (id int, {', '.join(f'{name} bool' for name in many)}); INSERT INTO t VALUES (1)")
    assert list(json.loads(only(source()))) == many
    database.execute("CREATE TABLE bare (id int); INSERT INTO bare VALUES (1)")
    assert only(source(table="bare")) == b"{}"


def test_hostile_names_are_names(database: psycopg.Connection, source: Callable[..., PostgresRowsSource]) -> None:
    hostile = ['"; DROP TABLE t; --', "%s {} {0}", "'quoted'", "r", "row", "ID", "a.b", "schön 😀", "_migrationx", "\\"]
    schema, table = 'we"ird; schema', "ta.ble\n--"
    names = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in hostile)
    where = sql.Identifier(schema, table)
    database.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    database.execute(sql.SQL("CREATE TABLE {} ({})").format(where, names))
    values = [f"value of {name}" for name in hostile]
    database.execute(sql.SQL("INSERT INTO {} VALUES ({})").format(where, sql.SQL(", ").join(map(sql.Literal, values))))
    opened = source(schema=schema, table=table, id_column=hostile[:2], migration_metadata=True)
    [(state_id, document)] = read(opened)[0].items()
    assert state_id == ":".join(v.replace("%", "%25").replace(":", "%3A") for v in values[:2])
    members = json.loads(document)
    assert members.pop("_migration")
    assert members == dict(zip(hostile[2:], values[2:], strict=True))


def test_a_large_document_arrives_whole(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    database.execute("CREATE TABLE t (id int, doc jsonb)")
    for i, size in enumerate((40_000_000, 10, 20_000_000)):
        database.execute("INSERT INTO t VALUES (%s, jsonb_build_object('t', repeat('x', %s)))", (i, size))
    opened = source(data="doc", migration_metadata=True)
    [span] = spans(opened)
    sizes = [
        [len(value) for value in batch.column("data").to_pylist()]
        for batch in opened.read(Kind.STATE, span, pytest.fail)
    ]
    assert [size for [size] in sizes] == pytest.approx([40_000_000, 10, 20_000_000], abs=80)


# The member _migration


def test_documents_say_where_they_come_from(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    database.execute("CREATE TABLE t (id int, doc jsonb, made timestamp, changed timestamptz)")
    database.execute(
        """INSERT INTO t VALUES (1, '{"a": 1}', '2020-01-01 10:00', '2021-01-01 10:00:00.5+02'), (2, '{}', NULL, NULL)"""
    )
    opened = source(data="doc", created_column="made", updated_column="changed", migration_metadata=True)
    opened.stamp(MIGRATED)
    [span] = spans(opened)
    rows = [row for batch in opened.read(Kind.STATE, span, pytest.fail) for row in batch.to_pylist()]
    assert [row["data"].decode() for row in rows] == [
        (
            '{"a": 1,"_migration":{"original_created_at":"2020-01-01T10:00:00Z",'
            '"original_updated_at":"2021-01-01T08:00:00.5Z","migrated_at":"2026-11-22T12:30:00.000Z"}}'
        ),
        '{"_migration":{"migrated_at":"2026-11-22T12:30:00.000Z"}}',
    ]
    assert [(row["created_at"], row["updated_at"]) for row in rows] == [
        ("2020-01-01T10:00:00Z", "2021-01-01T08:00:00.5Z"),
        (None, None),
    ]


@pytest.mark.parametrize("kind", ["jsonb", "json", "text"])
def test_what_a_document_says_of_an_earlier_migration_stays(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource], kind: str
) -> None:
    documents = {
        "first": '{"_migration": {"original_created_at": "2001-01-01T00:00:00Z"}, "n": 1.10}',
        "nested": '{"a": {"_migration": 1}}',
        "other": '{"_migration": 7}',
        "plain": '{"n": 1e2 } ',
        "escaped": r'{"\u005fmigration": {"migrated_at": "long ago"}}',
        "empty": "{ }",
    }
    database.execute(f"CREATE TABLE t (id text, doc {kind}, made date)")
    for state_id, document in documents.items():
        database.execute("INSERT INTO t VALUES (%s, %s, '2020-01-01')", (state_id, document))
    opened = source(data="doc", created_column="made", migration_metadata=True)
    opened.stamp(MIGRATED)
    found, rejects = read(opened)
    assert not rejects
    added = {"original_created_at": "2020-01-01T00:00:00Z", "migrated_at": "2026-11-22T12:30:00.000Z"}
    for state_id, document in documents.items():
        before = json.loads(document)
        old = before.pop("_migration", {})
        old = old if isinstance(old, dict) else {"value": old}
        assert json.loads(found[state_id]) == {**before, "_migration": {**added, **old}}
    assert b"1.10" in found["first"]


def test_a_document_to_which_nothing_can_be_added_without_a_loss_is_rejected(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    document = '{"_migration": {}, "a": 1, "a": 2}'
    database.execute("CREATE TABLE t (id text, doc json)")
    database.execute("INSERT INTO t VALUES ('twice', %s), ('good', '{}')", (document,))
    found, rejects = read(source(data="doc", migration_metadata=True))
    assert [(r.id, r.raw, r.reason) for r in rejects] == [(b"twice", document.encode(), "duplicate_keys")]
    assert list(found) == ["good"]
    assert read(source(data="doc")) == ({"good": b"{}", "twice": document.encode()}, [])


def test_a_column_is_never_overwritten_by_the_metadata(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    database.execute("CREATE TABLE t (id text, _migration text); INSERT INTO t VALUES ('a', 'mine')")
    with pytest.raises(SpecError, match="'_migration' would be overwritten"):
        source(migration_metadata=True).exists()
    assert only(source()) == b'{"_migration":"mine"}'


# Ids


def test_ids_of_several_parts_never_fall_together(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    parts = ["", ":", "a", "a:", ":a", "%3A", "%", "a:b", "::", "😀"]
    database.execute("CREATE TABLE t (a text, b text)")
    for a in parts:
        for b in parts:
            database.execute("INSERT INTO t VALUES (%s, %s)", (a, b))
    for separator in (":", "::", "😀", "/:"):
        found, rejects = read(source(id_column=["a", "b"], id_separator=separator, columns=["a", "b"]), 3)
        assert not rejects
        assert len(found) == len(parts) ** 2
        for state_id, document in found.items():
            decoded = [unquote(part) for part in state_id.split(separator)]
            assert decoded == list(json.loads(document).values())


def test_ids_are_the_texts_of_any_type(database: psycopg.Connection, source: Callable[..., PostgresRowsSource]) -> None:
    database.execute("CREATE TABLE t (id int, day date, u uuid)")
    database.execute("INSERT INTO t VALUES (-7, '2026-01-02', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11')")
    assert list(read(source(id_column="day"))[0]) == ["2026-01-02"]
    assert list(read(source(id_column=["id", "u"]))[0]) == ["-7:a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]


@pytest.mark.parametrize("kind", ["bigint", 'text COLLATE "C"', 'text COLLATE "C.utf8"', "uuid"])
@pytest.mark.parametrize("count", [1, 7])
def test_ranges_together_are_all_rows_in_order_of_the_ids_bytes(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource], kind: str, count: int
) -> None:
    values = {
        "bigint": "i - 300",
        "uuid": "md5(i::text)::uuid",
    }.get(kind, "(array['a','B','Ä','_','😀','-'])[1 + i % 6] || i")
    database.execute(f"CREATE TABLE t (id {kind} PRIMARY KEY, n int)")
    database.execute(f"INSERT INTO t SELECT {values}, i FROM generate_series(1, 1000) i")
    found, rejects = read(source(), count)
    assert not rejects
    assert list(found) == sorted(found, key=str.encode)
    assert sorted(json.loads(document)["n"] for document in found.values()) == list(range(1, 1001))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("copies", [2, 25_000])
def test_rows_that_share_an_id_are_all_rejected_by_name(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource], count: int, copies: int
) -> None:
    database.execute("CREATE TABLE t (id text, n int)")
    database.execute("INSERT INTO t VALUES ('a', 0), ('c', 0), ('d', 0), ('e', 1), ('e', 2)")
    database.execute("INSERT INTO t SELECT 'b', i FROM generate_series(1, %s) i", (copies,))
    found, rejects = read(source(), count)
    assert list(found) == ["a", "c", "d"]
    assert {r.reason for r in rejects} == {"duplicate_id"}
    assert sorted(r.raw for r in rejects if r.id == b"e") == [b'{"n":1}', b'{"n":2}']
    assert len({r.raw for r in rejects if r.id == b"b"}) == copies
    assert len(rejects) == copies + 2


@pytest.mark.parametrize("count", [1, 4])
def test_rows_without_an_id_or_a_document_are_rejected_by_name(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource], count: int
) -> None:
    database.execute("CREATE TABLE t (a text, b int, doc jsonb)")
    database.execute("INSERT INTO t VALUES ('x', NULL, '{}'), (NULL, NULL, '[]'), ('x', 1, NULL), ('y', 2, '{}')")
    found, rejects = read(source(id_column=["a", "b"], data="doc"), count)
    assert found == {"y:2": b"{}"}
    assert {(r.id, r.raw, r.reason) for r in rejects} == {
        (b"x:NULL", b'{"a":"x","b":null,"doc":{}}', "null_id"),
        (b"NULL:NULL", b'{"a":null,"b":null,"doc":[]}', "null_id"),
        (b"x:1", None, "null_data"),
    }


def test_an_empty_table_has_no_states(database: psycopg.Connection, source: Callable[..., PostgresRowsSource]) -> None:
    database.execute("CREATE TABLE t (id text)")
    assert read(source(), 3) == ({}, [])


# Which rows


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("n > 1", ["2", "3"]),
        ("t.n = 2 OR name = 'a%s{}'  -- only these", ["1", "2"]),
        ("n IN (SELECT n FROM t WHERE n = 3);", ["3"]),
    ],
)
def test_a_condition_chooses_rows(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource], where: str, ids: list[str]
) -> None:
    database.execute(
        "CREATE TABLE t (id int, n int, name text); INSERT INTO t VALUES (1, 1, 'a%s{}'), (2, 2, ''), (3, 3, '')"
    )
    assert list(read(source(where=where), 2)[0]) == ids


def test_a_query_can_stand_instead_of_a_table(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    database.execute("CREATE SCHEMA app; CREATE TABLE app.a (k int, v text); CREATE TABLE app.b (k int, w bytea)")
    database.execute("INSERT INTO app.a VALUES (1, 'x'), (2, 'y'); INSERT INTO app.b VALUES (1, 'p'), (2, 'q')")
    query = (
        "WITH both_ AS (SELECT a.k, v, w FROM a JOIN b USING (k)) SELECT k AS id, v, w FROM both_ ORDER BY v; -- all"
    )
    found, rejects = read(source(query=query.replace("; --", " --"), schema="app"), 2)
    assert not rejects
    blobs = {"1": base64.b64encode(b"p").decode(), "2": base64.b64encode(b"q").decode()}
    assert {k: json.loads(v) for k, v in found.items()} == {
        k: {"v": v, "w": {"type": "bytea", "base64": blobs[k]}} for k, v in (("1", "x"), ("2", "y"))
    }


# What can be wrong


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"table": "nowhere"}, r"there is no table 'public\.nowhere'"),
        ({"schema": "nowhere"}, r"there is no table 'nowhere\.t'"),
        ({"id_column": "ld"}, r"source\.id_column: there is no column 'ld'. Did you mean 'id'\?"),
        ({"id_column": ["id", "zzz"]}, r"there is no column 'zzz'. There are: id, n, doc"),
        ({"data": "dox"}, r"source\.data: there is no column 'dox'. Did you mean 'doc'\?"),
        ({"data": "n"}, r"source\.data: the column 'n' is of type integer"),
        ({"columns": ["n", "m"]}, r"source\.columns: there is no column 'm'"),
        ({"created_column": "at"}, r"source\.created_column: there is no column 'at'"),
        ({"updated_column": "n"}, r"source\.updated_column: the column 'n' is of type integer"),
        ({"where": "n >"}, r"source\.where: PostgreSQL does not accept it: syntax error"),
        ({"where": "m = 1"}, r'source\.where: .* column "m" does not exist'),
        ({"where": "n = 'x'"}, r"source\.where: .* invalid input syntax for type integer"),
        ({"where": "n"}, r"source\.where: .* must be type boolean"),
        (
            {"where": "true); DELETE FROM t; SELECT (true"},
            r"source\.where: .*multiple commands|source\.where: .*syntax",
        ),
        ({"where": "true /*"}, r"source\.where: .*unterminated"),
        ({"query": "SELECT * FROM gone"}, r'source\.query: .* relation "gone" does not exist'),
        ({"query": "SELEC 1"}, r"source\.query: .* syntax error"),
        ({"query": "SELECT 1 AS id; DROP TABLE t"}, r"source\.query: PostgreSQL does not accept it"),
        ({"query": "SELECT id, n AS id FROM t"}, r"several of its columns are called 'id'"),
        ({"query": "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x"}, r"source\.query: .* data-modifying"),
        ({"query": "SELECT 1 AS id", "schema": "nowhere"}, r"there is no schema 'nowhere'"),
    ],
)
def test_a_wrong_source_is_told_before_anything_is_read(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource], keys: dict[str, Any], message: str
) -> None:
    database.execute("CREATE TABLE t (id int, n int, doc jsonb); INSERT INTO t VALUES (1, 1, '{}')")
    with pytest.raises(SpecError, match=message) as caught:
        source(**keys).exists()
    assert caught.value.remedy or "Did you mean" in caught.value.message or "There are" in caught.value.message
    assert database.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_a_missing_privilege_is_told(database: psycopg.Connection, source: Callable[..., PostgresRowsSource]) -> None:
    role = f"agui_test_reader_{time.time_ns()}"
    database.execute(f"CREATE ROLE {role} LOGIN; CREATE TABLE t (id int)")
    try:
        url = f"postgresql://{role}@{database.info.host}:{database.info.port}/{database.info.dbname}"
        with pytest.raises(StoreError, match=f"The user '{role}' may not read the source's table"):
            source(url).exists()
    finally:
        database.execute(f"DROP ROLE {role}")


def test_a_row_that_the_operators_sql_cannot_take_is_blamed_on_it(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    database.execute("CREATE TABLE t (id int, n int); INSERT INTO t VALUES (1, 0)")
    with pytest.raises(StoreError, match=r"cannot read the source .*division by zero") as caught:
        read(source(where="1 / n > 0"))
    assert not caught.value.transient


def test_nothing_can_be_written(database: psycopg.Connection, source: Callable[..., PostgresRowsSource]) -> None:
    database.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE SEQUENCE s")
    database.execute(
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$BEGIN INSERT INTO t VALUES (2); RETURN 3; END$$"
    )
    for query in ("SELECT f() AS id", "SELECT nextval('s') AS id"):
        with pytest.raises(StoreError, match="read-only"):
            read(source(query=query))
    assert database.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_no_password_is_shown(source: Callable[..., PostgresRowsSource]) -> None:
    opened = source(f"postgresql://u:{CANARY}@127.0.0.1:1/d", connect_timeout="2s")
    assert "127.0.0.1:1/d, table public.t" in opened.describe()
    with pytest.raises(Exception, match="cannot be reached") as caught:
        opened.ping()
    assert CANARY not in f"{opened.describe()} {caught.value} {opened._config!r}"


def test_what_is_selected_is_part_of_the_description(source: Callable[..., PostgresRowsSource]) -> None:
    """A variable in the file may change it, and the plan of before would not fit any more."""
    variants = [{}, {"where": "n = 1"}, {"where": "n = 2"}, {"data": "d"}, {"id_column": ["id", "n"]}]
    assert len({source(**keys).describe() for keys in variants}) == len(variants)
    assert source(read_timeout="3s").describe() == source().describe()


# Where it is


def test_a_place_is_that_of_a_store_only_where_the_stores_tables_are_read(
    database: psycopg.Connection, postgres_url: str, source: Callable[..., PostgresRowsSource]
) -> None:
    config = PostgresConfig.model_validate({"type": "postgresql", "connection_url": postgres_url})
    with closing(PostgresStore(config)) as store:
        store.prepare()
        database.execute("CREATE TABLE t (id int); CREATE VIEW v AS SELECT state_id AS id, data FROM ag_states")
        assert not source().place().overlaps(store.place())
        assert source(table="ag_states", id_column="state_id").place().overlaps(store.place())
        assert source(table="v").place().overlaps(store.place())
        assert source(query="SELECT t.id FROM t JOIN ag_versions ON true").place().overlaps(store.place())
        assert source().place() == source(where="id > 0").place()


# One moment


def _numbers(reader: Reader, span: Span) -> list[int]:
    return [
        json.loads(value)["n"]
        for batch in reader.read(Kind.STATE, span, pytest.fail)
        for value in batch.column("data").to_pylist()
    ]


def test_readers_that_join_a_view_see_one_moment(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    database.execute("CREATE TABLE t (id int, n int); INSERT INTO t SELECT i, 10 FROM generate_series(1, 9) i")
    holder, late = source(), source()
    assert isinstance(holder, Consistent)
    assert isinstance(holder, Stamping)
    first, second, third = spans(holder, 3)
    with holder.held_view() as view:
        late.join_view(view)
        before = _numbers(late, first)
        database.execute("UPDATE t SET n = n - 5 WHERE id > 5; UPDATE t SET n = n + 5 WHERE id <= 5")
        database.execute("DELETE FROM t WHERE id = 9; INSERT INTO t VALUES (99, 1000)")
        other = source()
        other.join_view(view)
        numbers = before + _numbers(late, second) + _numbers(other, third)
    assert numbers == [10] * 9
    assert sum(n for span in (first, second, third) for n in _numbers(source(), span)) > 1000


def test_a_view_outlives_a_servers_limit_on_idle_transactions(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    database.execute("CREATE TABLE t (id int, n int); INSERT INTO t VALUES (1, 1)")
    database.execute(f"ALTER DATABASE {database.info.dbname} SET idle_in_transaction_session_timeout = '50ms'")
    if database.info.server_version >= 170000:
        database.execute(f"ALTER DATABASE {database.info.dbname} SET transaction_timeout = '150ms'")
    holder, reader = source(), source()
    with holder.held_view() as view:
        time.sleep(0.4)
        reader.join_view(view)
        assert read(reader) == ({"1": b'{"n":1}'}, [])


def test_a_view_whose_holder_is_gone_is_never_replaced_by_another_moment(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource]
) -> None:
    database.execute("CREATE TABLE t (id int, n int); INSERT INTO t VALUES (1, 1)")
    holder, reader = source(), source()
    [span] = spans(reader)
    with holder.held_view() as view:
        database.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE state LIKE 'idle in%'")
        reader.join_view(view)
        with pytest.raises(ConnectionFailedError, match="does not know the moment") as caught:
            _numbers(reader, span)
    assert not caught.value.transient  # what is read again would be of another moment


def _moving(url: str, table: str, stop: threading.Event) -> None:
    """Moves value between the first and the last ids, so that what is read range by range does not add up."""
    with psycopg.connect(url, autocommit=True) as connection:
        step = 0
        while not stop.is_set():
            step += 1
            low, high = step % 100, 1999 - step % 100
            connection.execute(
                f"UPDATE {table} SET data = jsonb_build_object('n', (data -> 'n')::int + "
                f"CASE WHEN state_id = '{low:05}' THEN 1 ELSE -1 END) "
                f"WHERE state_id IN ('{low:05}', '{high:05}')"
            )


@pytest.mark.parametrize("kind", ["postgresql_rows", "postgresql"])
@pytest.mark.parametrize("parallelism", [1, 3])
def test_all_ranges_of_an_export_add_up_while_somebody_writes(
    migration, database: psycopg.Connection, postgres_url: str, tmp_path, kind: str, parallelism: int
) -> None:
    database.execute(
        "CREATE TABLE ag_states (state_id text PRIMARY KEY, data jsonb, created_at timestamptz, updated_at timestamptz)"
    )
    database.execute(
        "INSERT INTO ag_states SELECT lpad(i::text, 5, '0'), '{\"n\": 100}' FROM generate_series(0, 1999) i"
    )
    source = {"type": kind, "connection_url": postgres_url}
    if kind == "postgresql_rows":
        source |= {"table": "ag_states", "id_column": "state_id", "data": "data"}
    target = {"type": "file", "file_options": {"base_dir": str(tmp_path / "store"), "durable": False}}
    session = migration(source=source, target=target, ranges=8, parallelism=parallelism).session()
    stop = threading.Event()
    writer = threading.Thread(target=_moving, args=(postgres_url, "ag_states", stop))
    writer.start()
    try:
        made = plan(session)
        export(session, made, [r.name for r in made.ranges])
    finally:
        stop.set()
        writer.join()
    numbers = [
        json.loads(value)["n"]
        for r in made.ranges
        for batch in exported(session, made, r.name).batches(Kind.STATE, ["data"])
        for value in batch.column("data").to_pylist()
    ]
    assert len(numbers) == 2000
    assert sum(numbers) == 200_000
    assert len(set(numbers)) > 1  # somebody did write


# Migrations


@pytest.fixture
def sessions(database: psycopg.Connection, postgres_url: str) -> dict[str, Any]:
    """A table of 300 sessions, and the source that it is."""
    database.execute(
        "CREATE TABLE sessions (tenant text, id bigint, body jsonb, cost numeric, made timestamptz, PRIMARY KEY (tenant, id))"
    )
    database.execute(
        "INSERT INTO sessions SELECT 't:' || i % 3, i, jsonb_build_object('n', i), i + 0.10, '2020-01-01Z' "
        "FROM generate_series(1, 300) i"
    )
    return {
        "type": "postgresql_rows",
        "connection_url": postgres_url,
        "table": "sessions",
        "id_column": ["tenant", "id"],
        "created_column": "made",
    }


def _expected() -> dict[str, dict[str, Any]]:
    return {
        f"t%3A{i % 3}:{i}": {"body": {"n": Decimal(i)}, "cost": Decimal(f"{i}.10"), "made": "2020-01-01T00:00:00+00:00"}
        for i in range(1, 301)
    }


def _without_member(documents: dict[str, bytes | str], moment: str) -> dict[str, dict[str, Any]]:
    values = {k: json.loads(v, parse_float=Decimal, parse_int=Decimal) for k, v in documents.items()}
    members = [value.pop("_migration") for value in values.values()]
    for member in members:
        assert member["original_created_at"] == "2020-01-01T00:00:00Z"
        assert datetime.fromisoformat(member["migrated_at"]) == datetime.fromisoformat(moment)
    return values


def test_rows_arrive_in_redis(migration, sessions: dict[str, Any], legacy: redis.Redis) -> None:
    place = legacy.connection_pool.connection_kwargs
    url = f"redis://{place['host']}:{place['port']}/{place['db']}"
    move = migration(source=sessions, target={"type": "redis", "connection_url": url})
    outcome = move.run()
    assert outcome.validation.passed
    assert outcome.validation.kinds[Kind.STATE].migrated == 300
    prefix = b"ag-ui:state:state:"
    documents = {key.removeprefix(prefix).decode(): legacy.get(key) for key in legacy.scan_iter(prefix + b"*")}
    assert _without_member(documents, outcome.plan.created_at) == _expected()


def test_rows_arrive_in_files_and_a_resumed_migration_says_the_same_moment(
    migration, sessions: dict[str, Any], tmp_path
) -> None:
    target = {"type": "file", "file_options": {"base_dir": str(tmp_path / "store"), "durable": False}}
    move = migration(source=sessions, target=target)
    session = move.session()
    made = plan(session)
    export(session, made, [made.ranges[0].name])
    time.sleep(0.01)  # so that another moment would be another text
    outcome = move.run()
    assert outcome.plan.resumed
    assert [r.resumed for r in outcome.exported.ranges] == [True, False, False, False]
    assert outcome.validation.passed
    files = (tmp_path / "store" / "states").rglob("*.json")
    documents = {file.name.removesuffix(".json"): file.read_bytes() for file in files}
    assert _without_member(documents, made.created_at) == _expected()


def test_a_store_in_the_schema_of_the_table_is_another_place_than_the_table(
    migration, sessions: dict[str, Any], postgres_url: str, database: psycopg.Connection
) -> None:
    target = {"type": "postgresql", "connection_url": postgres_url}
    assert migration(source=sessions, target=target).run().validation.passed
    row = database.execute(
        "SELECT data -> 'cost', created_at = '2020-01-01Z' FROM ag_states WHERE state_id = 't%3A1:1'"
    )
    assert row.fetchone() == (1.1, True)
    with pytest.raises(SamePlaceError):
        its_own = {**sessions, "table": "ag_states", "id_column": "state_id", "created_column": "created_at"}
        migration(name="again", source=its_own, target=target).run()


def test_duplicate_ids_refuse_the_import(
    migration, sessions: dict[str, Any], postgres_url: str, database: psycopg.Connection
) -> None:
    target = {"type": "postgresql", "connection_url": postgres_url}
    move = migration(source={**sessions, "id_column": "tenant"}, target=target)
    with pytest.raises(RejectLimitError, match=r"300 records were rejected \(300 duplicate_id\)"):
        move.run()
    assert database.execute("SELECT to_regclass('ag_states')").fetchone() in [(None,), ("ag_states",)]


def test_ids_of_a_database_in_another_encoding_are_sorted_as_utf_8(
    database: psycopg.Connection, postgres_url: str, source: Callable[..., PostgresRowsSource]
) -> None:
    name = f"{database.info.dbname}_latin9"
    database.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN9' LOCALE 'C'")
    try:
        url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE t (id text, n int)")
            # In LATIN9 the euro sign comes before the umlauts, in UTF-8 behind them.
            connection.execute("INSERT INTO t VALUES ('ä', 1), ('€', 2), ('a', 3), ('z', 4)")
        with ExitStack() as stack:
            opened = stack.enter_context(closing(source(url)))
            assert list(read(opened, 4)[0]) == ["a", "z", "ä", "€"]
    finally:
        database.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_wrong_source_ends_a_migration_before_anything_is_written(
    migration, sessions: dict[str, Any], tmp_path
) -> None:
    target = {"type": "file", "file_options": {"base_dir": str(tmp_path / "store"), "durable": False}}
    with pytest.raises(SpecError, match=r"source\.where"):
        migration(source={**sessions, "where": "nonsense"}, target=target).run()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("kind", "value"), [("bigint", "i"), ("smallint", "i - 10000"), ("uuid", "md5(i::text)::uuid")]
)
def test_an_index_on_the_id_serves_a_key_range(
    database: psycopg.Connection, source: Callable[..., PostgresRowsSource], kind: str, value: str
) -> None:
    database.execute(f"CREATE TABLE t (id {kind} PRIMARY KEY, filler text)")
    database.execute(f"INSERT INTO t SELECT {value}, repeat('x', 500) FROM generate_series(1, 20000) i")
    database.execute("ANALYZE t")
    opened = source()
    found, _ = read(opened, 16)
    assert len(found) == 20000
    span = spans(opened, 16)[7]
    with opened._reading() as (connection, selection):
        query = sql.SQL("EXPLAIN {}").format(selection.within(span.lower, span.upper))
        lines = " ".join(line for (line,) in connection.execute(query).fetchall())
    assert "t_pkey" in lines
    assert "Seq Scan" not in lines
