"""A run that was killed, wherever it stood, is finished by the same command, with the result of an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from agui_pipelines.errors import RejectLimitError, StagingError
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.plan import current, is_open, plan
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import validate

STATES = 240
RANGES = 6
BATCH = 10

DRIVER = """
import contextlib, fnmatch, json, os, signal, sys
from agui_pipelines import spec
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import validate
from agui_pipelines.phases.session import Session
from agui_pipelines.progress import Meter
from agui_pipelines.staging import Workspace

text, folder, point = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
when, _, pattern = point.partition(" ")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

writing, add = Workspace.writing, Meter.add
batches = 0

@contextlib.contextmanager
def deadly_writing(self, name, **options):
    with writing(self, name, **options) as file:
        yield file
        if when == "before" and fnmatch.fnmatch(name, pattern):
            die()
    if when == "after" and fnmatch.fnmatch(name, pattern):
        die()

def deadly_add(self, records, bytes_=0):
    global batches
    add(self, records, bytes_)
    batches += self.phase == "import"
    if when == "batches" and batches == int(pattern):
        die()

Workspace.writing, Meter.add = deadly_writing, deadly_add
session = Session.open(spec.parse(text, folder=__import__("pathlib").Path(folder)))
print("ready", flush=True)
made = plan(session)
names = [r.name for r in made.ranges]
for phase in (export, transform, import_):
    phase(session, made, names)
print("passed" if validate(session, made).passed else "failed", flush=True)
"""


@pytest.fixture
def move(move):
    return move.but(ranges=RANGES, batch_size=BATCH, parallelism=2)


@pytest.fixture
def expected(legacy):
    """A filled legacy system; the target's documents after an undisturbed run."""
    states = {f"{i:05}": {"number": i, "text": "x" * (i % 50)} for i in range(STATES)}
    legacy.mset({f"session:{name}": json.dumps(document) for name, document in states.items()})
    return states


def start(move, point=""):
    """A process of its own that runs the migration and, if told to, kills itself at a point."""
    command = [sys.executable, "-c", DRIVER, json.dumps(move.text), str(move.folder), point]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed(move, point):
    process = start(move, point)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, f"the run never came to {point!r}: {output}"


def moved(target):
    return {name: json.loads(text) for name, text in target.documents().items()}


def finished(move, phase):
    """The snapshot of each range that the ledger has as finished."""
    return {e.unit: e.outputs["snapshot_id"] for e in move.session().ledger.entries(phase=phase)}


POINTS = [
    pytest.param("after catalogues/*", 0, id="catalogue there, no plan"),
    pytest.param("after ledger/*-plan.json", 0, id="planned"),
    pytest.param("after snapshots/exported-02-*/state-*", 2, id="segment sealed, no manifest"),
    pytest.param("after snapshots/exported-02-*/manifest.json", 2, id="manifest there, not in the ledger"),
    pytest.param("after ledger/*-export-02.json", 3, id="a range exported"),
    pytest.param("after ledger/*-timing-export.json", RANGES, id="everything exported"),
    pytest.param("before snapshots/staged-03-*/manifest.json", RANGES, id="within transform"),
    pytest.param("after ledger/*-timing-transform.json", RANGES, id="everything staged"),
    pytest.param("batches 7", RANGES, id="a batch committed"),
    pytest.param("before ledger/*-import-03.json", RANGES, id="a range written, not in the ledger"),
    pytest.param("after ledger/*-timing-import.json", RANGES, id="everything imported"),
    pytest.param("after reports/*", RANGES, id="report there, not in the ledger"),
]


@pytest.mark.parametrize(("point", "at_least"), POINTS)
def test_a_run_killed_at_a_point_is_finished_by_the_next_one(move, target, expected, point, at_least):
    killed(move, point)
    before = finished(move, "export")
    staged = finished(move, "transform")
    imported = finished(move, "import")
    assert len(before) >= at_least - 1  # two ranges are worked on at a time

    outcome = move.run()

    assert outcome.validation.passed
    assert outcome.validation.kinds["state"].migrated == STATES
    assert moved(target) == expected
    assert before.items() <= finished(move, "export").items()
    assert staged.items() <= finished(move, "transform").items()
    assert {r.range for r in outcome.exported.ranges if r.resumed} == before.keys()
    assert {r.range for r in outcome.imported.ranges if r.resumed} == imported.keys()
    assert outcome.imported.written.total == STATES
    assert not [file for file in move.workspace.rglob("*.tmp") if file.stat().st_mtime > time.time() + 60]


def test_runs_killed_at_random_moments_come_to_the_same_end(move, target, expected):
    chance = random.Random(20250714)
    exported = {}
    for _ in range(40):
        process = start(move)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.02, 0.4))
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        now = finished(move, "export")
        assert exported.items() <= now.items()
        exported = now
        if "passed" in output:
            break
    else:
        assert move.run().validation.passed

    assert moved(target) == expected
    assert len(exported) == RANGES
    assert len(move.session().ledger.entries(phase="plan")) <= 40


def test_what_a_killed_run_left_behind_is_not_read(legacy, move, target, expected):
    killed(move, "before snapshots/exported-02-*/manifest.json")
    [orphan] = [
        folder
        for folder in (move.workspace / "snapshots").glob("exported-02-*")
        if not (folder / "manifest.json").exists()
    ]
    assert list(orphan.glob("state-*.parquet"))
    for file in orphan.glob("state-*.parquet"):
        file.write_bytes(b"half a segment")
    legacy.set("session:00090", json.dumps({"number": "changed meanwhile"}))

    outcome = move.run()

    assert outcome.validation.passed
    assert moved(target).keys() == expected.keys()


def test_two_runs_at_the_same_time_do_no_harm(move, target, expected):
    processes = [start(move), start(move)]

    outputs = [process.communicate(timeout=60)[0] for process in processes]

    assert [process.returncode for process in processes].count(0) >= 1, outputs
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


def test_a_range_with_rejects_is_exported_again_once_its_source_was_mended(legacy, move, target, expected):
    legacy.delete("session:00100")
    legacy.rpush("session:00100", "a list")
    with pytest.raises(RejectLimitError):
        move.run()
    before = finished(move, "export")
    legacy.delete("session:00100")
    legacy.set("session:00100", json.dumps(expected["00100"]))

    outcome = move.run()

    after = finished(move, "export")
    assert outcome.plan.resumed
    assert outcome.validation.passed
    assert moved(target) == expected
    assert [name for name in before if before[name] != after[name]] == ["02"]
    assert {r.range for r in outcome.staged.ranges if not r.resumed} == {"02"}


def test_rejects_that_were_mended_no_longer_count(legacy, move, target, expected):
    for number in range(0, STATES, 20):
        legacy.delete(f"session:{number:05}")
        legacy.rpush(f"session:{number:05}", "a list")
    with pytest.raises(RejectLimitError, match="12 records"):
        move.run()
    for number in range(20, STATES, 20):
        legacy.delete(f"session:{number:05}")
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

    assert second.resumed
    assert second.plan_id == first.plan_id


def test_a_phase_alone_refuses_a_plan_of_another_migration_file(move, expected):
    plan(move.session())

    with pytest.raises(StagingError, match="changed since"):
        current(move.but(transforms=[]).session())


def test_a_concluded_plan_is_not_resumed(move, target, expected):
    first = move.run()
    assert not is_open(move.session(), first.plan.plan_id)

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
    assert before.values().isdisjoint(r.snapshot_id for r in outcome.exported.ranges)
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


def test_a_plan_of_another_target_is_not_resumed(
    move, target, expected, fresh_postgres, monkeypatch
):
    other = type(target)(fresh_postgres())
    monkeypatch.setenv("STORY_TARGET", target.url)
    variable = move.but(target={**target.config, "connection_url": "${STORY_TARGET}"})
    session, made = variable.stage()
    import_(session, made, [r.name for r in made.ranges])
    monkeypatch.setenv("STORY_TARGET", other.url)

    outcome = variable.run()

    assert outcome.validation.passed
    assert moved(other) == expected


def test_a_lost_catalogue_makes_a_new_plan(move, target, expected):
    session, made = move.stage()
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
    [entry] = (move.workspace / "ledger").glob("*-plan.json")
    entry.write_bytes(entry.read_bytes()[:-20])

    with pytest.raises(StagingError, match="ledger entry .*-plan.json is damaged"):
        plan(move.session())


