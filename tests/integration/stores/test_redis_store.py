"""What is particular to the AG-UI store on a Redis; what all stores have in common is tested in ``tests/contract``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from xxhash import xxh3_128_digest

from agui_pipelines.embedded import EmbeddedRedis
from agui_pipelines.errors import StoreError, UnstorableRecordError
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.owner import Owner
from agui_pipelines.ports import BATCH_BYTES, Reader, Snapshot, Store, Version, Written
from agui_pipelines.records import SCHEMAS, Kind, Reject, digested
from agui_pipelines.spec import RedisConfig
from agui_pipelines.stores.redis import RedisStore

P = "ag-ui:state:"
TIME = "2025-07-14T09:30:15.123456789Z"
LATER = 4_102_444_800_123
"""Milliseconds since the epoch: in the year 2100."""
MEGABYTE = 1024 * 1024


def store_on(url: str, **options: object) -> closing[RedisStore]:
    config = {"type": "redis", "connection_url": url, "redis_options": options}
    return closing(RedisStore(RedisConfig.model_validate(config)))


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    with store_on(redis_url) as opened:
        yield opened


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as opened:
        yield opened


def span_of(reader: Reader) -> Span:
    file = BytesIO()
    write_catalogue(reader.keys(), file)
    return Span(cut(file, 1)[0], pq.ParquetFile(file))


def catalogue(reader: Reader) -> set[bytes]:
    return {key for batch in reader.keys() for key in batch.column("key").to_pylist()}  # noqa: SIM118 - no dict


def read(
    reader: Reader, kind: Kind = Kind.STATE, span: Span | None = None
) -> tuple[list[dict[str, Any]], list[Reject]]:
    rejects: list[Reject] = []
    batches = reader.read(kind, span or span_of(reader), rejects.append)
    return [row for batch in batches for row in batch.to_pylist()], rejects


def batch_of(kind: Kind, *rows: dict[str, Any]) -> pa.RecordBatch:
    schema = SCHEMAS[kind]
    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def states(*rows: tuple[str, bytes, int | None]) -> pa.RecordBatch:
    return batch_of(Kind.STATE, *({"state_id": id_, "data": data, "expires_at": expiry} for id_, data, expiry in rows))


def version(version_id: str, state_id: str = "s", timestamp: str = TIME, **more: object) -> dict[str, Any]:
    row = {"state_id": state_id, "version_id": version_id, "timestamp": timestamp, "data": b'{"n":1}', "parent_id": ""}
    return {**row, **more}


# Keys, and what is found under them


def test_the_catalogue_has_every_id_with_a_state_a_version_or_a_snapshot(store: Store, client: redis.Redis) -> None:
    client.mset({f"{P}state:a": "{}", f"{P}state:user:1": "{}", f"{P}meta:version": "2.0.0", "other": "x"})
    client.zadd(f"{P}versions:b:c", {"v": 1})
    client.set(f"{P}version:b:c:v", "{}")
    client.zadd(f"{P}snapshots:d", {"s": 1})
    client.set(b"%bstate:\xff\x00" % P.encode(), "{}")
    assert catalogue(store) == {b"a", b"user:1", b"b:c", b"d", b"\xff\x00"}


def test_a_prefix_of_glob_characters_finds_its_own_keys_only(redis_url: str, client: redis.Redis) -> None:
    client.mset({r"a*[b]?\:state:mine": "{}", r"aX[b]?\:state:other": "{}", "ab:state:other": "{}"})
    with store_on(redis_url, key_prefix="a*[b]?\\:") as store:
        assert catalogue(store) == {b"mine"}
        assert list(store.list_states()) == ["mine"]
        assert store.stats().states == 1


def test_an_expiry_is_kept_to_the_millisecond(store: Store, client: redis.Redis) -> None:
    client.set(f"{P}state:a", "{}", pxat=LATER)
    client.set(f"{P}state:b", "{}")
    batch = pa.Table.from_batches(store.read(Kind.STATE, span_of(store), pytest.fail))
    expiries = dict(zip(batch["state_id"].to_pylist(), batch["expires_at"].cast(pa.int64()).to_pylist(), strict=True))
    assert expiries == {"a": LATER, "b": None}


def test_where_the_server_cannot_tell_the_moment_of_expiry_it_is_worked_out() -> None:
    with (
        EmbeddedRedis(settings={"rename-command PEXPIRETIME": ""}) as server,
        redis.Redis(port=server.port) as client,
        store_on(server.url) as store,
    ):
        client.set(f"{P}state:a", "{}", pxat=LATER)
        client.set(f"{P}state:b", "{}")
        client.set(f"{P}state:c", "{}", pxat=LATER)
        client.lpush(f"{P}state:list", "x")
        batch = pa.Table.from_batches(store.read(Kind.STATE, span_of(store), lambda _: None))
        assert batch["state_id"].to_pylist() == ["a", "b", "c"]
        a, b, c = batch["expires_at"].cast(pa.int64()).to_pylist()
        assert abs(a - LATER) <= 100
        assert b is None
        assert abs(c - LATER) <= 100


def test_a_key_of_another_type_is_rejected_by_name(store: Store, client: redis.Redis) -> None:
    client.set(f"{P}state:good", "{}")
    client.hset(f"{P}state:hash", "f", "v")
    client.expire(f"{P}state:hash", 1000)
    rows, rejects = read(store)
    assert [row["state_id"] for row in rows] == ["good"]
    assert [(r.id, r.raw, r.reason) for r in rejects] == [(b"hash", None, "wrong_type")]
    assert "hash" in rejects[0].detail


def test_an_id_that_is_not_utf8_is_rejected_with_its_document(store: Store, client: redis.Redis) -> None:
    client.set(f"{P}state:good", '{"a":1}', pxat=LATER)
    client.set(b"%bstate:\xff" % P.encode(), b'{"b":2}')
    client.set(f"{P}state:héllo", '{"c":3}')
    rows, rejects = read(store)
    assert [(row["state_id"], row["data"]) for row in rows] == [("good", b'{"a":1}'), ("héllo", b'{"c":3}')]
    assert [(r.id, r.raw, r.reason) for r in rejects] == [(b"\xff", b'{"b":2}', "id_not_utf8")]


def test_what_is_glanced_at_is_what_would_be_read(store: RedisStore, client: redis.Redis) -> None:
    client.mset({f"{P}state:a": b'{"n":1}', f"{P}state:b": b"no json"})
    client.set(f"{P}state:c", b"{}", pxat=LATER)
    client.hset(f"{P}state:d", "n", "1")
    client.set(b"%bstate:\xff" % P.encode(), b"{}")
    rows, rejects = read(store)
    told: list[Reject] = []

    [found] = store.glances(span_of(store), told.append)

    expiries = [row["expires_at"] and round(row["expires_at"].timestamp() * 1000) for row in rows]
    assert found.ids == [row["state_id"].encode() for row in rows] == [b"a", b"b", b"c"]
    assert found.digests == [xxh3_128_digest(row["data"]) for row in rows]
    assert found.expiries == expiries == [None, None, LATER]
    assert found.size == sum(len(row["data"]) for row in rows)
    assert told == rejects
    assert {each.reason for each in rejects} == {"wrong_type", "id_not_utf8"}


def test_documents_are_not_judged_here(store: Store, client: redis.Redis) -> None:
    client.mset({f"{P}state:a": b"\xff\x00", f"{P}state:b": "", f"{P}state:c": "[1]"})
    rows, rejects = read(store)
    assert [row["data"] for row in rows] == [b"\xff\x00", b"", b"[1]"]
    assert rejects == []


def test_what_vanishes_or_changes_its_type_while_it_is_read_is_no_trouble(store: Store, client: redis.Redis) -> None:
    client.mset({f"{P}state:{i:05}": "{}" for i in range(6000)})
    span = span_of(store)
    rejects: list[Reject] = []
    batches = store.read(Kind.STATE, span, rejects.append)
    seen = next(batches).column("state_id").to_pylist()
    client.delete(*(f"{P}state:{i:05}" for i in range(5000, 5900)))
    for i in range(5900, 5910):
        client.delete(f"{P}state:{i:05}")
        client.sadd(f"{P}state:{i:05}", "x")
    seen += [id_ for batch in batches for id_ in batch.column("state_id").to_pylist()]
    assert seen == [f"{i:05}" for i in (*range(5000), *range(5910, 6000))]
    assert [r.id for r in rejects] == [b"%05d" % i for i in range(5900, 5910)]


def test_a_key_that_comes_and_goes_is_either_read_or_passed_over(
    redis_url: str, store: Store, client: redis.Redis
) -> None:
    client.mset({f"{P}state:{i:03}": '{"a":1}' for i in range(500)})
    span = span_of(store)
    with redis.Redis.from_url(redis_url) as other:
        for round_ in range(20):
            batches = store.read(Kind.STATE, span, pytest.fail)
            flicker = other.pipeline(transaction=False)
            for i in range(0, 500, 3):
                flicker.delete(f"{P}state:{i:03}").set(f"{P}state:{i:03}", f'{{"a":{round_}}}')
            first = next(batches)
            flicker.execute()
            rows = [*first.to_pylist(), *(row for batch in batches for row in batch.to_pylist())]
            assert len({row["state_id"] for row in rows}) == len(rows)
            assert {row["state_id"] for row in rows} >= {f"{i:03}" for i in range(500) if i % 3}


def test_a_key_that_is_absent_for_a_moment_is_read(store: Store, client: redis.Redis) -> None:
    client.mset({f"{P}state:{i:05}": "{}" for i in range(1500)})
    span = span_of(store)
    client.delete(f"{P}state:00600")
    batches = store.read(Kind.STATE, span, pytest.fail)
    rows = next(batches).num_rows  # the next batch has been asked for by now
    client.set(f"{P}state:00600", "{}")
    assert rows + sum(batch.num_rows for batch in batches) == 1500


def test_the_connection_can_be_used_while_a_reading_is_under_way(store: Store, client: redis.Redis) -> None:
    client.mset({f"{P}state:{i:05}": f'{{"n":{i}}}' for i in range(3000)})
    batches = store.read(Kind.STATE, span_of(store), pytest.fail)
    keys = store.keys()
    rows = []
    for batch in batches:
        rows += batch.to_pylist()
        assert store.get_state("00007") == b'{"n":7}'
        next(keys, None)
    assert [row["data"] for row in rows] == [b'{"n":%d}' % i for i in range(3000)]


def test_a_reading_that_is_given_up_leaves_nothing_behind(store: Store, client: redis.Redis) -> None:
    client.mset({f"{P}state:{i:05}": "{}" for i in range(3000)})
    batches = store.read(Kind.STATE, span_of(store), pytest.fail)
    next(batches)
    batches.close()
    assert store.get_state("00001") == b"{}"
    assert len(catalogue(store)) == 3000


def test_large_documents_arrive_in_batches_of_bounded_size(store: Store, client: redis.Redis) -> None:
    for i in range(12):
        client.set(f"{P}state:{i:02}", b'"' + b"x" * (BATCH_BYTES // 3 - 100) + b'"')
    client.set(f"{P}state:small", "{}")
    sizes = [batch.column("data").nbytes for batch in store.read(Kind.STATE, span_of(store), pytest.fail)]
    assert len(sizes) == 4  # three, and the small one, are the most that fits into a batch
    assert max(sizes) <= BATCH_BYTES + 1000


def test_a_document_of_50_megabytes_goes_both_ways(store: Store) -> None:
    document = b'{"a":"' + b"x" * (50 * MEGABYTE) + b'"}'
    assert store.write(Kind.STATE, states(("big", document, LATER), ("small", b"{}", None))) == Written(inserted=2)
    rows, _ = read(store)
    assert [row["data"] for row in rows] == [document, b"{}"]
    assert store.write(Kind.STATE, states(("big", document, LATER))) == Written(unchanged=1)


# Versions and snapshots


def test_a_body_is_cut_into_its_parts_and_put_together_again_byte_by_byte(store: Store, client: redis.Redis) -> None:
    body = (
        b'{"ID":"v1","Timestamp":"2025-07-14T09:30:15.12-04:00","State":{"n": 3.0,"t":"\\u003cb\\u003e"},'
        b'"Delta":[{"op":"add","path":"/n","value":3.0}],"Metadata":null,"ParentID":"v0","Custom":{"x": 1e400}}'
    )
    client.set(f"{P}version:a:b:v1", body)
    client.zadd(f"{P}versions:a:b", {"v1": 5})
    [row], rejects = read(store, Kind.VERSION)
    assert rejects == []
    assert row == {
        "state_id": "a:b",
        "version_id": "v1",
        "timestamp": "2025-07-14T09:30:15.12-04:00",
        "data": b'{"n": 3.0,"t":"\\u003cb\\u003e"}',
        "delta": b'[{"op":"add","path":"/n","value":3.0}]',
        "metadata": None,
        "parent_id": "v0",
        "extra": b'{"Custom":{"x": 1e400}}',
    }
    client.flushdb()
    assert store.write(Kind.VERSION, batch_of(Kind.VERSION, row)) == Written(inserted=1)
    assert client.get(f"{P}version:a:b:v1") == body
    assert client.zscore(f"{P}versions:a:b", "v1") == 1752499815
    assert store.write(Kind.VERSION, batch_of(Kind.VERSION, row)) == Written(unchanged=1)
    assert store.write(Kind.VERSION, batch_of(Kind.VERSION, {**row, "data": b"{}"})) == Written(updated=1)


def test_a_snapshot_has_its_own_keys_and_body(store: Store, client: redis.Redis) -> None:
    row = {"state_id": "s", "snapshot_id": "x", "timestamp": TIME, "data": b"{}", "version_id": "v"}
    store.write(Kind.SNAPSHOT, batch_of(Kind.SNAPSHOT, row))
    assert (
        client.get(f"{P}snapshot:s:x")
        == b'{"ID":"x","Timestamp":"%b","State":{},"Version":"v","Metadata":null}' % TIME.encode()
    )
    assert client.zrange(f"{P}snapshots:s", 0, -1, withscores=True) == [(b"x", 1752485415.0)]
    assert read(store, Kind.SNAPSHOT)[0] == [{**row, "metadata": None, "extra": None}]
    assert read(store, Kind.VERSION) == ([], [])


def test_members_of_a_body_are_known_in_any_case_and_null_is_empty(store: Store, client: redis.Redis) -> None:
    client.set(f"{P}version:s:v", b'{"id":"v","TIMESTAMP":"%b","state":null,"parentid":null}' % TIME.encode())
    client.zadd(f"{P}versions:s", {"v": 1})
    [row], _ = read(store, Kind.VERSION)
    assert (row["data"], row["timestamp"], row["parent_id"], row["extra"]) == (b"{}", TIME, "", None)


def test_what_is_no_version_is_rejected_by_name(store: Store, client: redis.Redis) -> None:
    bodies: dict[bytes, bytes] = {
        b"array": b"[]",
        b"broken": b'{"ID":',
        b"foreign": b'{"a":1}',
        b"mismatch": b'{"ID":"other","Timestamp":"%b","State":{}}' % TIME.encode(),
        b"number": b'{"ID":7}',
        b"\xff": b'{"ID":"x"}',
    }
    for id_, body in bodies.items():
        client.set(b"%bversion:s:%b" % (P.encode(), id_), body)
    client.zadd(f"{P}versions:s", dict.fromkeys((*bodies, b"dangling", b"typed"), 1))
    client.hset(f"{P}version:s:typed", "f", "v")
    client.set(f"{P}versions:t", "not a sorted set")
    rows, rejects = read(store, Kind.VERSION)
    assert rows == []
    assert {(r.id, r.raw, r.reason) for r in rejects} == {
        (b"s/array", b"[]", "undecodable"),
        (b"s/broken", b'{"ID":', "undecodable"),
        (b"s/foreign", b'{"a":1}', "undecodable"),
        (b"s/mismatch", bodies[b"mismatch"], "id_mismatch"),
        (b"s/number", b'{"ID":7}', "undecodable"),
        (b"s/\xff", b'{"ID":"x"}', "id_not_utf8"),
        (b"s/dangling", None, "missing_body"),
        (b"s/typed", None, "wrong_type"),
        (b"t", None, "wrong_type"),
    }


def test_a_body_that_no_sorted_set_names_is_rejected_once_with_its_content(store: Store, client: redis.Redis) -> None:
    store.write(
        Kind.VERSION, batch_of(Kind.VERSION, version("v1", "a:b"), version("c:d", "a"), version("v1"), version("v2"))
    )
    client.set(P + "version:s:orphan", b'{"ID":"orphan"}')
    client.set(P + "version:a:b:c:lost", b"not even JSON")
    client.set(P + "version:uncut", b"{}")
    client.set((P + "version:s:").encode() + b"\xff", b"{}")
    client.hset(P + "version:s:hash", "a", 1)
    client.set(P + "snapshot:s:orphan", b'{"ID":"orphan"}')
    client.set("other:version:s:v9", b"{}")
    client.zrem(P + "versions:s", "v2")
    [v2] = [client.get(P + "version:s:v2")]

    rows, rejects = read(store, Kind.VERSION)

    assert sorted((row["state_id"], row["version_id"]) for row in rows) == [("a", "c:d"), ("a:b", "v1"), ("s", "v1")]
    assert {(r.id, r.reason, r.raw) for r in rejects} == {
        (b"s/orphan", "unlisted", b'{"ID":"orphan"}'),
        (b"a:b:c:lost", "unlisted", b"not even JSON"),
        (b"uncut", "unlisted", b"{}"),
        (b"s/\xff", "unlisted", b"{}"),
        (b"s/hash", "unlisted", None),
        (b"s/v2", "unlisted", v2),
    }
    assert len(rejects) == 6
    assert [(r.id, r.reason) for r in read(store, Kind.SNAPSHOT)[1]] == [(b"s/orphan", "unlisted")]


def test_where_the_key_of_a_sorted_set_holds_something_else_its_bodies_are_rejected_too(
    store: Store, client: redis.Redis
) -> None:
    store.write(Kind.VERSION, batch_of(Kind.VERSION, version("v1")))
    client.delete(P + "versions:s")
    client.set(P + "versions:s", b"no sorted set")
    rows, rejects = read(store, Kind.VERSION)
    assert rows == []
    assert {(r.id, r.reason) for r in rejects} == {(b"s", "wrong_type"), (b"s/v1", "unlisted")}


def test_bodies_that_no_sorted_set_names_are_looked_for_once_in_a_plan(store: Store, client: redis.Redis) -> None:
    for number in range(40):
        client.set(f"{P}state:{number}", b"{}")
        client.set(f"{P}version:{number}:orphan", b"{}")
    file = BytesIO()
    write_catalogue(store.keys(), file)
    rejects: list[Reject] = []
    for key_range in cut(file, 8):
        assert list(store.read(Kind.VERSION, Span(key_range, pq.ParquetFile(file)), rejects.append)) == []
    assert sorted(r.id for r in rejects) == sorted(b"%d/orphan" % number for number in range(40))


def test_ids_that_are_not_utf8_are_rejected_with_their_history(store: Store, client: redis.Redis) -> None:
    body = b'{"ID":"v","Timestamp":"%b","State":{}}' % TIME.encode()
    client.set(b"%bstate:\xff" % P.encode(), "{}")
    client.zadd(b"%bversions:\xff" % P.encode(), {"v": 1})
    client.set(b"%bversion:\xff:v" % P.encode(), body)
    client.zadd(b"%bsnapshots:\xff" % P.encode(), {b"\xfe": 1})
    found = {kind: [(r.id, r.raw, r.reason) for r in read(store, kind)[1]] for kind in Kind}
    assert found == {
        Kind.STATE: [(b"\xff", b"{}", "id_not_utf8")],
        Kind.VERSION: [(b"\xff/v", body, "id_not_utf8")],
        Kind.SNAPSHOT: [(b"\xff/\xfe", None, "missing_body")],
    }


def test_a_long_history_is_read_whole_once_and_in_batches(store: Store, client: redis.Redis) -> None:
    rows = [version(f"{i:05}") for i in range(5000)]
    store.write(Kind.VERSION, batch_of(Kind.VERSION, *rows, version("v", "other")))
    batches = list(store.read(Kind.VERSION, span_of(store), pytest.fail))
    found = [(row["state_id"], row["version_id"]) for batch in batches for row in batch.to_pylist()]
    assert sorted(found) == [("other", "v"), *(("s", f"{i:05}") for i in range(5000))]
    assert max(batch.num_rows for batch in batches) <= 500


def test_versions_deleted_while_a_history_is_read_hide_no_others(store: Store, client: redis.Redis) -> None:
    store.write(Kind.VERSION, batch_of(Kind.VERSION, *(version(f"{i:05}") for i in range(6000))))
    batches = store.read(Kind.VERSION, span_of(store), pytest.fail)
    seen = set(next(batches).column("version_id").to_pylist())
    client.delete(*(f"{P}version:s:{i:05}" for i in range(300)))
    client.zremrangebyrank(f"{P}versions:s", 0, 299)
    for batch in batches:
        seen.update(batch.column("version_id").to_pylist())
    assert seen >= {f"{i:05}" for i in range(300, 6000)}


def test_a_batch_of_large_bodies_is_cut_by_bytes(store: Store, client: redis.Redis) -> None:
    big = b'{"a":"' + b"x" * (6 * MEGABYTE) + b'"}'
    for i in range(6):
        store.save_version(Version(f"v{i}", "s", TIME, big))
    sizes = [batch.column("data").nbytes for batch in store.read(Kind.VERSION, span_of(store), pytest.fail)]
    assert sum(sizes) >= 6 * len(big)
    assert max(sizes) <= BATCH_BYTES


@pytest.mark.parametrize(
    ("timestamp", "score"),
    [
        ("0001-01-01T00:00:00Z", -62135596800),
        ("1969-12-31T23:59:59.5Z", -1),
        ("2025-07-14T09:30:15.999999999-04:00", 1752499815),
        ("no time at all", -62135596800),
    ],
)
def test_the_score_is_the_unix_second(store: Store, client: redis.Redis, timestamp: str, score: int) -> None:
    store.write(Kind.VERSION, batch_of(Kind.VERSION, version("v", timestamp=timestamp)))
    assert client.zscore(f"{P}versions:s", "v") == score


def test_versions_of_one_second_come_newest_first_even_when_limited(store: Store) -> None:
    times = {"b": "15.1", "a": "15.3", "d": "15.2", "c": "15", "z": "14.9"}
    for id_, second in times.items():
        store.save_version(Version(id_, "s", f"2025-07-14T09:30:{second}Z", b"{}"))
    assert [v.version_id for v in store.get_version_history("s")] == ["a", "d", "b", "c", "z"]
    assert [v.version_id for v in store.get_version_history("s", 2)] == ["a", "d"]
    assert [v.version_id for v in store.get_version_history("s", 5)] == ["a", "d", "b", "c", "z"]
    assert [v.version_id for v in store.get_version_history("s", 9)] == ["a", "d", "b", "c", "z"]


def test_records_whose_ids_share_a_key_are_refused_and_never_overwritten(store: Store, client: redis.Redis) -> None:
    first, second = version("c", "a:b"), version("b:c", "a")
    batch, _ = digested(Kind.VERSION, batch_of(Kind.VERSION, first, version("x:y", "a"), second))
    assert [(r.row, r.reason) for r in store.refusals(Kind.VERSION, batch)] == [(2, "shared_key")]
    with pytest.raises(UnstorableRecordError):
        store.write(Kind.VERSION, batch)
    store.write(Kind.VERSION, batch_of(Kind.VERSION, first))
    with pytest.raises(UnstorableRecordError, match="'b:c'"):
        store.write(Kind.VERSION, batch_of(Kind.VERSION, second))
    assert store.get_version("a:b", "c") is not None
    assert store.get_version("a", "b:c") is None


def test_a_body_that_cannot_be_read_is_an_error_that_names_the_key(store: Store, client: redis.Redis) -> None:
    client.set(f"{P}version:s:v", "[]")
    client.zadd(f"{P}versions:s", {"v": 1})
    with pytest.raises(StoreError, match=f"{P}version:s:v"):
        store.get_version("s", "v")
    with pytest.raises(StoreError, match=f"{P}version:s:v"):
        store.get_version_history("s")


# Writing


def test_writing_counts_what_is_new_changed_and_the_same(store: Store, client: redis.Redis) -> None:
    rows = [(f"s{i}", b'{"n":%d}' % i, LATER + i if i % 3 == 0 else None) for i in range(1200)]
    assert store.write(Kind.STATE, states(*rows)) == Written(inserted=1200)
    assert store.write(Kind.STATE, states(*rows)) == Written(unchanged=1200)
    changed = [
        ("s0", b"{}", LATER),
        ("s1", rows[1][1], LATER),
        ("s3", rows[3][1], None),
        *rows[4:900],
        ("new", b"{}", None),
    ]
    assert store.write(Kind.STATE, states(*changed)) == Written(inserted=1, updated=3, unchanged=896)
    assert client.pttl(f"{P}state:s3") == -1


def test_a_state_without_expiry_takes_the_expiry_from_its_key(store: Store, client: redis.Redis) -> None:
    client.set(f"{P}state:a", "{}", pxat=LATER)
    assert store.write(Kind.STATE, states(("a", b"{}", None))) == Written(updated=1)
    assert client.pttl(f"{P}state:a") == -1


def test_an_expiry_is_written_to_the_millisecond(store: Store, client: redis.Redis) -> None:
    store.write(Kind.STATE, states(("a", b"{}", LATER)))
    assert client.pexpiretime(f"{P}state:a") == LATER


@pytest.mark.parametrize("expiry", [1_000_000_000_000, 1, 0, -1_000])
def test_what_has_expired_does_not_come_back(store: Store, client: redis.Redis, expiry: int) -> None:
    client.set(f"{P}state:old", "{}")
    assert store.write(Kind.STATE, states(("old", b"{}", expiry), ("gone", b"{}", expiry))) == Written(
        updated=1, unchanged=1
    )
    assert client.exists(f"{P}state:old", f"{P}state:gone") == 0
    assert read(store) == ([], [])


def test_a_key_of_another_type_is_replaced_and_counts_as_updated(store: Store, client: redis.Redis) -> None:
    client.lpush(f"{P}state:a", "x")
    client.lpush(f"{P}state:b", "x")
    assert store.write(Kind.STATE, states(("a", b"{}", None), ("b", b"{}", LATER))) == Written(updated=2)
    assert client.mget(f"{P}state:a", f"{P}state:b") == [b"{}", b"{}"]


def test_writing_an_empty_batch_does_nothing(store: Store) -> None:
    for kind in Kind:
        assert store.write(kind, batch_of(kind)) == Written()


def test_a_server_that_fills_up_stops_the_writing_which_can_then_be_repeated() -> None:
    rows = [(f"s{i:03}", b'{"a":"%b"}' % (b"x" * MEGABYTE), None) for i in range(30)]
    with EmbeddedRedis(settings={"maxmemory": "20mb"}) as server, store_on(server.url) as store:
        store.check()
        with pytest.raises(StoreError, match="maxmemory"):
            store.write(Kind.STATE, states(*rows))
        with redis.Redis(port=server.port) as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(StoreError, match="maxmemory"):
                store.check()
            client.config_set("maxmemory", 0)
        written = store.write(Kind.STATE, states(*rows))
        assert written.inserted > 0
        assert written.inserted + written.unchanged == 30
        assert len(catalogue(store)) == 30


def test_a_document_too_large_for_a_string_is_refused(store: Store) -> None:
    batch, _ = digested(Kind.STATE, states(("a", b"{}", None), ("b", b"{}", None)))
    sizes = pa.array([512 * MEGABYTE, 512 * MEGABYTE + 1], pa.int64())
    batch = batch.set_column(batch.schema.get_field_index("size"), "size", sizes)
    assert [(r.row, r.reason) for r in store.refusals(Kind.STATE, batch)] == [(1, "document_too_large")]


def test_times_beside_the_document_are_lost_and_counted(store: Store) -> None:
    rows = [
        {"state_id": c, "data": b"{}", "created_at": created}
        for c, created in zip("abc", (TIME, None, TIME), strict=True)
    ]
    [(lost, mask)] = store.losses(Kind.STATE, batch_of(Kind.STATE, *rows)).items()
    assert (lost, mask.true_count) == ("timestamps", 2)
    assert store.losses(Kind.STATE, states(("a", b"{}", LATER))) == {}
    assert store.losses(Kind.VERSION, batch_of(Kind.VERSION, version("v"))) == {}


# One record at a time


def test_setting_a_state_removes_its_expiry_as_the_reference_does(store: Store, client: redis.Redis) -> None:
    client.set(f"{P}state:a", "{}", pxat=LATER)
    store.set_state("a", b'{"b":1}')
    assert client.pttl(f"{P}state:a") == -1


def test_ids_of_any_bytes_can_be_listed_read_and_deleted(store: Store, client: redis.Redis) -> None:
    client.set(b"%bstate:\xff\xfe:x" % P.encode(), b"{}")
    [id_] = store.list_states()
    assert store.get_state(id_) == b"{}"
    assert store.delete_state(id_)
    assert not store.delete_state(id_)
    assert client.dbsize() == 0


def test_a_transaction_becomes_visible_as_a_whole(store: Store, client: redis.Redis) -> None:
    store.set_state("old", b"{}")
    with store.transaction() as transaction:
        transaction.set_state("new", b'{"a":1}')
        transaction.delete_state("old")
        transaction.save_version(Version("v", "new", TIME, b"{}"))
        transaction.save_snapshot(Snapshot("x", "new", TIME, b"{}", "v"))
        assert list(store.list_states()) == ["old"]
    assert list(store.list_states()) == ["new"]
    assert [v.version_id for v in store.get_version_history("new")] == ["v"]
    assert [s.snapshot_id for s in store.list_snapshots("new")] == ["x"]


def test_a_transaction_that_fails_in_between_writes_nothing(store: Store, client: redis.Redis) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        transaction.set_state("new", b"{}")
        raise ZeroDivisionError
    assert client.dbsize() == 0


def test_an_error_within_a_transaction_is_told(store: Store, client: redis.Redis) -> None:
    client.set(f"{P}versions:s", "not a sorted set")
    with pytest.raises(StoreError, match="WRONGTYPE"), store.transaction() as transaction:
        transaction.save_version(Version("v", "s", TIME, b"{}"))
    assert store.get_state("s") is None  # and the connection is in step


def test_a_state_of_another_type_is_an_error(store: Store, client: redis.Redis) -> None:
    client.lpush(f"{P}state:a", "x")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        store.get_state("a")


def test_stats_count_records_and_name_the_server(store: Store, client: redis.Redis) -> None:
    store.write(Kind.STATE, states(("a", b"{}", None), ("b", b"{}", None)))
    store.write(Kind.VERSION, batch_of(Kind.VERSION, *(version(f"v{i}") for i in range(3))))
    store.save_snapshot(Snapshot("x", "s", TIME, b"{}"))
    stats = store.stats()
    assert (stats.states, stats.versions, stats.snapshots, stats.bytes) == (2, 3, 1, None)
    assert stats.server == store.ping()


# The place, and whether it can be written


def test_one_server_is_one_place_by_whatever_address_it_is_reached(fresh_redis: Callable[[], str]) -> None:
    url, other = fresh_redis(), fresh_redis()
    with (
        store_on(url) as store,
        store_on(url.replace("127.0.0.1", "localhost"), key_prefix=f"{P}more:") as same,
        store_on(url, key_prefix="x:") as apart,
        store_on(other) as elsewhere,
    ):
        assert store.place().overlaps(same.place())
        assert not store.place().overlaps(apart.place())
        assert not store.place().overlaps(elsewhere.place())


def test_a_server_that_hides_its_run_id_is_known_by_its_address() -> None:
    with EmbeddedRedis() as server, redis.Redis(port=server.port) as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-info")
        with store_on(f"redis://u:p@127.0.0.1:{server.port}/0") as store:
            assert store.place().server == f"127.0.0.1:{server.port}"
            assert store.ping().split() == [store.ping().split()[0], server.version]


def test_the_description_has_no_secret_and_needs_no_connection() -> None:
    with store_on("redis://me:c4n4ry@nowhere.invalid:1/2", password="c4n4ry") as store:
        assert store.describe() == f"redis://me@nowhere.invalid:1/2, keys {P}*"


def test_the_ping_names_server_and_version(store: Store, client: redis.Redis) -> None:
    info = client.info("server")
    version_ = info.get("valkey_version", info["redis_version"])
    assert store.ping() == f"{'Valkey' if 'valkey_version' in info else 'Redis'} {version_}"


def test_the_check_changes_nothing(store: Store, client: redis.Redis) -> None:
    store.check()
    store.prepare()
    store.flush()
    assert client.dbsize() == 0


def test_a_replica_fails_the_check() -> None:
    with (
        EmbeddedRedis() as primary,
        EmbeddedRedis(settings={"replicaof": f"127.0.0.1 {primary.port}", "replica-read-only": "no"}) as replica,
        store_on(replica.url) as store,
        pytest.raises(StoreError, match="is a replica"),
    ):
        store.check()


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        (["~*", "+@read", "+@connection"], "del"),
        (["~*", "+@all", "-set"], "set"),
        (["~*", "+@all", "-mset"], "mset"),
        (["~other:*", "+@all"], "key"),
    ],
)
def test_a_user_who_may_not_write_fails_the_check(rules: list[str], missing: str) -> None:
    with EmbeddedRedis() as server, redis.Redis(port=server.port) as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">p", *rules)
        with (
            store_on(f"redis://u:p@127.0.0.1:{server.port}/0") as store,
            pytest.raises(StoreError, match=missing) as caught,
        ):
            store.check()
    assert "'u'" in str(caught.value)


def test_a_user_who_may_only_use_the_keys_of_the_store_passes_the_check_and_can_do_everything() -> None:
    commands = "scan mget get set mset del exists strlen type time pexpiretime zadd zrange zrank zscore zrevrange zrevrangebyscore"
    commands += " watch unwatch multi exec pttl pexpire"
    with EmbeddedRedis() as server, redis.Redis(port=server.port) as client:
        rules = [f"~{P}*", "-@all", "+ping", "+hello", "+select", "+auth", *(f"+{name}" for name in commands.split())]
        client.execute_command("ACL", "SETUSER", "u", "on", ">p", *rules)
        with store_on(f"redis://u:p@127.0.0.1:{server.port}/0") as store:
            store.check()
            lease = store.lock(owner := Owner.here("story"), 10)
            store.fence(owner.token)
            lease.renew()
            store.write(Kind.STATE, states(("a", b"{}", LATER), ("b", b"{}", None)))
            store.write(Kind.STATE, states(("a", b"{}", LATER), ("b", b"{}", None)))
            store.write(Kind.VERSION, batch_of(Kind.VERSION, version("v", "a")))
            assert [row["state_id"] for row in read(store)[0]] == ["a", "b"]
            assert len(read(store, Kind.VERSION)[0]) == 1
            assert len(store.get_version_history("a", 1)) == 1
            lease.release()


def test_behind_a_fence_no_body_is_written_without_its_sorted_set() -> None:
    with EmbeddedRedis() as server, redis.Redis(port=server.port) as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-zadd")
        with store_on(f"redis://u:p@127.0.0.1:{server.port}/0") as store:
            store.lock(owner := Owner.here("story"), 10)
            store.fence(owner.token)
            with pytest.raises(StoreError, match="zadd"):
                store.write(Kind.VERSION, batch_of(Kind.VERSION, version("v", "a"), version("w", "b")))
            assert client.keys(P + "version*") == []


def test_it_is_a_store(store: RedisStore) -> None:
    assert isinstance(store, Store)
