"""Backups: what a store held is put back exactly, and nothing else is left or touched."""

from __future__ import annotations

import io
import time
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from agui_pipelines.embedded import EmbeddedRedis
from agui_pipelines.errors import BackupError, RefusedError, StagingError, UsageError
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.ledger import Entry
from agui_pipelines.phases import backup
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.observation import LIST_LIMIT
from agui_pipelines.phases.plan import current
from agui_pipelines.phases.transform import staged_ranges, transform
from agui_pipelines.phases.validate import validate
from agui_pipelines.records import SCHEMAS, Kind
from tests.cases import chiefly

BACKENDS = ["file", "redis", "postgresql"]
TIME = "2025-07-14T09:30:15.123456Z"
THEN = "2024-02-29T23:59:59.5Z"


def written(store, kind, *rows):
    store.write(kind, pa.RecordBatch.from_pylist(list(rows), schema=SCHEMAS[kind]))


def version(state_id, id_, data=b'{"v":1}'):
    return {"state_id": state_id, "version_id": id_, "timestamp": TIME, "data": data, "parent_id": "", "delta": b"[]"}


def snapshot(state_id, id_, data=b'{"s":1}'):
    return {"state_id": state_id, "snapshot_id": id_, "timestamp": TIME, "data": data, "version_id": ""}


def fill_source(store):
    """States that the target has too, one that it has not, with histories that overlap."""
    store.prepare()
    documents = {"shared": b'{"from":"source"}', "same": b'{"same":true}', "new": b'{"new":[1.50,"\\u00e9"]}'}
    written(store, Kind.STATE, *({"state_id": id_, "data": data} for id_, data in documents.items()))
    versions = [version("shared", "v1", b'{"new":"v1"}'), version("shared", "v2"), version("new", "v3")]
    written(store, Kind.VERSION, *versions, version("only-history", "v4"))
    written(store, Kind.SNAPSHOT, snapshot("shared", "s1", b'{"new":"s1"}'), snapshot("new", "s2"))


def fill_target(store):
    """What was there before, with whatever times and expiries the store can keep."""
    store.prepare()
    states = [
        {"state_id": "shared", "data": b'{"from":"target","n":1e5}', "created_at": THEN, "updated_at": THEN},
        {"state_id": "same", "data": b'{"same":true}', "created_at": THEN, "updated_at": THEN},
        {"state_id": "untouched", "data": b'{"u":1}', "created_at": THEN, "updated_at": THEN},
    ]
    written(store, Kind.STATE, *states)
    written(store, Kind.VERSION, version("shared", "v1"), version("shared", "v0"), version("untouched", "v9"))
    written(store, Kind.SNAPSHOT, snapshot("shared", "s1"), snapshot("untouched", "s9"))


def everything(store):
    """All records as the store gives them, to the last byte and millisecond."""
    file = io.BytesIO()
    write_catalogue(store.keys(), file)
    [key_range] = cut(file, 1)
    return {
        kind: sorted(
            (
                row
                for batch in store.read(kind, Span(key_range, pq.ParquetFile(file)), pytest.fail)
                for row in batch.to_pylist()
            ),
            key=str,
        )
        for kind in Kind
    }


@pytest.fixture
def ends(config, opened):
    """Opens a filled source and a filled target; gives their configurations and the target."""

    def make(destination):
        first, second = config("file" if destination != "file" else "redis", "first"), config(destination, "second")
        fill_source(opened(first))
        store = opened(second)
        fill_target(store)
        if destination == "redis":
            with redis.Redis.from_url(second["connection_url"]) as client:
                client.pexpireat("ag-ui:state:state:shared", 4_000_000_000_123)
        return first, second, store

    return make


def imported(move):
    """A migration up to its import, with a backup before."""
    session, plan = move.stage()
    return session, plan, backed_up_and_imported(session, plan)


def backed_up_and_imported(session, plan, names=()):
    """The backup that is made before an import, of all key ranges although perhaps only some are imported."""
    with session.exclusive():
        made = backup.ensure(session, plan, staged_ranges(session, plan).values())
        import_(session, plan, names or [r.name for r in plan.ranges])
    return made


@pytest.mark.parametrize("destination", chiefly("file", BACKENDS))
def test_what_an_import_replaced_and_added_is_put_back_and_taken_away(migration, ends, destination):
    first, second, store = ends(destination)
    before = everything(store)
    session, plan, made = imported(migration(source=first, target=second))
    assert validate(session, plan).passed
    after = everything(store)
    assert {row["state_id"] for row in after[Kind.STATE]} >= {"new", "shared", "untouched"}
    assert after != before

    report = backup.restore(session, made)

    assert everything(store) == before
    assert report.removed == {"state": 1, "version": 3, "snapshot": 1}
    assert report.records == {"state": 2, "version": 2, "snapshot": 1}
    assert made.records == report.records
    again = backup.restore(session, made)
    assert again.removed == {"state": 0, "version": 0, "snapshot": 0}
    assert everything(store) == before


def test_a_target_that_does_not_take_its_times_back_is_not_called_restored(migration, ends):
    first, second, _ = ends("postgresql")
    session, _, made = imported(migration(source=first, target=second))
    with psycopg.connect(second["connection_url"], autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END'"
        )
        connection.execute("CREATE TRIGGER touch BEFORE UPDATE ON ag_states FOR EACH ROW EXECUTE FUNCTION touch()")

        with pytest.raises(BackupError, match=r"2 states with another time of creation or update \('same', 'shared'\)"):
            backup.restore(session, made)

        connection.execute("DROP TRIGGER touch ON ag_states")
    backup.restore(session, made)


def test_a_file_that_was_touched_since_is_not_as_it_was(migration, ends):
    first, second, _ = ends("file")
    session, _, made = imported(migration(source=first, target=second))
    backup.restore(session, made)
    [shared] = Path(second["file_options"]["base_dir"]).glob("states/*/shared.json")
    shared.touch()

    with pytest.raises(BackupError, match=r"another time of creation or update \('shared'\)"):
        backup.require_restored(session, made)


@pytest.mark.parametrize("destination", BACKENDS)
def test_a_half_done_import_is_undone_too(migration, ends, destination):
    first, second, store = ends(destination)
    before = everything(store)
    session, plan = migration(source=first, target=second).stage()
    made = backed_up_and_imported(session, plan, ["00", "01"])

    backup.restore(session, made)

    assert everything(store) == before


@pytest.mark.parametrize("destination", BACKENDS)
def test_a_target_that_did_not_exist_is_empty_again(migration, config, opened, destination):
    first, second = config("file" if destination != "file" else "redis", "first"), config(destination, "second")
    fill_source(opened(first))
    session, plan, made = imported(migration(source=first, target=second))
    assert validate(session, plan).passed

    report = backup.restore(session, made)

    assert everything(opened(second)) == {kind: [] for kind in Kind}
    assert report.removed == {"state": 3, "version": 4, "snapshot": 2}


@pytest.mark.parametrize("destination", BACKENDS)
def test_a_backup_of_a_whole_store_puts_all_of_it_back(migration, ends, destination):
    first, second, store = ends(destination)
    before = everything(store)
    session = migration(source=first, target=second).session()
    made = backup.create(session)
    written(store, Kind.STATE, {"state_id": "added", "data": b"{}"}, {"state_id": "shared", "data": b'{"lost":1}'})
    written(store, Kind.VERSION, version("added", "v7"))
    store.delete_state("untouched")

    report = backup.restore(session, made)

    assert everything(store) == before
    assert report.removed == {"state": 1, "version": 1, "snapshot": 0}


def test_the_ids_of_a_plan_are_backed_up_once_and_before_the_first_write(migration, ends):
    first, second, _ = ends("postgresql")
    session, plan, made = imported(migration(source=first, target=second))

    assert backup.ensure(session, plan, staged_ranges(session, plan).values()) is None
    assert [b.backup_id for b in backup.backups(session)] == [made.backup_id]
    assert backup.find(session) == backup.find(session, made.backup_id) == made


def test_an_expiry_that_passed_since_does_not_come_back(migration, ends):
    first, second, store = ends("redis")
    with redis.Redis.from_url(second["connection_url"]) as client:
        session, plan = migration(source=first, target=second).stage()
        client.pexpire("ag-ui:state:state:same", 5000)
        over = client.pexpiretime("ag-ui:state:state:same")
        made = backed_up_and_imported(session, plan)
        assert client.pttl("ag-ui:state:state:same") == -1  # the source's has none
        while client.time()[0] * 1000 <= over:
            time.sleep(0.05)

    report = backup.restore(session, made)

    assert report.expired == 1
    assert store.get_state("same") is None


@pytest.mark.parametrize("damage", ["segment", "manifest", "catalogue"])
def test_a_damaged_backup_is_refused_before_anything_is_written(migration, ends, tmp_path, damage):
    first, second, store = ends("postgresql")
    session, _, made = imported(migration(source=first, target=second))
    before = everything(store)
    workspace = tmp_path / ".agui" / "story"
    folders = [workspace / "snapshots" / snapshot_id for snapshot_id in made.snapshots.values()]
    file = {
        "segment": next(path for folder in folders for path in sorted(folder.glob("*.parquet"))),
        "manifest": folders[0] / "manifest.json",
        "catalogue": workspace / made.catalogue,
    }[damage]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    with pytest.raises(StagingError):
        backup.restore(session, made)

    assert everything(store) == before


def test_what_cannot_be_read_under_an_id_stops_the_import_and_elsewhere_does_not(migration, ends):
    first, second, _ = ends("file")
    base = Path(second["file_options"]["base_dir"])
    [shared] = base.glob("states/*/shared.json")
    [untouched] = base.glob("states/*/untouched.json")
    untouched.write_bytes(b"no json")
    move = migration(source=first, target=second)
    session, plan = move.stage()
    staged = list(staged_ranges(session, plan).values())
    content = shared.read_bytes()
    shared.write_bytes(b'{"half":')

    with pytest.raises(BackupError) as refused:
        backup.ensure(session, plan, staged)

    assert refused.value.data["ids"] == ["shared"]
    assert backup.backups(session) == []
    shared.write_bytes(content)
    assert backup.ensure(move.session(), plan, staged) is not None


@pytest.mark.parametrize("scope", ["ids of a plan", "whole store"])
def test_what_cannot_be_read_and_was_not_there_before_is_removed_too(migration, ends, scope):
    first, second, store = ends("file")
    before = everything(store)
    base = Path(second["file_options"]["base_dir"])
    session, plan = migration(source=first, target=second).stage()
    made = backup.create(session)
    of_plan = backed_up_and_imported(session, plan)
    made = of_plan if scope == "ids of a plan" else made
    [new] = base.glob("states/*/new.json")
    new.write_bytes(b"no json")
    anothers = new.with_name("anothers.json")
    anothers.write_bytes(b"no json")

    backup.restore(session, made)

    assert not new.exists()
    assert anothers.exists() == (scope == "ids of a plan")
    anothers.unlink(missing_ok=True)
    assert everything(store) == before


@pytest.fixture
def two_redis(migration, config, opened):
    """A migration between two Redis stores of states in every key range, with versions; and a client of the target."""
    first, second = config("redis", "first"), config("redis", "second")
    source = opened(first)
    ids = [f"{letter}{separator}{n}" for letter in "aeimquy" for separator in ("", ":", "/") for n in range(3)]
    written(source, Kind.STATE, *({"state_id": id_, "data": b"{}"} for id_ in ids))
    written(source, Kind.VERSION, *(version(id_, f"v of {id_}") for id_ in ids))
    with redis.Redis.from_url(second["connection_url"]) as client:
        yield migration(source=first, target=second), client, ids


def bodies_of(client, *ids):
    """Leave bodies without sorted sets, as a connection does that breaks between the two."""
    client.mset({f"ag-ui:state:version:{id_}:{name}": b'{"ID":"%b"}' % name.encode() for id_, name in ids})


@pytest.mark.parametrize("scope", ["ids of a plan", "whole store"])
def test_bodies_that_no_sorted_set_names_are_removed_in_every_key_range(two_redis, scope):
    move, client, ids = two_redis
    session, plan = move.stage()
    made = backup.create(session)
    if scope == "ids of a plan":
        bodies_of(client, ("another", "lost"))
    of_plan = backed_up_and_imported(session, plan, ["01"])
    made = of_plan if scope == "ids of a plan" else made
    bodies_of(client, *((id_, f"v of {id_}") for id_ in ids), *((id_, f"more {n}") for id_ in ids for n in range(30)))

    report = backup.restore(session, made)

    left = {b"ag-ui:state:version:another:lost"} if scope == "ids of a plan" else set()
    assert set(client.keys("*")) == left
    assert report.removed["version"] == 31 * len(ids)


def test_a_body_that_no_sorted_set_names_stops_the_import_whatever_its_key_range(two_redis):
    move, client, ids = two_redis
    session, plan = move.stage()
    bodies_of(client, *((id_, "lost") for id_ in ids))

    with pytest.raises(BackupError) as refused:
        backup.ensure(session, plan, staged_ranges(session, plan).values())

    assert sorted(refused.value.data["ids"]) == sorted(f"{id_}/lost" for id_ in ids)


def test_what_cannot_be_read_after_a_restore_is_not_called_restored(migration, ends):
    first, second, _ = ends("file")
    base = Path(second["file_options"]["base_dir"])
    session = migration(source=first, target=second).session()
    made = backup.create(session)
    [shared] = base.glob("states/*/shared.json")
    stray = base / "states" / "elsewhere" / "deeper" / "x.json"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"{}")

    with pytest.raises(BackupError, match="cannot be read"):
        backup.restore(session, made)

    assert shared.exists()


def test_a_range_that_is_staged_anew_backs_up_only_what_is_new(migration, ends, opened):
    first, second, store = ends("postgresql")
    before = everything(store)
    session, plan, made = imported(migration(source=first, target=second))
    source = opened(first)
    written(source, Kind.STATE, {"state_id": "new", "data": b'{"new":2}'})
    ranges = [r.name for r in plan.ranges]
    for name in ranges:  # what had rejects is done again
        session.ledger.record(Entry("export", plan.plan_id, name, outputs={"rejects": 1}))
    export(session, plan, ranges)
    transform(session, plan, ranges)

    import_(session, plan, ranges)

    second_made = backup.of_plan(session, plan.plan_id)[-1]
    assert second_made != made
    assert second_made.records == {"state": 0, "version": 0, "snapshot": 0}
    for each in backup.of_plan(session, plan.plan_id):
        backup.restore(session, each)
    assert everything(store) == before


def test_after_a_restore_the_plan_imports_and_backs_up_again(migration, ends):
    first, second, store = ends("redis")
    session, plan, made = imported(migration(source=first, target=second))
    backup.restore(session, made)
    store.set_state("new", b'{"written":"since"}')
    before = everything(store)

    report = import_(session, plan, [r.name for r in plan.ranges])

    assert not any(r.resumed for r in report.ranges)
    assert validate(session, plan).passed
    [again] = backup.of_plan(session, plan.plan_id)
    assert again.backup_id != made.backup_id
    backup.restore(session, again)
    assert everything(store) == before


def test_a_backup_that_fails_leaves_nothing_behind(migration, ends, tmp_path):
    first, second, _ = ends("file")
    base = Path(second["file_options"]["base_dir"])
    session = migration(source=first, target=second).session()
    [path] = base.glob("states/*/untouched.json")
    path.write_bytes(b"no json")

    with pytest.raises(BackupError):
        backup.create(session)

    workspace = tmp_path / ".agui" / "story"
    assert list((workspace / "catalogues").glob("backup-*")) == []
    assert list(workspace.glob("snapshots/*/*")) == []


def test_no_more_backups_are_kept_than_the_migration_says(migration, ends):
    first, second, _ = ends("redis")
    session = migration(source=first, target=second, backup={"keep": 2}).session()
    made = [backup.create(session) for _ in range(3)]
    source = backup.create(session, "source")

    assert backup.backups(session) == [*made[1:], source]


def test_a_backup_is_kept_until_the_migration_is_proven(migration, ends, tmp_path):
    first, second, _ = ends("redis")
    session, _, made = imported(migration(source=first, target=second))
    with pytest.raises(RefusedError):
        backup.delete(session, made)
    assert backup.prune(session, keep=0) == []
    whole = backup.create(session)

    validate(session, current(session))
    assert [b.backup_id for b in backup.prune(session, keep=1)] == [made.backup_id]

    assert backup.backups(session) == [whole]
    kept = {path.name for path in (tmp_path / ".agui" / "story" / "snapshots").iterdir()}
    assert not kept & set(made.snapshots.values())
    assert set(whole.snapshots.values()) <= kept
    with pytest.raises(RefusedError):
        backup.find(session, made.backup_id)


def test_a_backup_is_not_restored_into_another_store(migration, ends, config):
    first, second, _ = ends("file")
    move = migration(source=first, target=second)
    session = move.session()
    made = backup.create(session)

    with pytest.raises(RefusedError):
        backup.restore(move.but(target=config("file", "third")).session(), made)


def test_a_source_that_is_a_store_is_backed_up_and_put_back_and_another_is_not(migration, ends, opened):
    first, second, _ = ends("postgresql")
    source = opened(first)
    before = everything(source)
    session = migration(source=first, target=second).session()
    made = backup.create(session, "source")
    source.delete_state("new")
    backup.restore(session, made)
    assert everything(source) == before

    foreign = {"type": "jsonl", "path": "states.jsonl", "id": "id"}
    with pytest.raises(UsageError):
        backup.create(migration(name="other", source=foreign, target=second).session(), "source")


def test_more_than_a_list_of_what_cannot_be_read_is_removed_at_once(migration, ends):
    first, second, store = ends("file")
    before = everything(store)
    base = Path(second["file_options"]["base_dir"])
    session = migration(source=first, target=second).session()
    made = backup.create(session)
    written(store, Kind.STATE, *({"state_id": f"added-{n:04}", "data": b"{}"} for n in range(LIST_LIMIT + 200)))
    for path in base.glob("states/*/*.json"):  # also what is put back, which is no leftover
        path.write_bytes(b"no json")

    report = backup.restore(session, made)

    assert everything(store) == before
    assert report.removed["state"] == LIST_LIMIT + 200


def test_what_was_not_there_is_removed_first_so_that_there_is_room_for_what_was(migration, config, opened, tmp_path):
    large = f'{{"text":"{"x" * 20_000}"}}'.encode()
    with EmbeddedRedis(settings={"maxmemory": "0", "maxmemory-policy": "noeviction"}) as server:
        source = opened(first := config("file", "first"))
        source.prepare()
        written(source, Kind.STATE, *({"state_id": f"shared{n}", "data": b"{}"} for n in range(10)))
        written(source, Kind.STATE, *({"state_id": f"new{n}", "data": large} for n in range(200)))
        store = opened(second := {"type": "redis", "connection_url": server.url})
        store.prepare()
        written(store, Kind.STATE, *({"state_id": f"shared{n}", "data": large} for n in range(10)))
        before = everything(store)
        session, _, made = imported(migration(source=first, target=second))
        with redis.Redis.from_url(server.url) as client, session.exclusive():
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)

            backup.restore(session, made)

            client.config_set("maxmemory", 0)
        assert everything(store) == before
        store.close()


def test_a_restore_that_ends_after_it_has_removed_is_done_by_another_one(migration, ends, monkeypatch):
    first, second, store = ends("redis")
    before = everything(store)
    session, plan, made = imported(migration(source=first, target=second))
    with monkeypatch.context() as patch:
        patch.setattr(backup, "_write_back", interrupted)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(session, made)
    assert store.get_state("new") is None
    assert [b.backup_id for b in backup.of_plan(session, plan.plan_id)] == [made.backup_id]

    backup.restore(migration(source=first, target=second).session(), made)

    assert everything(store) == before


def interrupted(*_):
    raise KeyboardInterrupt
