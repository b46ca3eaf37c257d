"""Writes that were acknowledged and never happened: the command says no, and names what is missing."""

from __future__ import annotations

import json
import random

import psycopg
import pytest
import redis

from agui_pipelines.embedded import EmbeddedRedis
from tests.integration.faults.conftest import run, through
from tests.integration.faults.places import TABLES, as_values, fill, held, made_up
from tests.integration.faults.proxy import Swallower

CONTENT = made_up(random.Random(20250715), 12_000, history=False)
VALUES = as_values(CONTENT)
FEW = made_up(random.Random(20250716), 200)
FEW_STATES = {key: value for key, value in FEW.items() if key[0] == "state"}


def test_one_write_in_ten_thousand_that_redis_never_got_is_named(place, between, proxied, written, command):
    source, target = place("redis_keys", "source"), place("redis", "target")
    fill(source, CONTENT)
    swallower = Swallower(lambda number: number % 10_000 == 6_543)
    proxy = proxied(target["connection_url"], swallower=swallower)
    move = between(source, through(target, proxy), parallelism=2, batch_size=1000)

    said = command("run", written(move), "--json")

    [key] = swallower.swallowed
    lost = key.decode().removeprefix("ag-ui:state:state:")
    assert said.code == 1
    assert lost in said.error
    assert said.json["missing_states"] == [lost]
    assert said.json["migrated_states"] == len(CONTENT) - 1
    assert held(source) == VALUES

    proxy.heal()
    again = run(move)
    assert again.code == 0, again.error
    assert held(target) == VALUES


@pytest.mark.parametrize(
    ("tables", "kind", "lost"),
    [
        pytest.param("ag_states", "states", "user-00123", marks=pytest.mark.long),
        ("ag_versions", "versions", "user-00120/v2-120"),
    ],
)
def test_a_row_that_a_trigger_of_postgresql_swallows_is_named(place, between, tables, kind, lost):
    source, target = place("redis", "source"), place("postgresql", "target")
    fill(source, FEW)
    name = "version_id" if "/" in lost else "state_id"
    with psycopg.connect(target["connection_url"], autocommit=True) as connection:
        connection.execute(TABLES)
        connection.execute("CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        connection.execute(
            f"CREATE TRIGGER t BEFORE INSERT ON {tables} FOR EACH ROW WHEN (NEW.{name} = '{lost.split('/')[-1]}')"
            " EXECUTE FUNCTION swallow()"
        )
    move = between(source, target)

    told = run(move)

    assert told.code == 1
    assert f"1 {kind.removesuffix('s')} missing ('{lost}')" in told.error.message
    with psycopg.connect(target["connection_url"], autocommit=True) as connection:
        connection.execute(f"DROP TRIGGER t ON {tables}")
    assert run(move).code == 0
    assert held(target) == as_values(FEW)


@pytest.mark.long
def test_a_redis_that_evicts_what_it_was_given_is_found_out(place, between, written, command):
    source = place("redis_keys", "source")
    fill(source, CONTENT)
    with EmbeddedRedis(settings={"maxmemory": "5mb", "maxmemory-policy": "allkeys-lru"}) as server:
        target = {"type": "redis", "connection_url": server.url}
        accepted = {"accept": ["target_eviction", "target_memory"]}
        move = between(source, target, batch_size=1000, assessment=accepted)

        said = command("run", written(move), "--json")

        assert said.code in (1, 3)
        assert said.error
        assert held(source) == VALUES
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", 0)
        again = run(move)
        if again.code:  # the lock was among what was evicted, so that what is missing is found now
            again = run(move)
        assert again.code == 0, again.error
        assert held(target) == VALUES


def test_a_value_that_was_changed_on_its_way_is_named(place, between):
    """As a faulty driver, proxy or disk would change it: the key is there, and one digit of it is another."""
    source, target = place("redis_keys", "source"), place("redis", "target")
    fill(source, FEW_STATES)

    def change():
        with redis.Redis.from_url(target["connection_url"]) as client:
            document = json.loads(client.get("ag-ui:state:state:user-00042"))
            client.set("ag-ui:state:state:user-00042", json.dumps(document | {"exact": document["exact"] + 1}))

    told = run(between(source, target), before={"validate": change})

    assert told.code == 1
    assert "1 state corrupted ('user-00042')" in told.error.message


def test_a_lost_body_of_a_version_is_named_and_the_next_run_writes_it(place, between, proxied):
    source, target = place("redis", "source"), place("redis", "target")
    fill(source, FEW)
    versions = [key[2] for key in FEW if key[0] == "version"]
    swallower = Swallower(lambda number: number == 1 + len(FEW_STATES))  # after what the check tries, and the states
    proxy = proxied(target["connection_url"], swallower=swallower)
    move = between(source, through(target, proxy), ranges=1)

    told = run(move)

    assert told.code == 1
    assert any(version in told.error.message for version in versions), str(told.error)
    assert told.rollback_error is None
    proxy.heal()
    again = run(move)
    assert again.code == 0, again.error
    assert held(target) == as_values(FEW)
