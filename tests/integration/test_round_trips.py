"""No record costs a round trip: versions and snapshots go by the same batches as states, counted by the servers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.ports import Store
from agui_pipelines.records import SCHEMAS, Kind

STATES = 3000
RECORDS = 4 * STATES
TIME = "2025-07-14T09:30:15.123456Z"


def rows(kind: Kind) -> Iterator[dict[str, object]]:
    for n in range(STATES):
        row = {"state_id": f"state-{n:05}", "data": b'{"n":1}', "timestamp": TIME}
        if kind is Kind.STATE:
            yield row
        elif kind is Kind.VERSION:
            yield from ({**row, "version_id": f"v{k} of {n}", "parent_id": ""} for k in range(2))
        else:
            yield {**row, "snapshot_id": f"of {n}", "version_id": ""}


def write(store: Store) -> int:
    store.prepare()
    written = 0
    for kind in Kind:
        some = pa.RecordBatch.from_pylist(list(rows(kind)), schema=SCHEMAS[kind])
        for first in range(0, some.num_rows, 2000):
            written += store.write(kind, some.slice(first, 2000)).total
    return written


def read(store: Store) -> int:
    file = io.BytesIO()
    write_catalogue(store.keys(), file)
    return sum(
        batch.num_rows
        for key_range in cut(file, 4)
        for kind in Kind
        for batch in store.read(kind, Span(key_range, pq.ParquetFile(file)), lambda reject: pytest.fail(str(reject)))
    )


Count = Callable[[], int]


@contextmanager
def redis_reads(url: str) -> Iterator[Count]:
    """How often the server had to read from a socket, which is at least once for every round trip."""
    with redis.Redis.from_url(url) as client:
        before = client.info("stats")["total_reads_processed"]
        yield lambda: client.info("stats")["total_reads_processed"] - before


@contextmanager
def postgres_transactions(url: str) -> Iterator[Count]:
    """Transactions of the database, which for a store that works in autocommit are about its statements."""
    query = "SELECT pg_stat_force_next_flush(), xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
    name = url.rpartition("/")[2]
    with psycopg.connect(url.removesuffix(name) + "postgres", autocommit=True) as connection:

        def count() -> int:
            connection.execute("SELECT pg_stat_clear_snapshot()")
            row = connection.execute(query, (name,)).fetchone()
            assert row is not None
            return int(row[1])

        before = count()
        yield lambda: count() - before


COUNTERS = {"redis": redis_reads, "postgresql": postgres_transactions}


@pytest.mark.parametrize("backend", COUNTERS)
def test_neither_reading_nor_writing_takes_a_round_trip_for_each_state(config, opened, backend):
    place = config(backend, "place")
    for work in (write, write, read):  # writing for the second time finds everything there
        with COUNTERS[backend](place["connection_url"]) as count:
            with closing(opened(place)) as store:
                assert work(store) == RECORDS
            assert 0 < count() < STATES / 10


def test_redis_is_asked_for_values_in_batches_and_once_for_each_sorted_set(config, opened):
    place = config("redis", "place")
    with redis.Redis.from_url(place["connection_url"]) as client:
        write(opened(place))
        client.config_resetstat()

        assert read(opened(place)) == RECORDS

        calls = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in client.info("commandstats").items()}
    assert calls["mget"] <= RECORDS / 200
    assert calls["zrange"] == 2 * STATES
    assert not {"get", "zcard", "zscan", "keys", "zrank"} & calls.keys()


def test_redis_is_not_asked_for_the_histories_of_states_that_have_none(config, opened):
    place = config("redis", "place")
    store = opened(place)
    states = pa.RecordBatch.from_pylist(list(rows(Kind.STATE)), schema=SCHEMAS[Kind.STATE])
    store.write(Kind.STATE, states)
    with redis.Redis.from_url(place["connection_url"]) as client:
        client.config_resetstat()

        assert read(store) == STATES

        assert "cmdstat_zrange" not in client.info("commandstats")
