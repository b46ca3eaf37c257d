"""A store is migrated where it is: read in full, then rewritten, and never read again while it is half rewritten."""

from __future__ import annotations

import json
import signal

import pyarrow as pa
import pytest

from agui_pipelines import spec
from agui_pipelines.errors import CollisionError, RefusedError, SamePlaceError, SpecError, StagingError
from agui_pipelines.phases import backup, plan
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.rollback import rollback
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import validate
from agui_pipelines.ports import Snapshot, Version
from agui_pipelines.records import SCHEMAS, Kind
from agui_pipelines.upgrade.store import upgrade
from tests.cases import chiefly, thinned
from tests.integration.forker import Forker
from tests.integration.test_backup import everything

BACKENDS = ["file", "redis", "postgresql"]
STATES = 24
BATCH = 5
DOUBLED = """
def double(state_id, document):
    document["n"] = document["n"] * 2
    return document
"""


@pytest.fixture(scope="module")
def forker():
    forker = Forker()
    yield forker
    forker.close()


@pytest.fixture(autouse=True)
def without_suites(monkeypatch):
    """Each validation would start Great Expectations anew, which takes longer than all the rest."""
    monkeypatch.setattr("agui_pipelines.phases.validate.expect_loaded", lambda *_: ())


@pytest.fixture(params=BACKENDS)
def place(request, config):
    return config(request.param, "store")


def old(i, n):
    return {"version": "1.0", "data": {"i": i, "n": n, "price": 1.50}}


def new(i, n):
    return {"version": "2.0", "payload": {"i": i, "n": n, "price": 1.50}, "schema_version": "2.0.0"}


def text(value):
    return json.dumps(value).encode()


def fill(store):
    """States of data format 1.0, each with three versions whose deltas can be replayed, and a snapshot."""
    store.prepare()
    rows = [
        {"state_id": f"{i:02}", "data": text(old(i, 2)), "updated_at": "2024-02-29T23:59:59Z"} for i in range(STATES)
    ]
    store.write(Kind.STATE, pa.RecordBatch.from_pylist(rows, SCHEMAS[Kind.STATE]))
    with store.transaction() as transaction:
        for i in range(STATES):
            for n in range(3):
                delta = [
                    {"op": "add", "path": "/version", "value": "1.0"},
                    {"op": "add", "path": "/data", "value": old(i, 1)["data"]},
                ]
                if n == 2:
                    delta = [{"op": "replace", "path": "/data/n", "value": 2}]
                transaction.save_version(
                    Version(
                        f"v{n}-{i:02}",
                        f"{i:02}",
                        f"2025-07-14T09:30:1{n}Z",
                        text(old(i, n)) if n else b"{}",
                        text(delta) if n else None,
                        None,
                        f"v{n - 1}-{i:02}" if n else "",
                    )
                )
            transaction.save_snapshot(
                Snapshot(f"s-{i:02}", f"{i:02}", "2025-07-14T09:31:00Z", text(old(i, 2)), f"v2-{i:02}", b'{"a":1}')
            )


def documents(store):
    return {state_id: json.loads(store.get_state(state_id)) for state_id in store.list_states()}


NEW = {f"{i:02}": new(i, 2) for i in range(STATES)}
OLD = {f"{i:02}": old(i, 2) for i in range(STATES)}


@pytest.fixture
def move(migration, place, opened):
    """From data format 1.0 to 2.0, in place."""
    fill(opened(place))
    return migration(
        source=place,
        target=place,
        transforms=["format_1_to_2"],
        in_place=True,
        ranges=2,
        batch_size=BATCH,
        parallelism=1,
    )


def require_new(store):
    assert documents(store) == NEW
    for i in range(STATES):
        versions = store.get_version_history(f"{i:02}")
        assert [json.loads(v.data) for v in versions] == [new(i, 2), new(i, 1), {}]
        [taken] = store.list_snapshots(f"{i:02}")
        assert (json.loads(taken.data), taken.version_id) == (new(i, 2), f"v2-{i:02}")


def test_states_and_histories_become_format_2_and_the_marker_says_so(move, place, opened):
    outcome = move.run()
    assert outcome.validation.proven
    assert outcome.validation.replay.deviating.count == 0
    require_new(opened(place))
    assert opened(place).version() == "2.0.0"


@pytest.mark.parametrize("place", chiefly("postgresql", BACKENDS), indirect=True)
def test_a_migrated_history_can_be_replayed_again(move, place, opened, migration, config):
    move.run()
    again = migration(name="again", source=place, target=config("redis", "other")).run()
    assert again.validation.replay.versions == 2 * STATES
    assert again.validation.replay.reasons == {}


def test_into_another_store_the_target_says_what_it_is_and_the_source_stays(move, place, opened, config):
    before = everything(opened(place))
    other = config("redis", "other")
    assert move.but(name="away", target=other, in_place=False).run().validation.proven
    require_new(opened(other))
    assert opened(other).version() == "2.0.0"
    assert everything(opened(place)) == before
    assert opened(place).version() is None


@pytest.mark.parametrize("place", chiefly("redis", BACKENDS), indirect=True)
def test_a_rollback_puts_back_every_record_and_the_marker(move, place, opened):
    store = opened(place)
    store.set_version("1.2.0")
    before = everything(store)
    move.run()
    assert store.version() == "2.0.0"
    rollback(move.session())
    assert everything(store) == before
    assert store.version() == "1.2.0"
    assert move.run().validation.proven
    require_new(store)


def test_without_in_place_one_place_is_refused_as_ever(move):
    with pytest.raises(SamePlaceError, match="same place") as refused:
        move.but(in_place=False).run()
    assert "in_place: true" in refused.value.remedy


def test_in_place_needs_one_store(move, place, config, opened):
    other = config("redis", "other")
    with pytest.raises(SamePlaceError, match="Source and target are two"):
        move.but(target=other).run()
    with pytest.raises(SamePlaceError, match="no AG-UI store"):
        move.but(source={"type": "redis_keys", "connection_url": other["connection_url"]}).run()


def test_in_place_needs_a_backup(move):
    with pytest.raises(SpecError, match=r"needs backup\.before_import"):
        spec.parse({**move.text, "backup": {"before_import": False}}, folder=move.folder)


def test_everything_is_exported_before_the_first_write(move, place, opened):
    session = move.session()
    made = plan.plan(session)
    export(session, made, ["00"])
    transform(session, made, ["00"])
    with pytest.raises(StagingError, match="1 of 2 key ranges have not been exported"):
        import_(session, made, ["00"])
    assert documents(opened(place)) == OLD


def test_ids_have_to_stay(move, place, opened):
    session, made = move.but(transforms=[{"add_prefix": {"prefix": "x-"}}]).stage()
    with pytest.raises(CollisionError, match="other ids to states: '00'"):
        import_(session, made, [r.name for r in made.ranges])
    assert documents(opened(place)) == OLD


def test_what_changed_since_the_export_is_told_before_anything_is_written(move, place, opened):
    session, made = move.stage()
    store = opened(place)
    store.set_state("03", b'{"written":"meanwhile"}')
    store.set_state("added", b"{}")
    store.delete_state("05")
    before = everything(store)
    with pytest.raises(RefusedError, match=r"1 state gone \('05'\); 1 state changed \('03'\); .*1 state added|added"):
        import_(session, made, [r.name for r in made.ranges])
    assert everything(store) == before
    assert backup.backups(move.session()) == []


def test_files_that_lie_elsewhere_would_stay_beside_what_is_written(config, opened, migration):
    place = config("file", "store")
    fill(opened(place))
    place["file_options"]["shard_count"] = 5
    before = everything(opened(place))
    move = migration(source=place, target=place, transforms=["format_1_to_2"], in_place=True, ranges=2)
    with pytest.raises(RefusedError, match="do not lie where they belong") as refused:
        move.run()
    assert "agui-migrate upgrade" in refused.value.remedy
    assert everything(opened(place)) == before
    upgrade(move.session())
    assert move.run(fresh=True).validation.proven
    require_new(opened(place))
    assert opened(place).version() == "2.0.0"


POINTS = ["batches 3", "batches 20", "after ledger/*-import-*"]


@pytest.mark.parametrize(("place", "point"), thinned(BACKENDS, POINTS), indirect=["place"])
def test_a_killed_import_is_finished_without_reading_the_store_again(point, move, place, opened, forker, monkeypatch):
    (move.folder / "shapes.py").write_text(DOUBLED)
    doubling = move.but(transforms=["format_1_to_2", {"rename_fields": {"payload": "body"}}])
    assert forker.end(forker.start(doubling, point)) == -signal.SIGKILL

    assert doubling.run().validation.proven

    store = opened(place)
    assert documents(store) == {
        id_: {"version": "2.0", "body": document["payload"], "schema_version": "2.0.0"} for id_, document in NEW.items()
    }


@pytest.fixture
def counting(migration, config, request, opened, tmp_path):
    """A migration in place that would do harm if it were done twice: it doubles a number."""
    (tmp_path / "shapes.py").write_text(DOUBLED)

    def make(backend):
        place = config(backend, "store")
        store = opened(place)
        store.prepare()
        rows = [{"state_id": f"{i:03}", "data": b'{"n":%d}' % i} for i in range(60)]
        store.write(Kind.STATE, pa.RecordBatch.from_pylist(rows, SCHEMAS[Kind.STATE]))
        return store, migration(
            source=place,
            target=place,
            transforms=[{"python": "shapes:double"}],
            in_place=True,
            ranges=3,
            batch_size=7,
            parallelism=1,
        )

    return make


DOUBLED_ONCE = {f"{i:03}": {"n": 2 * i} for i in range(60)}


@pytest.mark.parametrize(
    ("backend", "point"),
    thinned(BACKENDS, ["after ledger/*-import_begun*", "batches 1", "half 2", "written 5", "batches 9"]),
)
def test_no_document_is_changed_twice(point, backend, counting, forker):
    store, move = counting(backend)
    assert forker.end(forker.start(move, point)) == -signal.SIGKILL
    assert move.run().validation.proven
    assert documents(store) == DOUBLED_ONCE


@pytest.mark.parametrize("backend", chiefly("file", BACKENDS))
def test_a_half_rewritten_store_is_the_source_of_nothing_else(backend, counting, forker):
    store, move = counting(backend)
    before = everything(store)
    assert forker.end(forker.start(move, "batches 4")) == -signal.SIGKILL
    half = documents(store)

    for attempt in (
        lambda: move.run(fresh=True),
        lambda: move.but(transforms=["identity"]).run(),
        move.dry_run,
    ):
        with pytest.raises(RefusedError, match="has begun, and was neither proven nor taken back"):
            attempt()
    assert documents(store) == half

    rollback(move.session())
    assert everything(store) == before
    assert move.run(fresh=True).validation.proven
    assert documents(store) == DOUBLED_ONCE


def test_a_range_with_rejects_is_not_read_again(counting, forker):
    store, move = counting("file")
    store.set_state("bad", b'{"n":"x","m":[]}')
    (move.folder / "shapes.py").write_text(DOUBLED.replace("document[", "float(document['n']); document[", 1))
    move = move.but(limits={"max_rejects": 1})
    assert forker.end(forker.start(move, "batches 4")) == -signal.SIGKILL
    assert move.run().validation.rejected == 1
    assert documents(store) == {**DOUBLED_ONCE, "bad": {"n": "x", "m": []}}


def test_a_range_cannot_be_exported_once_the_import_has_begun(move):
    session, made = move.stage()
    names = [r.name for r in made.ranges]
    import_(session, made, names)
    assert all(r.resumed for r in export(move.session(), made, names).ranges)
    assert validate(move.session(), made).proven
    with pytest.raises(RefusedError, match="00 cannot be exported"):
        export(move.session(), made, names)
    with pytest.raises(RefusedError, match="not what was exported any more"):
        import_(move.session(), made, names)


def test_a_marker_of_a_later_version_stays(move, place, opened, config):
    other = config("redis", "other")
    opened(other).set_version("2.1.0")
    assert move.but(name="away", target=other, in_place=False).run().validation.proven
    assert opened(other).version() == "2.1.0"


def test_a_target_that_holds_other_states_of_1_x_keeps_its_marker(move, opened, config):
    other = config("redis", "other")
    opened(other).set_version("1.2.0")
    opened(other).set_state("mine", text(old(1, 1)))
    assert move.but(name="away", target=other, in_place=False).run().validation.proven
    assert opened(other).version() == "1.2.0"
