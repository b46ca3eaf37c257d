"""The job `decommission`: it says what would go, and deletes only when it is told the migration's name."""

from __future__ import annotations

import pytest
import yaml

from agui_pipelines.definitions import defs
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.plan import current
from agui_pipelines.phases.sync import sync
from tests.integration.conftest import Move


def launched(launcher, **config):
    file = launcher.folder / "migration.yaml"
    file.write_text(yaml.safe_dump(launcher.text))
    done = defs.resolve_job_def("decommission").execute_in_process(
        instance=launcher.instance,
        run_config={
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            "ops": {"source_decommission": {"config": config}},
            "resources": {"migration": {"config": {"migration_file": str(file)}}},
        },
        raise_on_error=False,
    )
    outputs = done.filter_events(lambda event: event.event_type_value == "STEP_OUTPUT")
    said = outputs[0].step_output_data.metadata if outputs else {}
    return done.success, {name: value.value for name, value in said.items()}


@pytest.mark.long
def test_without_the_name_it_only_says_what_would_go_and_with_it_that_goes(launcher, legacy):
    launcher.text["decommission"] = {"soak": "0s"}
    move = Move(launcher.text, launcher.folder)
    move.run()
    session = move.session()
    sync(session, complete=True)
    plan_id = current(session).plan_id
    outputs = {"live": "target", "plan_id": plan_id, "outcome": "done", "direction": "forward"}
    session.ledger.record(Entry("cutover", plan_id, "cutover-1", outputs=outputs))

    succeeded, said = launched(launcher)
    assert (succeeded, said["ready"], said["ids"]) == (True, True, 100)
    assert launched(launcher, confirm="another")[0] is False
    assert len(legacy.keys()) == 100

    succeeded, said = launched(launcher, confirm="launched")
    assert (succeeded, said["deleted"], said["left"]) == (True, 100, 0)
    assert legacy.keys() == []
