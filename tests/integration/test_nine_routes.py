"""File, Redis and PostgreSQL, each to each: every record arrives, with everything that the target has a place for.

Both ends are read through the store protocol and compared record by record, in both directions. What a route loses is
exactly what stands in `LOST`, and nothing else.
"""

from __future__ import annotations

import io
from contextlib import closing
from datetime import UTC, datetime
from itertools import product

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agui_pipelines.canonical import digest
from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis
from agui_pipelines.errors import RejectLimitError
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.records import SCHEMAS, Kind, id_columns
from agui_pipelines.stores.bodies import nanoseconds
from tests.vectors import DOCUMENTS, IDS

BACKENDS = ["file", "redis", "postgresql"]

HELD = {"file": {"updated_at"}, "redis": {"expires_at"}, "postgresql": {"created_at", "updated_at"}}
HELD["the test"] = set.union(*HELD.values())
"""The times of a state for which a store has a place."""

LOST = {
    ("file", "file"): set(),
    ("file", "redis"): {"timestamps"},
    ("file", "postgresql"): {"duplicate_keys", "sub_microseconds"},
    ("redis", "file"): {"expiry"},
    ("redis", "redis"): set(),
    ("redis", "postgresql"): {"expiry", "duplicate_keys", "sub_microseconds"},
    ("postgresql", "file"): {"timestamps"},
    ("postgresql", "redis"): {"timestamps"},
    ("postgresql", "postgresql"): set(),
}
"""What carries meaning and is lost on each route."""

TIMES = [
    "2025-07-14T09:30:15.123456789Z",
    "2025-07-14T09:30:16.5-04:00",
    "1969-12-31T23:59:59Z",
    "2030-01-01T00:00:00Z",
]


def states():
    """A state for each awkward id and for each awkward document, with all the times that any store has a place for."""
    documents = [(id_, b'{"n":%d}' % n) for n, id_ in enumerate(IDS)] + [(f"doc {n}", d) for n, d in DOCUMENTS.items()]
    for n, (state_id, data) in enumerate(documents):
        yield {
            "state_id": state_id,
            "data": data,
            "created_at": f"2020-02-02T02:02:02.{n:06}Z",
            "updated_at": TIMES[n % len(TIMES)],
            "expires_at": datetime(2100, 1, 1, 0, 0, 0, n * 1000, tzinfo=UTC) if n % 3 else None,
        }


def versions():
    """A chain of three for each state, and one of a state that is gone."""
    for n, state in enumerate([*states(), {"state_id": "gone", "data": b"{}"}]):
        parent = ""
        for age in range(3):
            version_id = f"v{age} of {n}"
            yield {
                "state_id": state["state_id"],
                "version_id": version_id,
                "timestamp": f"2025-07-14T09:30:{10 + age}.{n:09}Z" if age else TIMES[n % len(TIMES)],
                "data": [b"{}", b'{"n":1.0}', state["data"]][age],
                "delta": b'[{"op":"add","path":"/n","value":1.50},{"op":"test","path":"/x"}]' if age == 2 else None,
                "metadata": [None, b"{}", b'{"source":"test","big":123456789012345678901234567890}'][age],
                "parent_id": parent,
            }
            parent = version_id


def snapshots():
    for n, state in enumerate(states()):
        yield {
            "state_id": state["state_id"],
            "snapshot_id": f"snapshot of {n}",
            "timestamp": TIMES[n % len(TIMES)],
            "data": state["data"],
            "version_id": f"v2 of {n}" if n % 2 else "",
            "metadata": b'{"labels":[]}' if n % 5 else None,
        }


DATA = {Kind.STATE: list(states()), Kind.VERSION: list(versions()), Kind.SNAPSHOT: list(snapshots())}


def fill(store, data=DATA):
    store.prepare()
    for kind, rows in data.items():
        store.write(kind, pa.RecordBatch.from_pylist(rows, schema=SCHEMAS[kind]))


def content(store):
    """All records of a store by kind and ids, read range by range as a migration reads them."""
    file = io.BytesIO()
    write_catalogue(store.keys(), file)
    found = {}
    for key_range, kind in product(cut(file, 3), Kind):
        span = Span(key_range, pq.ParquetFile(file))
        for batch in store.read(kind, span, lambda reject: pytest.fail(str(reject))):
            for row in batch.to_pylist():
                name = (kind, *(row[column] for column in id_columns(kind)))
                assert name not in found
                found[name] = row
    return found


def comparable(name, row, origin, destination):
    """A record of either end as far as this route can carry it: JSON by value and spelling, times as moments."""
    kind = name[0]
    tables = "postgresql" in (origin, destination)
    times = HELD[origin] & HELD[destination] if kind is Kind.STATE else {"timestamp"}
    compared = {}
    for field in SCHEMAS[kind]:
        value = row.get(field.name)
        if pa.types.is_binary(field.type) and value is not None:
            found = digest(value)
            # Only a table spells a number in its own way; what one holds already stays as it is.
            value = found.canonical if destination == "postgresql" != origin else found.spelling
        elif field.name in ("created_at", "updated_at", "timestamp"):
            value = nanoseconds(value) // (1000 if tables else 1) if field.name in times and value else None
        elif field.name == "expires_at":
            value = value if field.name in times else None
        compared[field.name] = value
    return compared


def require_same(before, after, origin, destination):
    """Nothing is missing, nothing is extra, and no record differs in what this route can carry."""
    assert after.keys() == before.keys()
    for name, row in before.items():
        assert comparable(name, after[name], origin, destination) == comparable(name, row, origin, destination), name


def require_moved(migration, opened, first, second):
    """Fill the first place, move it to the second, and compare both."""
    origin, destination = first["type"], second["type"]
    lost = LOST[origin, destination]
    source, target = opened(first), opened(second)
    fill(source)
    before = content(source)
    given = {(kind, *(row[column] for column in id_columns(kind))): row for kind, rows in DATA.items() for row in rows}
    require_same(given, before, "the test", origin)

    outcome = migration(source=first, target=second, accept_losses=sorted(lost)).run()

    assert outcome.validation.passed
    assert (outcome.validation.rejected, outcome.validation.error_count) == (0, 0)
    assert {
        row["property"] for row in outcome.validation.loss_ledger if row["carries"] == "meaning" and row["lost"]
    } == lost
    for kind, rows in DATA.items():
        found = outcome.validation.kinds[str(kind)]
        assert (found.total, found.migrated, found.extra.count) == (len(rows), len(rows), 0)
    assert content(source) == before
    after = content(target)
    require_same(before, after, origin, destination)
    return before, after


_BY_DEFAULT = [("redis", "postgresql"), ("postgresql", "file"), ("file", "redis")]
"""Each backend as a source and as a target; what else there is of them the contract suite asks of each."""
ROUTES = [
    pytest.param(*route, id="-".join(route), marks=() if route in _BY_DEFAULT else pytest.mark.long)
    for route in product(BACKENDS, BACKENDS)
]


@pytest.mark.parametrize(("origin", "destination"), ROUTES)
def test_everything_arrives_as_it_was(migration, config, opened, origin, destination):
    require_moved(migration, opened, config(origin, "first"), config(destination, "second"))


def test_between_two_redis_not_a_byte_changes(migration, config, opened):
    before, after = require_moved(migration, opened, config("redis", "first"), config("redis", "second"))
    assert {name: row["data"] for name, row in after.items()} == {name: row["data"] for name, row in before.items()}


# Same kind, another place


@pytest.mark.parametrize(
    "options",
    [
        {"shard_count": 7},
        pytest.param({"enable_sharding": False}, marks=pytest.mark.long),
        pytest.param({"shard_count": 300}, marks=pytest.mark.long),
    ],
)
def test_files_move_to_another_number_of_shards(migration, config, opened, options):
    first, second = config("file", "first"), config("file", "second")
    second["file_options"] |= options
    require_moved(migration, opened, first, second)


def test_files_move_out_of_one_folder_into_shards(migration, config, opened):
    first, second = config("file", "first"), config("file", "second")
    first["file_options"] |= {"enable_sharding": False}
    require_moved(migration, opened, first, second)


def test_keys_move_to_another_prefix_in_the_same_database(migration, config, opened):
    first = config("redis", "first")
    require_moved(migration, opened, first, {**first, "redis_options": {"key_prefix": "app:state:"}})


@pytest.mark.long  # starts another one
def test_keys_move_to_another_server(migration, config, opened):
    with EmbeddedRedis() as server:
        require_moved(migration, opened, config("redis", "first"), {"type": "redis", "connection_url": server.url})


def test_rows_move_to_another_schema_of_the_same_database(migration, config, opened):
    first = config("postgresql", "first")
    with closing(psycopg.connect(first["connection_url"], autocommit=True)) as connection:
        connection.execute('CREATE SCHEMA "an Other"')
    require_moved(migration, opened, first, {**first, "schema": "an Other"})


@pytest.mark.long  # starts another one
def test_rows_move_to_another_server(migration, config, opened):
    with EmbeddedPostgres(settings={"fsync": "off"}) as server:
        first, second = config("postgresql", "first"), {"type": "postgresql", "connection_url": server.url}
        require_moved(migration, opened, first, second)


# Members that the format does not know

UNKNOWN = b'{"Tag":1.50,"more":{"b":[],"a":null}}'


@pytest.mark.parametrize(("origin", "destination"), [("file", "redis"), ("redis", "file")])
def test_unknown_members_of_a_version_arrive_where_there_is_a_place_for_them(
    migration, config, opened, origin, destination
):
    first, second = config(origin, "first"), config(destination, "second")
    rows = [{**row, "extra": UNKNOWN} for row in DATA[Kind.VERSION][:2]]
    fill(opened(first), {Kind.VERSION: rows})

    assert migration(source=first, target=second, accept_losses=[]).run().validation.passed

    assert [digest(row["extra"]).spelling for row in content(opened(second)).values()] == [digest(UNKNOWN).spelling] * 2


@pytest.mark.parametrize("origin", ["file", "redis"])
def test_unknown_members_of_a_version_are_rejected_by_name_where_there_is_none(migration, config, opened, origin):
    first, second = config(origin, "first"), config("postgresql", "second")
    odd, plain, *_ = DATA[Kind.VERSION]
    fill(opened(first), {Kind.VERSION: [{**odd, "extra": UNKNOWN}, plain]})
    move = migration(source=first, target=second, accept_losses=["sub_microseconds"])

    with pytest.raises(RejectLimitError, match="default/v0 of 0"):
        move.run()

    assert {id_: reason for id_, (_, reason, _) in move.rejects().items()} == {b"default/v0 of 0": "unknown_members"}
    assert content(opened(second)) == {}
