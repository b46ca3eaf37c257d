"""What is particular to PostgreSQL; what every store does is tested for all of them together."""

from __future__ import annotations

import io
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from agui_pipelines.canonical import Trait, digest
from agui_pipelines.drivers.postgresql_binary import moment
from agui_pipelines.embedded import EmbeddedPostgres
from agui_pipelines.errors import (
    ConnectionFailedError,
    InterruptedConnectionError,
    SpecError,
    StoreBusyError,
    StoreError,
    UnstorableRecordError,
)
from agui_pipelines.keyspace import CATALOGUE, KeyRange, Span, cut, single_spans, write_catalogue
from agui_pipelines.ports import BATCH_BYTES, Snapshot, Store, Version, Written
from agui_pipelines.records import SCHEMAS, SNAPSHOT, STATE, VERSION, Kind, digested
from agui_pipelines.spec import PostgresConfig
from agui_pipelines.stores.postgresql import PostgresStore
from agui_pipelines.stores.postgresql_tables import TABLES, Tables

CANARY = "canary-4711"


def config(url: str, **keys) -> PostgresConfig:
    return PostgresConfig.model_validate({"type": "postgresql", "connection_url": url, **keys})


def connected(url: str, **parameters) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True, **parameters)


def execute(url: str, *statements: str) -> None:
    with connected(url) as connection:
        for statement in statements:
            connection.execute(statement)


def query(url: str, statement: str) -> list[tuple]:
    with connected(url) as connection:
        return connection.execute(statement).fetchall()


def with_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


@pytest.fixture
def open_store(postgres_url: str) -> Iterator[Callable[..., PostgresStore]]:
    """Call it for a store on the test's database; every store is closed in the end."""
    stores: list[PostgresStore] = []

    def make(url: str = postgres_url, **keys) -> PostgresStore:
        stores.append(PostgresStore(config(url, **keys)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., PostgresStore]) -> PostgresStore:
    store = open_store()
    store.prepare()
    return store


@pytest.fixture
def role(postgres_url: str) -> Iterator[str]:
    """A role without any privilege beyond those of everybody."""
    name = f"agui_test_role_{time.time_ns()}"
    execute(postgres_url, f"CREATE ROLE {name} LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    yield name
    execute(postgres_url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def states(*rows: tuple[str, bytes], created: str | None = None, updated: str | None = None) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [{"state_id": i, "data": d, "created_at": created, "updated_at": updated} for i, d in rows], schema=STATE
    )


def fill(url: str, rows: int) -> None:
    """States of about 1 KB, ``s1`` and so on."""
    execute(
        url,
        "INSERT INTO ag_states SELECT 's' || i, jsonb_build_object('t', repeat('x', 1000)) "
        f"FROM generate_series(1, {rows}) i",
    )


def version(version_id: str, state_id: str = "a", **parts) -> Version:
    return Version(version_id, state_id, **{"timestamp": "2025-07-14T09:30:15Z", "data": b"{}", **parts})


def versions(*rows: Version) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [{name: getattr(row, name) for name in VERSION.names} for row in rows], schema=VERSION
    )


def _empty_catalogue() -> pq.ParquetFile:
    file = io.BytesIO()
    pq.write_table(CATALOGUE.empty_table(), file)
    return pq.ParquetFile(file)


NO_CATALOGUE = _empty_catalogue()
"""This store reads by the bounds of a range and never by its keys."""


def span(lower: bytes | None = None, upper: bytes | None = None) -> Span:
    return Span(KeyRange("00", lower, upper, 0, 1, 1), NO_CATALOGUE)


def no_reject(reject: object) -> None:
    pytest.fail(f"unexpected reject {reject}")


def read(store: Store, kind: Kind = Kind.STATE, lower: bytes | None = None, upper: bytes | None = None) -> list[dict]:
    return [row for batch in store.read(kind, span(lower, upper), no_reject) for row in batch.to_pylist()]


def documents(store: Store) -> dict[str, bytes]:
    return {row["state_id"]: row["data"] for row in read(store)}


# Values


nasty_numbers = st.one_of(
    st.sampled_from(
        [
            "0",
            "-0",
            "-0.0",
            "0.0",
            "1.0",
            "1",
            "1e5",
            "100000",
            "1E+2",
            "123456789012345678901234567890",
            "1e-400",
            "1e400",
            "0.1",
            "0.1000000000000000055",
            "1.7976931348623157e308",
            "5e-324",
            "18446744073709551616",
            "9007199254740993",
            "1e131071",
            "1e131072",
            "1e-16383",
            "1e-16384",
            "0e-16383",
            "0e-16384",
            "0e131073",
            "0.00",
            "100e-2",
            "1.10",
            "-12.50e3",
        ]
    ),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.builds(
        lambda sign, whole, fraction, exponent: f"{sign}{whole}{fraction}{exponent}",
        st.sampled_from(["", "-"]),
        st.integers(0, 10**35).map(str),
        st.sampled_from(["", ".0", ".5", ".50", ".0000000000000000000000000000000001", ".10"]),
        st.sampled_from(["", "e0", "e1", "E-3", "e+20", "e-33", "e200", "e-20000", "e140000"]),
    ),
)
raw_strings = st.one_of(
    st.text(max_size=8).map(lambda text: '"' + "".join(_escaped(c) for c in text) + '"'),
    st.sampled_from(
        [r'"\u0000"', r'"a\u0000b"', r'"\ud800"', r'"\udc00\ud800"', r'"\ud83d\ude00"', r'"\\u0000"', r'"\/\b"']
    ),
    st.sampled_from(
        ['"é"', r'"\u00e9"', '"😀"', r'"\u2028"', '"\u2028"', r'"\t\n\r\"\\"', '"\x7f"', '"\u0080"', '"\uffff"']
    ),
)


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return f"\\u{ord(character):04x}" if ord(character) < 0x20 else character


def _object(members: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{key}:{value}" for key, value in members) + "}"


raw_values = st.recursive(
    st.one_of(st.sampled_from(["null", "true", "false", "[]", "{ }"]), nasty_numbers, raw_strings),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: "[" + " ,".join(items) + "]"),
        st.lists(st.tuples(raw_strings, inner), max_size=4).map(_object),
    ),
    max_leaves=8,
)
raw_objects = st.lists(st.tuples(st.one_of(raw_strings, st.sampled_from(['"a"', '"b"'])), raw_values), max_size=4).map(
    lambda members: _object(members).encode()
)


@pytest.fixture(scope="module")
def shared_url(postgres_server: str) -> Iterator[str]:
    """One database for all examples of the property tests."""
    name = f"agui_test_properties_{os.getpid()}"
    execute(postgres_server, f"CREATE DATABASE {name}", f"ALTER DATABASE {name} SET synchronous_commit = off")
    yield urlunsplit(urlsplit(postgres_server)._replace(path=f"/{name}"))
    execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def shared_store(shared_url: str) -> Iterator[PostgresStore]:
    store = PostgresStore(config(shared_url))
    store.prepare()
    yield store
    store.close()


@pytest.fixture(scope="module")
def shared_connection(shared_url: str) -> Iterator[psycopg.Connection]:
    with connected(shared_url) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(raw_objects, min_size=1, max_size=6))
def test_a_document_comes_back_with_its_canonical_digest_unless_it_was_refused(shared_store, shared_connection, raw):
    shared_connection.execute("DELETE FROM ag_states")
    batch, unusable = digested(Kind.STATE, states(*((f"s{i}", document) for i, document in enumerate(raw))))
    assert not unusable
    refused = {refusal.row for refusal in shared_store.refusals(Kind.STATE, batch)}
    for row in refused:
        with pytest.raises(UnstorableRecordError) as caught:
            shared_store.write(Kind.STATE, batch.slice(row, 1))
        assert batch.column("state_id")[row].as_py() in str(caught.value)
    held = [row for row in range(len(raw)) if row not in refused]
    written = shared_store.write(Kind.STATE, batch.take(pa.array(held, pa.int64())))
    assert written == Written(inserted=len(held))
    found = documents(shared_store)
    assert {i: digest(d).canonical for i, d in found.items()} == {f"s{i}": digest(raw[i]).canonical for i in held}


near_pairs = st.one_of(
    st.tuples(raw_objects, raw_objects),
    # Most pairs of those differ; of these, many are equal but for their spelling.
    st.tuples(nasty_numbers, nasty_numbers).map(lambda pair: tuple(f'{{"n": {number}}}'.encode() for number in pair)),
    st.tuples(raw_objects, st.none()),
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(near_pairs)
def test_two_documents_have_one_canonical_digest_exactly_if_jsonb_calls_them_equal(shared_connection, pair):
    one, other = pair
    if other is None:
        other = as_jsonb_spells_it(shared_connection, one)
    digests = [digest(document) for document in (one, other)]
    if any(d.traits & (Trait.NUL | Trait.LONE_SURROGATE | Trait.EXTREME_NUMBER) for d in digests):
        return
    equal, same_text = shared_connection.execute(
        "SELECT %(a)s::jsonb = %(b)s::jsonb, %(a)s::jsonb::text = %(b)s::jsonb::text",
        {"a": one.decode(), "b": other.decode()},
    ).fetchone()
    assert (digests[0].canonical == digests[1].canonical) == equal
    assert same_text or digests[0].spelling != digests[1].spelling


def as_jsonb_spells_it(connection: psycopg.Connection, document: bytes) -> bytes:
    try:
        return connection.execute("SELECT %s::jsonb::text", (document.decode(),)).fetchone()[0].encode()
    except psycopg.DataError:
        return document


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), unique=True))
def test_any_text_is_an_id_and_ids_come_in_order_of_their_bytes(shared_store, shared_connection, ids):
    shared_connection.execute("DELETE FROM ag_states")
    shared_store.write(Kind.STATE, states(*((name, b'{"a": "\\\\N\\t\\\\."}') for name in ids)))
    ordered = sorted(ids, key=str.encode)
    assert [row["state_id"] for row in read(shared_store)] == ordered
    assert list(shared_store.list_states()) == ordered
    for lower, upper in pairwise(ordered):
        found = read(shared_store, lower=lower.encode(), upper=upper.encode())
        assert [row["state_id"] for row in found] == [lower]


moments_of_the_server = st.one_of(
    st.integers(-211_813_488_000_000_000, 9_223_371_331_199_999_999),
    st.integers(-(10**14), 10**15),
    st.integers(-(10**8), 10**9).map(lambda seconds: seconds * 1_000_000),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moments_of_the_server)
def test_a_moment_that_the_server_keeps_is_read_as_rfc_3339_and_written_back_as_it_was(
    shared_store, shared_connection, micros
):
    shared_connection.execute("DELETE FROM ag_states")
    shared_connection.execute(
        "INSERT INTO ag_states VALUES ('a', '{}', 'epoch', timestamptz '2000-01-01Z' + %s::interval)",
        ("{} days {} microseconds".format(*divmod(micros, 86_400_000_000)),),
    )
    [row] = read(shared_store)
    assert moment(row["updated_at"]) == micros
    shared_store.write(Kind.STATE, pa.RecordBatch.from_pylist([{**row, "state_id": "b"}], schema=STATE))
    kept = shared_connection.execute("SELECT count(*), count(DISTINCT updated_at) FROM ag_states").fetchone()
    assert kept == (2, 1)


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ("2025-07-14 09:30:15.123456+00", "2025-07-14T09:30:15.123456Z"),
        ("2025-07-14 09:30:15.120000+02", "2025-07-14T07:30:15.12Z"),
        ("2025-07-14 09:30:20+00", "2025-07-14T09:30:20Z"),
        ("0001-01-01 00:00:00+00", "0001-01-01T00:00:00Z"),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
        ("0044-03-15 00:00:00+00 BC", "-0043-03-15T00:00:00Z"),
        ("10000-01-01 00:00:00.5+00", "10000-01-01T00:00:00.5Z"),
    ],
)
def test_moments_are_spelled(store, postgres_url, stored, text):
    execute(postgres_url, f"INSERT INTO ag_states VALUES ('a', '{{}}', '{stored}', NULL)")
    [row] = read(store)
    assert (row["created_at"], row["updated_at"]) == (text, None)
    store.write(Kind.STATE, pa.RecordBatch.from_pylist([{**row, "state_id": "b"}], schema=STATE))
    assert query(postgres_url, "SELECT count(DISTINCT created_at) FROM ag_states") == [(1,)]


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("2025-07-14T09:30:15.123456789Z", "2025-07-14 09:30:15.123456+00"),
        ("2025-07-14T09:30:15.9999999Z", "2025-07-14 09:30:15.999999+00"),
        ("2025-07-14T09:30:15.12-04:00", "2025-07-14 13:30:15.12+00"),
        ("2025-07-14T09:30:15+23:59", "2025-07-13 09:31:15+00"),
        ("2025-07-14 09:30:15z", "2025-07-14 09:30:15+00"),
    ],
)
def test_what_a_moment_has_beyond_microseconds_is_cut_and_its_offset_applied(store, postgres_url, text, stored):
    store.save_version(version("v", timestamp=text))
    assert query(postgres_url, f"SELECT created_at = '{stored}' FROM ag_versions") == [(True,)]


def test_a_version_without_a_time_has_none_in_the_table(store, postgres_url):
    store.save_version(version("v", timestamp=""))
    assert query(postgres_url, "SELECT created_at FROM ag_versions") == [(None,)]
    assert store.get_version("a", "v").timestamp == ""


# Writing


def test_a_row_holds_the_spelling_that_was_written_last(store):
    assert store.write(Kind.STATE, states(("a", b'{"n": 1}'))) == Written(inserted=1)
    assert store.write(Kind.STATE, states(("a", b'{"n":1}'))) == Written(unchanged=1)
    assert store.write(Kind.STATE, states(("a", b'{"n": 1.0}'))) == Written(updated=1)
    assert store.get_state("a") == b'{"n": 1.0}'


@pytest.mark.parametrize("size", [3_000, 300_000])
def test_a_document_that_is_stored_out_of_line_is_unchanged_when_it_is_written_again(store, size):
    text = "".join(chr(0x4E00 + i * 7919 % 20_000) for i in range(size // 3))  # which hardly compresses
    for name, content in (("random", text.encode()), ("repeated", b"x" * size)):
        document = b'{"t": "' + content + b'"}'
        assert store.write(Kind.STATE, states((name, document))) == Written(inserted=1)
        assert store.write(Kind.STATE, states((name, document))) == Written(unchanged=1)
        assert store.write(Kind.STATE, states((name, document.replace(b"{", b'{"a": 1, ')))) == Written(updated=1)


def test_a_batch_of_new_changed_and_unchanged_rows_is_counted_as_such(store):
    store.write(Kind.STATE, states(("a", b'{"n": 1}'), ("b", b'{"n": 1}')))
    batch = states(("c", b'{"n": 1}'), ("b", b'{"n": 2}'), ("a", b'{"n": 1}'))
    assert store.write(Kind.STATE, batch) == Written(inserted=1, updated=1, unchanged=1)
    assert documents(store) == {"a": b'{"n": 1}', "b": b'{"n": 2}', "c": b'{"n": 1}'}


def test_a_digested_batch_is_written_like_a_bare_one(store):
    batch, _ = digested(Kind.STATE, states(("a", b'{"n":1}')))
    assert store.write(Kind.STATE, batch) == Written(inserted=1)


def test_times_that_are_not_given_are_the_present_ones_and_a_creation_time_is_kept(store, postgres_url):
    old = "2001-01-01T00:00:00Z"
    store.write(Kind.STATE, states(("kept", b"{}"), ("changed", b"{}"), created=old, updated=old))
    store.write(Kind.STATE, states(("kept", b"{}"), ("changed", b'{"n": 1}'), ("new", b"{}")))
    fresh = "now() - interval '1 hour'"
    assert query(
        postgres_url,
        f"SELECT state_id, created_at > {fresh}, updated_at > {fresh} FROM ag_states ORDER BY state_id",
    ) == [("changed", False, True), ("kept", False, False), ("new", True, True)]


def test_times_that_are_given_replace_those_that_are_there(store):
    store.write(Kind.STATE, states(("a", b"{}"), created="2001-01-01T00:00:00Z", updated="2001-01-01T00:00:00Z"))
    assert store.write(Kind.STATE, states(("a", b"{}"), updated="2002-02-02T00:00:00Z")) == Written(updated=1)
    [row] = read(store)
    assert (row["created_at"], row["updated_at"]) == ("2001-01-01T00:00:00Z", "2002-02-02T00:00:00Z")


@pytest.mark.parametrize("existing", [False, True])
def test_rows_with_and_without_times_may_be_mixed_in_one_batch(store, existing):
    if existing:
        store.write(
            Kind.STATE, states(("both", b'{"old": 1}'), ("none", b'{"old": 1}'), created="2001-01-01T00:00:00Z")
        )
    given_time = "2002-02-02T00:00:00.5Z"
    rows = [
        {"state_id": "both", "data": b"{}", "created_at": given_time, "updated_at": given_time},
        {"state_id": "created", "data": b"{}", "created_at": given_time},
        {"state_id": "none", "data": b"{}"},
        {"state_id": "updated", "data": b"{}", "updated_at": given_time},
    ]
    written = store.write(Kind.STATE, pa.RecordBatch.from_pylist(rows, schema=STATE))
    assert written == (Written(inserted=2, updated=2) if existing else Written(inserted=4))
    found = {row["state_id"]: (row["created_at"], row["updated_at"]) for row in read(store)}
    assert found["both"] == (given_time, given_time)
    assert found["created"][0] == given_time != found["created"][1]
    assert found["updated"][0] != given_time == found["updated"][1]
    assert (found["none"][0] == "2001-01-01T00:00:00Z") == existing
    assert found["none"][1] > "2025"


def test_a_row_that_appears_while_a_batch_is_added_is_updated_instead(store, postgres_url):
    written: list[Written] = []
    with psycopg.connect(postgres_url) as other:
        other.execute("INSERT INTO ag_states VALUES ('b', '{\"other\": 1}')")
        batch = states(("a", b"{}"), ("b", b'{"ours": 1}'), ("c", b"{}"))
        writer = threading.Thread(target=lambda: written.append(store.write(Kind.STATE, batch)))
        writer.start()
        wait_until(
            lambda: query(postgres_url, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")[0][0]
        )
        other.commit()
        writer.join()
    assert written == [Written(inserted=2, updated=1)]
    assert documents(store) == {"a": b"{}", "b": b'{"ours": 1}', "c": b"{}"}


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("what was waited for did not happen")


@pytest.mark.parametrize("others", [(), ("a",)])
def test_a_document_that_the_server_refuses_leaves_nothing_of_its_batch_and_is_named(store, others):
    store.write(Kind.STATE, states(*((name, b'{"old": 1}') for name in others)))
    batch = states(("a", b"{}"), ("b", b'{"s": "\\u0000"}'), ("c", b"{}"))
    with pytest.raises(UnstorableRecordError, match="'b'"):
        store.write(Kind.STATE, batch)
    assert documents(store) == dict.fromkeys(others, b'{"old": 1}')
    assert store.write(Kind.STATE, batch.take(pa.array([0, 2]))).total == 2


def test_one_id_twice_in_a_batch_is_an_error_that_names_it(store):
    with pytest.raises(StoreError, match="two states with the id 'a'"):
        store.write(Kind.STATE, states(("a", b"{}"), ("a", b'{"n": 1}')))
    assert documents(store) == {}


def test_a_version_id_that_another_state_uses_is_refused_and_both_are_named(store):
    store.save_version(version("v", "first"))
    with pytest.raises(StoreError, match=r"'v' of the state 'second' .* 'first'"):
        store.write(Kind.VERSION, versions(version("w", "second"), version("v", "second", data=b'{"n": 1}')))
    with pytest.raises(StoreError, match=r"'v' of the state 'second' .* 'first'"):
        store.save_version(version("v", "second"))
    assert [row["state_id"] for row in read(store, Kind.VERSION)] == ["first"]


def test_one_version_id_of_two_states_in_a_batch_is_refused_and_both_are_named(store):
    with pytest.raises(StoreError, match="'v', of the states 'first' and 'second'"):
        store.write(Kind.VERSION, versions(version("v", "first"), version("v", "second")))
    assert read(store, Kind.VERSION) == []


def test_what_a_version_lacks_is_null_and_what_is_empty_stays_empty(store, postgres_url):
    bare = version("bare", "a")
    full = version("full", "a", delta=b"[]", metadata=b"{}", parent_id="bare", timestamp="2025-07-14T09:30:16.5Z")
    assert store.write(Kind.VERSION, versions(full, bare)) == Written(inserted=2)
    assert query(
        postgres_url, "SELECT version_id, delta::text, metadata::text, parent_id FROM ag_versions ORDER BY version_id"
    ) == [("bare", None, None, None), ("full", "[]", "{}", "bare")]
    assert store.get_version_history("a") == [full, bare]
    assert store.get_version_history("a", limit=1) == [full]
    assert read(store, Kind.VERSION) == versions(bare, full).to_pylist()
    assert store.write(Kind.VERSION, versions(full, bare)) == Written(unchanged=2)
    assert store.write(Kind.VERSION, versions(version("full", "a", delta=b"[]"), bare)) == Written(
        updated=1, unchanged=1
    )


def test_a_snapshot_comes_back_as_it_was_saved(store, postgres_url):
    one = Snapshot("s1", "a", "2025-07-14T09:30:15.000001Z", b'{"n": 1}', "v1", b'{"by": "me"}')
    two = Snapshot("s2", "a", "2025-07-14T09:30:16Z", b"{}")
    for snapshot in (one, two):
        store.save_snapshot(snapshot)
    assert store.list_snapshots("a") == [two, one]
    assert store.get_snapshot("a", "s1") == one
    assert store.get_snapshot("b", "s1") is None
    assert query(postgres_url, "SELECT version_id FROM ag_snapshots WHERE snapshot_id = 's2'") == [(None,)]


@pytest.mark.parametrize(
    "timestamp", ["yesterday", "2025-02-30T00:00:00Z", "2025-07-14T09:30:15", "2025-07-14T09:30:60Z"]
)
def test_a_version_whose_time_is_none_is_refused(store, timestamp):
    with pytest.raises(UnstorableRecordError, match="'v'"):
        store.save_version(version("v", timestamp=timestamp))


def test_unknown_members_of_a_version_are_refused(store):
    with pytest.raises(UnstorableRecordError, match="members"):
        store.save_version(version("v", extra=b'{"x": 1}'))
    assert read(store, Kind.VERSION) == []


@pytest.mark.parametrize("state_id", ["a\0b", "\ud800", "x" * 256])
def test_an_id_that_no_column_can_hold_is_absent_when_read_and_refused_when_written(store, state_id):
    assert store.get_state(state_id) is None
    assert store.delete_state(state_id) is False
    assert store.get_version(state_id, "v") is None
    with pytest.raises(UnstorableRecordError):
        store.set_state(state_id, b"{}")


@pytest.mark.parametrize("document", [b"[1]", b"null", b"", b"{", b'{"a": NaN}'])
def test_what_is_no_json_object_is_not_made_a_state(store, document):
    with pytest.raises(UnstorableRecordError):
        store.set_state("a", document)
    assert documents(store) == {}


def test_a_transaction_is_undone_as_a_whole(store):
    store.set_state("old", b"{}")
    with pytest.raises(UnstorableRecordError), store.transaction() as transaction:
        transaction.set_state("new", b"{}")
        transaction.delete_state("old")
        transaction.save_version(version("v"))
        assert store.get_state("new") is None
        transaction.set_state("bad", b'{"s": "\\u0000"}')
    assert documents(store) == {"old": b"{}"}
    assert store.get_version("a", "v") is None


def test_a_refused_record_can_be_left_out_of_a_transaction(store):
    with store.transaction() as transaction:
        transaction.set_state("a", b"{}")
        with pytest.raises(UnstorableRecordError):
            transaction.set_state("b", b'{"s": "\\u0000"}')
        transaction.set_state("c", b"{}")
    assert list(store.list_states()) == ["a", "c"]


# Reading


def test_versions_and_snapshots_of_states_that_are_gone_have_keys_too(store):
    store.set_state("a", b'{"n": 1}')
    store.save_version(version("v", "b"))
    store.save_snapshot(Snapshot("s", "é", "2025-07-14T09:30:15Z", b"{}"))
    keys = pa.Table.from_batches(list(store.keys())).to_pylist()
    assert {row["key"] for row in keys} == {b"a", b"b", "é".encode()}
    assert all(row["weight"] > 0 for row in keys)


def test_batches_are_bounded_and_a_larger_document_travels_alone(store):
    text = b'{"t": "' + b"x" * (BATCH_BYTES // 3) + b'"}'
    larger = b'{"t": "' + b"x" * (BATCH_BYTES + 1) + b'"}'
    for name, document in (("a", text), ("b", text), ("c", text), ("d", larger), ("e", text)):
        store.write(Kind.STATE, states((name, document)))
    batches = list(store.read(Kind.STATE, span(), no_reject))
    assert [batch.column("state_id").to_pylist() for batch in batches] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert batches[2].column("data")[0].as_py() == larger


def test_a_batch_has_at_most_two_thousand_rows(store, postgres_url):
    fill(postgres_url, 4_001)
    assert [batch.num_rows for batch in store.read(Kind.STATE, span(), no_reject)] == [2_000, 2_000, 1]


def test_ranges_of_a_catalogue_cover_every_row_once(store):
    store.write(Kind.STATE, states(*((f"k{i:03}", b"{}") for i in range(100))))
    file = io.BytesIO()
    write_catalogue(store.keys(), file)
    store.write(Kind.STATE, states(("a", b"{}"), ("k050-later", b"{}"), ("z", b"{}")))
    catalogue = pq.ParquetFile(file)
    for count in (1, 7, 120):
        ranges = [Span(part, catalogue) for part in cut(file, count)]
        found = [
            row["state_id"] for part in ranges for b in store.read(Kind.STATE, part, no_reject) for row in b.to_pylist()
        ]
        assert found == list(store.list_states())
        assert len(found) == 103


def test_bounds_that_are_no_text_compare_by_their_bytes(store):
    ids = ["a", "a\x7f", "aé", "b", "é", "😀"]
    store.write(Kind.STATE, states(*((name, b"{}") for name in ids)))
    for bound in (b"a\x00", b"a\xc3", b"\x80", b"\xc3\xff", b"\xff"):
        below = [row["state_id"] for row in read(store, upper=bound)]
        above = [row["state_id"] for row in read(store, lower=bound)]
        assert below == [name for name in ids if name.encode() < bound]
        assert above == [name for name in ids if name.encode() >= bound]


def test_an_empty_range_is_read_without_a_connection(open_store, store):
    nowhere = open_store("postgresql://postgres@127.0.0.1:1/nowhere")
    assert list(nowhere.read(Kind.STATE, Span(KeyRange("01", b"", b"", 0, 0, 0), NO_CATALOGUE), no_reject)) == []


def test_tables_in_another_byte_order_are_read_and_written_all_the_same(open_store, postgres_url):
    execute(
        postgres_url,
        'CREATE TABLE ag_states (state_id varchar(255) COLLATE "C.utf8" PRIMARY KEY, data jsonb NOT NULL, '
        "created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now())",
    )
    store = open_store()
    store.check()
    ids = ["B", "a", "aé", "é"]
    batch = states(*((name, b"{}") for name in reversed(ids)))
    assert store.write(Kind.STATE, batch) == Written(inserted=4)
    assert store.write(Kind.STATE, batch) == Written(unchanged=4)
    assert [row["state_id"] for row in read(store)] == ids
    assert [row["state_id"] for row in read(store, lower=b"a", upper="é".encode())] == ["a", "aé"]
    [single] = single_spans([b"a"])
    assert [row["state_id"] for row in read(store, lower=single.lower, upper=single.upper)] == ["a"]


def test_a_single_id_is_found_by_the_index_in_whatever_order_that_is(open_store, postgres_url):
    execute(postgres_url, 'CREATE TABLE ag_states (state_id varchar(255) COLLATE "C.utf8" PRIMARY KEY, data jsonb)')
    open_store().prepare()
    tables = Tables("public")
    [single] = single_spans([b"a"])
    with connected(postgres_url) as connection:
        connection.execute("SET enable_seqscan = off")
        for table in TABLES.values():
            condition = tables.within(connection, table, single.lower, single.upper)
            statement = sql.SQL("EXPLAIN SELECT FROM {} WHERE {}").format(tables.identifier(table), condition)
            shown = "".join(line for (line,) in connection.execute(statement))
            found_by, _, _ = shown.partition("Index Cond:")[2].partition("Filter:")
            assert " = 'a'" in found_by, shown


def test_a_store_can_be_used_while_it_is_being_read(store):
    store.write(Kind.STATE, states(*((f"s{i}", b"{}") for i in range(5))))
    for name in store.list_states():
        store.set_state(f"{name}-copy", store.get_state(name))
    assert len(documents(store)) == 10


def test_a_reading_that_is_given_up_leaves_the_store_usable(store, postgres_url):
    fill(postgres_url, 50_000)
    for _ in range(3):
        reading = store.read(Kind.STATE, span(), no_reject)
        next(reading)
        reading.close()
    assert store.stats().states == 50_000
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert query(postgres_url, f"SELECT count(*) <= 2 {others}") == [(True,)]


def test_closing_the_store_ends_a_reading(store, postgres_url):
    fill(postgres_url, 30_000)
    reading = store.read(Kind.STATE, span(), no_reject)
    next(reading)
    store.close()
    with pytest.raises(InterruptedConnectionError):
        list(reading)
    assert store.stats().states == 30_000


def test_a_slow_reader_is_not_stopped_by_the_statement_timeout(open_store, store, postgres_url):
    fill(postgres_url, 25_000)
    hasty = open_store(postgresql_options={"statement_timeout": "100ms"})
    with connected(postgres_url) as other, other.transaction():
        other.execute("LOCK ag_states IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreBusyError):  # so the limit does hold for single records
            hasty.get_state("s1")
    rows = 0
    for batch in hasty.read(Kind.STATE, span(), no_reject):
        rows += batch.num_rows
        time.sleep(0.3)
    assert rows == 25_000


def test_a_batch_that_waits_for_a_lock_gives_up_as_busy_and_leaves_nothing(open_store, store, postgres_url):
    store.write(Kind.STATE, states(("b", b'{"old": 1}')))
    hasty = open_store(postgresql_options={"statement_timeout": "100ms"})
    batch = states(("a", b"{}"), ("b", b"{}"), ("c", b"{}"))
    with connected(postgres_url) as other, other.transaction():
        other.execute("SELECT FROM ag_states FOR UPDATE")
        with pytest.raises(StoreBusyError) as caught:
            hasty.write(Kind.STATE, batch)
    assert caught.value.transient
    assert documents(store) == {"b": b'{"old": 1}'}
    assert hasty.write(Kind.STATE, batch) == Written(inserted=2, updated=1)


# Connections


def cut_connections(url: str) -> None:
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    execute(url, f"SELECT pg_terminate_backend(pid) {others}")
    wait_until(lambda: query(url, f"SELECT count(*) = 0 {others}")[0][0])


CALLS = {
    "get": lambda store: store.get_state("s1"),
    "set": lambda store: store.set_state("s1", b"{}"),
    "write": lambda store: store.write(Kind.STATE, states(("new", b"{}"))),
    "keys": lambda store: list(store.keys()),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_connection_that_is_cut_is_a_transient_error_and_the_next_call_connects_anew(store, postgres_url, call):
    cut_connections(postgres_url)
    with pytest.raises(InterruptedConnectionError) as caught:
        CALLS[call](store)
    assert caught.value.transient
    CALLS[call](store)


def test_all_connections_are_given_up_when_one_turns_out_to_be_cut(store, postgres_url):
    fill(postgres_url, 2)
    for name in store.list_states():  # which takes one connection, and what follows another
        store.get_state(name)
    cut_connections(postgres_url)
    with pytest.raises(InterruptedConnectionError):
        store.get_state("s1")
    assert len(documents(store)) == 2


def test_a_reading_that_is_cut_is_a_transient_error_and_no_end(store, postgres_url):
    fill(postgres_url, 50_000)
    reading = store.read(Kind.STATE, span(), no_reject)
    next(reading)
    cut_connections(postgres_url)
    with pytest.raises(InterruptedConnectionError):
        list(reading)
    assert sum(batch.num_rows for batch in store.read(Kind.STATE, span(), no_reject)) == 50_000


def test_a_connection_that_was_idle_for_long_is_not_used_again(open_store, store, postgres_url):
    impatient = open_store(idle_timeout="1us")
    impatient.ping()
    cut_connections(postgres_url)
    assert impatient.get_state("a") is None


def test_a_server_that_went_away_is_a_transient_error_and_one_that_never_was_there_is_not():
    with EmbeddedPostgres() as server:
        url = server.url
        store = PostgresStore(config(url))
        store.ping()
    for _ in range(3):
        with pytest.raises(InterruptedConnectionError):
            store.ping()
    with pytest.raises(ConnectionFailedError) as caught:
        PostgresStore(config(url)).ping()
    assert not caught.value.transient


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[str]:
    """A server that wants passwords; the role `ada` has one."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        rules = Path(folder, "hba.conf")
        rules.write_text("host all postgres 127.0.0.1/32 trust\nhost postgres ada 127.0.0.1/32 scram-sha-256\n")
        rules.chmod(0o644)
        with EmbeddedPostgres(settings={"hba_file": str(rules)}) as server:
            execute(server.url, f"CREATE ROLE ada LOGIN PASSWORD '{CANARY}'")
            yield server.url


def with_login(url: str, login: str, database: str = "postgres", options: str = "") -> str:
    parts = urlsplit(url)
    return f"postgresql://{login}@{parts.hostname}:{parts.port}/{database}{options}"


def test_a_wrong_password_is_an_error_that_names_the_user_and_no_password(guarded_server):
    PostgresStore(config(with_login(guarded_server, f"ada:{CANARY}"))).ping()
    wrong = PostgresStore(config(with_login(guarded_server, f"ada:{CANARY}-wrong")))
    with pytest.raises(ConnectionFailedError) as caught:
        wrong.ping()
    assert "ada" in str(caught.value)
    assert f":{urlsplit(guarded_server).port}" in str(caught.value)
    assert_secret_is_kept(caught.value)


@pytest.mark.parametrize(
    ("login", "database", "says"),
    [("ada", "postgres", "ada"), ("nobody", "postgres", "nobody"), ("postgres", "nope", "no database 'nope'")],
)
def test_a_login_that_is_refused_says_why(guarded_server, login, database, says):
    with pytest.raises(ConnectionFailedError, match=says):
        PostgresStore(config(with_login(guarded_server, login, database))).ping()


def test_the_key_database_overrides_that_of_the_url(guarded_server):
    store = PostgresStore(config(with_login(guarded_server, "postgres", "nope"), database="postgres"))
    assert store.place().container == "postgres.public"
    store.close()


def test_ssl_mode_holds_unless_the_url_says_otherwise(guarded_server):
    url = with_login(guarded_server, "postgres")
    with pytest.raises(ConnectionFailedError, match="SSL"):
        PostgresStore(config(url, postgresql_options={"ssl_mode": "require"})).ping()
    store = PostgresStore(config(f"{url}?sslmode=disable", postgresql_options={"ssl_mode": "require"}))
    assert store.ping().startswith("PostgreSQL ")
    store.close()


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{CANARY}@db.example:5433/agents",
        f"postgresql://ada@db.example:5433/agents?password={CANARY}&connect_timeout=3",
        f"host=db.example port=5433 user=ada password={CANARY} dbname=agents",
    ],
)
def test_a_description_says_where_and_keeps_the_password(url):
    store = PostgresStore(config(url, schema="tenant"))
    assert store.describe() == "postgresql://ada:***@db.example:5433/agents, schema tenant"
    assert CANARY not in repr(vars(store)) + repr(store._connections.endpoint)


@pytest.mark.parametrize(
    "url",
    [f"postgresql://ada:{CANARY}%zz@h/d", f"{CANARY} of ada", f"postgresql://h/d?{CANARY}=1", f"password='{CANARY}"],
)
def test_an_unreadable_url_is_an_error_that_does_not_repeat_it(url):
    with pytest.raises(SpecError) as caught:
        PostgresStore(config(url))
    assert_secret_is_kept(caught.value)


def test_a_server_that_cannot_be_reached_is_named():
    with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:1 cannot be reached") as caught:
        PostgresStore(config(f"postgresql://ada:{CANARY}@127.0.0.1:1/agents")).ping()
    assert_secret_is_kept(caught.value)


def assert_secret_is_kept(error: BaseException) -> None:
    assert CANARY not in str(error)
    assert CANARY not in repr(error.args)
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_a_place_is_the_server_itself_whatever_name_it_is_reached_by(open_store, fresh_postgres, postgres_url):
    here = open_store().place()
    assert open_store(postgres_url.replace("127.0.0.1", "localhost")).place() == here
    assert open_store(schema="other").place().container.endswith(".other")
    assert not open_store(fresh_postgres()).place().overlaps(here)


def test_a_place_is_known_to_users_who_may_not_ask_for_the_system_identifier(open_store, postgres_url, role):
    execute(postgres_url, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    url = with_user(postgres_url, role)
    assert open_store(url).place() == open_store(url).place()
    assert open_store(url).place().server != open_store().place().server


# Preparing and checking


COLUMNS_BEHIND_THE_IDS = {
    "ag_snapshots": "data jsonb!, version_id varchar(255), metadata jsonb, created_at timestamptz now()",
    "ag_states": "data jsonb!, created_at timestamptz now(), updated_at timestamptz now()",
    "ag_versions": "data jsonb!, delta jsonb, metadata jsonb, parent_id varchar(255), created_at timestamptz now()",
}


def test_prepared_tables_are_those_of_the_format(store, postgres_url):
    store.prepare()
    columns = query(
        postgres_url,
        "SELECT table_name, string_agg(column_name || ' ' || udt_name || coalesce('(' || character_maximum_length || ')', '') "
        "|| CASE is_nullable WHEN 'NO' THEN '!' ELSE '' END || coalesce(' ' || column_default, ''), ', ' ORDER BY ordinal_position) "
        "FROM information_schema.columns WHERE table_schema = 'public' GROUP BY 1 ORDER BY 1",
    )
    assert columns == [
        (
            "ag_snapshots",
            "snapshot_id varchar(255)!, state_id varchar(255)!, " + COLUMNS_BEHIND_THE_IDS["ag_snapshots"],
        ),
        ("ag_states", "state_id varchar(255)!, " + COLUMNS_BEHIND_THE_IDS["ag_states"]),
        ("ag_versions", "version_id varchar(255)!, state_id varchar(255)!, " + COLUMNS_BEHIND_THE_IDS["ag_versions"]),
    ]
    indexes = query(postgres_url, "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1")
    assert [name for name, _ in indexes] == [
        "ag_snapshots_pkey",
        "ag_states_pkey",
        "ag_versions_pkey",
        "idx_ag_snapshots_state_created",
        "idx_ag_versions_state_created",
    ]
    assert indexes[4][1].endswith("(state_id, created_at DESC)")


def test_several_may_prepare_at_once(open_store, postgres_url):
    failures: list[BaseException] = []

    def prepare(store: PostgresStore) -> None:
        try:
            store.prepare()
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=prepare, args=(open_store(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    open_store().check()


def test_missing_indexes_are_made_and_existing_tables_left_alone(store, postgres_url):
    store.set_state("a", b"{}")
    execute(postgres_url, "DROP INDEX idx_ag_versions_state_created", "DROP TABLE ag_snapshots")
    store.prepare()
    assert query(postgres_url, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'") == [(5,)]
    assert documents(store) == {"a": b"{}"}


def test_names_are_quoted(open_store, postgres_url):
    schema = 'Ten"ant; --'
    execute(postgres_url, 'CREATE SCHEMA "Ten""ant; --"')
    store = open_store(schema=schema)
    store.check()
    store.prepare()
    store.check()
    store.set_state("a'b", b"{}")
    store.save_version(version("v'", "a'b"))
    assert documents(store) == {"a'b": b"{}"}
    assert [row["version_id"] for row in read(store, Kind.VERSION)] == ["v'"]
    assert store.get_version("a'b", "v'") == version("v'", "a'b")


@pytest.mark.parametrize("schema", ["public", "missing"])
def test_a_store_that_was_never_prepared_is_empty_when_read_and_an_error_when_written(open_store, postgres_url, schema):
    store = open_store(schema=schema)
    assert list(store.keys()) == []
    assert list(store.list_states()) == []
    assert [read(store, kind) for kind in Kind] == [[], [], []]
    assert store.get_state("a") is None
    assert store.get_version("a", "v") is None
    assert store.list_snapshots("a") == []
    assert store.delete_state("a") is False
    assert store.stats().states == 0
    for write in (
        lambda: store.set_state("a", b"{}"),
        lambda: store.write(Kind.STATE, states(("a", b"{}"))),
        lambda: store.write(Kind.VERSION, versions(version("v"))),
    ):
        with pytest.raises(StoreError, match="does not exist"):
            write()


def test_checking_a_usable_database_changes_nothing(open_store, postgres_url):
    open_store().check()
    assert query(postgres_url, "SELECT count(*) FROM pg_class WHERE relname LIKE 'ag%'") == [(0,)]


def test_a_missing_schema_is_refused_with_the_statement_that_creates_it(open_store):
    with pytest.raises(StoreError, match='CREATE SCHEMA "tenant"'):
        open_store(schema="tenant").check()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("ALTER TABLE ag_states DROP COLUMN updated_at", "'updated_at' is missing"),
        ("ALTER TABLE ag_states ALTER data TYPE json", "'data' is json instead of jsonb"),
        ("ALTER TABLE ag_states ALTER created_at TYPE timestamp", "'created_at' is timestamp without time zone"),
        ("ALTER TABLE ag_versions ALTER version_id TYPE varchar(36)", r"'version_id' is character varying\(36\)"),
        ("ALTER TABLE ag_snapshots ADD tenant text NOT NULL", "'tenant', which is not of the format"),
        ("ALTER TABLE ag_states DROP CONSTRAINT ag_states_pkey", "'state_id' is not its primary key"),
    ],
)
def test_a_table_that_is_not_of_the_format_is_refused_and_the_column_named(store, postgres_url, statement, says):
    store.check()
    execute(postgres_url, statement)
    with pytest.raises(StoreError, match=says):
        store.check()


def test_missing_privileges_are_named(open_store, postgres_url, role):
    store = open_store(with_user(postgres_url, role))
    with pytest.raises(StoreError, match=f'GRANT CREATE ON SCHEMA "public" TO "{role}"'):
        store.check()
    with pytest.raises(StoreError, match="privilege"):
        store.prepare()
    open_store().prepare()
    with pytest.raises(StoreError, match=r"lacks SELECT, INSERT, UPDATE on the table 'public.ag_states'"):
        store.check()
    execute(postgres_url, f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
    store.check()
    store.prepare()
    batch = states(("a", b"{}"))
    assert store.write(Kind.STATE, batch) == Written(inserted=1)
    assert store.write(Kind.STATE, batch) == Written(unchanged=1)


def test_rows_that_a_policy_hides_are_an_error_and_not_left_out(open_store, store, postgres_url, role):
    store.set_state("a", b"{}")
    execute(postgres_url, f"GRANT SELECT ON ag_states TO {role}", "ALTER TABLE ag_states ENABLE ROW LEVEL SECURITY")
    with pytest.raises(StoreError, match="row-level security"):
        list(open_store(with_user(postgres_url, role)).read(Kind.STATE, span(), no_reject))


def test_a_server_that_takes_no_writes_is_refused(open_store, postgres_url):
    execute(postgres_url, f"ALTER DATABASE {urlsplit(postgres_url).path[1:]} SET default_transaction_read_only = on")
    with pytest.raises(StoreError, match="takes no writes"):
        open_store().check()
    with pytest.raises(StoreError, match="read-only"):
        open_store().prepare()


def test_a_database_in_another_encoding_is_read_and_refused_for_writing(open_store, postgres_server, postgres_url):
    name = f"agui_test_latin1_{time.time_ns()}"
    execute(postgres_server, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    url = urlunsplit(urlsplit(postgres_server)._replace(path=f"/{name}"))
    try:
        store = open_store(url)
        with pytest.raises(StoreError, match="LATIN1"):
            store.check()
        store.prepare()
        for name_of_state in ("a", "z", "é"):
            store.set_state(name_of_state, '{"t": "é"}'.encode())
        assert [row["state_id"] for row in read(store, lower=b"b", upper="😀".encode())] == ["z", "é"]
        assert store.get_state("é") == '{"t": "é"}'.encode()
        store.close()
    finally:
        execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


def test_what_a_store_says_of_itself(store, postgres_url):
    for i in range(3):
        store.set_state(f"s{i}", b"{}")
    store.save_version(version("v"))
    stats = store.stats()
    assert (stats.states, stats.versions, stats.snapshots) == (3, 1, 0)
    assert (
        stats.bytes
        == query(
            postgres_url,
            "SELECT sum(pg_total_relation_size(c)) FROM unnest('{ag_states,ag_versions,ag_snapshots}'::regclass[]) c",
        )[0][0]
    )
    assert stats.server == store.ping()
    assert query(postgres_url, "SHOW server_version")[0][0].startswith(store.ping().removeprefix("PostgreSQL "))


# What cannot be held, and what is lost


def reasons(store: PostgresStore, kind: Kind, batch: pa.RecordBatch) -> list[tuple[int, str]]:
    rows, unusable = digested(kind, batch)
    assert not unusable
    return [(refusal.row, refusal.reason) for refusal in store.refusals(kind, rows)]


def test_what_cannot_be_stored_is_named_by_row_and_reason():
    store = PostgresStore(config("postgresql://nowhere.invalid/db"))
    batch = states(
        ("fine", b"{}"),
        ("nul", b'{"a": "\\u0000"}'),
        ("text of an escape", b'{"a": "\\\\u0000"}'),
        ("half", b'{"a": "\\ud800"}'),
        ("extreme", b'{"a": 1e131072}'),
        ("é" * 255, b"{}"),
        ("é" * 256, b"{}"),
        ("a\0b", b'{"a": 1e-16384}'),
    )
    assert reasons(store, Kind.STATE, batch) == [
        (1, "nul"),
        (3, "lone_surrogate"),
        (4, "extreme_number"),
        (6, "id_too_long"),
        (7, "extreme_number"),
        (7, "id_nul"),
    ]
    rows, _ = digested(Kind.STATE, batch)
    assert "256" in next(refusal.detail for refusal in store.refusals(Kind.STATE, rows) if refusal.row == 6)


def test_every_part_of_a_version_is_looked_at():
    store = PostgresStore(config("postgresql://nowhere.invalid/db"))
    batch = versions(
        version("fine", delta=b"[]", metadata=b"{}", parent_id="p"),
        version("delta", delta=b'[{"op": "\\u0000"}]'),
        version("metadata", metadata=b'{"n": 1e140000}'),
        version("parent", parent_id="p" * 256),
        version("parent with NUL", parent_id="\0"),
        version("v" * 256, state_id="s" * 256),
        version("extra", extra=b'{"x": 1}'),
        version("time", timestamp="yesterday"),
        version("no time", timestamp=""),
    )
    assert reasons(store, Kind.VERSION, batch) == [
        (1, "nul"),
        (2, "extreme_number"),
        (3, "id_too_long"),
        (4, "id_nul"),
        (5, "id_too_long"),
        (5, "id_too_long"),
        (6, "unknown_members"),
        (7, "bad_time"),
    ]


def test_a_document_over_255_mib_is_refused():
    store = PostgresStore(config("postgresql://nowhere.invalid/db"))
    batch, _ = digested(Kind.STATE, states(("fine", b"{}"), ("large", b"{}")))
    sizes = pa.array([255 * 1024 * 1024, 255 * 1024 * 1024 + 1], pa.int64())
    batch = batch.drop_columns(["data", "size"]).append_column("size", sizes)
    assert [(refusal.row, refusal.reason) for refusal in store.refusals(Kind.STATE, batch)] == [
        (1, "document_too_large")
    ]


def rows_lost(store: PostgresStore, kind: Kind, records: pa.RecordBatch) -> dict[str, int]:
    """How many rows lose what."""
    return {name: mask.true_count for name, mask in store.losses(kind, records).items()}


def test_what_is_lost_is_counted_by_rows():
    store = PostgresStore(config("postgresql://nowhere.invalid/db"))
    rows = [{"state_id": str(i), "data": b'{"a": 1}'} for i in range(4)]
    rows[1]["expires_at"] = 0
    rows[2]["data"] = b'{"a": 1, "a": 2}'
    rows[3] |= {"created_at": "2025-07-14T09:30:15.1234567Z", "updated_at": "2025-07-14T09:30:15.1234567+01:00"}
    bare = pa.RecordBatch.from_pylist(rows, schema=STATE)
    assert rows_lost(store, Kind.STATE, bare) == {"expiry": 1, "sub_microseconds": 1, "time_offset": 1}
    assert rows_lost(store, Kind.STATE, digested(Kind.STATE, bare)[0]) == {
        "expiry": 1,
        "sub_microseconds": 1,
        "time_offset": 1,
        "duplicate_keys": 1,
        "layout": 4,
    }
    assert store.losses(Kind.STATE, bare.slice(0, 1)) == {}
    batch = versions(
        version("a"),
        version("b", timestamp="2025-07-14T09:30:15.123456Z"),
        version("c", timestamp="2025-07-14T09:30:15.123456000Z"),
        version("d", timestamp="2025-07-14T09:30:15.123456001Z"),
        version("e", timestamp="2025-07-14T09:30:15-04:00"),
        version("f", timestamp="2025-07-14T09:30:15+00:00"),
        version("g", timestamp="infinity"),
        version("h", timestamp=""),
    )
    assert rows_lost(store, Kind.VERSION, batch) == {"sub_microseconds": 1, "time_offset": 2}


def test_it_is_a_store():
    store = PostgresStore(config("postgresql://nowhere.invalid/db"))
    assert isinstance(store, Store)
    assert store.kinds == tuple(SCHEMAS)
    assert SNAPSHOT.names[1] == "snapshot_id"
