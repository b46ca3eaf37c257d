"""A run that was killed, wherever it stood, is finished by the same command, with the result of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import re
import signal

import pytest

from agui_pipelines.errors import RejectLimitError, StagingError
from agui_pipelines.ledger import Ledger
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.leftovers import remove_leftovers
from agui_pipelines.phases.plan import current, plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import staged_ranges, transform
from agui_pipelines.phases.validate import validate
from tests.integration.forker import Forker

STATES = 240
RANGES = 4
BATCH = 10


@pytest.fixture(scope="module")
def forker():
    forker = Forker()
    yield forker
    forker.close()


@pytest.fixture
def move(move):
    return move.but(ranges=RANGES, batch_size=BATCH, parallelism=2)


@pytest.fixture
def expected(legacy):
    """A filled legacy system; the target's documents after an undisturbed run."""
    states = {f"{i:05}": {"number": i, "text": "x" * (i % 50)} for i in range(STATES)}
    legacy.mset({f"session:{name}": json.dumps(document) for name, document in states.items()})
    return states


def moved(target):
    return {name: json.loads(text) for name, text in target.documents().items()}


def finished(move, phase):
    """The snapshot of each range that the ledger has as finished."""
    return {e.unit: e.outputs["snapshot_id"] for e in move.session().ledger.entries(phase=phase)}


POINTS = [
    pytest.param("after catalogues/*", {0}, id="catalogue there, no plan"),
    pytest.param(f"after ledger/{'?' * 20}-plan.json", {0}, id="planned", marks=pytest.mark.long),
    pytest.param("after snapshots/exported-02-*/state-*", {1, 2, 3}, id="segment sealed, no manifest"),
    pytest.param("after snapshots/exported-02-*/manifest.json", {1, 2, 3}, id="manifest there, not in the ledger"),
    pytest.param("after ledger/*-export-02.json", {2, 3, 4}, id="a range exported", marks=pytest.mark.long),
    pytest.param("after ledger/*-timing-export.json", {RANGES}, id="everything exported"),
    pytest.param("before snapshots/staged-03-*/manifest.json", {RANGES}, id="within transform", marks=pytest.mark.long),
    pytest.param("after ledger/*-timing-transform.json", {RANGES}, id="everything staged", marks=pytest.mark.long),
    pytest.param("batches 7", {RANGES}, id="a batch committed"),
    pytest.param("before ledger/*-import-03.json", {RANGES}, id="a range written, not in the ledger"),
    pytest.param("after ledger/*-timing-import.json", {RANGES}, id="everything imported"),
    pytest.param("after reports/*", {RANGES}, id="report there, not in the ledger"),
]
"""Where a run is killed, and how many ranges the ledger may then have as exported: two are worked on at a time."""


@pytest.mark.parametrize(("point", "exported"), POINTS)
def test_a_run_killed_at_a_point_is_finished_by_the_next_one(move, target, expected, forker, point, exported):
    assert forker.end(forker.start(move, point)) == -signal.SIGKILL
    before = {phase: finished(move, phase) for phase in ("export", "transform", "import")}
    assert len(before["export"]) in exported

    outcome = move.run()

    assert outcome.validation.passed
    assert outcome.validation.kinds["state"].migrated == STATES
    assert moved(target) == expected
    after = {phase: finished(move, phase) for phase in before}
    assert all(before[phase].items() <= after[phase].items() for phase in before)
    assert {r.range for r in outcome.exported.ranges if r.resumed} == before["export"].keys()
    assert {r.range for r in outcome.staged.ranges if r.resumed} == before["transform"].keys()
    assert {r.range for r in outcome.imported.ranges if r.resumed} == before["import"].keys()
    assert outcome.imported.written.total == STATES


def test_runs_killed_at_random_moments_come_to_the_same_end(move, target, expected, forker):
    chance = random.Random(20250714)
    before = {}
    codes = []
    for code in forker.killed_at_random(move, chance, 0.1):
        codes.append(code)
        assert before.items() <= finished(move, "export").items()
        before = finished(move, "export")

    assert codes.count(-signal.SIGKILL) >= 2
    assert set(codes) <= {0, -signal.SIGKILL}
    assert moved(target) == expected
    assert len(move.session().ledger.entries(phase="export")) == RANGES
    assert move.validate().passed


def test_what_a_killed_run_left_behind_is_not_read(legacy, move, target, expected, forker):
    forker.end(forker.start(move, "before snapshots/exported-02-*/manifest.json"))
    snapshots = move.workspace / "snapshots"
    orphans = {f.parent for f in snapshots.glob("exported-02-*/state-*.parquet")}
    assert len(orphans) == 1
    for file in snapshots.glob("exported-02-*/state-*.parquet"):
        file.write_bytes(b"half a segment")

    outcome = move.run()

    assert outcome.validation.passed
    assert moved(target) == expected
    assert not {r.snapshot_id for r in outcome.exported.ranges} & {folder.name for folder in orphans}


def test_what_a_killed_run_left_behind_is_removed_after_a_day(move, target, expected, forker):
    forker.end(forker.start(move, "before snapshots/exported-02-*/manifest.json"))
    [orphan] = {f.parent for f in (move.workspace / "snapshots").glob("exported-02-*/state-*.parquet")}
    old = orphan.rename(re.sub(r"\d{8}T", "20260101T", str(orphan)))
    catalogue = move.workspace / "catalogues" / "plan-20260101T000000-abcdef.parquet"
    aside = move.workspace / "ledger" / ".x.json.abcd1234.tmp"
    for file in (catalogue, aside):
        file.write_bytes(b"half")
    os.utime(aside, (0, 0))
    fresh = move.workspace / "ledger" / ".y.json.abcd1234.tmp"
    fresh.write_bytes(b"being written")
    kept = {path.name for path in (move.workspace / "snapshots").iterdir()} - {old.name}

    assert move.run().validation.passed

    assert kept <= {path.name for path in (move.workspace / "snapshots").iterdir()}
    assert [path for path in (old, catalogue, aside) if path.exists()] == []
    assert fresh.exists()


def test_how_far_an_abandoned_plan_had_come_is_forgotten_and_the_open_ones_is_not(move, target, expected):
    session, made = move.stage()
    for snapshot in staged_ranges(session, made).values():
        session.workspace.write(f"progress/{snapshot.manifest.snapshot_id}.json", b"{}")
    remove_leftovers(session)
    assert len(session.workspace.names("progress")) == len(made.ranges)

    assert move.run(fresh=True).validation.passed

    assert session.workspace.names("progress") == []


def test_two_runs_at_the_same_time_do_no_harm(move, target, expected, forker):
    both = [forker.start(move), forker.start(move)]

    codes = [forker.end(pid) for pid in both]

    assert 0 in codes
    assert moved(target) == expected


def test_a_terminated_phase_stops_its_workers_and_resumes(move, target, expected):
    told = []

    def stop_in_import(progress):
        told.append(progress)
        if progress.phase == "import" and not progress.done >= STATES:
            raise KeyboardInterrupt

    session = move.session()
    impatient = type(session)(session.migration, session.workspace, session.ledger, stop_in_import)
    made = plan(impatient)
    names = [r.name for r in made.ranges]
    export(impatient, made, names)
    transform(impatient, made, names)
    with pytest.raises(KeyboardInterrupt):
        import_(impatient, made, names)

    outcome = move.run()

    assert outcome.plan.resumed
    assert outcome.validation.passed
    assert moved(target) == expected


def disturbed(move, phase, sever):
    """A run during which something severs the connections as soon as a phase has begun; what it had to say of that."""
    severed, notes = [], []

    def listen(progress):
        notes.extend(filter(None, [progress.note]))
        if progress.phase == phase and not severed:
            severed.append(progress)
            sever()

    session = move.session()
    listening = type(session)(session.migration, session.workspace, session.ledger, listen)
    made = plan(listening)
    names = [r.name for r in made.ranges]
    export(listening, made, names)
    transform(listening, made, names)
    imported = import_(listening, made, names)
    validation = validate(listening, made)
    assert severed
    return notes, imported, validation


def test_a_connection_to_the_source_that_breaks_is_made_anew_and_costs_nothing(legacy, move, target):
    states = {f"{i:05}": {"number": i} for i in range(10_000)}
    legacy.mset({f"session:{name}": json.dumps(document) for name, document in states.items()})
    sever = lambda: legacy.client_kill_filter(_type="normal", skipme=True)  # noqa: E731

    notes, imported, validation = disturbed(move.but(batch_size=1000), "plan", sever)

    assert "Trying again" in notes[0]
    assert imported.written.inserted == len(states)
    assert validation.passed
    assert moved(target) == states


@pytest.mark.parametrize("phase", ["import", "validate"])
def test_a_connection_to_the_target_that_breaks_is_made_anew_and_counts_nothing_twice(move, target, expected, phase):
    def sever():
        target.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    notes, imported, validation = disturbed(move, phase, sever)

    assert "Trying again" in notes[0]
    assert imported.written.total == STATES
    assert validation.passed
    states = validation.kinds["state"]
    assert (states.total, states.migrated, states.extra.count) == (STATES, STATES, 0)
    assert moved(target) == expected


def test_a_range_with_rejects_is_exported_again_once_its_source_was_mended(legacy, move, target, expected):
    legacy.set("session:00100", rb'{"a":"\u0000"}')
    with pytest.raises(RejectLimitError):
        move.run()
    before = finished(move, "export")
    legacy.set("session:00100", json.dumps(expected["00100"]))

    outcome = move.run()

    after = finished(move, "export")
    assert outcome.plan.resumed
    assert outcome.validation.passed
    assert moved(target) == expected
    [mended] = [name for name in before if before[name] != after[name]]
    assert {r.range for r in outcome.staged.ranges if not r.resumed} == {mended}


def test_rejects_that_were_mended_no_longer_count(legacy, move, target, expected):
    for number in range(0, STATES, 20):
        legacy.set(f"session:{number:05}", rb'{"a":"\u0000"}')
    with pytest.raises(RejectLimitError, match="12 records"):
        move.run()
    for number in range(20, STATES, 20):
        legacy.set(f"session:{number:05}", json.dumps(expected[f"{number:05}"]))

    with pytest.raises(RejectLimitError, match="1 record was"):
        move.run()


@pytest.mark.parametrize(
    "changes",
    [{"source": "match"}, {"transforms": []}, {"ranges": RANGES - 1}],
    ids=["source", "transforms", "ranges"],
)
def test_a_changed_migration_file_makes_a_new_plan(move, expected, changes):
    if changes.get("source"):
        changes = {"source": {**move.text["source"], "match": "session:0*"}}
    first = plan(move.session())

    second = plan(move.but(**changes).session())

    assert not second.resumed
    assert second.plan_id != first.plan_id


@pytest.mark.parametrize(
    "changes", [{"batch_size": 7}, {"parallelism": 1}, {"limits": {"max_rejects": 3}}, {"workspace": "./.agui"}]
)
def test_what_does_not_change_the_result_does_not_change_the_plan(move, expected, changes):
    first = plan(move.session())

    second = plan(move.but(**changes).session())

    assert second.plan_id == first.plan_id


def test_a_phase_alone_refuses_a_plan_of_another_migration_file(move, expected):
    plan(move.session())

    with pytest.raises(StagingError, match="changed since"):
        current(move.but(transforms=[]).session())


def test_a_concluded_plan_is_not_resumed(move, target, expected):
    first = move.run()

    second = move.run()

    assert second.plan.plan_id != first.plan.plan_id
    assert not second.plan.resumed
    assert not any(r.resumed for r in second.exported.ranges)
    assert second.imported.written.unchanged == STATES


def test_a_failed_validation_concludes_its_plan_too(move, target, expected):
    session, made = move.stage()
    import_(session, made, [r.name for r in made.ranges])
    target.execute("DELETE FROM ag_states WHERE state_id = '00007'")
    assert not validate(session, made).passed

    outcome = move.run()

    assert not outcome.plan.resumed
    assert outcome.validation.passed
    assert moved(target) == expected


def test_fresh_starts_over(move, target, expected):
    move.stage()
    before = finished(move, "export")

    outcome = move.run(fresh=True)

    assert not outcome.plan.resumed
    assert not any(r.resumed for r in outcome.exported.ranges)
    assert not {*before.values()} & {r.snapshot_id for r in outcome.exported.ranges}
    assert moved(target) == expected


def test_a_plan_of_another_source_is_not_resumed(legacy, move, target, expected, fresh_redis, monkeypatch):
    monkeypatch.setenv("STORY_SOURCE", move.text["source"]["connection_url"])
    variable = move.but(source={**move.text["source"], "connection_url": "${STORY_SOURCE}"})
    variable.stage()
    fresh_redis()
    monkeypatch.setenv("STORY_SOURCE", fresh_redis())

    outcome = variable.run()

    assert outcome.validation.kinds["state"].total == 0
    assert moved(target) == {}


def test_a_plan_of_another_target_is_not_resumed(move, target, expected, fresh_postgres, monkeypatch):
    other = type(target)(fresh_postgres())
    monkeypatch.setenv("STORY_TARGET", target.url)
    variable = move.but(target={**target.config, "connection_url": "${STORY_TARGET}"})
    session, made = variable.stage()
    import_(session, made, [r.name for r in made.ranges])
    monkeypatch.setenv("STORY_TARGET", other.url)

    outcome = variable.run()

    assert outcome.validation.passed
    assert moved(other) == expected


def test_a_plan_with_another_number_of_ranges_is_not_resumed(move, target, expected):
    """The number comes from Dagster's partitions, and so may differ although the file is the same."""
    move.stage()
    session = move.session()
    fewer = Session(
        session.migration.model_copy(update={"ranges": RANGES - 2}), session.workspace, Ledger(session.workspace)
    )

    made = plan(fewer)

    assert not made.resumed
    assert len(made.ranges) == RANGES - 2


def test_a_lost_catalogue_makes_a_new_plan(move, target, expected):
    _, made = move.stage()
    (move.workspace / made.catalogue).unlink()

    outcome = move.run()

    assert not outcome.plan.resumed
    assert moved(target) == expected


def test_a_lost_segment_is_told_and_fresh_helps(move, target, expected):
    move.stage()
    next((move.workspace / "snapshots").glob("staged-02-*/state-*.parquet")).unlink()

    with pytest.raises(StagingError, match="--fresh"):
        move.run()

    assert move.run(fresh=True).validation.passed
    assert moved(target) == expected


def test_a_damaged_ledger_entry_is_told(move, expected):
    plan(move.session())
    [entry] = (move.workspace / "ledger").glob(f"{'?' * 20}-plan.json")
    entry.write_bytes(entry.read_bytes()[:-20])

    with pytest.raises(StagingError, match=r"ledger entry .*-plan\.json is damaged"):
        plan(move.session())
