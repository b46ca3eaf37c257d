"""When a schedule lets a run begin, and what it says when it does not."""

from __future__ import annotations

import dagster as dg
import pytest
import yaml
from dagster._core.utils import make_new_run_id

from agui_pipelines import run_tags, spec
from agui_pipelines.automation.schedules import incremental_sync, verify_sample_nightly
from agui_pipelines.errors import UnreachableError
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.steps import PHASE as CUTOVER
from tests.integration.conftest import Move

STARTED = dg.DagsterRunStatus.STARTED


@pytest.fixture
def instance(tmp_path):
    """One that a schedule, which Dagster evaluates in another process, can refer to."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def tick(launcher, instance, monkeypatch):
    """What a tick says: the request of a run, or the reason why there is none."""
    file = launcher.folder / "migration.yaml"
    file.write_text(yaml.safe_dump(launcher.text))
    monkeypatch.setenv(spec.FILE_VARIABLE, str(file))

    def tick(schedule=incremental_sync):
        with dg.build_schedule_context(instance=instance) as context:
            data = schedule.evaluate_tick(context)
        return data.skip_message or data.run_requests

    return tick


def rewritten(launcher, **changes):
    (launcher.folder / "migration.yaml").write_text(yaml.safe_dump({**launcher.text, **changes}))


@pytest.mark.parametrize(
    ("schedule", "line"), [(incremental_sync, "*/15 * * * *"), (verify_sample_nightly, "7 3 * * *")]
)
def test_they_are_off_until_somebody_switches_them_on_and_come_when_the_migration_file_says(schedule, line):
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert (schedule.cron_schedule, schedule.execution_timezone) == (line, "UTC")


@pytest.mark.parametrize(
    ("schedule", "job"), [(incremental_sync, "sync"), (verify_sample_nightly, "verify_sample")], ids=["sync", "verify"]
)
def test_ticks_are_skipped_with_the_reason_until_one_is_due(launcher, instance, tick, schedule, job):
    session = Session.open(spec.parse(launcher.text, folder=launcher.folder))
    assert "has not been validated" in tick(schedule)

    Move(launcher.text, launcher.folder).run()
    [request] = tick(schedule)
    assert request.run_config == {}
    assert schedule.job_name == job

    with Session.open(spec.parse({**launcher.text, "name": "another"}, folder=launcher.folder)).exclusive():
        assert "The migration 'another' (process " in tick(schedule)

    run = instance.create_run_for_job(dg.job(name=job)(lambda: None), status=dg.DagsterRunStatus.STARTED)
    assert tick(schedule) == f"The run {run.run_id} of {job} has not ended yet."
    instance.delete_run(run.run_id)

    session.ledger.record(Entry(CUTOVER, "plan", "cutover", outputs={"live": "target", "outcome": "done"}))
    assert tick(schedule) == (
        "The target is live since its cutover. What applications have written there since would be overwritten by what the "
        "source held before. To return to the source, with what was written since: agui-migrate cutover --back."
    )


def test_a_run_of_another_migration_is_in_nobodys_way(launcher, instance, tick):
    Move(launcher.text, launcher.folder).run()

    def begun(migration):
        run_id = make_new_run_id()
        instance.add_run(dg.DagsterRun("sync", run_id, status=STARTED, tags=run_tags.tags(migration, run_id)))
        return run_id

    begun("another")
    [request] = tick()
    assert isinstance(request, dg.RunRequest)

    own = begun("launched")
    begun("another")
    assert tick() == f"The run {own} of sync has not ended yet."


def test_a_run_that_repeats_one_of_another_migration_may_be_of_this_one(launcher, instance, tick):
    Move(launcher.text, launcher.folder).run()
    tags = run_tags.tags("another", make_new_run_id())
    repeated = dg.DagsterRun("sync", make_new_run_id(), status=dg.DagsterRunStatus.STARTING, tags=tags)
    instance.add_run(repeated)

    assert tick() == f"The run {repeated.run_id} of sync has not ended yet."


def test_a_target_that_cannot_be_reached_skips_nothing_so_that_the_run_fails(launcher, tick, monkeypatch):
    monkeypatch.setenv("TARGET_URL", launcher.text["target"]["connection_url"])
    target = {**launcher.text["target"], "connection_url": "${TARGET_URL}"}
    Move({**launcher.text, "target": target}, launcher.folder).run()
    rewritten(launcher, target=target)
    [request] = tick()

    monkeypatch.setenv("TARGET_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(UnreachableError):
        Session.open(spec.load()).require_unlocked()
    [request] = tick()
    assert isinstance(request, dg.RunRequest)


def test_a_ledger_that_is_damaged_skips_nothing_so_that_the_run_fails(launcher, tick):
    Move(launcher.text, launcher.folder).run()
    next((launcher.folder / ".agui" / "launched" / "ledger").iterdir()).write_bytes(b"[")

    [request] = tick()
    assert isinstance(request, dg.RunRequest)


@pytest.mark.parametrize("schedules", [{"sync": "0 2 * * *"}, {"max_lag": "2h"}])
def test_schedules_that_were_changed_since_they_were_loaded_skip_the_tick(launcher, tick, schedules):
    Move(launcher.text, launcher.folder).run()
    rewritten(launcher, schedules=schedules)

    assert tick().endswith("reload the code location.")


def test_a_migration_in_place_is_never_due(launcher, tick, redis_url):
    store = {"type": "redis", "connection_url": redis_url}
    rewritten(launcher, source=store, target=store, in_place=True, transforms=["format_1_to_2"])

    assert tick().startswith("A migration in place has nothing to sync")


def test_a_migration_file_that_cannot_be_read_skips_the_tick(launcher, tick):
    (launcher.folder / "migration.yaml").write_text("name: [")

    assert "migration.yaml" in tick()
