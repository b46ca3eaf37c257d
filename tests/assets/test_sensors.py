"""What the sensors say of runs that ended, as Dagster's daemon asks them: tick by tick, each going on from the one before."""

from __future__ import annotations

from contextlib import suppress

import dagster as dg
import pytest
import yaml
from dagster._core.utils import make_new_run_id

from agui_pipelines.automation.sensors import ATTEMPTS, LOOK_SECONDS, SENSORS, rollback_after_failure
from agui_pipelines.definitions import defs
from agui_pipelines.phases.holding import LIFETIME
from tests import partitions
from tests.assets.conftest import QUIET
from tests.assets.test_rollback import rolled_back, spoiled  # noqa: F401 - a fixture


@pytest.fixture
def instance(tmp_path):
    """One that a sensor, which Dagster evaluates in another process, can refer to."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def tick(instance):
    """What the next tick of the sensor for failed runs says."""
    cursor = None

    def next_tick():
        nonlocal cursor
        with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
            data = rollback_after_failure.evaluate_tick(context)
        cursor = data.cursor
        return data.skip_message or data.run_requests

    assert "Initiating" in next_tick()
    return next_tick


def launched(instance, file, job="migrate"):
    """How a run ended whose migration file the launchpad was told in some way."""
    config = {**QUIET, "resources": {"migration": {"config": {"migration_file": file}}}}
    run_id = make_new_run_id()
    with suppress(dg.DagsterError):  # of a run that fails before its first step
        defs.resolve_job_def(job).execute_in_process(
            instance=instance, tags=partitions.tags(), run_config=config, run_id=run_id, raise_on_error=False
        )
    return instance.get_run_by_id(run_id)


@pytest.mark.usefixtures("spoiled")
def test_a_run_whose_file_is_missing_does_not_keep_the_next_one_from_being_taken_back(launcher, instance, tick, moved):
    lost = launched(instance, str(launcher.folder / "absent.yaml"))
    failed = launcher.launch()
    assert len(moved()) == 100

    said = tick()
    assert said.startswith(f"Run {lost.run_id} had not begun to import")
    assert "absent.yaml does not exist" in said
    [request] = tick()
    assert request.run_key == f"rollback-{failed.run_id}"
    assert rolled_back(instance, request).success
    assert moved() == {"007": {"was": "here"}}


def test_of_two_runs_that_cannot_be_looked_up_each_is_told(launcher, instance, tick):
    runs = [launched(instance, str(launcher.folder / name)) for name in ("one.yaml", "other.yaml")]

    said = [tick(), tick()]

    for run, text in zip(runs, said, strict=True):
        assert run.run_id in text
    assert "empty" in tick()


@pytest.mark.usefixtures("spoiled")
def test_a_file_that_an_environment_variable_names_is_found(launcher, instance, tick, moved, monkeypatch):
    file = launcher.folder / "migration.yaml"
    file.write_text(yaml.safe_dump(launcher.text))
    monkeypatch.setenv("WHICH_MIGRATION", str(file))
    failed = launched(instance, {"env": "WHICH_MIGRATION"})
    assert len(moved()) == 100

    [request] = tick()

    assert request.run_key == f"rollback-{failed.run_id}"
    assert request.run_config["resources"]["migration"]["config"]["migration_file"] == {"env": "WHICH_MIGRATION"}
    assert rolled_back(instance, request).success
    assert moved() == {"007": {"was": "here"}}


def test_a_variable_that_is_not_set_is_told(instance, tick, monkeypatch):
    monkeypatch.setenv("WHICH_MIGRATION", "/nowhere/migration.yaml")
    launched(instance, {"env": "WHICH_MIGRATION"})
    monkeypatch.delenv("WHICH_MIGRATION")

    assert "The environment variable WHICH_MIGRATION" in tick()


@pytest.mark.usefixtures("spoiled")
@pytest.mark.parametrize("what", ["file", "ledger"])
def test_a_run_that_had_begun_to_import_is_to_be_taken_back_though_it_cannot_be_looked_up(
    launcher, instance, tick, moved, what
):
    failed = launcher.launch()
    file = launcher.folder / "migration.yaml"
    if what == "ledger":
        file = next((launcher.folder / ".agui" / "launched" / "ledger").iterdir())
    content = file.read_bytes()
    file.write_bytes(b"[")

    [request] = tick()
    assert request.run_key == f"rollback-{failed.run_id}"
    with pytest.raises((dg.Failure, dg.DagsterError)):
        rolled_back(instance, request)
    assert len(moved()) == 100

    file.write_bytes(content)  # and then it is tried again by hand
    assert rolled_back(instance, request).success
    assert moved() == {"007": {"was": "here"}}


def test_all_sensors_run_from_the_start():
    assert {sensor.name for sensor in SENSORS} == {
        "rollback_after_failure",
        "rollback_after_cancellation",
        "killed_runs",
    }
    assert {sensor.default_status for sensor in defs.sensors or ()} == {dg.DefaultSensorStatus.RUNNING}
    assert {sensor.name for sensor in defs.sensors or ()} == {sensor.name for sensor in SENSORS}


def test_the_attempts_at_a_rollback_outlast_the_lock_of_an_owner_that_died():
    looking = [sensor for sensor in SENSORS if sensor.name.startswith("rollback_")]
    assert {sensor.minimum_interval_seconds for sensor in looking} == {LOOK_SECONDS}
    assert ATTEMPTS * LOOK_SECONDS > 3 * LIFETIME
