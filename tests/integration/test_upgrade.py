"""Upgrading a store where it is, on each backend: from what it says, or what its documents tell, to the newest version."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
import redis

from agui_pipelines.errors import (
    LockedError,
    MigrationError,
    RefusedError,
    StoreError,
    ValidationFailedError,
)
from agui_pipelines.owner import Owner
from agui_pipelines.phases import backup
from agui_pipelines.records import SCHEMAS, Kind
from agui_pipelines.stores.file import FileStore
from agui_pipelines.upgrade import store as upgrading
from agui_pipelines.upgrade.steps import step
from agui_pipelines.upgrade.store import preview, upgrade
from tests.cases import chiefly, thinned
from tests.integration.forker import Forker
from tests.integration.test_backup import everything, snapshot, version

BACKENDS = ["file", "redis", "postgresql"]
ONE = b'{"version":"1.0","data":{"n":1.50}}'
TWO = b'{"version":"2.0","payload":{"n":1.50},"schema_version":"2.0.0"}'


@pytest.fixture(scope="module")
def forker():
    forker = Forker()
    yield forker
    forker.close()


@pytest.fixture(params=BACKENDS)
def place(request, config):
    """The configuration of an empty store."""
    return config(request.param, "store")


@pytest.fixture
def of(migration):
    """Makes a migration whose target is a store, which is all that an upgrade needs."""

    def make(place, **more):
        source = {"type": "redis_keys", "connection_url": "redis://127.0.0.1:1/0"}
        return migration(source=source, target=place, ranges=2, batch_size=10, parallelism=1, **more)

    return make


def fill(store, document, states=("a", "b", "ünï", "d:e"), history=True):
    store.prepare()
    rows = [{"state_id": id_, "data": document} for id_ in states]
    store.write(Kind.STATE, pa.RecordBatch.from_pylist(rows, SCHEMAS[Kind.STATE]))
    if history:
        versions = [version(id_, f"v{i}", document) for i, id_ in enumerate(states)]
        store.write(Kind.VERSION, pa.RecordBatch.from_pylist(versions, SCHEMAS[Kind.VERSION]))
        snapshots = [snapshot(id_, f"s{i}", document) for i, id_ in enumerate(states)]
        store.write(Kind.SNAPSHOT, pa.RecordBatch.from_pylist(snapshots, SCHEMAS[Kind.SNAPSHOT]))


def marked(place, text):
    """Write a marker as somebody else would."""
    if place["type"] == "file":
        Path(place["file_options"]["base_dir"], "VERSION").write_text(text)
    elif place["type"] == "redis":
        with redis.Redis.from_url(place["connection_url"]) as client:
            client.set("ag-ui:state:meta:version", text)
    else:
        with psycopg.connect(place["connection_url"]) as connection:
            connection.execute("CREATE TABLE ag_meta (key text PRIMARY KEY, value text)")
            connection.execute("INSERT INTO ag_meta VALUES ('version', %s)", (text,))


DOCUMENTS = [
    pytest.param(ONE, None, "1.0.0", "1.2.0", id="1.0 unmarked"),
    pytest.param(ONE, "1.1.1", "1.1.1", "1.2.0", id="1.1.1"),
    pytest.param(ONE, "1.1\n", "1.1.0", "1.2.0", id="1.1 with a line end"),
    pytest.param(TWO, None, "2.0.0", "2.1.0", id="2.0 unmarked"),
    pytest.param(b'{"version":"1.0"}', None, "2.0.0", "2.1.0", id="version alone"),
    pytest.param(b'{"own":true}', "1.2.0", "1.2.0", "1.2.0", id="1.2.0"),
    pytest.param(b'{"own":true}', "2.0.0", "2.0.0", "2.1.0", id="2.0.0"),
]
"""A document, the marker beside it, what version that is, and what it becomes."""


@pytest.mark.parametrize(
    ("place", "document", "marker", "told", "newest"), thinned(BACKENDS, DOCUMENTS), indirect=["place"]
)
def test_a_store_becomes_the_newest_version_and_keeps_every_record(place, of, opened, document, marker, told, newest):
    store = opened(place)
    fill(store, document)
    if marker:
        marked(place, marker)
    before = everything(store)

    report = upgrade(of(place).session())

    assert (report.version, report.to) == (told, newest)
    assert [(s.version, s.to) for s in report.steps] == list(upgrading.versions.path(told, newest))
    assert store.version().removesuffix(".0") == newest.removesuffix(".0")
    assert everything(store) == before
    assert bool(report.backup_id) == bool(report.steps)
    again = upgrade(of(place).session())
    assert (again.version, again.to, again.steps) == (newest, newest, ())


def test_an_empty_store_is_of_version_2(place, of, opened):
    opened(place).prepare()
    report = upgrade(of(place).session())
    assert (report.version, report.to) == ("2.0.0", "2.1.0")
    assert opened(place).version() == "2.1.0"


@pytest.mark.parametrize("to", ["1.1.0", "1.1.1", "1.2.0"])
def test_a_version_on_the_way_can_be_asked_for(place, of, opened, to):
    store = opened(place)
    fill(store, ONE)
    assert upgrade(of(place).session(), to=to).to == to
    assert store.version() == to


def test_a_dry_run_lists_steps_and_counts_and_writes_nothing(place, of, opened):
    store = opened(place)
    fill(store, ONE)
    move = of(place)
    before = everything(store)

    report = preview(move.session())

    assert report.dry_run
    assert [(s.version, s.to) for s in report.steps] == [("1.0.0", "1.1.0"), ("1.1.0", "1.2.0")]
    assert report.records == {"state": 4, "version": 4, "snapshot": 4}
    assert store.version() is None
    assert everything(store) == before
    assert backup.backups(move.session()) == []


@pytest.mark.parametrize(
    ("document", "marker", "said"),
    [
        (ONE, "2.0.0", "contradicts the data: it says 2.0.0"),
        (TWO, "1.2.0", "contradicts the data: it says 1.2.0"),
        (TWO, "9.9", "of version 9.9, which is not known here"),
        (TWO, "nonsense", "marker is damaged: it says 'nonsense'"),
        (TWO, "", "marker is damaged"),
    ],
)
def test_what_the_marker_says_must_be_known_and_true(place, of, opened, document, marker, said):
    store = opened(place)
    fill(store, document)
    marked(place, marker)
    before = everything(store)
    for attempt in (preview, upgrade):
        with pytest.raises(RefusedError) as refused:
            attempt(of(place).session())
        assert said in refused.value.message
        assert refused.value.remedy
    assert store.version() == marker
    assert everything(store) == before
    assert backup.backups(of(place).session()) == []


def test_documents_of_both_formats_are_of_no_version(place, of, opened):
    store = opened(place)
    fill(store, ONE, ["old"], history=False)
    fill(store, TWO, ["new"], history=False)
    with pytest.raises(RefusedError, match=r"both data formats: 1 of 1\.0 \('old'\) and 1 of 2\.0 \('new'\)"):
        upgrade(of(place).session())
    assert upgrade(of(place).session(), assumed="2.0.0").to == "2.1.0"


def test_a_downgrade_and_a_major_upgrade_are_refused(place, of, opened):
    store = opened(place)
    fill(store, ONE)
    with pytest.raises(RefusedError) as refused:
        upgrade(of(place).session(), to="2.1.0")
    assert "format_1_to_2" in refused.value.remedy
    upgrade(of(place).session())
    with pytest.raises(RefusedError, match="downgrade"):
        upgrade(of(place).session(), to="1.1.0")
    assert store.version() == "1.2.0"


def test_a_restored_backup_brings_the_marker_back(place, of, opened):
    store = opened(place)
    fill(store, ONE)
    store.set_applied(b'{"applied": []}')
    report = upgrade(of(place).session())
    store.set_applied(None)

    backup.restore(of(place).session(), backup.find(of(place).session(), report.backup_id))

    assert (store.version(), store.applied()) == (None, b'{"applied": []}')
    assert upgrade(of(place).session()).steps


def test_a_store_that_somebody_writes_to_is_not_upgraded(place, of, opened):
    store = opened(place)
    fill(store, ONE)
    lease = opened(place).lock(Owner.here("another"), 60)
    with pytest.raises(LockedError):
        upgrade(of(place).session())
    lease.release()
    assert store.version() is None


def test_whoever_does_not_agree_changes_nothing(place, of, opened):
    store = opened(place)
    fill(store, TWO)

    def disagree(report):
        assert [s.to for s in report.steps] == ["2.1.0"]
        raise RefusedError("no")

    with pytest.raises(RefusedError, match="no"):
        upgrade(of(place).session(), agree=disagree)
    assert store.version() is None
    assert backup.backups(of(place).session()) == []


@pytest.mark.parametrize("place", chiefly("postgresql", BACKENDS), indirect=True)
def test_a_write_in_the_middle_is_told_and_the_marker_stays(place, of, opened, monkeypatch):
    store = opened(place)
    fill(store, TWO)
    one = step("2.0.0", "2.1.0")
    apply = one.apply

    def apply_and_write(work):
        done = apply(work)
        store.set_state("a", b'{"written":"meanwhile"}')
        return done

    monkeypatch.setattr(one, "apply", apply_and_write)
    with pytest.raises(ValidationFailedError, match=r"1 state different \('a'\)"):
        upgrade(of(place).session())
    assert store.version() is None
    monkeypatch.undo()
    with pytest.raises(ValidationFailedError):
        upgrade(of(place).session())
    assert upgrade(of(place).session(), fresh=True).to == "2.1.0"


# Files


def plain(base, state_id, document, *versions):
    """What a store without shards holds, as the reference writes it."""
    for tree in ("states", "versions", "snapshots"):
        (base / tree).mkdir(parents=True, exist_ok=True)
    (base / "states" / f"{state_id}.json").write_text(json.dumps(document, indent=2))
    (base / "states" / f"{state_id}.json.backup").write_text("{}")
    parent = ""
    for id_, at, state in versions:
        body = {"ID": id_, "Timestamp": at, "State": state, "Delta": None, "Metadata": None, "ParentID": parent}
        (base / "versions" / f"{id_}.json").write_text(json.dumps(body, indent=2))
        parent = id_
    body = {"ID": f"s-{state_id}", "Timestamp": "2025-07-14T09:30:15Z", "State": document, "Version": parent}
    (base / "snapshots" / f"s-{state_id}.json").write_text(json.dumps({**body, "Metadata": None}, indent=2))


@pytest.fixture
def unsettled(config):
    """A store without shards and without a `StateID`, whose configuration asks for shards."""
    place = config("file", "store")
    base = Path(place["file_options"]["base_dir"])
    for i in range(12):
        document = {"version": "1.0", "data": {"i": i}}
        versions = [
            (
                f"v{i}-{n}",
                f"2025-07-14T09:30:1{n}Z",
                document if n == 2 else {"version": "1.0", "data": {"i": i, "n": n}},
            )
            for n in range(3)
        ]
        plain(base, f"state-{i}", document, *versions)
        os.utime(base / "states" / f"state-{i}.json", (1_700_000_000 + i, 1_700_000_000 + i))
    return place


def files(place):
    base = Path(place["file_options"]["base_dir"])
    return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}


def settled(place):
    """That every file lies in its shard and that every history file says whose it is."""
    found = files(place)
    history = [json.loads(body) for name, body in found.items() if name.startswith(("versions", "snapshots"))]
    return all("shard_" in name for name in found if name != "VERSION") and all("StateID" in each for each in history)


def test_files_move_into_their_shards_and_say_whose_they_are(unsettled, of, opened):
    store = opened(unsettled)
    before = everything(store)
    assert [s.changes for s in preview(of(unsettled).session()).steps] == [
        {"created": 0},
        {"states settled": 12, "versions settled": 36, "snapshots settled": 12},
    ]
    assert not settled(unsettled)

    report = upgrade(of(unsettled).session())

    assert report.steps[1].changes == {"states settled": 12, "versions settled": 36, "snapshots settled": 12}
    assert settled(unsettled)
    assert everything(store) == before
    assert len(files(unsettled)) == 12 * 6 + 1
    assert opened(unsettled).version() == "1.2.0"


@pytest.mark.parametrize(
    "point",
    [
        "after ledger/*-backup-*",
        "after ledger/*-upgrade_begun-*",
        pytest.param("settling 1", marks=pytest.mark.long),
        pytest.param("settling 2", marks=pytest.mark.long),
        pytest.param("settling 30", marks=pytest.mark.long),
        "settling 71",
        pytest.param("settling 110", marks=pytest.mark.long),
        "before ledger/*-upgrade_step-*",
        pytest.param("after ledger/*-upgrade_step-*", marks=pytest.mark.long),
        pytest.param("marked", marks=pytest.mark.long),
        "before ledger/*-upgrade-*",
    ],
)
def test_a_killed_upgrade_of_files_is_finished_by_the_next(point, unsettled, of, opened, forker):
    before = everything(opened(unsettled))
    move = of(unsettled)

    assert forker.end(forker.start(move, point, "upgrade")) == -signal.SIGKILL

    # Each record is there, wherever it lies; the marker comes last.
    assert (opened(unsettled).version() is not None) == (point in ("marked", "before ledger/*-upgrade-*"))
    upgrade(move.session())
    assert settled(unsettled)
    assert everything(opened(unsettled)) == before
    assert opened(unsettled).version() == "1.2.0"
    assert len(backup.backups(move.session())) == (2 if point == "after ledger/*-backup-*" else 1)


@pytest.mark.parametrize(
    ("place", "point"),
    thinned(
        BACKENDS,
        ["after ledger/*-upgrade_begun-*", "after ledger/*-upgrade_step-*", "marked", "before ledger/*-upgrade-*"],
    ),
    indirect=["place"],
)
def test_a_killed_upgrade_is_finished_by_the_next(point, place, of, opened, forker):
    store = opened(place)
    fill(store, ONE)
    before = everything(store)
    move = of(place)

    assert forker.end(forker.start(move, point, "upgrade")) == -signal.SIGKILL

    report = upgrade(move.session())
    assert store.version() == "1.2.0"
    assert everything(store) == before
    marked_before = point in ("marked", "before ledger/*-upgrade-*")
    assert report.steps == () if marked_before else report.resumed


def test_two_states_with_one_version_id_keep_their_own(config, of, opened):
    """As soon as one of them says whose it is, its content no longer tells whose the other is."""
    place = config("file", "store")
    base = Path(place["file_options"]["base_dir"])
    store = opened(place)
    fill(store, ONE, ["a", "c"], history=False)
    for folder in ("shard_1", "shard_3"):  # where the layout has `a` and `c`
        body = {"ID": "v", "Timestamp": "2025-07-14T09:30:15Z", "State": {"same": 1}, "Delta": None, "Metadata": None}
        (base / "versions" / folder).mkdir(parents=True)
        (base / "versions" / folder / "v.json").write_text(json.dumps({**body, "ParentID": ""}, indent=2))
    before = everything(store)
    assert len(before[Kind.VERSION]) == 2
    upgrade(of(place).session())
    assert everything(store) == before
    assert settled(place)


def test_what_cannot_be_read_is_named_and_nothing_is_changed(unsettled, of, opened):
    base = Path(unsettled["file_options"]["base_dir"])
    (base / "versions" / "lost.json").write_text('{"ID":"lost","State":{"nobody":1},"ParentID":""}')
    before = files(unsettled)
    with pytest.raises(RefusedError, match="lost"):
        upgrade(of(unsettled).session())
    assert files(unsettled) == before


def test_steps_are_done_again_where_a_copy_made_before_was_put_back(unsettled, of, opened, monkeypatch):
    base = Path(unsettled["file_options"]["base_dir"])
    shutil.copytree(base, base.with_name("copy"))

    def fail(*_):
        raise StoreError("no")

    with monkeypatch.context() as failing:
        failing.setattr(FileStore, "set_version", fail)
        with pytest.raises(StoreError):
            upgrade(of(unsettled).session())
    assert settled(unsettled)
    shutil.rmtree(base)
    base.with_name("copy").rename(base)

    report = upgrade(of(unsettled).session())

    assert [step.resumed for step in report.steps] == [True, False]
    assert settled(unsettled)
    assert opened(unsettled).version() == "1.2.0"


def test_a_wrong_marker_is_corrected_where_there_is_nothing_else_to_be_done(config, of, opened):
    place = config("file", "store")
    store = opened(place)
    fill(store, TWO, history=False)
    marked(place, "nonsense")
    assert upgrade(of(place).session(), assumed="2.1.0").steps == ()
    assert store.version() == "2.1.0"


@pytest.mark.parametrize("place", ["file", "postgresql"], indirect=True)
def test_what_is_not_there_is_no_store(place, of, opened):
    for attempt in (preview, upgrade):
        with pytest.raises(StoreError, match="There is no store"):
            attempt(of(place).session())
    assert not opened(place).exists()


# PostgreSQL


def test_missing_tables_and_indexes_are_created(config, of, opened):
    place = config("postgresql", "store")
    store = opened(place)
    fill(store, ONE, history=False)
    with psycopg.connect(place["connection_url"], autocommit=True) as connection:
        connection.execute("DROP TABLE ag_snapshots")
        connection.execute("DROP INDEX idx_ag_versions_state_created")
    assert len(store.lacking()) == 3

    report = upgrade(of(place).session(), to="1.1.0")

    assert report.steps[0].changes == {"created": 3}
    assert store.lacking() == ()


def test_a_marker_that_is_no_text_is_damaged(config, of, opened):
    place = config("postgresql", "store")
    fill(opened(place), TWO, history=False)
    with psycopg.connect(place["connection_url"], autocommit=True) as connection:
        connection.execute("CREATE TABLE ag_meta (key text PRIMARY KEY, value bytea)")
        connection.execute("INSERT INTO ag_meta VALUES ('version', '2.0.0')")
    with pytest.raises(RefusedError, match="marker is damaged"):
        upgrade(of(place).session())


def test_a_user_who_may_not_make_the_marker_is_told(config, of, opened):
    place = config("postgresql", "store")
    fill(opened(place), TWO)
    with psycopg.connect(place["connection_url"], autocommit=True) as connection:
        connection.execute("CREATE TABLE ag_meta (other text)")
    with pytest.raises(MigrationError, match=r"value|key"):
        upgrade(of(place).session())
