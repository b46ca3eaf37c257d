"""The job `decommission`: it says what would go, and deletes only when it is told the migration's name."""

from __future__ import annotations

import dagster as dg
import pytest
import yaml

from agui_pipelines.definitions import defs
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.plan import current
from agui_pipelines.phases.sync import sync
from tests.integration.conftest import Move


def launched(launcher, *, dry_run=False, **config):
    file = launcher.folder / "migration.yaml"
    file.write_text(yaml.safe_dump(launcher.text))
    done = defs.resolve_job_def("decommission").execute_in_process(
        instance=launcher.instance,
        run_config={
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            "ops": {"source_decommission": {"config": config}},
            "resources": {"migration": {"config": {"migration_file": str(file), "dry_run": dry_run}}},
        },
        raise_on_error=False,
    )
    outputs = done.filter_events(lambda event: event.event_type_value == "STEP_OUTPUT")
    said = outputs[0].step_output_data.metadata if outputs else {}
    return done.success, {name: value.value for name, value in said.items()}


@pytest.fixture
def ready(launcher, monkeypatch):
    """The launcher, once applications use the target and nothing stands in the way."""
    for name in ("expect_exported", "expect_staged"):  # which take longer than all the rest
        monkeypatch.setattr(f"agui_pipelines.phases.sync.{name}", lambda *_: ())
    launcher.text["decommission"] = {"soak": "0s"}
    move = Move(launcher.text, launcher.folder)
    move.run()
    session = move.session()
    sync(session, complete=True)
    plan_id = current(session).plan_id
    outputs = {"live": "target", "plan_id": plan_id, "outcome": "done", "direction": "forward"}
    session.ledger.record(Entry("cutover", plan_id, "cutover-1", outputs=outputs))
    return launcher


def test_a_dry_run_that_is_confirmed_only_says_what_would_go(ready, legacy):
    succeeded, said = launched(ready, dry_run=True, confirm="launched")

    assert (succeeded, said["ready"], said["ids"]) == (True, True, 100)
    assert len(legacy.keys()) == 100
    assert not ready.instance.fetch_materializations(dg.AssetKey("source_archive"), limit=1).records


@pytest.mark.long
def test_without_the_name_it_only_says_what_would_go_and_with_it_that_goes(ready, legacy):
    succeeded, said = launched(ready)
    assert (succeeded, said["ready"], said["ids"]) == (True, True, 100)
    assert launched(ready, confirm="another")[0] is False
    assert len(legacy.keys()) == 100

    succeeded, said = launched(ready, confirm="launched")
    assert (succeeded, said["deleted"], said["left"]) == (True, 100, 0)
    assert legacy.keys() == []
