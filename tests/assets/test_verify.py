"""The job `verify_sample`: finds what has become of the target since it was written."""

from __future__ import annotations

import dagster as dg
import psycopg
import pytest
import yaml

from agui_pipelines.definitions import defs
from agui_pipelines.phases.sync import sync
from tests.assets.conftest import QUIET
from tests.assets.test_jobs import failure_of
from tests.integration.conftest import Move


def told(launcher):
    """What the newest run says of its sample."""
    [newest] = launcher.instance.fetch_observations(dg.AssetKey("target_store"), limit=1).records
    found = newest.asset_observation.metadata
    return {name: value if name == "found" else value.value for name, value in found.items()}


def test_a_sample_is_as_the_import_and_the_syncs_have_left_it_until_somebody_writes(launcher, legacy, target):
    move = Move(launcher.text, launcher.folder)
    assert not launcher.launch("verify_sample").success  # nothing was imported

    move.run()
    result = launcher.launch("verify_sample")
    assert result.success
    assert (told(launcher)["passed"], told(launcher)["ids"], told(launcher)["of_ids"]) == (True, 100, 100)

    legacy.set("session:001", '{"number": 1000}')
    legacy.delete("session:002")
    sync(move.session())
    result = launcher.launch("verify_sample")
    assert result.success
    assert told(launcher)["ids"] == 99

    with psycopg.connect(target["connection_url"]) as connection:
        connection.execute("UPDATE ag_states SET data = '{}' WHERE state_id = '003'")
        connection.execute("DELETE FROM ag_states WHERE state_id = '004'")
    result = launcher.launch("verify_sample")
    assert not result.success
    found = told(launcher)
    assert (found["passed"], found["missing_states_count"], found["corrupted_states_count"]) == (False, 1, 1)
    assert {row.data["ids"] for row in found["found"].records} == {"003", "004"}


@pytest.mark.parametrize("sample", [0, -5])
def test_a_sample_of_nothing_is_refused_in_our_words(launcher, sample):
    file = launcher.folder / "migration.yaml"
    file.write_text(yaml.safe_dump(launcher.text))
    result = defs.resolve_job_def("verify_sample").execute_in_process(
        instance=launcher.instance,
        run_config={
            **QUIET,
            "ops": {"target_sample": {"config": {"sample": sample}}},
            "resources": {"migration": {"config": {"migration_file": str(file)}}},
        },
        raise_on_error=False,
    )

    description, metadata = failure_of(result, "target_sample")
    assert description == (
        f"sample is {sample}. A sample without ids says nothing of the target. "
        "Give the number of ids to compare: 1 or more."
    )
    assert metadata["error"] == "UsageError"


def test_what_was_imported_anew_or_repaired_since_is_no_mistake(launcher, legacy):
    assert launcher.launch().success
    assert launcher.launch("verify_sample").success
    legacy.set("session:001", '{"number": 1000}')

    assert launcher.launch(fresh=True).success

    assert launcher.launch("verify_sample").success
