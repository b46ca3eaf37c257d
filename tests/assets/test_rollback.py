"""Runs of the UI that fail or are cancelled are taken back by a run of their own."""

from __future__ import annotations

import dagster as dg
import psycopg
import pytest
from dagster._core.utils import make_new_run_id

from agui_pipelines import spec
from agui_pipelines.automation.sensors import ATTEMPTS, rollback_after_cancellation, rollback_after_failure
from agui_pipelines.definitions import defs
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.steps import PHASE as CUTOVER
from assets import import_ as import_asset
from tests.assets.test_jobs import failure_of

SPOILED = """
    CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.data := '{"not": "what was sent"}'; RETURN NEW; END $$;
    CREATE TRIGGER spoil BEFORE INSERT ON ag_states FOR EACH ROW WHEN (NEW.state_id = '042') EXECUTE FUNCTION spoil()
"""


@pytest.fixture
def spoiled(postgres_url):
    """A target that holds one state, and does not keep another one as it was sent."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE ag_states (state_id varchar(255) PRIMARY KEY, data jsonb NOT NULL,"
            " created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now())"
        )
        connection.execute("INSERT INTO ag_states VALUES ('007', '{\"was\": \"here\"}')")
        connection.execute(SPOILED)


def asked(sensor, instance, result):
    """What a sensor requests when it sees how a run ended."""
    run = result.dagster_run if hasattr(result, "dagster_run") else result
    run = instance.get_run_by_id(run.run_id)
    [event] = [
        record.event_log_entry.dagster_event
        for record in instance.get_records_for_run(run.run_id).records
        if record.event_log_entry.dagster_event
        and record.event_log_entry.dagster_event.event_type
        in (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED)
    ]
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name, dagster_instance=instance, dagster_run=run, dagster_event=event
    )
    return sensor(context)


def rolled_back(instance, request, *, check=True):
    return defs.resolve_job_def("rollback").execute_in_process(
        instance=instance,
        run_config={**request.run_config, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        tags=request.tags,
        raise_on_error=check,
    )


def test_a_failed_run_is_taken_back(launcher, instance, spoiled, moved):
    failed = launcher.launch()
    assert not failed.success
    assert len(moved()) == 100

    request = asked(rollback_after_failure, instance, failed)

    assert request.run_key == f"rollback-{failed.run_id}"
    assert int(request.tags["dagster/priority"]) > 0  # before all else that waits for the target
    assert rolled_back(instance, request).success
    assert moved() == {"007": {"was": "here"}}
    assert rolled_back(instance, request).success  # again, which changes nothing
    assert moved() == {"007": {"was": "here"}}


def test_a_cancelled_run_is_taken_back(launcher, instance, moved, monkeypatch, spoiled):
    def cancelled(session, plan, ranges):
        original(session, plan, ranges)
        instance.report_run_canceling(instance.get_run_by_id(session.run_id))
        raise dg.DagsterExecutionInterruptedError

    original = import_asset.import_
    monkeypatch.setattr(import_asset, "import_", cancelled)
    run_id = make_new_run_id()
    launcher.launch(run_id=run_id)
    assert instance.get_run_by_id(run_id).status is dg.DagsterRunStatus.CANCELED
    assert len(moved()) == 100

    request = asked(rollback_after_cancellation, instance, instance.get_run_by_id(run_id))

    assert rolled_back(instance, request).success
    assert moved() == {"007": {"was": "here"}}


def test_a_run_that_failed_before_it_wrote_is_let_be(launcher, instance, legacy, moved):
    legacy.set("session:bad", rb'{"a":"\u0000"}')
    failed = launcher.launch()
    assert not failed.success

    assert isinstance(asked(rollback_after_failure, instance, failed), dg.SkipReason)
    assert moved() is None


def test_a_run_of_one_range_does_not_take_back_what_others_imported(launcher, instance, moved, postgres_url):
    assert launcher.launch().success
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(SPOILED.replace("INSERT", "INSERT OR UPDATE").replace("NEW.state_id = '042'", "true"))
        connection.execute("UPDATE ag_states SET data = '{}'")
    ranges = ["exported_snapshot", "staged_snapshot", "target_states"]
    assert launcher.launch(ranges=("03", "03"), assets=ranges).success
    failed = launcher.launch(ranges=("03", "03"), assets=[*ranges, "validation_report"])
    assert not failed.success

    done = rolled_back(instance, asked(rollback_after_failure, instance, failed))

    [output] = done.filter_events(lambda event: event.event_type_value == "STEP_OUTPUT")
    assert output.step_output_data.metadata["status"].value == "kept"
    assert len(moved()) == 100


def test_the_job_alone_takes_back_the_newest_migration(launcher, instance, moved, spoiled, tmp_path, monkeypatch):
    launcher.launch()
    assert len(moved()) == 100
    monkeypatch.setenv("AGUI_MIGRATION", str(tmp_path / "migration.yaml"))

    done = defs.resolve_job_def("rollback").execute_in_process(instance=instance)

    assert done.success
    assert moved() == {"007": {"was": "here"}}


@pytest.fixture
def locked_out(launcher, instance, spoiled):
    """A failed run, and its rollback, which found another migration writing there; what held the lock is over."""
    failed = launcher.launch()
    request = asked(rollback_after_failure, instance, failed)
    with Session.open(spec.parse({**launcher.text, "name": "other"}, folder=launcher.folder)).exclusive():
        rollback = rolled_back(instance, request, check=False)
    assert not rollback.success
    return failed, rollback


def test_a_rollback_that_found_another_migration_writing_is_tried_again(locked_out, instance, moved):
    failed, rollback = locked_out
    assert len(moved()) == 100

    again = asked(rollback_after_failure, instance, rollback)

    assert again.run_key == f"rollback-{failed.run_id}-2"
    assert int(again.tags["dagster/priority"]) > 0
    assert rolled_back(instance, again).success
    assert moved() == {"007": {"was": "here"}}


def test_a_rollback_is_not_tried_again_for_ever_and_that_is_said(launcher, instance, spoiled):
    request = asked(rollback_after_failure, instance, launcher.launch())
    keys = [request.run_key]
    with Session.open(spec.parse({**launcher.text, "name": "other"}, folder=launcher.folder)).exclusive():
        while isinstance(request, dg.RunRequest):
            request = asked(rollback_after_failure, instance, rolled_back(instance, request, check=False))
            keys += [request.run_key] if isinstance(request, dg.RunRequest) else []

    assert len(set(keys)) == len(keys) == ATTEMPTS
    assert "agui-migrate rollback" in request.skip_message


def test_a_rollback_that_failed_for_another_reason_or_was_asked_for_is_not_tried_again(
    launcher, instance, spoiled, postgres_url, tmp_path, monkeypatch
):
    request = asked(rollback_after_failure, instance, launcher.launch())
    for segment in tmp_path.glob(".agui/launched/snapshots/backup-*/state-*.parquet"):
        segment.unlink()
    rollback = rolled_back(instance, request, check=False)
    assert not rollback.success
    assert isinstance(asked(rollback_after_failure, instance, rollback), dg.SkipReason)

    monkeypatch.setenv("AGUI_MIGRATION", str(tmp_path / "migration.yaml"))
    with Session.open(spec.parse({**launcher.text, "name": "other"}, folder=launcher.folder)).exclusive():
        by_hand = defs.resolve_job_def("rollback").execute_in_process(instance=instance, raise_on_error=False)
    assert not by_hand.success
    assert isinstance(asked(rollback_after_failure, instance, by_hand), dg.SkipReason)


def test_a_live_target_is_put_back_only_if_that_is_confirmed(launcher, instance, moved, tmp_path, monkeypatch):
    assert launcher.launch().success
    monkeypatch.setenv("AGUI_MIGRATION", str(tmp_path / "migration.yaml"))
    session = Session.open(spec.parse(launcher.text, folder=launcher.folder))
    session.ledger.record(Entry(CUTOVER, "plan", "cutover", outputs={"live": "target", "outcome": "done"}))
    job = defs.resolve_job_def("rollback")

    def launched(**config):
        return job.execute_in_process(
            instance=instance, run_config={"ops": {"target_rollback": {"config": config}}}, raise_on_error=False
        )

    assert "There is no run 'nowhere'" in failure_of(launched(after_run="nowhere"), "target_rollback")[0]
    refused = launched()
    assert "live since its cutover" in failure_of(refused, "target_rollback")[0]
    assert len(moved()) == 100

    assert launched(confirm="launched").success
    assert moved() == {}
