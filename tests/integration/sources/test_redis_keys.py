"""Any Redis as a source: which keys become states, and what of them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from agui_pipelines.canonical import UNUSABLE, digest
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.ports import Reader
from agui_pipelines.records import STATE, Kind, Reject
from agui_pipelines.sources.redis_keys import RedisKeysSource
from agui_pipelines.spec import RedisKeysConfig

LATER = 4_102_444_800_123
"""Milliseconds since the epoch: in the year 2100."""
MEGABYTE = 1024 * 1024


def source_on(url: str, match: str = "*") -> closing[RedisKeysSource]:
    config = {"type": "redis_keys", "connection_url": url, "match": match}
    return closing(RedisKeysSource(RedisKeysConfig.model_validate(config)))


@pytest.fixture
def source(redis_url: str) -> Iterator[RedisKeysSource]:
    with source_on(redis_url) as opened:
        yield opened


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as opened:
        yield opened


def span_of(reader: Reader) -> Span:
    file = BytesIO()
    write_catalogue(reader.keys(), file)
    return Span(cut(file, 1)[0], pq.ParquetFile(file))


def read(reader: Reader) -> tuple[list[dict[str, Any]], list[Reject]]:
    rejects: list[Reject] = []
    batches = list(reader.read(Kind.STATE, span_of(reader), rejects.append))
    assert all(batch.schema == STATE for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()], rejects


@pytest.mark.parametrize(
    "value",
    [
        b'{"a": 1.0, "b":[1e400]}',
        b' \t\r\n{"a":1}\n',
        rb'{"a":"\ud800"}',
        b'{"a":1,"a":2}',
        b"{}",
        b'{"invalid": tru',  # whoever parses it finds out, and asks `salvage`
        b'{"\xff":1}',
        b'{"value":"x","type":"mine"}',
        b'{"value":"x"}',
        b'{"value":"x","type":"string","more":1}',
        b'{"type":["string"],"value":1}',
        b'{"value":"x","type":"string"',
    ],
)
def test_what_begins_like_an_object_is_passed_on_byte_by_byte(
    source: RedisKeysSource, client: redis.Redis, value: bytes
) -> None:
    client.mset({"k": value, "number": "7"})
    assert read(source)[0][0]["data"] == value
    client.delete("number")  # so that nothing in the batch needs another form
    assert [row["data"] for row in read(source)[0]] == [value]


@pytest.mark.parametrize(
    ("value", "document"),
    [
        (b"[1,2]", b'{"value":"[1,2]","type":"string"}'),
        (b"", b'{"value":"","type":"string"}'),
        (b"7", b'{"value":"7","type":"string"}'),
        (b'"quoted"\n', b'{"value":"\\"quoted\\"\\n","type":"string"}'),
        (b"null", b'{"value":"null","type":"string"}'),
        ("naïve 😀".encode(), '{"value":"naïve 😀","type":"string"}'.encode()),
        (b"\xef\xbb\xbf{}", b'{"value":"\xef\xbb\xbf{}","type":"string"}'),
        (b"a\x00b", b'{"value":"a\\u0000b","type":"string"}'),
        (b"caf\xe9", b'{"value":{"base64":"Y2Fm6Q=="},"type":"string"}'),
        # What would be taken for a document that stands for something else
        (b'{"value":"x","type":"string"}', rb'{"value":"{\"value\":\"x\",\"type\":\"string\"}","type":"string"}'),
        (b'\n{ "type":"hash","value":1}', rb'{"value":"\n{ \"type\":\"hash\",\"value\":1}","type":"string"}'),
        (rb'{"\u0074ype":"list","value":1}', rb'{"value":"{\"\\u0074ype\":\"list\",\"value\":1}","type":"string"}'),
    ],
)
def test_any_other_text_becomes_the_value_of_a_document(
    source: RedisKeysSource, client: redis.Redis, value: bytes, document: bytes
) -> None:
    client.set("k", value, pxat=LATER)
    [batch] = source.read(Kind.STATE, span_of(source), pytest.fail)
    assert batch.column("data").to_pylist() == [document]
    assert batch.column("expires_at").cast(pa.int64()).to_pylist() == [LATER]
    assert source.salvage(value) == document


@given(st.binary())
def test_what_is_salvaged_is_an_object_that_holds_the_exact_bytes(value: bytes) -> None:
    with source_on("redis://nowhere.invalid:1/0") as source:
        document = source.salvage(value)
    assert document is not None
    assert not digest(document).traits & UNUSABLE
    assert orjson.loads(document) == json.loads(document)
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = {"base64": b64encode(value).decode()}
    assert list(json.loads(document).items()) == [("value", text), ("type", "string")]


def test_a_key_that_is_not_utf8_is_rejected_by_name_with_what_it_holds(
    source: RedisKeysSource, client: redis.Redis
) -> None:
    client.mset({"good": "{}", b"\xff": "text", b"\xfe": b"\xfe", b"\xfd{": '{"a":1}'})
    client.rpush(b"\xfc", "a", "b")
    rows, rejects = read(source)
    assert [(row["state_id"], row["data"]) for row in rows] == [("good", b"{}")]
    assert {(r.id, r.raw, r.reason) for r in rejects} == {
        (b"\xff", b"text", "id_not_utf8"),
        (b"\xfe", b"\xfe", "id_not_utf8"),
        (b"\xfd{", b'{"a":1}', "id_not_utf8"),
        (b"\xfc", b'{"type":"list","value":["a","b"]}', "id_not_utf8"),
    }


def test_only_keys_that_match_are_in_the_catalogue_and_under_their_whole_name(
    redis_url: str, client: redis.Redis
) -> None:
    client.mset({"session:1": "{}", "session:1:x": "{}", "session*": "{}", "other": "{}"})
    for match, expected in {
        "session:*": {b"session:1", b"session:1:x"},
        r"session\*": {b"session*"},
        "zzz*": set(),
    }.items():
        with source_on(redis_url, match) as source:
            assert {key for batch in source.keys() for key in batch.column("key").to_pylist()} == expected  # noqa: SIM118 - no dict
            assert [row["state_id"].encode() for row in read(source)[0]] == sorted(expected)


def test_expiries_are_exact_to_the_millisecond_also_where_some_values_are_not_objects(
    source: RedisKeysSource, client: redis.Redis
) -> None:
    values = {"a": "{}", "b": "text", "c": b"\xff", "d": "{}", "e": "more text"}
    for i, (key, value) in enumerate(values.items()):
        client.set(key, value, pxat=None if key == "d" else LATER + i)
    [batch] = source.read(Kind.STATE, span_of(source), pytest.fail)
    expiries = dict(zip(batch["state_id"].to_pylist(), batch["expires_at"].cast(pa.int64()).to_pylist(), strict=True))
    assert expiries == {"a": LATER, "b": LATER + 1, "c": LATER + 2, "d": None, "e": LATER + 4}


def test_keys_that_vanish_or_expire_while_they_are_read_are_passed_over(
    source: RedisKeysSource, client: redis.Redis
) -> None:
    client.mset({f"{i:05}": "{}" for i in range(5000)})
    span = span_of(source)
    batches = source.read(Kind.STATE, span, pytest.fail)
    seen = next(batches).column("state_id").to_pylist()
    client.delete(*(f"{i:05}" for i in range(4000, 4800)))
    client.set("04900", "{}", pxat=1_000)
    seen += [id_ for batch in batches for id_ in batch.column("state_id").to_pylist()]
    assert seen == [f"{i:05}" for i in (*range(4000), *range(4800, 4900), *range(4901, 5000))]


def test_a_key_of_another_type_that_becomes_a_string_is_read(source: RedisKeysSource, client: redis.Redis) -> None:
    client.lpush("k", "x")
    span = span_of(source)
    client.set("k", '{"a":1}')
    [batch] = source.read(Kind.STATE, span, pytest.fail)
    assert batch.column("data").to_pylist() == [b'{"a":1}']


def test_a_huge_value_among_small_ones_travels_in_a_batch_of_its_own(
    source: RedisKeysSource, client: redis.Redis
) -> None:
    huge = b'{"a":"' + b"x" * (50 * MEGABYTE) + b'"}'
    client.mset({f"k{i:04}": "{}" for i in range(1000)})
    client.set("k0500x", huge)
    batches = list(source.read(Kind.STATE, span_of(source), pytest.fail))
    assert sum(batch.num_rows for batch in batches) == 1001
    [own] = [batch for batch in batches if batch.nbytes > MEGABYTE]
    assert own.column("data").to_pylist() == [huge]


@pytest.mark.parametrize("tail", [b"", b'"', b"\\", b"\x00", b"\x1f", b"\x7f", b"\n", "é\u2028".encode(), b"\xff"])
def test_a_large_value_becomes_the_same_document_as_a_small_one(source: RedisKeysSource, tail: bytes) -> None:
    large = b"x" * MEGABYTE + tail
    text = {"base64": b64encode(large).decode()} if tail == b"\xff" else large.decode()
    assert source.salvage(large) == orjson.dumps({"value": text, "type": "string"})


def test_there_are_states_only(source: RedisKeysSource, client: redis.Redis) -> None:
    client.set("k", "{}")
    assert source.kinds == (Kind.STATE,)
    assert list(source.read(Kind.VERSION, span_of(source), pytest.fail)) == []


def test_the_place_is_the_literal_beginning_of_the_pattern(redis_url: str) -> None:
    with (
        source_on(redis_url, "app:*:state") as source,
        source_on(redis_url) as everything,
        source_on(redis_url, "x*") as apart,
    ):
        assert source.place().prefix == "app:"
        assert source.place().overlaps(everything.place())
        assert not source.place().overlaps(apart.place())


def test_the_description_has_no_secret_and_needs_no_connection() -> None:
    with source_on("redis://:c4n4ry@nowhere.invalid:1/2", "session:*") as source:
        assert source.describe() == "redis://nowhere.invalid:1/2, keys that match session:*"


def test_it_is_a_reader(source: RedisKeysSource) -> None:
    assert isinstance(source, Reader)
