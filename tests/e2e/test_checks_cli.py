"""What a run of the command line leaves in the UI: a check for each suite of the migration file."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from agui_pipelines.cli.home import open_instance

WITHIN = {"type": "expect_column_value_lengths_to_be_between", "kwargs": {"column": "state_id", "min_value": 1}}
BEYOND = {"type": "expect_column_values_to_not_match_regex", "kwargs": {"column": "state_id", "regex": "^04|^1[23]$"}}


@pytest.fixture
def evaluated(dagster_home):
    """The checks of the newest run, as Dagster's own storage has them, and whether each passed."""

    def find():
        with open_instance(dagster_home) as instance:
            [run] = instance.get_runs(limit=1)
            found = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        events = [entry.dagster_event.event_specific_data for entry in found]
        return {(e.asset_key.to_user_string(), e.check_name): e.passed for e in events}

    return find


@pytest.mark.long
def test_a_run_of_the_command_line_has_a_check_for_each_suite_of_its_file(
    agui_migrate, text, written, tmp_path, evaluated
):
    for stage, expectation in (("exported", WITHIN), ("staged", WITHIN), ("loaded", BEYOND)):
        content = {"name": f"of {stage}", "expectations": [{**expectation, "severity": "critical"}]}
        (tmp_path / f"my-{stage}.json").write_text(json.dumps(content))
    own = {stage: f"my-{stage}.json" for stage in ("exported", "staged", "loaded")}

    said = agui_migrate("run", written({**text, "expectations": own}), "--json")

    assert said.code == 1
    assert "The loaded records do not meet the expectations" in said.error
    assert evaluated() == {
        ("exported_snapshot", "exported"): True,
        ("exported_snapshot", "my_exported"): True,
        ("staged_snapshot", "staged"): True,
        ("staged_snapshot", "my_staged"): True,
        ("staged_snapshot", "rejects_within_limit"): True,
        ("validation_report", "loaded"): True,
        ("validation_report", "my_loaded"): False,
        ("validation_report", "completeness"): True,
        ("validation_report", "digest_equality"): True,
        ("validation_report", "history_integrity"): True,
        ("validation_report", "performance"): True,
    }
