"""The keys of a foreign Redis as what is written back to: types, expiries, what is refused, and a whole way back."""

from __future__ import annotations

import json
import time
from contextlib import closing
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agui_pipelines import spec
from agui_pipelines.drivers.redis import glob_regex
from agui_pipelines.errors import (
    LockedError,
    LockLostError,
    LossError,
    RefusedError,
    SpecError,
    StoreError,
    UnstorableRecordError,
)
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.owner import Owner
from agui_pipelines.phases import backup
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import validate
from agui_pipelines.ports import Forming, Store
from agui_pipelines.records import SCHEMAS, STATE, Kind
from agui_pipelines.sources import no_way_back
from agui_pipelines.sources.redis_documents import formed
from agui_pipelines.sources.redis_keys import LOCK_KEY, RedisKeysSource
from agui_pipelines.sources.redis_keys_target import RedisKeysTarget
from agui_pipelines.spec import RedisKeysConfig
from agui_pipelines.stores import open_store
from tests.integration.sources.test_redis_types import LATER, fill, looked_at


def config(url, match="*", **more):
    return RedisKeysConfig.model_validate({"type": "redis_keys", "connection_url": url, "match": match, **more})


def all_rows(store):
    file = BytesIO()
    write_catalogue(store.keys(), file)
    span = Span(cut(file, 1)[0], pq.ParquetFile(file))
    return pa.Table.from_batches(store.read(Kind.STATE, span, pytest.fail), STATE)


def states(*rows):
    names = ("state_id", "data", "expires_at")
    return pa.RecordBatch.from_pylist([dict(zip(names, row, strict=False)) for row in rows], STATE)


@pytest.fixture
def there(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def target(redis_url):
    with closing(RedisKeysTarget(config(redis_url))) as opened:
        yield opened


@pytest.fixture
def sessions(redis_url):
    with closing(RedisKeysTarget(config(redis_url, "session:*"))) as opened:
        yield opened


def test_it_is_a_store_with_a_form_of_its_own(target):
    assert isinstance(target, Store)
    assert isinstance(target, Forming)


def test_keys_of_every_type_written_elsewhere_are_what_they_were(fresh_redis):
    first, second = fresh_redis(), fresh_redis()
    with redis.Redis.from_url(first) as one, redis.Redis.from_url(second) as other:
        fill(one)
        one.set("object", '{ "a": 1.50 }', pxat=LATER)
        one.hpexpireat("hash", LATER + 1, "f001")
        one.pexpireat("list", LATER + 2)
        other.set("list", "of another type before")
        with closing(RedisKeysSource(config(first))) as source, closing(RedisKeysTarget(config(second))) as target:
            rows = all_rows(source)
            [batch] = rows.combine_chunks().to_batches()
            written = target.write(Kind.STATE, batch)
            assert (written.inserted, written.updated, written.unchanged) == (batch.num_rows - 1, 1, 0)
            assert looked_at(other) == looked_at(one)
            assert all_rows(target).sort_by("state_id").equals(rows.sort_by("state_id"))
            again = target.write(Kind.STATE, batch)
            assert (again.inserted, again.updated, again.unchanged) == (0, 0, batch.num_rows)
            assert looked_at(other) == looked_at(one)


def test_what_is_written_under_a_lock_is_the_same(target, there, redis_url):
    fill(there)
    before, rows = looked_at(there), all_rows(target)
    lease = target.lock(owner := Owner.here("story"), 60)
    target.fence(owner.token)
    there.delete(*before)
    for batch in rows.to_batches():
        target.write(Kind.STATE, batch)
    lease.release()
    assert looked_at(there) == before


def test_a_writer_whose_lock_is_lost_changes_nothing_more(target, there):
    target.lock(owner := Owner.here("story"), 60)
    target.fence(owner.token)
    there.set(LOCK_KEY, Owner.here("somebody else").to_json())
    with pytest.raises(LockLostError):
        target.write(Kind.STATE, states(("a", b"{}")))
    with pytest.raises(LockLostError):
        target.remove(Kind.STATE, states(("a", b"{}")))
    assert there.keys() == [LOCK_KEY]


def test_two_writers_to_one_database_keep_each_other_off_and_their_lock_is_no_state(target, sessions, there):
    there.set("session:1", "{}")
    target.lock(Owner.here("one"), 60)
    with pytest.raises(LockedError):
        sessions.lock(Owner.here("other"), 60)
    with pytest.raises(LockedError, match="'one'"):
        sessions.require_unlocked()
    assert sorted(there.keys()) == [LOCK_KEY, b"session:1"]
    assert list(target.list_states()) == ["session:1"]


def test_expiries_are_set_taken_away_and_obeyed(target, there):
    now = round(time.time() * 1000)
    target.write(Kind.STATE, states(("s", b'{"a":1}', LATER), ("h", b'{"type":"hash","value":{"a":"1"}}', LATER + 1)))
    assert [there.pexpiretime(key) for key in ("s", "h")] == [LATER, LATER + 1]
    written = target.write(Kind.STATE, states(("s", b'{"a":1}'), ("h", b'{"type":"hash","value":{"a":"1"}}', now - 1)))
    assert written.updated == 2
    assert there.pexpiretime("s") == -1
    assert not there.exists("h")
    gone = target.write(Kind.STATE, states(("h", b'{"type":"hash","value":{"a":"1"}}', now - 1)))
    assert gone.unchanged == 1


def test_removing_counts_what_was_there_and_leaves_other_keys(sessions, there):
    there.mset({"session:1": "{}", "session:2": "{}", "other": "{}"})
    there.rpush("session:3", "x")
    names = states(("session:1", b""), ("session:3", b""), ("session:9", b""), ("other", b""))
    assert sessions.remove(Kind.STATE, names.select(["state_id"])) == 2
    assert sorted(there.keys()) == [b"other", b"session:2"]
    assert sessions.remove(Kind.VERSION, names) == 0


def test_an_id_that_would_not_be_read_again_is_refused(sessions, there):
    batch = states(("session:1", b"{}"), ("sessio:1", b"{}"), ("x-session:1", b"{}"))
    assert [(found.row, found.reason) for found in sessions.refusals(Kind.STATE, batch)] == [
        (1, "not_matched"),
        (2, "not_matched"),
    ]
    for id_ in ("sessio:1", LOCK_KEY.decode()):
        with pytest.raises(UnstorableRecordError):
            sessions.write(Kind.STATE, states((id_, b"{}")))
        with pytest.raises(UnstorableRecordError):
            sessions.set_state(id_, b"{}")
        with pytest.raises(UnstorableRecordError):
            sessions.delete_state(id_)
    assert there.keys() == []


def test_single_records_and_transactions_are_keys_too(sessions, there):
    sessions.set_state("session:1", b'{"type":"list","value":["a"]}')
    assert there.lrange("session:1", 0, -1) == [b"a"]
    assert sessions.get_state("session:1") == b'{"type":"list","value":["a"]}'
    assert sessions.get_state("session:2") is None
    with sessions.transaction() as together:
        together.set_state("session:2", b"{}")
        together.delete_state("session:1")
        assert there.keys() == [b"session:1"]
    assert there.keys() == [b"session:2"]
    assert (sessions.delete_state("session:2"), sessions.delete_state("session:2")) == (True, False)


def test_there_is_no_place_for_history_nor_for_marks(target, there):
    for kind in (Kind.VERSION, Kind.SNAPSHOT):
        batch = pa.RecordBatch.from_pylist([], SCHEMAS[kind])
        with pytest.raises(UnstorableRecordError):
            target.write(kind, batch)
    target.set_version(None)
    target.set_applied(None)
    with pytest.raises(StoreError):
        target.set_version("2.0")
    with pytest.raises(StoreError):
        target.set_applied(b"{}")
    assert (target.version(), target.applied(), there.keys()) == (None, None, [])


def test_a_check_changes_nothing_and_names_what_is_denied(target, there, redis_url):
    target.check()
    assert there.keys() == []
    there.execute_command("ACL", "SETUSER", "reader", "on", ">p", "~*", "+@read", "+@connection", "+watch", "+multi")
    try:
        limited = config(redis_url.replace("redis://", "redis://reader:p@"))
        with closing(RedisKeysTarget(limited)) as denied, pytest.raises(StoreError, match="del"):
            denied.check()
    finally:
        there.execute_command("ACL", "DELUSER", "reader")


def test_a_cluster_has_no_way_back(redis_url):
    cluster = config(redis_url, redis_cluster=True)
    assert "Cluster" in no_way_back(cluster)
    assert no_way_back(config(redis_url)) == ""
    with pytest.raises(RefusedError):
        RedisKeysTarget(cluster)


# The form that is read again


def is_json(document):
    try:
        json.loads(document)
    except ValueError:
        return False
    return True


TEXTS = st.text(st.characters(codec="utf-8"), max_size=4)
SCORES = st.sampled_from(["-inf", "-1.5", "0", "1", "3", "1e+100", "inf"])
DOCUMENTS = st.one_of(
    st.fixed_dictionaries({"type": st.just("hash"), "value": st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=4)}),
    st.fixed_dictionaries({"type": st.sampled_from(["set", "list"]), "value": st.lists(TEXTS, min_size=1, max_size=5)}),
    st.fixed_dictionaries(
        {
            "type": st.just("zset"),
            "value": st.lists(st.tuples(TEXTS, SCORES).map(list), min_size=1, max_size=5),
        }
    ),
    st.fixed_dictionaries({"type": st.just("string"), "value": st.one_of(TEXTS, st.just('{"a": 1}'), st.just("[1]"))}),
    st.dictionaries(st.sampled_from(["type", "value", "a"]), st.one_of(TEXTS, st.integers()), max_size=3),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(DOCUMENTS, min_size=1, max_size=8))
def test_a_document_in_its_form_is_read_as_it_was_written(target, there, documents):
    there.flushdb()
    forms = {}
    for number, value in enumerate(documents):
        document = json.dumps(value, ensure_ascii=False).encode()
        try:
            forms[f"k{number}"] = formed(document)
        except ValueError:
            with pytest.raises(UnstorableRecordError):
                target.formed(Kind.STATE, document)
    if forms:
        target.write(Kind.STATE, states(*((key, form) for key, form in forms.items())))
    read = {row["state_id"]: row["data"] for row in all_rows(target).to_pylist()}
    # A string that only begins like an object is exported in its other form, once it has turned out to be none.
    assert {id_: data if is_json(data) else target.salvage(data) for id_, data in read.items()} == forms


REST = b'"max_deleted_id":null,"entries_added":null,"groups":[]'


@pytest.mark.parametrize(
    "document",
    [
        b'{"type":"list","value":[]}',
        b'{"type":"hash","value":{}}',
        b'{"type":"set","value":{"a":"1"}}',
        b'{"type":"zset","value":[["a",1]]}',
        b'{"type":"stream","value":{"entries":[["2-0",["a","1"]],["1-0",["a","1"]]],"last_id":"2-0",%b}}' % REST,
        b'{"type":"stream","value":{"entries":[["2-0",["a","1"]]],"last_id":"1-0",%b}}' % REST,
    ],
)
def test_a_document_that_no_key_could_be_made_of_has_no_form(target, document):
    with pytest.raises(UnstorableRecordError):
        target.formed(Kind.STATE, document)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("ab*?[]^-\\c", max_size=7), st.sets(st.text("abc-]^[\\*", max_size=4), max_size=12))
@example("**", {""})
def test_a_pattern_matches_here_what_it_matches_on_the_server(there, pattern, keys):
    there.flushdb()
    if keys:
        there.mset(dict.fromkeys(keys, ""))
    matches = glob_regex(pattern.encode()).fullmatch
    assert {key for key in keys if matches(key.encode())} == {key.decode() for key in there.keys(pattern)}


# Phases over it


@pytest.fixture
def back(tmp_path, redis_url):
    """Makes the reverse of a migration from a Redis into files: its session, and the store with what is to be brought back."""

    def make(match="*", **more):
        text = {
            "name": "story-back",
            "source": {"type": "file", "file_options": {"base_dir": str(tmp_path / "new"), "durable": False}},
            "target": {"type": "file", "file_options": {"base_dir": str(tmp_path / "unused")}},
            "ranges": 3,
            "accept_losses": ["timestamps"],
            **more,
        }
        migration = spec.parse(text, folder=tmp_path).model_copy(update={"target": config(redis_url, match)})
        store = open_store(migration.source, tmp_path)
        store.prepare()
        return Session.open(migration), store

    return make


def went(session):
    made = plan(session)
    names = [each.name for each in made.ranges]
    export(session, made, names)
    transform(session, made, names)
    import_(session, made, names)
    return validate(session, made)


def test_states_are_brought_back_proven_and_taken_back(back, there):
    session, store = back("session:*")
    there.mset({"session:1": '{"old":1}', "session:kept": '{"k":1}', "other": "x"})
    there.sadd("session:set", "x")
    before = looked_at(there)
    store.set_state("session:1", b'{"new":1e0}')
    store.set_state("session:set", b'{"type":"set","value":["b","a","b"]}')
    store.set_state("session:new", b'{"type":"stream","value":"no Redis stream","of":"an application"}')
    report = went(session)
    assert report.passed
    assert report.figures["extra_states"] == 1
    assert there.smembers("session:set") == {b"a", b"b"}
    assert b"".join(there.get("session:1").split()) == b'{"new":1e0}'
    assert json.loads(there.get("session:new"))["value"] == "no Redis stream"
    assert (there.get("session:kept"), there.get("other"), there.exists(LOCK_KEY)) == (b'{"k":1}', b"x", 0)
    [made] = backup.outstanding(session)
    backup.restore(session, made)
    assert looked_at(there) == before


def test_history_is_brought_back_nowhere_and_that_has_to_be_accepted(back, there):
    session, store = back()
    store.set_state("1", b"{}")
    version = {"state_id": "1", "version_id": "v", "timestamp": "2025-01-01T00:00:00Z", "data": b"{}", "parent_id": ""}
    store.write(Kind.VERSION, pa.RecordBatch.from_pylist([version], SCHEMAS[Kind.VERSION]))
    with pytest.raises(LossError, match="history"):
        went(session)
    assert there.keys() == []
    session, _ = back(accept_losses=["history", "timestamps"])
    report = went(session)
    assert report.passed
    assert report.losses == {"history": 1, "timestamps": 1}
    assert there.keys() == [b"1"]


def test_what_cannot_be_made_a_key_of_is_rejected_by_name_before_anything_is_written(back, there):
    session, store = back("s*", limits={"max_rejects": 3})
    store.set_state("s1", b'{"type":"list","value":[]}')
    store.set_state("x1", b"{}")
    store.set_state("s2", b'{"a":1}')
    report = went(session)
    assert (report.passed, report.rejected) == (True, 2)
    assert there.keys() == [b"s2"]


def test_a_source_of_keys_is_backed_up_and_put_back_with_what_is_no_json(migration, redis_url, there, config):
    source = {"type": "redis_keys", "connection_url": redis_url, "match": "session:*"}
    session = migration(source=source, target=config("file", "x")).session()
    there.mset({"session:odd": "{no json", "session:1": "{}", "other": "x"})
    there.zadd("session:z", {"a": 0.1})
    there.pexpireat("session:z", LATER)
    before = looked_at(there)
    made = backup.create(session, "source")
    there.mset({"session:odd": "{}", "session:more": "{}"})
    there.delete("session:z")
    backup.restore(session, made)
    assert looked_at(there) == before


def test_no_migration_file_can_name_it_as_its_target(migration, redis_url, config):
    place = {"type": "redis_keys", "connection_url": redis_url}
    with pytest.raises(SpecError):
        migration(source=config("file", "x"), target=place).session()
