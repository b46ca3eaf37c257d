"""The job `cutover`: what it was asked for is its configuration, what came of it the run's own."""

from __future__ import annotations

import dagster as dg
import pytest
import yaml

from agui_pipelines import spec
from agui_pipelines.definitions import defs
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.steps import PHASE as CUTOVER
from agui_pipelines.phases.steps import is_live
from tests.assets.conftest import QUIET
from tests.assets.test_jobs import failure_of
from tests.integration.conftest import Move


@pytest.fixture
def asked_for(launcher, instance):
    """Runs the job as the UI does, whatever has been migrated before."""

    def run(*, dry_run=False, **asked):
        file = launcher.folder / "migration.yaml"
        file.write_text(yaml.safe_dump(launcher.text))
        config = {
            **QUIET,
            "resources": {"migration": {"config": {"migration_file": str(file), "dry_run": dry_run}}},
            "ops": {"target_cutover": {"config": asked}},
        }
        return defs.resolve_job_def("cutover").execute_in_process(
            instance=instance, run_config=config, raise_on_error=False
        )

    return run


@pytest.fixture
def cut_over(launcher, asked_for):
    """The same, once everything was moved. The foreign Redis has no place for the times that the target gives its records."""
    launcher.text["accept_losses"] = [*launcher.text["accept_losses"], "timestamps"]
    Move(launcher.text, launcher.folder).run()
    return asked_for


def ledger(launcher):
    return Session.open(spec.parse(launcher.text, folder=launcher.folder)).ledger


@pytest.mark.parametrize("text", ["10", "soon", "10 minutes"])
def test_a_window_that_is_no_duration_is_told_in_our_words(asked_for, text):
    result = asked_for(confirm="launched", source_is_stopped=True, max_window=text)

    description, metadata = failure_of(result, "target_cutover")
    assert description.startswith(f"'{text}' is not a duration")
    assert "1m30s" in description
    assert metadata["error"] == "SpecError"


@pytest.mark.parametrize("name", ["", "another"])
def test_without_the_migrations_name_nothing_is_switched(launcher, cut_over, name):
    result = cut_over(confirm=name, source_is_stopped=True)

    description, metadata = failure_of(result, "target_cutover")
    assert description.startswith(f"confirm is {name!r}, and the migration's name is 'launched'.")
    assert metadata["error"] == "RefusedError"
    assert not ledger(launcher).entries(phase=CUTOVER)
    assert not is_live(ledger(launcher))


def test_a_dry_run_that_is_confirmed_is_only_rehearsed(launcher, cut_over, instance):
    result = cut_over(confirm="launched", source_is_stopped=True, dry_run=True)

    assert result.success
    assert not is_live(ledger(launcher))
    assert not instance.fetch_materializations(dg.AssetKey("live_side"), limit=1).records


@pytest.mark.long
def test_a_cutover_is_refused_and_carried_out_and_taken_back_from_the_ui(launcher, cut_over, instance):
    refused = cut_over()
    assert not refused.success
    assert not is_live(ledger(launcher))

    for name in ("", "another"):
        assert not cut_over(confirm=name, source_is_stopped=True).success
        assert not is_live(ledger(launcher))

    assert cut_over(confirm="launched", source_is_stopped=True, max_window="10m").success
    [told] = instance.fetch_materializations(dg.AssetKey("live_side"), limit=10).records
    assert told.asset_materialization.metadata["live"].value == "target"
    assert is_live(ledger(launcher))
    assert cut_over(confirm="launched", back=True, source_is_stopped=True).success
    assert not is_live(ledger(launcher))
