"""Schema migrations: the user's own numbered changes, applied to a store once, in order, and taken back."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pyarrow as pa
import pytest

from agui_pipelines.errors import (
    MigrationError,
    RefusedError,
    RejectLimitError,
    RollbackError,
    SpecError,
    UsageError,
    ValidationFailedError,
)
from agui_pipelines.phases import backup
from agui_pipelines.phases.rollback import rollback
from agui_pipelines.phases.session import Session
from agui_pipelines.records import SCHEMAS, Kind
from agui_pipelines.transforms.schema_migration import directions
from agui_pipelines.upgrade.schema import Change, Record, Schema, chosen, found, in_place
from tests.cases import chiefly, thinned
from tests.integration.forker import Forker
from tests.integration.test_backup import everything, version

BACKENDS = ["file", "redis", "postgresql"]
STATES = 30

COUNT_UP = """
def up(state_id, document):
    document["n"] = document["n"] + 1
    return document

def down(state_id, document):
    document["n"] = document["n"] - 1
    return document
"""
RENAME = {
    "up": [{"op": "move", "from": "/theme", "path": "/look"}],
    "down": [{"op": "move", "from": "/look", "path": "/theme"}],
}
ONLY_UP = [{"op": "add", "path": "/price", "value": 1.50}]


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


@pytest.fixture
def store(place, opened):
    """30 states, each with a version."""
    store = opened(place)
    store.prepare()
    rows = [{"state_id": f"{i:02}", "data": b'{"theme":"dark","n":%d,"x":0.10}' % i} for i in range(STATES)]
    store.write(Kind.STATE, pa.RecordBatch.from_pylist(rows, SCHEMAS[Kind.STATE]))
    versions = [version(f"{i:02}", f"v-{i:02}", b'{"n":0}') for i in range(STATES)]
    store.write(Kind.VERSION, pa.RecordBatch.from_pylist(versions, SCHEMAS[Kind.VERSION]))
    return store


@pytest.fixture
def move(migration, place, tmp_path):
    (tmp_path / "migrations").mkdir()
    source = {"type": "redis_keys", "connection_url": "redis://127.0.0.1:1/0"}
    return migration(source=source, target=place, ranges=2, batch_size=4, parallelism=1)


def write(move, **files):
    for name, content in files.items():
        kind = "py" if isinstance(content, str) else "json"
        text = content if isinstance(content, str) else json.dumps(content)
        (move.folder / "migrations" / f"{name}.{kind}").write_text(text)


def schema(move):
    return Schema(move.session())


def states(move):
    return [(line.number, line.state) for line in schema(move).status()[0]]


def documents(store):
    return {id_: json.loads(store.get_state(id_)) for id_ in store.list_states()}


@pytest.mark.parametrize("place", chiefly("postgresql", BACKENDS), indirect=True)
def test_what_is_due_is_applied_once_in_order_and_taken_back(move, store):
    before = everything(store)
    write(move, **{"0001_count": COUNT_UP, "0003_rename": RENAME})
    assert states(move) == [(1, "pending"), (3, "pending")]
    would = schema(move).up(dry_run=True)
    assert ([c.number for c in would.changes], would.changed) == ([1, 3], STATES)
    assert everything(store) == before

    done = schema(move).up()

    assert ([c.number for c in done.changes], done.changed) == ([1, 3], STATES)
    assert documents(store) == {f"{i:02}": {"look": "dark", "n": i + 1, "x": 0.10} for i in range(STATES)}
    assert states(move) == [(1, "applied"), (3, "applied")]
    assert {v.data for v in store.get_version_history("03")} == {v.data for v in store.get_version_history("04")}
    assert json.loads(store.get_version_history("03")[0].data) == {"n": 0}
    assert schema(move).up().changes == ()

    write(move, **{"0004_price": ONLY_UP})
    schema(move).up()
    assert b"1.50" in store.get_state("07") or b"1.5" in store.get_state("07")
    with pytest.raises(RefusedError, match="0004_price"):
        schema(move).down()

    (move.folder / "migrations" / "0004_price.json").write_text(json.dumps({"up": ONLY_UP, "down": []}))
    with pytest.raises(RefusedError, match=r"were edited after they were applied: '0004_price\.json'"):
        schema(move).down()
    assert states(move) == [(1, "applied"), (3, "applied"), (4, "edited")]


@pytest.mark.parametrize("place", chiefly("file", BACKENDS), indirect=True)
def test_all_of_it_can_be_taken_back(move, store):
    before = documents(store)
    write(move, **{"0001_count": COUNT_UP, "0002_rename": RENAME})
    schema(move).up()
    assert [c.number for c in schema(move).down().changes] == [2]
    assert states(move) == [(1, "applied"), (2, "pending")]
    schema(move).up()
    assert [c.number for c in schema(move).down(0).changes] == [2, 1]
    assert documents(store) == before
    assert states(move) == [(1, "pending"), (2, "pending")]


@pytest.mark.parametrize("place", chiefly("redis", BACKENDS), indirect=True)
def test_a_change_that_fails_for_one_document_leaves_all_as_they_were(move, store):
    store.set_state("bad", b'{"n":1}')
    before = everything(store)
    write(move, **{"0001_rename": RENAME})
    with pytest.raises(MigrationError, match="bad"):
        schema(move).up()
    assert everything(store) == before
    assert store.applied() is None
    store.delete_state("bad")
    schema(move).up()
    assert states(move) == [(1, "applied")]


POINTS = [
    "after ledger/*-schema_begun*",
    "applying",
    "after ledger/*-import_begun*",
    "batches 1",
    "batches 5",
    "after ledger/*-validate*",
    "before ledger/*-schema_done*",
]


@pytest.mark.parametrize(("place", "point"), thinned(BACKENDS, POINTS), indirect=["place"])
def test_a_killed_one_is_finished_and_changes_nothing_twice(point, move, store, forker):
    write(move, **{"0001_count": COUNT_UP, "0002_rename": RENAME})
    assert forker.end(forker.start(move, point, "schema")) == -signal.SIGKILL

    schema(move).up()

    assert documents(store) == {f"{i:02}": {"look": "dark", "n": i + 1, "x": 0.10} for i in range(STATES)}
    assert states(move) == [(1, "applied"), (2, "applied")]
    assert schema(move).status()[1] is None


@pytest.mark.parametrize("place", chiefly("redis", BACKENDS), indirect=True)
def test_nobody_else_begins_in_the_middle(move, store, forker):
    write(move, **{"0001_count": COUNT_UP})
    assert forker.end(forker.start(move, "batches 5", "schema")) == -signal.SIGKILL
    half = documents(store)
    elsewhere = move.but(workspace="other")
    assert schema(elsewhere).status()[1].numbers == (1,)
    for attempt in (schema(elsewhere).up, schema(elsewhere).down, lambda: schema(move).up(dry_run=True)):
        with pytest.raises(RefusedError, match="are being applied to this store: up 1"):
            attempt()
    with pytest.raises(RefusedError, match="in the other direction"):
        schema(move).down()
    write(move, **{"0001_count": COUNT_UP + "\n# edited\n"})
    with pytest.raises(RefusedError, match="edited or removed while they were being applied"):
        schema(move).up()
    assert documents(store) == half
    write(move, **{"0001_count": COUNT_UP, "0002_rename": RENAME})
    assert [c.number for c in schema(move).up().changes] == [1]
    assert [c.number for c in schema(move).up().changes] == [2]
    assert documents(store) == {f"{i:02}": {"look": "dark", "n": i + 1, "x": 0.10} for i in range(STATES)}


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_a_store_that_may_be_half_rewritten_is_no_end_of_a_migration(
    place, move, store, forker, migration, config, opened
):
    write(move, **{"0001_count": COUNT_UP})
    assert forker.end(forker.start(move, "batches 3", "schema")) == -signal.SIGKILL
    half, other = documents(store), config("file", "other")
    opened(other).prepare()
    for source, target in ((place, other), (other, place)):
        between = migration(name="between", source=source, target=target)
        with pytest.raises(RefusedError, match="Schema migrations are being applied to redis"):
            between.run()
    assert documents(store) == half


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_it_begins_anew_where_the_whole_store_was_put_back_meanwhile(move, store, forker):
    write(move, **{"0001_count": COUNT_UP})
    before = backup.create(move.session())
    assert forker.end(forker.start(move, "batches 3", "schema")) == -signal.SIGKILL
    backup.restore(move.session(), before)

    assert schema(move).up().changed == STATES

    assert documents(store)["07"]["n"] == 8


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_there_is_a_way_back_even_if_imports_want_none(move, store):
    write(move, **{"0001_count": COUNT_UP})
    mine = Schema(move.but(backup={"before_import": False}).session())
    mine.up()
    assert backup.backups(Session.open(in_place(mine.session.migration, "target", [])))


@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_what_to_do_is_said_in_terms_of_schema_migrations(move, store, monkeypatch):
    write(move, **{"0001_rename": RENAME})
    store.set_state("bad", b'{"n":1}')
    with pytest.raises(RejectLimitError) as refused:
        schema(move).up()
    assert "max_rejects" not in refused.value.remedy
    store.delete_state("bad")

    def fail(*_):
        raise ValidationFailedError("wrong")

    with monkeypatch.context() as failing:
        failing.setattr("agui_pipelines.upgrade.schema.validate", fail)
        failing.setattr("agui_pipelines.phases.backup.put_back", fail)
        with pytest.raises(RollbackError, match="What had failed: wrong") as told:
            schema(move).up()
    assert "agui-migrate schema up" in told.value.remedy
    assert schema(move).up().changed == STATES


def test_histories_change_too_if_the_file_says_so(config, opened, migration, tmp_path):
    place = config("redis", "store")
    store = opened(place)
    store.set_state("a", b'{"n":1}')
    store.write(Kind.VERSION, pa.RecordBatch.from_pylist([version("a", "v", b'{"n":0}')], SCHEMAS[Kind.VERSION]))
    (tmp_path / "migrations").mkdir()
    move = migration(source=place, target=config("redis", "other"))
    write(move, **{"1_count": "history = True\n" + COUNT_UP})
    done = Schema(Session.open(move.session().migration), "source").up()
    assert done.changed == 2
    assert (store.get_state("a"), store.get_version("a", "v").data) == (b'{"n":2}', b'{"n":1}')


def test_what_was_applied_is_not_applied_again_in_another_store(config, opened, migration, tmp_path):
    place, elsewhere = config("file", "store"), config("redis", "other")
    opened(place).set_state("a", b'{"n":1}')
    (tmp_path / "migrations").mkdir()
    move = migration(source=place, target=elsewhere)
    write(move, **{"1_count": COUNT_UP})
    Schema(move.session(), "source").up()

    move.run()

    assert schema(move).up().changes == ()
    target = opened(elsewhere)
    assert (documents(target), target.applied()) == ({"a": {"n": 2}}, opened(place).applied())
    rollback(move.session())
    assert (target.get_state("a"), target.applied()) == (None, None)


def test_a_source_that_is_no_store_has_no_schema(migration, tmp_path):
    text = {"type": "redis_keys", "connection_url": "redis://127.0.0.1:1/0"}
    move = migration(source=text, target={"type": "file", "file_options": {"base_dir": str(tmp_path / "s")}})
    with pytest.raises(UsageError, match="redis_keys, which is no AG-UI store"):
        Schema(move.session(), "source").up()


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[]",
        '{"applied":[{"number":"1","name":"1_x.py","checksum":"c"}]}',
        '{"applied":[{"number":1,"name":"1_x.py","checksum":null}]}',
        '{"applied":[],"applying":{"batch":"b","direction":"on","numbers":[1],"workspace":"w"}}',
    ],
)
def test_a_damaged_record_is_told(text, config, opened, migration, tmp_path):
    place = config("file", "store")
    opened(place).prepare()
    (tmp_path / "store" / "SCHEMA.json").write_text(text)
    move = migration(source=place, target=place)
    with pytest.raises(RefusedError, match="is damaged"):
        Schema(move.session()).status()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"0001_a": ONLY_UP, "01_b": ONLY_UP}, "have the number 1: 0001_a.json and 01_b.json"),
        ({"0001 a": ONLY_UP}, "is no name of a schema migration"),
        ({"1_a": {"up": ONLY_UP, "more": 1}}, "neither a JSON Patch nor an object"),
        ({"1_a": {"down": ONLY_UP}}, "no list of operations for up"),
        ({"1_a": [{"op": "jump", "path": "/a"}]}, "cannot be used"),
        ({"1_a": "x = 1"}, "no function up"),
        ({"1_a": "raise ValueError('no')"}, "cannot be loaded: ValueError: no"),
    ],
)
def test_files_that_cannot_be_used_are_named(files, said, config, opened, migration, tmp_path):
    place = config("file", "store")
    opened(place).prepare()
    (tmp_path / "migrations").mkdir()
    move = migration(source=place, target=place)
    write(move, **files)
    with pytest.raises(SpecError, match=said):
        schema(move).up()
    assert opened(place).applied() is None


@pytest.mark.parametrize("make", [Path.mkdir, lambda file: file.symlink_to("nowhere.py")], ids=["folder", "link"])
def test_what_is_no_file_is_named(make, tmp_path):
    make(tmp_path / "0001_x.py")
    with pytest.raises(SpecError, match=r"0001_x\.py cannot be read"):
        found(tmp_path)


def test_a_file_may_have_classes_with_annotations(tmp_path):
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    n: int\n"
    (tmp_path / "1_x.py").write_text(text + COUNT_UP)
    assert directions(tmp_path / "1_x.py", tmp_path) == {"up", "down"}


def change(number):
    return Change(number, f"{number:04}_x.py", "c")


def record(*numbers):
    return Record.of(
        type(
            "S",
            (),
            {
                "applied": lambda _: json.dumps(
                    {"applied": [{"number": n, "name": f"{n:04}_x.py", "checksum": "c", "at": ""} for n in numbers]}
                ).encode(),
                "describe": lambda _: "it",
            },
        )()
    )


def numbers(changes):
    return [each.number for each in changes]


def test_which_are_due():
    files = [change(n) for n in (1, 2, 5)]
    assert numbers(chosen("up", files, record(), None)) == [1, 2, 5]
    assert numbers(chosen("up", files, record(1), None)) == [2, 5]
    assert numbers(chosen("up", files, record(1), 2)) == [2]
    assert numbers(chosen("down", files, record(1, 2, 5), None)) == [5]
    assert numbers(chosen("down", files, record(1, 2, 5), 1)) == [5, 2]
    assert numbers(chosen("down", files, record(), None)) == []
    with pytest.raises(RefusedError, match="numbered before one that was applied"):
        chosen("up", files, record(2), None)
    with pytest.raises(UsageError, match="--to is 7"):
        chosen("up", files, record(), 7)
    with pytest.raises(RefusedError, match="not there any more"):
        chosen("down", files, record(1, 2, 5, 6), None)


def test_a_folder_that_is_not_there_holds_none(tmp_path):
    assert found(tmp_path / "migrations") == []
