"""The job `cutover`: what it was asked for is its configuration, what came of it the run's own."""

from __future__ import annotations

import dagster as dg
import pytest
import yaml

from agui_pipelines import spec
from agui_pipelines.definitions import defs
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.steps import is_live
from tests.assets.conftest import QUIET
from tests.integration.conftest import Move


@pytest.fixture
def cut_over(launcher, instance):
    """Runs the job as the UI does. The foreign Redis has no place for the times that the target gives its records."""
    launcher.text["accept_losses"] = [*launcher.text["accept_losses"], "timestamps"]
    Move(launcher.text, launcher.folder).run()

    def run(**asked):
        file = launcher.folder / "migration.yaml"
        file.write_text(yaml.safe_dump(launcher.text))
        config = {
            **QUIET,
            "resources": {"migration": {"config": {"migration_file": str(file)}}},
            "ops": {"target_cutover": {"config": asked}},
        }
        return defs.resolve_job_def("cutover").execute_in_process(
            instance=instance, run_config=config, raise_on_error=False
        )

    return run


def ledger(launcher):
    return Session.open(spec.parse(launcher.text, folder=launcher.folder)).ledger


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
