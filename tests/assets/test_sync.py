"""The job `sync`."""

from __future__ import annotations

import dagster as dg
import pytest
import yaml

from agui_pipelines.definitions import defs
from agui_pipelines.errors import RefusedError
from tests.assets.conftest import QUIET
from tests.assets.test_jobs import failure_of
from tests.integration.conftest import Move


@pytest.fixture(autouse=True)
def without_suites(monkeypatch):
    """They take longer than all the rest of a small sync, and are the same ones that an import is held to."""
    for name in ("expect_exported", "expect_staged"):
        monkeypatch.setattr(f"agui_pipelines.phases.sync.{name}", lambda *_: ())


def test_a_run_of_the_job_syncs_and_tells_its_figures(launcher, legacy, moved):
    assert Move(launcher.text, launcher.folder).run().validation.passed
    legacy.set("session:001", '{"number": 1000}')
    legacy.delete("session:002")

    result = launcher.run("sync")

    assert moved()["001"] == {"number": 1000}
    assert "002" not in moved()
    [event] = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    told = {name: value.value for name, value in event.step_output_data.metadata.items()}
    assert (told["updated"], told["deleted"], told["checked"]) == (1, 1, 99)
    [shown] = launcher.instance.fetch_materializations(dg.AssetKey("synced_target"), limit=10).records
    assert shown.asset_materialization.metadata["lag_seconds"].value == told["lag_seconds"]


@pytest.mark.parametrize("job", ["assess_and_plan", "sync", "rollback", "validate", "verify_sample"])
def test_a_job_without_a_dry_run_says_so_instead_of_doing_it(launcher, legacy, moved, job):
    result = launcher.launch(job, dry_run=True)

    assert not result.success
    said = " ".join(str(event.event_specific_data) for event in result.all_events if event.is_failure)
    assert f"The job {job} has no dry run." in said
    assert moved() is None


@pytest.mark.parametrize(
    "asked", [{"accept_deletes": True, "complete": False}, {"accept_deletes": False, "complete": True}]
)
def test_what_the_launchpad_was_told_reaches_the_sync(launcher, monkeypatch, asked):
    def told(session, **options):
        raise RefusedError(f"{options}")  # and there is no more to see

    monkeypatch.setattr("assets.sync.sync", told)
    file = launcher.folder / "migration.yaml"
    file.write_text(yaml.safe_dump(launcher.text))
    result = defs.resolve_job_def("sync").execute_in_process(
        instance=launcher.instance,
        run_config={
            **QUIET,
            "ops": {"target_sync": {"config": asked}},
            "resources": {"migration": {"config": {"migration_file": str(file)}}},
        },
        raise_on_error=False,
    )

    assert failure_of(result, "target_sync")[0] == f"{asked}"


@pytest.mark.long
def test_a_run_that_is_refused_fails_and_writes_nothing(launcher, legacy, moved):
    assert Move(launcher.text, launcher.folder).run().validation.passed
    legacy.flushdb()

    result = launcher.launch("sync")

    assert not result.success
    assert len(moved()) == 100
