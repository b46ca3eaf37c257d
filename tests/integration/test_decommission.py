"""Decommission: what a migration moved goes from its source, once nobody needs it there, and nothing else does."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pyarrow as pa
import pytest

from agui_pipelines.errors import DecommissionError, RefusedError, StoppedError
from agui_pipelines.ledger import Entry
from agui_pipelines.phases import backup
from agui_pipelines.phases import decommission as phase
from agui_pipelines.phases.cursor import current_cursor
from agui_pipelines.phases.cutover import Asked, cutover
from agui_pipelines.phases.decommission import decommission, outlook
from agui_pipelines.phases.plan import current
from agui_pipelines.phases.standing import DECOMMISSION_BEGUN
from agui_pipelines.phases.sync import sync
from agui_pipelines.records import SCHEMAS, Kind
from agui_pipelines.sources.redis_keys import LOCK_KEY
from tests.cases import thinned
from tests.integration.forker import Forker
from tests.integration.sources.test_redis_types import LATER, fill, looked_at
from tests.integration.test_backup import everything

NOW = {"decommission": {"soak": "0s", "batch": 3}}
NAME = "story"
SIGNS = ("new", "deleted", "expiring")
"""What else than a change tells of a writer."""
SUITES = {"validate": "expect_loaded", "import_": "require_expected"}
"""What runs the suites in these modules."""
TIME = "2025-07-14T09:30:15.123456Z"


def cut_over(move, live="target"):
    """A migration whose target was made live, as far as its ledger tells."""
    move.run()
    session = move.session()
    sync(session, complete=True)
    made = current(session)
    outputs = {"live": live, "plan_id": made.plan_id, "outcome": "done", "direction": "forward"}
    session.ledger.record(Entry("cutover", made.plan_id, "cutover-1", outputs=outputs))
    return session


def run(move, **more):
    return decommission(move.session(), confirm=NAME, **more)


def refused(move, saying, **more):
    """Not even the archive is made."""
    with pytest.raises(RefusedError, match=saying) as told:
        run(move, **more)
    assert move.session().ledger.entries(phase=DECOMMISSION_BEGUN) == []
    return told.value


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Great Expectations takes longer than all the rest, and has no part in this."""
    for module in ("validate", "import_"):
        monkeypatch.setattr(f"agui_pipelines.phases.{module}.{SUITES[module]}", lambda *_: ())


@pytest.fixture
def filled(legacy):
    legacy.mset({f"session:{i:02}": json.dumps({"n": i}) for i in range(20)})
    legacy.mset({"other": "x", "sessio": "y"})
    legacy.pexpireat("session:01", LATER)
    legacy.set("session:text", b"\xff no JSON")
    legacy.sadd("session:set", *range(3))
    legacy.rpush("queue", "a", "b")
    return legacy


@pytest.fixture
def live(move, filled):
    move = move.but(**NOW)
    cut_over(move)
    return move


def test_what_was_moved_goes_and_everything_else_stays(live, filled, target):
    before, documents = looked_at(filled), target.documents()

    report = run(live)

    assert set(filled.keys()) == {b"other", b"sessio", b"queue"}
    assert (report.deleted, report.gone, report.left.count) == (22, 0, 0)
    assert report.archived == {"state": 22, "version": 0, "snapshot": 0}
    assert target.documents() == documents
    made = backup.find(live.session(), report.archive_id)
    assert (made.archive, made.of) == (True, "source")
    backup.restore(live.session(), made)
    assert looked_at(filled) == before


@pytest.mark.long
def test_every_type_of_key_goes_and_comes_back(move, legacy):
    move = move.but(source={**move.text["source"], "match": "*"}, transforms=[], limits={"max_rejects": 2}, **NOW)
    fill(legacy)
    legacy.set("session:1", "{}")
    cut_over(move)
    before = looked_at(legacy)
    report = run(move)
    assert legacy.keys() == []
    backup.restore(move.session(), backup.find(move.session(), report.archive_id))
    assert looked_at(legacy) == before


@pytest.mark.long
def test_a_look_says_what_would_go_and_changes_nothing(live, filled):
    before, entries = looked_at(filled), len(live.session().ledger.entries())
    found = outlook(live.session())
    assert (found.ready, found.ids, found.records["state"]) == (True, 22, 22)
    assert [check.name for check in found.checks] == ["cutover", "validation", "known", "soak", "quiet"]
    assert looked_at(filled) == before
    assert len(live.session().ledger.entries()) == entries


def test_another_name_is_no_confirmation(live, filled):
    with pytest.raises(RefusedError, match="the migration is called 'story'"):
        decommission(live.session(), confirm="stories")
    assert filled.exists("session:01")


def test_before_a_cutover_and_after_its_return_nothing_goes(move, filled):
    move = move.but(**NOW)
    move.run()
    refused(move, "no cutover was done")
    session = cut_over(move)
    session.ledger.record(Entry("cutover", "p", outputs={"live": "source", "outcome": "done", "direction": "back"}))
    refused(move, "taken back")
    assert not outlook(move.session()).ready
    assert filled.exists("session:01")


def test_a_return_that_was_undone_changes_nothing_and_one_under_way_stops_it(live, filled):
    session = live.session()
    outputs = {"live": "target", "outcome": "undone", "direction": "back"}
    session.ledger.record(Entry("cutover_opened", "p", "cutover-2", outputs={"direction": "back", "asked": {}}))
    refused(live, "under way")
    session.ledger.record(Entry("cutover", "p", "cutover-2", outputs=outputs))
    assert run(live).deleted == 22
    with pytest.raises(RefusedError, match="no side to return to"):
        cutover(live.session(), Asked(back=True, source_is_stopped=True))


def test_before_the_soak_period_is_over_nothing_goes(live, filled):
    refused(live.but(decommission={"soak": "1h"}), "soak period is not over")
    refused(live.but(decommission={}), "24.0 hours")
    assert filled.exists("session:01")


@pytest.mark.long
def test_without_a_validation_nothing_goes(move, filled):
    move = move.but(**NOW)
    move.run()
    session = move.session()
    sync(session, complete=True)
    session.ledger.record(
        Entry("cutover", "another plan", outputs={"live": "target", "outcome": "done", "direction": "forward"})
    )
    refused(move, "No validation has passed")
    move.validate()
    assert run(move).deleted == 22


@pytest.mark.long
def test_a_target_that_was_taken_back_is_no_reason_to_delete(live, filled):
    session = live.session()
    backup.restore(session, backup.outstanding(session)[0])
    assert current_cursor(session) is None
    refused(live, "not known, or was taken back")


@pytest.mark.parametrize("what", ["changed", *(pytest.param(each, marks=pytest.mark.long) for each in SIGNS)])
def test_a_source_that_is_still_written_to_is_left_alone(live, filled, what):
    if what == "deleted":
        filled.delete("session:07")
    elif what == "expiring":
        filled.pexpireat("session:07", LATER)
    else:
        filled.set("session:07" if what == "changed" else "session:new", '{"written":"since"}')
    before = looked_at(filled)
    refused(live, "written to since the cutover")
    found = outlook(live.session())
    assert [check.name for check in found.checks if not check.passed] == ["quiet"]
    assert looked_at(filled) == before


@pytest.mark.long
def test_what_somebody_writes_while_the_archive_is_made_stops_it(live, filled, monkeypatch):
    def archived(*arguments):
        filled.set("session:07", '{"written":"since"}')
        return made(*arguments)

    made = phase.archive
    monkeypatch.setattr(phase, "archive", archived)
    refused(live, "written to since the cutover")
    assert filled.get("session:07") == b'{"written":"since"}'
    assert len(filled.keys()) == 25


def test_what_somebody_writes_while_it_is_deleted_stays_and_is_named(live, filled, monkeypatch):
    def deleted(*arguments):
        filled.set("session:07", '{"written":"since"}')
        filled.set("session:new", "{}")
        filled.delete("session:08")
        filled.persist("session:01")
        return delete(*arguments)

    delete = phase._delete
    monkeypatch.setattr(phase, "_delete", deleted)
    report = run(live)
    assert (report.deleted, report.gone, report.left.ids) == (19, 1, ("session:01", "session:07"))
    assert set(filled.keys("session:*")) == {b"session:01", b"session:07", b"session:new"}
    assert filled.get("session:07") == b'{"written":"since"}'


@pytest.mark.long
def test_what_is_written_again_as_it_was_is_told_and_not_called_deleted(live, filled, monkeypatch):
    def deleted(*arguments):
        done = delete(*arguments)
        filled.set("session:07", '{"n": 7}')
        return done

    delete = phase._delete
    monkeypatch.setattr(phase, "_delete", deleted)
    with pytest.raises(DecommissionError, match="session:07"):
        run(live)
    monkeypatch.undo()
    filled.delete("session:07")
    assert run(live).resumed


@pytest.mark.long
def test_what_expires_on_the_way_is_only_gone(move, filled):
    move = move.but(**NOW)
    filled.pexpire("session:02", 60_000)
    cut_over(move)
    filled.pexpire("session:02", 1)
    refused(move, "written to since")  # an expiry that somebody has changed is a change
    filled.delete("session:02")
    refused(move, "written to since")


@pytest.mark.long
def test_a_second_time_there_is_nothing_to_do(live, filled):
    report = run(live)
    assert outlook(live.session()).ended_at
    filled.set("session:07", "{}")
    with pytest.raises(RefusedError, match="was decommissioned at"):
        run(live)
    assert filled.exists("session:07")
    backup.restore(live.session(), backup.find(live.session(), report.archive_id))
    assert filled.get("session:07") == b'{"n": 7}'
    assert outlook(live.session()).ended_at == ""
    assert run(live).deleted == 22


def test_an_archive_goes_by_its_name_and_by_force_alone(live):
    session = live.but(backup={"keep": 1}).session()
    report = decommission(session, confirm=NAME)
    for _ in range(2):
        backup.create(session, "source")
    made = backup.find(session, report.archive_id)
    with pytest.raises(RefusedError, match="archive"):
        backup.delete(session, made)
    backup.delete(session, made, force=True)


def test_a_source_that_is_only_read_is_told_so(migration, config, tmp_path):
    (tmp_path / "states.jsonl").write_text('{"id":"a","n":1}\n')
    source = {"type": "jsonl", "path": "states.jsonl", "id": "id"}
    move = migration(source=source, target=config("file", "new"), **NOW)
    cut_over(move)
    refused(move, "it is no AG-UI store, and is only read")
    found = outlook(move.session())
    assert [check.name for check in found.checks if not check.passed] == ["deletable"]


# AG-UI stores


def write(store, kind, *rows):
    store.write(kind, pa.RecordBatch.from_pylist(list(rows), SCHEMAS[kind]))


def version(state_id, id_, at=TIME):
    document = b'{"v":1}'
    return {"state_id": state_id, "version_id": id_, "timestamp": at, "data": document, "parent_id": "", "delta": b"[]"}


def snapshot(state_id, id_):
    return {"state_id": state_id, "snapshot_id": id_, "timestamp": TIME, "data": b'{"s":1}', "version_id": ""}


@pytest.mark.parametrize(("kind", "to"), thinned(["file", "redis", "postgresql"], ["postgresql", "file"]))
def test_a_store_keeps_what_was_not_moved_and_gets_back_what_was(migration, config, opened, kind, to):
    first, second = config(kind, "old"), config(to, "new")
    store = opened(first)
    store.prepare()
    write(store, Kind.STATE, *({"state_id": f"s{i}", "data": b'{"n":%d}' % i} for i in range(8)))
    write(
        store,
        Kind.VERSION,
        *(version(f"s{i}", f"v{i}{n}", f"2025-0{n}-01T00:00:00Z") for i in range(3) for n in (1, 2)),
    )
    write(store, Kind.VERSION, version("history alone", "v9"))
    write(store, Kind.SNAPSHOT, *(snapshot(f"s{i}", f"p{i}") for i in range(3)))
    store.set_version("1.0.0")
    move = migration(source=first, target=second, history_limit=1, **NOW)
    cut_over(move)
    before = everything(store)

    report = run(move)

    assert report.left.count == report.gone == 0
    assert report.deleted == 8 + 4 + 3
    after = everything(store)
    assert [row["version_id"] for row in after[Kind.VERSION]] == ["v01", "v11", "v21"]  # beyond the limit, so not moved
    assert (after[Kind.STATE], after[Kind.SNAPSHOT], store.version()) == ([], [], "1.0.0")
    backup.restore(move.session(), backup.find(move.session(), report.archive_id))
    assert everything(store) == before


def test_nothing_is_deleted_while_the_source_is_being_put_back(live, monkeypatch):
    report = run(live)
    archive = backup.find(live.session(), report.archive_id)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(backup, "_write_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backup.restore(live.session(), archive)
    monkeypatch.undo()

    with pytest.raises(RefusedError, match=f"backup restore --id {report.archive_id}"):
        run(live)
    backup.restore(live.session(), archive)
    assert run(live).deleted == report.deleted


# A run that is killed


@pytest.fixture(scope="module")
def forker():
    opened = Forker()
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("point", "begun"),
    [
        ("before progress/*", True),
        pytest.param("before ledger/*-decommission_begun-*", False, marks=pytest.mark.long),
        pytest.param("after ledger/*-decommission_begun-*", True, marks=pytest.mark.long),
        pytest.param("after progress/*", True, marks=pytest.mark.long),
        pytest.param("before ledger/*-decommission_range-*", True, marks=pytest.mark.long),
        pytest.param("after ledger/*-decommission_range-*", True, marks=pytest.mark.long),
        pytest.param("before ledger/*-decommission-backup*", True, marks=pytest.mark.long),
    ],
)
def test_a_killed_run_is_finished_by_the_next(live, filled, forker, point, begun):
    before = looked_at(filled)
    assert forker.end(forker.start(live, point, "decommission")) == -9
    if not begun:
        assert {key: value for key, value in looked_at(filled).items() if key != LOCK_KEY} == before
    written = begun and filled.exists("session:19")
    if written:
        filled.set("session:19", '{"written":"after the kill"}')

    report = run(live)

    assert report.resumed is begun
    assert set(filled.keys()) == {b"other", b"sessio", b"queue"} | ({b"session:19"} if written else set())
    assert report.left.ids == (("session:19",) if written else ())
    assert report.deleted + report.gone + report.left.count == 22
    assert report.gone <= 3  # of the one batch of which nobody knows what became
    backup.restore(live.session(), backup.find(live.session(), report.archive_id))
    assert looked_at(filled) == before


# Pace


def test_no_more_go_per_second_than_configured(live, filled, monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(phase, "time", SimpleNamespace(monotonic=lambda: clock.now))
    session = live.but(decommission={"soak": "0s", "rate": 4, "batch": 100}).session()
    monkeypatch.setattr(session.stop, "wait", wait)
    began = clock.now
    assert decommission(session, confirm=NAME).deleted == 22
    assert clock.now - began == pytest.approx(22 / 4 - 1, abs=1.1)  # a second's worth goes at once
    assert max(waits) <= 0.5


@pytest.mark.long
def test_a_run_that_is_stopped_while_it_waits_ends_at_once(live):
    session = live.but(decommission={"soak": "0s", "rate": 0.001, "batch": 1}).session()
    threading.Timer(0.3, session.stop.set).start()
    with pytest.raises(StoppedError):
        decommission(session, confirm=NAME)
