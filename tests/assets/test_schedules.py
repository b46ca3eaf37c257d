"""When a schedule lets a run begin, and what it says when it does not."""

from __future__ import annotations

import dagster as dg
import pytest
import yaml

from agui_pipelines import spec
from agui_pipelines.automation.schedules import incremental_sync
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.steps import PHASE as CUTOVER
from tests.integration.conftest import Move


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

    def tick():
        with dg.build_schedule_context(instance=instance) as context:
            data = incremental_sync.evaluate_tick(context)
        return data.skip_message or data.run_requests

    return tick


def test_it_is_off_until_somebody_switches_it_on_and_comes_every_quarter_of_an_hour():
    assert incremental_sync.default_status is dg.DefaultScheduleStatus.STOPPED
    assert (incremental_sync.cron_schedule, incremental_sync.execution_timezone) == ("*/15 * * * *", "UTC")


def test_ticks_are_skipped_with_the_reason_until_one_is_due(launcher, instance, tick):
    session = Session.open(spec.parse(launcher.text, folder=launcher.folder))
    assert "has not been validated" in tick()

    Move(launcher.text, launcher.folder).run()
    [request] = tick()
    assert request.run_config == {}

    with Session.open(spec.parse({**launcher.text, "name": "another"}, folder=launcher.folder)).exclusive():
        assert "The migration 'another' (process " in tick()

    run = instance.create_run_for_job(dg.job(name="sync")(lambda: None), status=dg.DagsterRunStatus.STARTED)
    assert tick() == f"The run {run.run_id} of sync has not ended yet."
    instance.delete_run(run.run_id)

    session.ledger.record(Entry(CUTOVER, "plan", "cutover", outputs={"live": "target", "outcome": "done"}))
    assert "live" in tick()


def test_a_migration_file_that_cannot_be_read_skips_the_tick(launcher, tick):
    (launcher.folder / "migration.yaml").write_text("name: [")

    assert "migration.yaml" in tick()
