"""Every type of Redis key: as a document, and back into a key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines.embedded import EmbeddedRedis
from agui_pipelines.errors import StoreError
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.ports import BATCH_BYTES
from agui_pipelines.records import STATE, Kind, Reject
from agui_pipelines.sources import redis_collections
from agui_pipelines.sources.redis_keys import RedisKeysSource
from agui_pipelines.sources.redis_restore import RedisRestorer
from agui_pipelines.spec import RedisKeysConfig

LATER = 4_102_444_800_123
"""Milliseconds since the epoch: in the year 2100."""
MEGABYTE = 1024 * 1024
REST = b'"last_id":"1-0","max_deleted_id":null,"entries_added":null,"groups":[]'
"""What a stream has beside its entries."""


def config(url: str) -> RedisKeysConfig:
    return RedisKeysConfig.model_validate({"type": "redis_keys", "connection_url": url})


@pytest.fixture
def source(redis_url: str) -> Iterator[RedisKeysSource]:
    with closing(RedisKeysSource(config(redis_url))) as opened:
        yield opened


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as opened:
        yield opened


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has more than three elements counts as large, and is read seven elements at a time."""
    monkeypatch.setattr(redis_collections, "SMALL", 3)
    monkeypatch.setattr(redis_collections, "PAGE", 7)


def span_of(source: RedisKeysSource) -> Span:
    file = BytesIO()
    write_catalogue(source.keys(), file)
    return Span(cut(file, 1)[0], pq.ParquetFile(file))


def batches(source: RedisKeysSource) -> list[pa.RecordBatch]:
    return list(source.read(Kind.STATE, span_of(source), pytest.fail))


def documents(source: RedisKeysSource) -> dict[str, bytes]:
    return {row["state_id"]: row["data"] for batch in batches(source) for row in batch.to_pylist()}


def state(key: str, document: bytes, expiry: int | None = None) -> pa.RecordBatch:
    row = {"state_id": key, "data": document, "created_at": None, "updated_at": None, "expires_at": expiry}
    return pa.RecordBatch.from_pylist([row], schema=STATE)


def fill(client: redis.Redis, number: int = 40) -> None:
    """A key of each type with `number` elements, among them such as are no text, and others that look like a marker."""
    odd = {b"\xff": b"\xfe\x00", b"": b"", b'{"base64":"/w=="}': b'{"base64":"/w=="}', b"base64": "ü".encode()}
    some = {f"f{i:03}".encode(): f"v{i}".encode() for i in range(number)}
    client.set("string", b"\x80 binary")
    client.set("json text", '{"value": "x", "type": "string"}')
    client.hset("hash", mapping=some | {k: v for k, v in odd.items() if k != b"\xff"})
    client.hset("binary hash", mapping=some | odd)
    client.rpush("list", *reversed([*some, *odd, *some]))
    client.sadd("set", *some, *odd)
    client.sadd("integers", *range(number))
    client.zadd("zset", {member: i % 5 + 0.1 for i, member in enumerate((*some, *odd))})
    client.zadd(
        "scores",
        {"a": 0.1 + 0.2, "b": float("inf"), "c": float("-inf"), "d": 1e-310, "e": 2**53, "f": 1e300, "g": -1.5},
    )
    for i in range(1, number + 1):
        client.xadd("stream", {b"f": b"v%d" % i, b"\xff": b"\xfe", b"g": b""}, id=f"{i}-1")
    client.xgroup_create("stream", "g", "0")
    client.xgroup_create("stream", b"\xff", "$", entries_read=number)
    client.xgroup_createconsumer("stream", "g", "idle")
    client.xreadgroup("g", b"me\xff", {"stream": ">"}, count=number // 2)
    client.xreadgroup("g", "you", {"stream": ">"}, count=number // 4)
    client.xack("stream", "g", "1-1", "5-1")
    client.xdel("stream", "4-1", "7-1")
    client.xtrim("stream", minid="3-0", approximate=False)
    client.xgroup_create("empty stream", "g", "$", mkstream=True)
    client.xadd("trimmed stream", {"f": "v"}, id="9-9")
    client.xgroup_create("trimmed stream", "g", "0")
    client.xreadgroup("g", "me", {"trimmed stream": ">"})
    client.xtrim("trimmed stream", maxlen=0, approximate=False)


def looked_at(client: redis.Redis) -> dict[bytes, Any]:
    """All keys as the server tells them, by another client. Of consumers not when they were last seen."""
    return {
        key: (client.type(key), client.pexpiretime(key), CONTENT[client.type(key)](client, key))
        for key in client.scan_iter()
    }


def stream_content(client: redis.Redis, key: bytes) -> Any:
    facts = client.execute_command("XINFO", "STREAM", key, "FULL", "COUNT", 0, NEVER_DECODE=True)
    del facts[b"radix-tree-keys"], facts[b"radix-tree-nodes"]
    for group in facts[b"groups"]:
        for consumer in group[b"consumers"]:
            del consumer[b"seen-time"], consumer[b"active-time"]
    return facts


CONTENT: dict[bytes, Callable[[redis.Redis, bytes], Any]] = {
    b"string": lambda client, key: client.get(key),
    b"hash": lambda client, key: (client.hgetall(key), client.hpexpiretime(key, *sorted(client.hkeys(key)))),
    b"list": lambda client, key: client.lrange(key, 0, -1),
    b"set": lambda client, key: client.smembers(key),
    b"zset": lambda client, key: client.execute_command("ZRANGE", key, 0, -1, "WITHSCORES"),
    b"stream": stream_content,
}


# What a key becomes


def test_each_type_becomes_a_document_that_names_it(source: RedisKeysSource, client: redis.Redis) -> None:
    client.hset("hash", mapping={"b": "2", "a": b"\xff"})
    client.hset("binary hash", mapping={b"\xff": "1", "a": "2"})
    client.rpush("list", "b", "a", "b")
    client.sadd("set", "b", "a", b"\xff", "B")
    client.zadd("zset", {"z": float("-inf"), "b": 1, "a": 1, "x": 0.1 + 0.2, "i": float("inf")})
    client.xadd("stream", {"b": "1", "a": b"\xff"}, id="1-0")
    assert documents(source) == {
        "hash": b'{"type":"hash","value":{"a":{"base64":"/w=="},"b":"2"}}',
        "binary hash": b'{"type":"hash","value":[["a","2"],[{"base64":"/w=="},"1"]]}',
        "list": b'{"type":"list","value":["b","a","b"]}',
        "set": b'{"type":"set","value":["B","a","b",{"base64":"/w=="}]}',
        "zset": b'{"type":"zset","value":[["z","-inf"],["x","0.30000000000000004"],["a","1"],["b","1"],["i","inf"]]}',
        "stream": b'{"type":"stream","value":{"entries":[["1-0",["b","1","a",{"base64":"/w=="}]]],"entries_added":1,"groups":[],'
        b'"last_id":"1-0","max_deleted_id":"0-0"}}',
    }


def test_consumer_groups_become_data(source: RedisKeysSource, client: redis.Redis) -> None:
    client.xadd("s", {"f": "v"}, id="1-0")
    client.xgroup_create("s", "g", "0")
    client.execute_command("XREADGROUP", "GROUP", "g", "b", "STREAMS", "s", ">")
    client.xgroup_createconsumer("s", "g", "a")
    claim = client.pipeline().execute_command(
        "XCLAIM", "s", "g", "b", 0, "1-0", "TIME", 1_700_000_000_123, "RETRYCOUNT", 7
    )
    claim.execute()
    [group] = json.loads(documents(source)["s"])["value"]["groups"]
    assert group == {
        "name": "g",
        "last_id": "1-0",
        "entries_read": 1,
        "consumers": ["a", "b"],
        "pending": [["1-0", "b", 1_700_000_000_123, 7]],
    }


def test_expiries_of_keys_and_of_the_fields_of_a_hash_are_absolute(
    source: RedisKeysSource, client: redis.Redis
) -> None:
    client.hset("hash", mapping={"a": "1", "b": "2"})
    client.hpexpireat("hash", LATER + 1, "b")
    client.rpush("list", "x")
    client.sadd("kept", "x")
    client.pexpireat("list", LATER)
    client.pexpireat("hash", LATER + 2)
    [batch] = batches(source)
    expiries = batch.column("expires_at").cast(pa.int64()).to_pylist()
    assert dict(zip(batch["state_id"].to_pylist(), expiries, strict=True)) == {
        "hash": LATER + 2,
        "kept": None,
        "list": LATER,
    }
    assert json.loads(documents(source)["hash"])["field_expires_at"] == {"b": LATER + 1}


def test_where_the_server_cannot_tell_the_moment_of_expiry_it_is_worked_out() -> None:
    settings = {"rename-command PEXPIRETIME": ""}
    with EmbeddedRedis(settings=settings) as server, redis.Redis(port=server.port) as client:
        client.rpush("small", "x")
        client.rpush("large", *range(2000))
        client.rpush("kept", "x")
        for key in ("small", "large"):
            client.pexpireat(key, LATER)
        with closing(RedisKeysSource(config(server.url))) as source:
            rows = [row for batch in batches(source) for row in batch.to_pylist()]
    moments = {row["state_id"]: row["expires_at"] and round(row["expires_at"].timestamp() * 1000) for row in rows}
    assert moments["kept"] is None
    assert abs(moments["small"] - LATER) <= 100
    assert abs(moments["large"] - LATER) <= 100


def test_reading_page_by_page_gives_the_same_document(
    source: RedisKeysSource, client: redis.Redis, request: pytest.FixtureRequest
) -> None:
    fill(client)
    at_once = documents(source)
    request.getfixturevalue("small_pages")
    assert documents(source) == at_once
    assert len(at_once) == len(client.keys())


def test_a_type_that_has_no_form_is_rejected_by_name(
    source: RedisKeysSource, monkeypatch: pytest.MonkeyPatch, client: redis.Redis
) -> None:
    client.rpush("l", "x")
    monkeypatch.setattr("agui_pipelines.sources.redis_keys.READABLE", frozenset({"hash"}))
    rejects: list[Reject] = []
    assert list(source.read(Kind.STATE, span_of(source), rejects.append)) == []
    assert [(r.id, r.reason) for r in rejects] == [(b"l", "unsupported_type")]
    assert "a list" in rejects[0].detail


def test_many_large_keys_travel_in_batches_of_bounded_size(source: RedisKeysSource, client: redis.Redis) -> None:
    for i in range(10):
        client.rpush(f"list{i}", *([b"x" * MEGABYTE] * 3))
        client.hset(f"hash{i}", mapping={"f": b"y" * (3 * MEGABYTE)})
    client.sadd("small", "x")
    read = batches(source)
    assert sum(batch.num_rows for batch in read) == 21
    assert max(batch.nbytes for batch in read) <= BATCH_BYTES + MEGABYTE


def test_a_user_who_may_only_read_reads_everything(
    source: RedisKeysSource, client: redis.Redis, redis_url: str, small_pages: None
) -> None:
    fill(client)
    expected = documents(source)
    client.execute_command("ACL", "SETUSER", "reader", "on", ">p", "~*", "+@read", "+@connection", "+time")
    try:
        with closing(RedisKeysSource(config(redis_url.replace("redis://", "redis://reader:p@")))) as limited:
            assert documents(limited) == expected
    finally:
        client.execute_command("ACL", "DELUSER", "reader")


# What changes while it is read


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("type_", ["hash", "list", "set", "zset", "stream"])
@pytest.mark.parametrize("times", [1, 100])
def test_a_large_key_that_changes_while_it_is_read_is_read_as_it_is_at_one_moment(
    source: RedisKeysSource, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, type_: str, times: int
) -> None:
    """Two elements are always added together, before and after all others: no reading may see one without the other."""
    change: dict[str, Callable[[int], list[tuple[Any, ...]]]] = {
        "hash": lambda i: [("HSET", "k", f"a{i:03}", "", f"z{i:03}", "")],
        "list": lambda i: [("LPUSH", "k", f"a{i:03}"), ("RPUSH", "k", f"z{i:03}")],
        "set": lambda i: [("SADD", "k", f"a{i:03}", f"z{i:03}")],
        "zset": lambda i: [("ZADD", "k", -i, f"a{i:03}", i, f"z{i:03}")],
        "stream": lambda i: [("XADD", "k", f"{i}-1", f"a{i:03}", "", f"z{i:03}", "")],
    }
    number = iter(range(1, 1000))

    def once() -> None:
        pipeline = client.pipeline(transaction=True)
        for command in change[type_](next(number)):
            pipeline.execute_command(*command)
        pipeline.execute()

    for _ in range(20):
        once()
    ask = redis_collections.CollectionReader._ask
    left = iter(range(times))

    def ask_while_it_changes(self: Any, *commands: Any) -> Any:
        replies = ask(self, *commands)
        if next(left, None) is not None:
            once()
        return replies

    monkeypatch.setattr(redis_collections.CollectionReader, "_ask", ask_while_it_changes)
    document = documents(source)["k"].decode()
    changes = next(number) - 1
    assert 20 < changes <= 120
    first = {i for i in range(1, 1000) if f'"a{i:03}"' in document}
    assert first == {i for i in range(1, 1000) if f'"z{i:03}"' in document}
    assert first == set(range(1, len(first) + 1))
    if times == 1:
        assert len(first) == changes


def test_keys_that_vanish_or_change_their_type_are_read_as_what_they_are(
    source: RedisKeysSource, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed at two moments: after they were listed, and after their type was asked for."""
    for key in ("a", "b", "c", "d", "e", "f", "g"):
        client.rpush(key, *range(2000 if key in "ef" else 3))
    span = span_of(source)
    client.delete("a")
    client.set("b", "text")
    sized = redis_collections.CollectionReader._sized

    def sized_and_changed(self: Any, keys: Any, on_changed: Any) -> Any:
        found = sized(self, keys, on_changed)
        if client.type("c") == b"list":
            client.delete("c", "d", "e", "f")
            client.set("d", '{"now":"a string"}')
            client.hset("f", "now", "a hash")
        return found

    monkeypatch.setattr(redis_collections.CollectionReader, "_sized", sized_and_changed)
    rows = [row for batch in source.read(Kind.STATE, span, pytest.fail) for row in batch.to_pylist()]
    assert {row["state_id"]: row["data"] for row in rows} == {
        "b": b'{"value":"text","type":"string"}',
        "d": b'{"now":"a string"}',
        "f": b'{"type":"hash","value":{"now":"a hash"}}',
        "g": b'{"type":"list","value":["0","1","2"]}',
    }
    assert len(rows) == 4


def test_a_key_that_never_keeps_its_type_is_rejected_by_name(
    source: RedisKeysSource, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.rpush("k", "x")
    read = redis_collections.CollectionReader.read

    def read_after_a_change(self: Any, keys: Any, on_changed: Any) -> Any:
        [(_, type_)] = keys
        client.delete("k")
        client.execute_command(*(("SADD", "k", "x") if type_ == "list" else ("RPUSH", "k", "x")))
        return read(self, keys, on_changed)

    monkeypatch.setattr(redis_collections.CollectionReader, "read", read_after_a_change)
    rejects: list[Reject] = []
    assert list(source.read(Kind.STATE, span_of(source), rejects.append)) == []
    assert [(r.id, r.reason) for r in rejects] == [(b"k", "keeps_changing")]


# Back into keys


@pytest.mark.parametrize("paged", [False, True])
def test_every_type_comes_back_as_it_was(
    source: RedisKeysSource, client: redis.Redis, redis_url: str, paged: bool, request: pytest.FixtureRequest
) -> None:
    fill(client)
    client.hpexpireat("hash", LATER, "f001", "f002")
    client.hpexpireat("binary hash", LATER + 1, b"\xff")
    for i, key in enumerate(client.keys()):
        if i % 2:
            client.pexpireat(key, LATER + i)
    before = looked_at(client)
    if paged:
        request.getfixturevalue("small_pages")
    read = batches(source)
    client.flushdb()
    client.set("list", "in the way")
    with closing(RedisRestorer(config(redis_url))) as restorer:
        counts = restorer.restore(read, pytest.fail)
    assert looked_at(client) == before
    assert counts == {"string": 2, "hash": 2, "list": 1, "set": 2, "zset": 2, "stream": 3}


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.binary(max_size=12) | st.sampled_from([b'{"base64":"/w=="}', b"base64", b"[]"]), min_size=1),
    numbers=st.lists(st.floats(allow_nan=False), min_size=1),
)
def test_any_bytes_and_any_scores_come_back(redis_server: str, items: list[bytes], numbers: list[float]) -> None:
    url = f"{redis_server}/15"
    with redis.Redis.from_url(url) as client, closing(RedisKeysSource(config(url))) as source:
        client.flushdb()
        client.set("string", items[0])
        client.rpush("list", *items)
        client.sadd("set", *items)
        client.hset("hash", mapping={item: items[-i] for i, item in enumerate(items)})
        client.zadd("zset", {item: numbers[i % len(numbers)] for i, item in enumerate(items)})
        client.xadd("stream", {item: items[-i] for i, item in enumerate(items)})
        before = looked_at(client)
        read = batches(source)
        client.flushdb()
        with closing(RedisRestorer(config(url))) as restorer:
            restorer.restore(read, pytest.fail)
        assert looked_at(client) == before
        client.flushdb()


@pytest.mark.parametrize("document", [b'{"a": 1.0}', b'{"value":"x"}', b'{"type":"hash","value":1,"more":2}'])
def test_any_other_document_is_a_string_that_holds_it(redis_url: str, client: redis.Redis, document: bytes) -> None:
    with closing(RedisRestorer(config(redis_url))) as restorer:
        assert restorer.restore([state("k", document, LATER)], pytest.fail) == {"string": 1}
    assert (client.get("k"), client.pexpiretime("k")) == (document, LATER)


@pytest.mark.parametrize(
    "document",
    [
        b'{"type":"string","value":1}',
        b'{"type":"string","value":{"base64":"?"}}',
        b'{"type":"string","value":"x","field_expires_at":{}}',
        b'{"type":"hash","value":{"a":1}}',
        b'{"type":"hash","value":{"a":"1"},"field_expires_at":{"a":"soon"}}',
        b'{"type":"list","value":"x"}',
        b'{"type":"zset","value":[["m",1]]}',
        b'{"type":"zset","value":[["m","one"]]}',
        b'{"type":"stream","value":{"entries":[]}}',
        b'{"type":"stream","value":{"entries":[["now",["f","v"]]],%b}}' % REST,
        b'{"type":"stream","value":{"entries":[["1-0",["f"]]],%b}}' % REST,
    ],
)
def test_a_document_without_the_form_of_its_type_is_rejected_and_its_key_left_alone(
    redis_url: str, client: redis.Redis, document: bytes
) -> None:
    client.set("k", "as it was")
    rejects: list[Reject] = []
    with closing(RedisRestorer(config(redis_url))) as restorer:
        assert restorer.restore([state("k", document), state("good", b"{}")], rejects.append) == {"string": 1}
    assert [(r.id, r.raw, r.phase, r.reason) for r in rejects] == [(b"k", document, "restore", "malformed")]
    assert client.mget("k", "good") == [b"as it was", b"{}"]


def test_what_has_expired_does_not_come_back(redis_url: str, client: redis.Redis) -> None:
    client.set("list", "old")
    rows = [state("list", b'{"type":"list","value":["x"]}', 1_000), state("string", b"{}", -5)]
    with closing(RedisRestorer(config(redis_url))) as restorer:
        restorer.restore(rows, pytest.fail)
    assert client.keys() == []


def test_a_json_value_for_a_server_without_the_module_is_an_error_and_changes_nothing(
    redis_url: str, client: redis.Redis
) -> None:
    client.set("k", "as it was")
    with closing(RedisRestorer(config(redis_url))) as restorer, pytest.raises(StoreError, match=r"JSON\.SET"):
        restorer.restore([state("k", b'{"type":"json","value":{"a":1e400}}')], pytest.fail)
    assert client.get("k") == b"as it was"
