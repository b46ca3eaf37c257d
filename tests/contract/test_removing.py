"""Removing what still is what it was: nothing that somebody has written since goes."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pyarrow as pa
import pytest
import redis

from agui_pipelines.errors import LockLostError
from agui_pipelines.keyspace import span_of
from agui_pipelines.owner import Owner
from agui_pipelines.ports import Removal
from agui_pipelines.records import Kind, digested
from agui_pipelines.sources.redis_keys_target import RedisKeysTarget
from agui_pipelines.spec import PostgresConfig, RedisConfig, RedisKeysConfig
from agui_pipelines.stores import postgresql
from agui_pipelines.stores import redis as redis_module
from tests.contract.test_store_contract import batch, everything, snapshot_row, state_row, version_row

LATER = 4_102_444_800_123


def known(store, kind):
    """All records of a kind as an archive holds them."""
    usable, _ = digested(kind, batch(kind, *everything(store, kind)))
    return usable


def names(store, kind):
    return {row[column] for row in everything(store, kind) for column in [f"{kind}_id"]}


def test_states_that_are_as_they_were_go_and_others_stay(store):
    store.prepare()
    store.write(Kind.STATE, batch(Kind.STATE, *(state_row(f"s{i}", b'{"n":%d}' % i) for i in range(6))))
    before = known(store, Kind.STATE)
    store.set_state("s1", b'{"n":1,"more":true}')
    store.delete_state("s2")
    store.set_state("new", b"{}")
    store.set_state("s3", b'{ "n" : 3 }')  # which is the same

    assert store.remove_unchanged(Kind.STATE, before) == Removal(removed=4, changed=1, gone=1)
    assert names(store, Kind.STATE) == {"s1", "new"}
    assert store.remove_unchanged(Kind.STATE, before) == Removal(removed=0, changed=1, gone=5)


@pytest.mark.parametrize(("kind", "row"), [(Kind.VERSION, version_row), (Kind.SNAPSHOT, snapshot_row)])
def test_histories_go_record_by_record(store, kind, row):
    store.set_state("a", b"{}")
    store.write(kind, batch(kind, *(row("a", f"r{i}") for i in range(4)), row("b", "other")))
    before = known(store, kind)
    before = before.filter(pa.array([id_ != "r3" for id_ in before.column(f"{kind}_id").to_pylist()]))
    store.write(kind, batch(kind, row("a", "r1", data=b'{"n":1}')))

    assert store.remove_unchanged(kind, before) == Removal(removed=3, changed=1)
    assert names(store, kind) == {"r1", "r3"}
    assert store.get_state("a") is not None


def test_of_a_store_that_holds_nothing_everything_is_gone(store):
    there, _ = digested(Kind.STATE, batch(Kind.STATE, state_row("a"), state_row("b")))
    assert store.remove_unchanged(Kind.STATE, there) == Removal(gone=2)
    assert store.remove_unchanged(Kind.STATE, there.slice(0, 0)) == Removal()


def test_who_lost_the_lock_removes_nothing(store, other):
    store.set_state("a", b"{}")
    before = known(store, Kind.STATE)
    lease = other.lock(mine := Owner.here("one"), 60)
    store.fence(mine.token)
    lease.release()
    other.lock(Owner.here("other"), 60)
    with pytest.raises(LockLostError):
        store.remove_unchanged(Kind.STATE, before)
    assert names(store, Kind.STATE) == {"a"}


@pytest.fixture
def there(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def foreign(redis_url):
    config = RedisKeysConfig.model_validate({"type": "redis_keys", "connection_url": redis_url, "match": "s*"})
    with closing(RedisKeysTarget(config)) as opened:
        yield opened


def foreign_states(foreign):
    rows = [row for found in _read(foreign) for row in found.to_pylist()]
    usable, _ = digested(Kind.STATE, batch(Kind.STATE, *rows))
    return usable


def _read(foreign):
    keys = [key for found in foreign.keys() for key in found.column("key").to_pylist()]  # noqa: SIM118 - no dict
    return foreign.read(Kind.STATE, span_of(keys), pytest.fail)


def test_keys_of_any_type_go_unless_their_value_type_or_expiry_changed(foreign, there):
    there.mset({"s1": "text", "s2": '{"a":1}', "s3": "{}", "s4": "{}", "other": "{}"})
    there.rpush("s5", *range(3000))
    there.sadd("s6", *range(3000))
    there.xadd("s7", {"a": "1"})
    there.pexpireat("s1", LATER)
    before = foreign_states(foreign)
    there.set("s2", '{"a":2}')
    there.pexpireat("s3", LATER)
    there.delete("s4")
    there.sadd("s4", "x")
    there.rpush("s5", "one more")
    left = {b"s2", b"s3", b"s4", b"s5", b"other"}

    assert foreign.remove_unchanged(Kind.STATE, before) == Removal(removed=3, changed=4)
    assert set(there.keys()) == left


@pytest.mark.parametrize("held", [False, True], ids=["free", "fenced"])
def test_a_key_that_is_written_between_the_look_and_the_removal_stays(foreign, there, monkeypatch, held):
    there.mset({"s1": "{}", "s2": "{}", "s3": "{}"})
    there.sadd("s4", *range(3000))
    before = foreign_states(foreign)
    if held:
        foreign.lock(owner := Owner.here("story"), 60)
        foreign.fence(owner.token)
    read = type(foreign._source).read

    def read_and_written(self, *arguments):
        yield from read(self, *arguments)
        if there.exists("s2") and there.get("s2") == b"{}":
            there.set("s2", '{"written":"meanwhile"}')
            there.sadd("s4", "one more")

    monkeypatch.setattr(type(foreign._source), "read", read_and_written)
    assert foreign.remove_unchanged(Kind.STATE, before) == Removal(removed=2, changed=2)
    assert there.get("s2") == b'{"written":"meanwhile"}'
    assert there.scard("s4") == 3001


def test_a_key_that_never_rests_keeps_no_other_from_going(foreign, there, monkeypatch):
    there.mset({f"s{i}": "{}" for i in range(5)})
    before = foreign_states(foreign)
    read = type(foreign._source).read

    def read_and_written(self, *arguments):
        yield from read(self, *arguments)
        there.set("s3", "{}")  # by somebody who writes the same again and again

    monkeypatch.setattr(type(foreign._source), "read", read_and_written)
    assert foreign.remove_unchanged(Kind.STATE, before) == Removal(removed=4, changed=1)
    assert there.keys("s*") == [b"s3"]


def test_a_document_of_an_agui_redis_that_is_written_meanwhile_stays(redis_url, there, monkeypatch):
    with closing(redis_module.RedisStore(RedisConfig(type="redis", connection_url=redis_url))) as store:
        for id_ in ("a", "b"):
            store.set_state(id_, b"{}")
        before = known(store, Kind.STATE)

        def looked_and_written(*arguments, **options):
            found = sameness(*arguments, **options)
            if store.get_state("b") == b"{}":
                there.set("ag-ui:state:state:b", '{"n":1}')
            return found

        sameness = redis_module.sameness
        monkeypatch.setattr(redis_module, "sameness", looked_and_written)
        assert store.remove_unchanged(Kind.STATE, before) == Removal(removed=1, changed=1)
        assert there.get("ag-ui:state:state:b") == b'{"n":1}'


def test_a_row_cannot_be_written_between_the_look_and_the_removal(postgres_url, monkeypatch):
    with closing(postgresql.PostgresStore(PostgresConfig(type="postgresql", connection_url=postgres_url))) as store:
        store.prepare()
        store.set_state("a", b"{}")
        before = known(store, Kind.STATE)

        def looked_while_somebody_waits(*arguments):
            with psycopg.connect(postgres_url, autocommit=True) as other:
                other.execute("SET lock_timeout = '50ms'")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    other.execute("UPDATE ag_states SET data = '{\"n\":1}'")
            return sameness(*arguments)

        sameness = postgresql.sameness
        monkeypatch.setattr(postgresql, "sameness", looked_while_somebody_waits)
        assert store.remove_unchanged(Kind.STATE, before) == Removal(removed=1)
