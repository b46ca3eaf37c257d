"""The Dagster definitions: what people see when they open the UI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from agui_pipelines import spec
from agui_pipelines.definitions import defs
from assets import partitions
from tests.partitions import RANGES

CHECKOUT = Path(__file__).resolve().parents[2]
GRAPH = {
    "source_assessment": set(),
    "migration_plan": {"source_assessment"},
    "exported_snapshot": {"migration_plan"},
    "staged_snapshot": {"exported_snapshot"},
    "source_backup": set(),
    "target_backup": {"staged_snapshot"},
    "target_states": {"staged_snapshot", "target_backup"},
    "validation_report": {"target_states"},
    "import_preview": {"staged_snapshot"},
}
RANGED = ["exported_snapshot", "staged_snapshot", "target_backup", "target_states"]


def specs():
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_the_graph_of_assets():
    found = {name: {dep.asset_key.to_user_string() for dep in spec.deps} for name, spec in specs().items()}
    assert found == GRAPH


@pytest.mark.parametrize("name", GRAPH)
def test_every_asset_says_what_it_is(name):
    asset = specs()[name]
    assert asset.description
    assert len(asset.description) > 40
    assert asset.group_name in {"assess", "prepare", "move", "prove"}
    assert asset.kinds
    assert asset.owners
    assert asset.code_version


@pytest.mark.parametrize("name", GRAPH)
def test_key_ranges_are_partitions(name):
    partitions = specs()[name].partitions_def
    if name not in RANGED:
        assert partitions is None
        return
    assert partitions is not None
    assert list(partitions.get_partition_keys()) == list(RANGES)


@pytest.mark.parametrize("name", RANGED)
def test_all_ranges_are_backfilled_in_one_run(name):
    [asset] = [a for a in defs.assets or () if isinstance(a, dg.AssetsDefinition) and name in str(a.keys)]
    assert asset.backfill_policy == dg.BackfillPolicy.single_run()


def test_the_jobs_that_people_launch():
    jobs = {job.name: job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    assert jobs.keys() == {
        *("plan", "migrate", "dry_run", "validate"),
        *("rollback", "sync", "cutover", "decommission"),
    }
    assert all(job.description for job in jobs.values())


@pytest.mark.parametrize(
    ("job", "assets"),
    [
        ("migrate", GRAPH.keys() - {"import_preview", "source_backup"}),
        ("plan", {"source_assessment", "migration_plan"}),
        ("dry_run", {"source_assessment", "migration_plan", "exported_snapshot", "staged_snapshot", "import_preview"}),
        ("validate", {"validation_report"}),
    ],
)
def test_what_each_job_does(job, assets):
    found = {key.to_user_string() for key in defs.resolve_job_def(job).asset_layer.selected_asset_keys}
    assert found == assets


CHECKS = {
    ("exported_snapshot", "exported"),
    ("staged_snapshot", "staged"),
    ("staged_snapshot", "rejects_within_limit"),
    ("validation_report", "loaded"),
    ("validation_report", "completeness"),
    ("validation_report", "digest_equality"),
    ("validation_report", "history_integrity"),
    ("validation_report", "performance"),
}


@pytest.mark.parametrize(
    ("job", "checks"),
    [
        ("migrate", CHECKS),
        ("dry_run", {check for check in CHECKS if check[0] != "validation_report"}),
        ("validate", {check for check in CHECKS if check[0] == "validation_report"}),
    ],
)
def test_the_checks_of_every_stage_block_what_is_downstream_but_for_performance(job, checks):
    graph = defs.resolve_job_def(job).asset_layer.asset_graph
    assert {(key.asset_key.to_user_string(), key.name) for key in graph.asset_check_keys} == checks
    assert {key.name for key in graph.asset_check_keys if not graph.get(key).blocking} <= {"performance"}
    assert all(graph.get(key).description for key in graph.asset_check_keys)


def test_the_launchpad_is_small():
    fields = defs.resolve_job_def("migrate").run_config_schema.config_type.fields["resources"].config_type.fields
    config = fields["migration"].config_type.fields["config"].config_type
    assert set(config.fields) == {"migration_file", "dry_run", "fresh", "rehearse"}


@pytest.mark.long  # `.ci/check` does so too
def test_dg_check_defs_passes():
    command = [Path(sys.executable).with_name("dg"), "check", "defs"]
    checked = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_without_a_migration_file_there_are_16_ranges(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert partitions._configured() == 16


def test_the_migration_file_says_how_many_ranges_there_are(tmp_path, monkeypatch):
    file = tmp_path / "migration.yaml"
    file.write_text("ranges: 101\n")
    monkeypatch.setenv(spec.FILE_VARIABLE, str(file))

    assert partitions._configured() == 101


@pytest.mark.parametrize("text", ["ranges: 0", "ranges: many", "ranges: 257", "- no mapping"])
def test_a_wrong_migration_file_does_not_keep_the_definitions_from_loading(tmp_path, monkeypatch, text):
    file = tmp_path / "migration.yaml"
    file.write_text(text)
    monkeypatch.setenv(spec.FILE_VARIABLE, str(file))

    assert partitions._configured() == 16
