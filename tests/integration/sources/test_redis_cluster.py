"""A Redis Cluster as a source: three real primaries, from which nothing is missed and nothing read twice."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from redis.crc import key_slot

from agui_pipelines.drivers import redis_cluster
from agui_pipelines.embedded import EmbeddedRedis
from agui_pipelines.errors import StoreBusyError, StoreError
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.records import STATE, Kind, Reject
from agui_pipelines.sources.redis_keys import RedisKeysSource
from agui_pipelines.sources.redis_restore import RedisRestorer
from agui_pipelines.spec import RedisConfig, RedisKeysConfig
from agui_pipelines.stores.redis import RedisStore

LATER = 4_102_444_800_123
SLOTS = 16384


def node_in_a_cluster() -> EmbeddedRedis:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        bus = str(probe.getsockname()[1])  # by default 10,000 above the server's own port, which may not exist
    return EmbeddedRedis(settings={"cluster-enabled": "yes", "cluster-port": bus, "cluster-node-timeout": "5000"})


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[redis.Redis]]:
    """Three primaries, each with a third of the slots."""
    with ExitStack() as stack:
        servers = [stack.enter_context(node_in_a_cluster()) for _ in range(3)]
        clients = [stack.enter_context(redis.Redis(port=server.port, protocol=2)) for server in servers]
        for i, client in enumerate(clients):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", i * SLOTS // 3, (i + 1) * SLOTS // 3 - 1)
            bus = clients[0].config_get("cluster-port")["cluster-port"]
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port, bus)
        wait_for(clients, lambda client: b"cluster_state:ok" in raw(client, "CLUSTER INFO"))
        wait_for(clients, lambda client: len(raw(client, "CLUSTER SLOTS")) == 3)
        yield clients


def raw(client: redis.Redis, command: str) -> Any:
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command(*command.split(" "))
        return connection.read_response()
    finally:
        client.connection_pool.release(connection)


def wait_for(clients: list[redis.Redis], condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not all(condition(client) for client in clients):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def source(nodes: list[redis.Redis]) -> Iterator[RedisKeysSource]:
    for client in nodes:
        client.flushall()
    with closing(RedisKeysSource(config(nodes[1]))) as opened:
        yield opened


def config(client: redis.Redis, **more: object) -> RedisKeysConfig:
    values = {"type": "redis_keys", "connection_url": url(client), "redis_cluster": True, **more}
    return RedisKeysConfig.model_validate(values)


def url(client: redis.Redis) -> str:
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"


def owner(nodes: list[redis.Redis], key: str | bytes) -> redis.Redis:
    slot = key_slot(key if isinstance(key, bytes) else key.encode())
    return nodes[next(i for i in range(3) if slot < (i + 1) * SLOTS // 3)]


def fill(nodes: list[redis.Redis], number: int = 3000) -> dict[str, bytes]:
    """Strings and collections; keys with a hash tag too. Gives the documents that they become."""
    expected = {}
    for i in range(number):
        key = f"k{i:05}" if i % 5 else f"k{i:05}{{tag}}"
        client = owner(nodes, key)
        if i % 7:
            client.set(key, f'{{"n":{i}}}', pxat=LATER + i)
            expected[key] = b'{"n":%d}' % i
        else:
            client.rpush(key, i, i + 1)
            expected[key] = b'{"type":"list","value":["%d","%d"]}' % (i, i + 1)
    owner(nodes, "large").sadd("large", *range(5000))
    members = ",".join(f'"{i}"' for i in sorted(map(str, range(5000))))
    expected["large"] = f'{{"type":"set","value":[{members}]}}'.encode()
    return expected


def span_of(source: RedisKeysSource) -> Span:
    file = BytesIO()
    write_catalogue(source.keys(), file)
    return Span(cut(file, 1)[0], pq.ParquetFile(file))


def rows(source: RedisKeysSource, span: Span) -> list[dict[str, Any]]:
    return [row for batch in source.read(Kind.STATE, span, pytest.fail) for row in batch.to_pylist()]


def test_all_keys_of_all_nodes_are_read_once(source: RedisKeysSource, nodes: list[redis.Redis]) -> None:
    expected = fill(nodes)
    assert all(client.dbsize() > 100 for client in nodes)
    found = rows(source, span_of(source))
    assert {row["state_id"]: row["data"] for row in found} == expected
    assert len(found) == len(expected)
    expiries = {row["state_id"]: row["expires_at"] for row in found}
    assert round(expiries["k00001"].timestamp() * 1000) == LATER + 1
    assert expiries["large"] is None


def test_keys_that_vanish_or_change_their_type_are_read_as_what_they_are(
    source: RedisKeysSource, nodes: list[redis.Redis]
) -> None:
    fill(nodes, 50)
    span = span_of(source)
    owner(nodes, "k00001").delete("k00001")
    for key in ("k00002", "large"):
        owner(nodes, key).delete(key)
    owner(nodes, "k00002").rpush("k00002", "x")
    owner(nodes, "large").set("large", "text")
    found = {row["state_id"]: row["data"] for row in rows(source, span)}
    assert "k00001" not in found
    assert found["k00002"] == b'{"type":"list","value":["x"]}'
    assert found["large"] == b'{"value":"text","type":"string"}'
    assert len(found) == 50


def test_rejects_of_all_nodes_are_named(source: RedisKeysSource, nodes: list[redis.Redis]) -> None:
    keys = [b"\xff%d" % i for i in range(20)]
    for key in keys:
        owner(nodes, key).set(key, "{}")
    rejects: list[Reject] = []
    assert list(source.read(Kind.STATE, span_of(source), rejects.append)) == []
    assert sorted(r.id for r in rejects) == sorted(keys)


def test_a_slot_that_has_moved_since_the_keys_were_listed_is_read_where_it_is(
    source: RedisKeysSource, nodes: list[redis.Redis]
) -> None:
    expected = fill(nodes, 500)
    span = span_of(source)
    moved = move_slot(nodes, "k00001")
    try:
        found = rows(source, span)
        assert {row["state_id"]: row["data"] for row in found} == expected
        assert len(found) == len(expected)
    finally:
        moved()


def test_while_a_slot_is_moving_nothing_is_listed(source: RedisKeysSource, nodes: list[redis.Redis]) -> None:
    fill(nodes, 50)
    giver, _, slot, ids = halves(nodes, "k00001")
    giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    try:
        with pytest.raises(StoreBusyError, match="reshard") as caught:
            list(source.keys())
        assert caught.value.transient
    finally:
        giver.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
    assert len(list(source.keys())) > 0


def test_a_slot_that_moves_while_keys_are_listed_is_noticed(source: RedisKeysSource, nodes: list[redis.Redis]) -> None:
    fill(nodes, 50)
    pages = source.keys()
    next(pages)
    moved = move_slot(nodes, "k00001")
    try:
        with pytest.raises(StoreBusyError, match="reshard"):
            list(pages)
    finally:
        moved()


def test_a_key_that_is_being_moved_is_asked_for_again_and_then_told(
    source: RedisKeysSource, nodes: list[redis.Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_cluster, "_PAUSE_SECONDS", 0.001)
    fill(nodes, 50)
    span = span_of(source)
    giver, taker, slot, ids = halves(nodes, "k00001")
    taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    giver.execute_command("MIGRATE", "127.0.0.1", url(taker).split(":")[2].split("/")[0], "k00001", 0, 5000)
    try:
        with pytest.raises(StoreBusyError, match="keeps moving keys"):
            rows(source, span)
    finally:
        for client in (giver, taker):
            client.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
        taker.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[0])


def halves(nodes: list[redis.Redis], key: str) -> tuple[redis.Redis, redis.Redis, int, tuple[str, str]]:
    """The node that has a key, another one, the slot, and the ids of both nodes."""
    giver = owner(nodes, key)
    taker = nodes[(nodes.index(giver) + 1) % 3]
    ids = tuple(raw(client, "CLUSTER MYID").decode() for client in (giver, taker))
    return giver, taker, key_slot(key.encode()), (ids[0], ids[1])


def move_slot(nodes: list[redis.Redis], key: str) -> Any:
    """Moves the slot of a key with all that it holds; call the result to move it back."""
    giver, taker, slot, ids = halves(nodes, key)

    def move(giver: redis.Redis, taker: redis.Redis, ids: tuple[str, str]) -> None:
        taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        for name in raw(giver, f"CLUSTER GETKEYSINSLOT {slot} 1000"):
            port = taker.connection_pool.connection_kwargs["port"]
            giver.execute_command("MIGRATE", "127.0.0.1", port, name, 0, 5000)
        for client in (taker, giver, *(node for node in nodes if node not in (giver, taker))):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        wait_for(nodes, lambda client: _owner_of(client, slot) == ids[1])

    move(giver, taker, ids)
    return lambda: move(taker, giver, (ids[1], ids[0]))


def _owner_of(client: redis.Redis, slot: int) -> str:
    return next(node[2].decode() for first, last, node, *_ in raw(client, "CLUSTER SLOTS") if first <= slot <= last)


def test_any_node_names_the_same_place(nodes: list[redis.Redis]) -> None:
    places = []
    for client in nodes:
        with closing(RedisKeysSource(config(client))) as source:
            places.append(source.place())
            assert "(cluster)" in source.describe()
            assert source.ping()
    assert places[0] == places[1] == places[2]


def test_a_server_that_is_no_cluster_is_refused(redis_url: str) -> None:
    values = {"type": "redis_keys", "connection_url": redis_url, "redis_cluster": True}
    with (
        closing(RedisKeysSource(RedisKeysConfig.model_validate(values))) as source,
        pytest.raises(StoreError, match="not a node of a cluster"),
    ):
        source.place()


def test_a_cluster_is_read_only_if_it_is_said_to_be_one(nodes: list[redis.Redis]) -> None:
    with (
        closing(RedisKeysSource(config(nodes[0], redis_cluster=False))) as source,
        pytest.raises(StoreError, match="redis_cluster: true"),
    ):
        source.place()


def test_neither_stores_nor_the_reverse_take_a_cluster(nodes: list[redis.Redis]) -> None:
    store = RedisStore(RedisConfig.model_validate({"type": "redis", "connection_url": url(nodes[0])}))
    with closing(store), pytest.raises(StoreError, match="not supported as AG-UI stores"):
        store.check()
    with closing(RedisRestorer(config(nodes[0]))) as restorer, pytest.raises(StoreError, match="cluster"):
        restorer.restore([pa.RecordBatch.from_pylist([{"state_id": "k", "data": b"{}"}], schema=STATE)], pytest.fail)


def test_a_slot_without_an_owner_is_told() -> None:
    with node_in_a_cluster() as server, redis.Redis(port=server.port, protocol=2) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16000)
        with (
            closing(RedisKeysSource(config(client))) as source,
            pytest.raises(StoreError, match="383 of 16,384 slots"),
        ):
            source.place()
