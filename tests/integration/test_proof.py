"""What a validation proves, and what it says of whatever is not as it was staged, with every store as the target."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
import redis
from psycopg import sql

from agui_pipelines.canonical import LARGE
from agui_pipelines.embedded import EmbeddedRedis
from agui_pipelines.errors import InterruptedConnectionError, ValidationFailedError
from agui_pipelines.keyspace import single_spans
from agui_pipelines.phases import recheck, retry
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.integrity import ORPHANS
from agui_pipelines.phases.plan import current, is_open
from agui_pipelines.phases.validate import PHASE, report_name, require_passed, validate
from agui_pipelines.records import SCHEMAS, Kind
from agui_pipelines.stores.bodies import nanoseconds
from tests.cases import chiefly, thinned

BACKENDS = ["file", "redis", "postgresql"]
TIME = "2025-07-14T09:30:15.123456Z"
THEN = "2024-02-29T23:59:59.5Z"
CANARY = "canary-77c1"
BIG = b"123456789012345678901234567890"


def written(store, kind, *rows):
    store.prepare()
    store.write(kind, pa.RecordBatch.from_pylist(list(rows), schema=SCHEMAS[kind]))


def removed(store, kind, *ids):
    names = ("state_id",) if kind is Kind.STATE else ("state_id", f"{kind}_id")
    schema = pa.schema([SCHEMAS[kind].field(name) for name in names])
    rows = [dict(zip(names, id_.split("/"), strict=True)) for id_ in ids]
    assert store.remove(kind, pa.RecordBatch.from_pylist(rows, schema=schema)) == len(rows)


def held(store, *ids):
    """States as a store holds them, with their times."""
    spans = single_spans([id_.encode() for id_ in ids])
    return [row for span in spans for batch in store.read(Kind.STATE, span, pytest.fail) for row in batch.to_pylist()]


def state(id_, data=b"{}", **more):
    return {"state_id": id_, "data": data, **more}


def version(state_id, id_, data=b"{}", parent="", delta=None):
    return {
        "state_id": state_id,
        "version_id": id_,
        "timestamp": TIME,
        "data": data,
        "delta": delta,
        "parent_id": parent,
    }


def snapshot(state_id, id_, of="", data=b"{}"):
    return {"state_id": state_id, "snapshot_id": id_, "timestamp": TIME, "data": data, "version_id": of}


def fill(store):
    """States with a history that is in order: each version's delta leads to it from its parent."""
    documents = [b'{"n":0,"big":%b}' % BIG, b'{"n":1,"big":%b}' % BIG, b'{"n":2,"big":%b,"x":null}' % BIG]
    written(store, Kind.STATE, *(state(f"s{i}", documents[2]) for i in range(20)))
    deltas = [
        None,
        b'[{"op":"replace","path":"/n","value":1}]',
        b'[{"op":"replace","path":"/n","value":2},{"op":"add","path":"/x"}]',
    ]
    for i in range(20):
        # Ids in an order that is not that of the history, as random ones are.
        ids = [f"{(7 * step + i) % 10}-{i}-{step}" for step in range(3)]
        parents = ["", *ids]
        rows = [version(f"s{i}", *row) for row in zip(ids, documents, parents, deltas, strict=False)]
        written(store, Kind.VERSION, *rows)
        written(store, Kind.SNAPSHOT, snapshot(f"s{i}", f"x-{i}", ids[1], documents[1]))


@pytest.fixture
def ends(config, opened):
    """Opens an empty source of another kind and an empty target; gives their configurations and both."""

    def make(destination):
        first, second = config("file" if destination != "file" else "redis", "first"), config(destination, "second")
        return first, second, opened(first), opened(second)

    return make


@pytest.fixture
def moved(migration, ends):
    """A finished migration into a target; gives the move, the source and the target."""

    def make(destination, *, filled=fill, **more):
        first, second, source, target = ends(destination)
        filled(source)
        move = migration(source=first, target=second, **more)
        assert move.run().validation.passed
        return move, source, target

    return make


def whole_report(move, plan_id, *, sampled=False):
    """The report in the workspace, which also tells what documents hold; numbers as they are spelled."""
    path = move.workspace / report_name(plan_id, sampled=sampled)
    return json.loads(path.read_bytes(), parse_int=str, parse_float=str)


# What differs


@pytest.mark.parametrize("destination", BACKENDS)
def test_what_is_missing_corrupted_and_extra_is_described(moved, destination):
    move, _, target = moved(destination)
    fresh = CANARY.encode()
    written(target, Kind.STATE, state("s3", b'{"n":true,"big":%b1,"text":"%b"}' % (BIG[:-1], fresh)))
    written(target, Kind.STATE, state("more", b'{"of":"its own"}'))
    removed(target, Kind.STATE, "s5")
    written(target, Kind.VERSION, version("s1", "8-1-1", b'{"n":1,"big":%b}' % BIG, "1-1-0", b"[]"))
    removed(target, Kind.VERSION, "s2/9-2-1")
    written(target, Kind.SNAPSHOT, snapshot("s4", "x-4", "another", b'{"n":9}'))

    report = move.validate()

    assert not report.passed
    public = report.to_dict()["differences"]
    assert public["state"]["corrupted"] == [{"id": "s3", "paths": ["/x", "/text", "/n", "/big"]}]
    assert [d["id"] for d in public["version"]["missing"]] == ["s2/9-2-1"]
    assert public["version"]["corrupted"][0]["id"] == "s1/8-1-1"
    assert set(public["version"]["corrupted"][0]["paths"]) == {"/Delta/0"}
    assert set(public["snapshot"]["corrupted"][0]["paths"]) == {"/State/n", "/State/big", "/Version"}
    described = whole_report(move, report.plan_id)["differences"]["state"]
    [changed] = described["corrupted"]
    operations = {operation["path"]: operation for operation in changed["patch"]}
    assert operations["/n"] == {"op": "replace", "path": "/n", "value": True}
    assert operations["/big"]["value"] == BIG.decode()[:-1] + "1"
    assert operations["/text"]["value"] == CANARY
    assert changed["staged"]["digest"] != changed["target"]["digest"]
    [missing] = described["missing"]
    assert (missing["id"], missing["staged"]["members"]) == ("s5", ["n", "big", "x"])
    [extra] = described["extra"]
    assert (extra["id"], extra["target"]["members"]) == ("more", ["of"])
    with pytest.raises(ValidationFailedError, match=r"'s3' at /x, /text, /n") as failed:
        require_passed(report)
    assert CANARY not in str(failed.value) + str(failed.value.data) + str(report.to_dict())


def test_a_connection_that_breaks_while_it_is_described_is_had_again(moved, monkeypatch):
    def breaking(store, state_id):
        asked.append(state_id)
        if len(asked) == 1:
            raise InterruptedConnectionError("It went away.")
        return original(store, state_id)

    move, _, target = moved("redis")
    written(target, Kind.STATE, state("s3", b'{"n":true}'))
    asked, original = [], type(target).get_state
    monkeypatch.setattr(type(target), "get_state", breaking)
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)

    report = move.validate()

    assert asked == ["s3", "s3"]
    assert [d["id"] for d in report.to_dict()["differences"]["state"]["corrupted"]] == ["s3"]


def test_a_document_of_the_target_that_is_none_is_missing_and_told_as_what_it_is(moved, tmp_path):
    move, _, _ = moved("file")
    [path] = (tmp_path / "second").glob("states/*/s3.json")
    path.write_bytes(b'{"half":')

    report = move.validate()

    assert report.kinds["state"].missing.ids == ("s3",)
    assert report.error_count == 1
    assert report.differences["state"]["missing"][0].described["id"] == "s3"


def test_a_target_that_has_gone_altogether_is_described_too(migration, config, opened, tmp_path):
    first, second = config("redis", "first"), config("file", "second")
    fill(opened(first))
    move = migration(source=first, target=second)
    assert move.run().validation.passed
    (tmp_path / "second").rename(tmp_path / "elsewhere")

    report = move.validate()

    assert (report.kinds["state"].missing.count, report.kinds["version"].missing.count) == (20, 60)
    assert len(report.differences["version"]["missing"]) == 60


# Expiry


@pytest.fixture
def two_redis(config, opened, migration):
    """A migration of mortal states between two Redis stores, done; and a client of the target."""
    clients = []

    def make(*, left=None, **more):
        first, second = config("redis", "first"), config("redis", "second")
        source = opened(first)
        moment = 4_000_000_000_500 if left is None else round(time.time() * 1000) + left
        rows = [state(f"s{i}", expires_at=moment) for i in range(5)]
        written(source, Kind.STATE, *rows, state("immortal"))
        move = migration(source=first, target=second, **more)
        assert move.run().validation.passed
        client = redis.Redis.from_url(second["connection_url"])
        clients.append(client)
        return move, client

    yield make
    for client in clients:
        client.close()


def test_another_expiry_is_found_and_one_within_a_tenth_of_a_second_is_not(two_redis):
    move, client = two_redis(accept_losses=[])
    key = "ag-ui:state:state:"
    client.pexpireat(f"{key}s0", 4_000_000_000_500 + 150)
    client.pexpireat(f"{key}s1", 4_000_000_000_500 - 150)
    client.persist(f"{key}s2")
    client.pexpireat(f"{key}s3", 4_000_000_000_500 + 90)
    client.pexpireat(f"{key}immortal", 4_000_000_000_500)

    report = move.validate()

    assert report.kinds["state"].untimely.ids == ("immortal", "s0", "s1", "s2")
    assert report.kinds["state"].migrated == 6
    assert not report.passed
    assert (report.to_dict()["expiry_compared"], report.to_dict()["expiry_states_count"]) == (True, 4)
    with pytest.raises(ValidationFailedError, match="4 states with another expiry"):
        require_passed(report)
    assert move.run(fresh=True).validation.passed


def test_another_expiry_is_told_and_does_no_harm_where_its_loss_is_accepted(two_redis):
    move, client = two_redis(accept_losses=["expiry"])
    client.persist("ag-ui:state:state:s2")

    report = move.validate()

    assert report.passed
    assert report.kinds["state"].untimely.ids == ("s2",)


@pytest.mark.parametrize("destination", ["file", "postgresql"])
def test_expiries_are_not_compared_where_the_target_has_no_place_for_them(migration, config, opened, destination):
    first, second = config("redis", "first"), config(destination, "second")
    written(opened(first), Kind.STATE, state("s", expires_at=4_000_000_000_500))

    report = migration(source=first, target=second, accept_losses=["expiry", "timestamps"]).run().validation

    assert report.passed
    assert (report.expiry_compared, report.kinds["state"].untimely.count) == (False, 0)


@pytest.fixture
def skewed(monkeypatch):
    """Sets the clock of this machine ten minutes on (1) or back (-1); that of the servers stays."""
    true = time.time
    return lambda direction: monkeypatch.setattr(time, "time", lambda: true() + direction * 600)


@pytest.mark.parametrize("direction", [1, -1])
def test_what_should_not_have_expired_yet_by_the_clock_of_the_target_is_missing(two_redis, skewed, direction):
    move, client = two_redis(accept_losses=[], left=300_000)
    client.delete("ag-ui:state:state:s2")
    skewed(direction)

    report = move.validate()

    assert report.kinds["state"].missing.ids == ("s2",)
    assert report.kinds["state"].expired == 0


@pytest.mark.parametrize("direction", [1, -1])
def test_what_has_expired_by_the_clock_of_the_target_is_not_missing(two_redis, skewed, direction):
    move, client = two_redis(accept_losses=[], left=6_000)
    while client.exists("ag-ui:state:state:s2", "ag-ui:state:state:s4"):
        time.sleep(0.05)
    skewed(direction)

    report = move.validate()

    assert (report.passed, report.kinds["state"].expired) == (True, 5)


@pytest.mark.parametrize("kind", ["redis", "redis_keys"])
def test_what_has_expired_at_the_source_is_told_by_its_own_clock(migration, config, opened, skewed, kind):
    first, second = {**config("redis", "first"), "type": kind}, config("postgresql", "second")
    prefix = "ag-ui:state:state:" if kind == "redis" else ""
    with redis.Redis.from_url(first["connection_url"]) as client:
        client.set(f"{prefix}deleted", "{}", px=300_000)
        client.set(f"{prefix}there", "{}", px=300_000)
        move = migration(source=first, target=second)
        move.run()
        client.delete(f"{prefix}deleted")
    removed(opened(second), Kind.STATE, "deleted", "there")
    skewed(1)

    assert move.validate().source_changes.ids.ids == ("deleted",)


# Times


@pytest.fixture
def dated(migration, config, opened):
    """A migration of states with times, done, between two stores of a kind; gives it and what changes a state's times."""

    def make(kind, **more):
        first, second = config(kind, "first"), config(kind, "second")
        rows = [state(f"s{i}", b'{"n":%d}' % i, created_at=THEN, updated_at=TIME) for i in range(5)]
        written(opened(first), Kind.STATE, *rows)
        move = migration(source=first, target=second, **more)
        assert move.run().validation.passed

        def date(state_id, **times):
            if kind == "postgresql":
                for column, time in times.items():
                    with psycopg.connect(second["connection_url"]) as connection:
                        query = sql.SQL("UPDATE ag_states SET {} = %s WHERE state_id = %s")
                        connection.execute(query.format(sql.Identifier(column)), (time, state_id))
            else:
                [path] = Path(second["file_options"]["base_dir"]).glob(f"states/*/{state_id}.json")
                os.utime(path, ns=(nanoseconds(times["updated_at"]),) * 2)

        return move, date

    return make


@pytest.mark.parametrize(
    ("kind", "others", "found", "compared"),
    [
        ("file", {"s1": {"updated_at": "2025-07-14T09:30:15.123456001Z"}}, ("s1",), ["updated_at"]),
        (
            "postgresql",
            {
                "s0": {"created_at": THEN, "updated_at": TIME},
                "s1": {"updated_at": "2025-07-14T09:30:15.123457Z"},
                "s2": {"created_at": "2024-02-29T23:59:59.500001Z"},
                "s3": {"created_at": None},
            },
            ("s1", "s2", "s3"),
            ["created_at", "updated_at"],
        ),
    ],
)
def test_another_time_is_found_to_the_last_digit_that_the_target_keeps(dated, kind, others, found, compared):
    move, date = dated(kind, accept_losses=[])
    for state_id, times in others.items():
        date(state_id, **times)

    report = move.validate()

    assert report.kinds["state"].misdated.ids == found
    assert (report.kinds["state"].migrated, report.kinds["state"].untimely.count) == (5, 0)
    assert not report.passed
    public = report.to_dict()
    assert (public["timestamps_compared"], public["timestamp_states_count"]) == (compared, len(found))
    with pytest.raises(ValidationFailedError, match=f"{len(found)} states with another time of creation or update"):
        require_passed(report)
    assert move.run(fresh=True).validation.passed


@pytest.mark.parametrize("kind", ["file", "postgresql"])
def test_another_time_is_told_and_does_no_harm_where_its_loss_is_accepted(dated, kind):
    move, date = dated(kind, accept_losses=["timestamps"])
    date("s2", updated_at=THEN)

    report = move.validate()

    assert report.passed
    assert report.kinds["state"].misdated.ids == ("s2",)


def test_a_time_that_is_there_at_a_second_look_is_no_mismatch(dated):
    move, date = dated("postgresql", accept_losses=[])
    date("s2", updated_at=THEN)
    date("s3", updated_at=THEN)

    report = validated_while(move, lambda: date("s2", updated_at=TIME))

    assert (report.recheck.records, report.recheck.settled) == (2, 1)
    assert report.kinds["state"].misdated.ids == ("s3",)


def test_times_that_were_not_staged_or_have_no_place_are_not_compared(migration, config, opened):
    first, second, third = config("redis", "first"), config("postgresql", "second"), config("redis", "third")
    written(opened(first), Kind.STATE, state("s"))
    there = migration(source=first, target=second, accept_losses=[]).run().validation
    written(opened(second), Kind.STATE, state("s", created_at=THEN, updated_at=TIME))
    back = migration(name="back", source=second, target=third, accept_losses=["timestamps"]).run().validation

    assert (there.passed, there.kinds["state"].misdated.count) == (True, 0)
    assert (back.passed, back.kinds["state"].misdated.count) == (True, 0)
    assert (there.to_dict()["timestamps_compared"], back.to_dict()["timestamps_compared"]) == (
        ["created_at", "updated_at"],
        [],
    )


# Referential integrity


@pytest.mark.parametrize("destination", BACKENDS)
def test_what_is_broken_in_the_source_is_told_as_its_own(moved, destination):
    def broken(store):
        written(store, Kind.STATE, state("whole"), state("broken"), state("other"))
        written(store, Kind.VERSION, version("whole", "w0"), version("whole", "w1", parent="w0"))
        # A parent of another state is none.
        written(store, Kind.VERSION, version("broken", "b1", parent="gone"), version("broken", "b2", parent="w0"))
        written(store, Kind.VERSION, version("deleted", "d1"))
        written(store, Kind.SNAPSHOT, snapshot("whole", "x1", "w1"), snapshot("broken", "x2", "gone"))
        written(store, Kind.SNAPSHOT, snapshot("deleted", "x3", "d1"))

    move, _, _ = moved(destination, filled=broken)

    integrity = move.validate().integrity

    assert integrity.holds
    assert {name: found.ids for name, found in integrity.source.items()} == {
        "versions_without_parent": ("broken/b1", "broken/b2"),
        "snapshots_without_version": ("broken/x2",),
        ORPHANS: ("deleted/d1", "deleted/x3"),
    }
    assert {name: found.count for name, found in integrity.target.items()} == dict.fromkeys(integrity.source, 0)


@pytest.mark.parametrize("destination", chiefly("file", BACKENDS))
def test_what_is_broken_in_the_target_alone_fails(moved, destination):
    move, _, target = moved(destination)
    removed(target, Kind.VERSION, "s2/9-2-1")
    removed(target, Kind.STATE, "s4")

    report = move.validate()

    assert not report.integrity.holds
    assert report.integrity.target["versions_without_parent"].ids == ("s2/6-2-2",)
    assert report.integrity.target["snapshots_without_version"].ids == ("s2/x-2",)
    assert report.integrity.target[ORPHANS].count == 4
    assert all(found.count == 0 for found in report.integrity.source.values())
    with pytest.raises(ValidationFailedError, match=r"1 versions without parent \('s2/6-2-2'\)"):
        require_passed(report)


def test_what_the_history_limit_left_behind_breaks_nothing(moved):
    move, _, _ = moved("postgresql", history_limit=2)

    integrity = move.validate().integrity

    assert integrity.left_behind > 0
    assert integrity.holds
    assert all(found.count == 0 for found in integrity.source.values())


def test_a_body_that_no_sorted_set_names_is_counted(moved, config, legacy):
    move, _, target = moved("redis")
    removed(target, Kind.VERSION, "s2/9-2-1")
    with redis.Redis.from_url(move.text["target"]["connection_url"]) as client:
        client.zadd("ag-ui:state:versions:s2", {"9-2-1": 1})
        client.set("ag-ui:state:version:nobody:v", b"{}")

    report = move.validate()

    assert report.integrity.unpaired == 2
    assert report.kinds["version"].missing.ids == ("s2/9-2-1",)


# Replay


@pytest.mark.parametrize("destination", BACKENDS)
def test_a_history_that_is_in_order_replays_without_deviation(moved, destination):
    move, _, _ = moved(destination)

    replay = move.validate().replay

    assert (replay.versions, replay.deviating.count, replay.too_large) == (40, 0, 0)


def test_versions_that_are_not_what_their_delta_makes_are_the_sources_own(moved):
    def deviating(store):
        written(store, Kind.STATE, state("s"))
        first = version("s", "v0", b'{"n":1}')
        delta = b'[{"op":"replace","path":"/n","value":1.0}]'
        rows = [
            version("s", "same by value", b'{"n":1}', "v0", delta),
            version("s", "other", b'{"n":"%b"}' % CANARY.encode(), "v0", delta),
            version("s", "impossible", b'{"n":1}', "v0", b'[{"op":"remove","path":"/gone"}]'),
            version("s", "no parent", b'{"n":5}', "gone", delta),
            version("s", "no delta", b'{"n":6}', "v0"),
        ]
        written(store, Kind.VERSION, first, *rows)

    move, _, _ = moved("postgresql", filled=deviating)

    report = move.validate()

    assert report.passed
    assert report.replay.versions == 3
    assert report.replay.deviating.ids == ("s/impossible", "s/other")
    assert report.replay.reasons == {
        "s/impossible": "The operation 'remove /gone' does not apply to its parent's State.",
        "s/other": "Its Delta gives another State, at /n.",
    }
    assert CANARY not in str(report.to_dict())


def test_a_version_too_large_to_be_held_several_times_is_counted_and_not_replayed(moved):
    def large(store):
        text = b"x" * LARGE
        written(store, Kind.STATE, state("s"))
        written(store, Kind.VERSION, version("s", "v0", b'{"n":0,"text":"%b"}' % text))
        delta = b'[{"op":"replace","path":"/text","value":""}]'
        written(store, Kind.VERSION, version("s", "v1", b'{"n":1,"text":""}', "v0", delta))

    move, _, _ = moved("postgresql", filled=large)

    replay = move.validate().replay

    assert (replay.versions, replay.too_large, replay.deviating.count) == (0, 1, 0)


def test_documents_that_a_transform_changes_do_not_deviate(moved):
    move, _, _ = moved("redis", transforms=[{"rename_fields": {"n": "number"}}, {"add_prefix": {"prefix": "new:"}}])

    report = move.validate()

    assert (report.replay.versions, report.replay.deviating.count) == (40, 0)


# The second look


class _Meanwhile(threading.Event):
    """Does something while a validation waits between its two looks."""

    def __init__(self, work):
        super().__init__()
        self._work = work

    def wait(self, timeout=None):
        assert timeout == recheck.PAUSE_SECONDS
        self._work()
        return self.is_set()


def validated_while(move, work):
    session = dataclasses.replace(move.session(), stop=_Meanwhile(work))
    return validate(session, current(session))


@pytest.mark.parametrize(("destination", "few"), thinned(BACKENDS, [True, False]))
def test_what_is_there_at_a_second_look_is_no_mismatch_and_the_rest_is(moved, monkeypatch, destination, few):
    """One by one where they are few, otherwise by ranges."""
    monkeypatch.setattr(recheck, "_FEW", 1000 if few else 0)
    move, _, target = moved(destination)
    s3, s4, s5 = held(target, "s3", "s4", "s5")
    removed(target, Kind.STATE, "s3", "s5")
    written(target, Kind.STATE, state("s4", b'{"n":"changed"}'))

    report = validated_while(move, lambda: written(target, Kind.STATE, s3, s4))

    assert not report.passed
    assert (report.recheck.records, report.recheck.settled) == (3, 2)
    assert report.kinds["state"].missing.ids == ("s5",)
    assert report.kinds["state"].corrupted.count == 0
    assert report.kinds["state"].migrated == 19
    again = validated_while(move, lambda: written(target, Kind.STATE, s5))
    assert again.passed
    assert (again.recheck.settled, again.kinds["state"].total, again.kinds["version"].total) == (1, 20, 60)


def test_what_goes_wrong_between_the_looks_under_a_doubtful_id_counts(moved):
    move, source, target = moved("postgresql")
    whole = source.get_state("s3")
    removed(target, Kind.STATE, "s3")

    def meanwhile():
        written(target, Kind.STATE, state("s3", whole))
        removed(target, Kind.VERSION, "s3/0-3-1")

    report = validated_while(move, meanwhile)

    assert not report.passed
    assert report.kinds["version"].missing.ids == ("s3/0-3-1",)


# The source meanwhile


def test_what_has_changed_at_the_source_is_told_and_excuses_nothing(move, legacy, target):
    legacy.mset({f"session:{i}": json.dumps({"n": i}) for i in range(10)} | {"session:text": "no json"})
    assert move.run().validation.passed
    target.execute("DELETE FROM ag_states WHERE state_id IN ('1', '2', '3', 'text')")
    target.execute("""UPDATE ag_states SET data = '{"n": 40}' WHERE state_id = '4'""")
    legacy.set("session:1", '{"n":100}')
    legacy.delete("session:4")

    report = move.validate()

    assert not report.passed
    assert report.source_changes.ids.ids == ("1", "4")
    assert (report.source_changes.checked, report.source_changes.unknown) == (5, "")
    with pytest.raises(ValidationFailedError, match="Of 5 mismatching states, 2 have changed at the source"):
        require_passed(report)


@pytest.mark.parametrize("destination", chiefly("redis", BACKENDS))
def test_a_version_that_was_added_at_the_source_is_a_change_of_its_state(moved, destination):
    move, source, target = moved(destination)
    removed(target, Kind.VERSION, "s2/9-2-1", "s3/0-3-1")
    written(source, Kind.VERSION, version("s2", "later"))

    changes = move.validate().source_changes

    assert (changes.ids.ids, changes.checked) == (("s2",), 2)


def test_of_a_source_that_is_read_once_it_cannot_be_told(migration, target, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id":"a","n":1}\n{"id":"b","n":2}\n')
    move = migration(source={"type": "jsonl", "path": "rows.jsonl", "id": "id"}, target=target.config)
    assert move.run().validation.passed
    target.execute("DELETE FROM ag_states WHERE state_id = 'a'")

    changes = move.validate().source_changes

    assert changes.ids.count == 0
    assert "is read once" in changes.unknown


def test_of_a_source_that_is_no_longer_there_it_cannot_be_told_and_all_else_is(migration, opened, config):
    second = config("postgresql", "second")
    with EmbeddedRedis() as server:
        first = {"type": "redis", "connection_url": server.url}
        source = opened(first)
        fill(source)
        source.close()
        move = migration(source=first, target=second, limits={"retries": 1})
        assert move.run().validation.passed
    removed(opened(second), Kind.STATE, "s3")

    report = move.validate()

    assert report.kinds["state"].missing.ids == ("s3",)
    assert report.source_changes.unknown.startswith("The source could not be read again")
    assert report.replay.versions == 40


# A sample


@pytest.mark.parametrize("destination", chiefly("postgresql", BACKENDS))
def test_a_sample_compares_some_ids_with_their_histories_and_closes_no_plan(migration, ends, destination):
    first, second, source, target = ends(destination)
    fill(source)
    move = migration(source=first, target=second)
    session, plan = move.stage()
    import_(session, plan, [r.name for r in plan.ranges])

    report = validate(session, plan, sample=7)

    assert report.passed
    assert not report.proven
    assert {kind: found.total for kind, found in report.kinds.items()} == {"state": 7, "version": 21, "snapshot": 7}
    assert all(found.extra.count == 0 for found in report.kinds.values())
    assert (len(report.sample.ids), report.sample.of) == (7, 20)
    assert is_open(session.ledger, plan.plan_id)
    assert session.ledger.last(PHASE) is None
    assert not (move.workspace / report_name(plan.plan_id, sampled=False)).exists()
    public = whole_report(move, plan.plan_id, sampled=True)
    assert (public["proven"], public["sample"]["ids"]) == (False, "7")
    chosen = [id_.decode() for id_ in report.sample.ids]
    assert validate(session, plan, sample=7, seed=report.sample.seed).sample == report.sample
    left = next(f"s{i}" for i in range(20) if f"s{i}" not in chosen)
    removed(target, Kind.STATE, left)
    assert validate(session, plan, sample=7, seed=report.sample.seed).passed
    removed(target, Kind.STATE, chosen[0])
    again = validate(session, plan, sample=7, seed=report.sample.seed)
    assert again.kinds["state"].missing.ids == (chosen[0],)
    assert validate(session, plan, sample=100).kinds["state"].missing.count == 2
    assert not validate(session, plan).passed
