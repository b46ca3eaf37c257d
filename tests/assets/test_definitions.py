"""The Dagster definitions: what people see when they open the UI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import PoolGranularity
from dagster._core.snap import JobSnap
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap

from agui_pipelines import resources, spec
from agui_pipelines.definitions import defs
from assets.declared import declared
from tests.partitions import RANGES

CHECKOUT = Path(__file__).resolve().parents[2]
GROUPS = {
    "assess": {"source_system": set(), "source_assessment": {"source_system"}},
    "prepare": {
        "target_store": set(),
        "migration_plan": {"source_assessment", "target_store"},
        "source_backup": {"source_system"},
        "target_backup": {"staged_snapshot", "target_store"},
        "import_preview": {"staged_snapshot"},
    },
    "move": {
        "exported_snapshot": {"migration_plan", "source_system"},
        "staged_snapshot": {"exported_snapshot"},
        "target_states": {"staged_snapshot", "target_backup"},
    },
    "prove": {"validation_report": {"target_states"}},
    "go_live": {"synced_target": {"source_system", "validation_report"}, "live_side": {"synced_target"}},
    "retire": {"source_archive": {"live_side"}},
}
"""Every asset, by group, with what it depends on."""
GRAPH = {name: needs for group in GROUPS.values() for name, needs in group.items()}
PLACES = {"source_system", "target_store", "synced_target", "live_side", "source_archive"}
"""What nobody can materialize: the ends, and what the jobs of the last phases tell of."""
JOBS = [
    *("assess_and_plan", "dry_run", "migrate", "validate"),
    *("sync", "verify_sample", "cutover", "rollback", "decommission"),
]
"""Every job that people launch."""
RANGED = ["exported_snapshot", "staged_snapshot", "target_backup", "target_states"]


def specs():
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_the_graph_of_assets():
    found: dict[str, dict[str, set[str]]] = {}
    for name, spec_ in specs().items():
        needs = {dep.asset_key.to_user_string() for dep in spec_.deps}
        found.setdefault(spec_.group_name or "", {})[name] = needs
    assert found == GROUPS


def test_what_destroys_or_switches_is_never_reached_by_materializing_all():
    graph = defs.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == GRAPH.keys() - PLACES
    assert {key.to_user_string() for key in graph.external_asset_keys} == PLACES


@pytest.mark.parametrize("name", GRAPH)
def test_every_asset_says_what_it_is(name):
    asset = specs()[name]
    assert asset.description
    assert len(asset.description) > 40
    assert asset.kinds
    assert list(asset.owners) == ["team:platform"]
    assert asset.code_version or name in PLACES


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
    assert jobs.keys() == set(JOBS)
    assert all(job.description for job in jobs.values())


@pytest.mark.parametrize(
    ("job", "assets"),
    [
        ("migrate", GRAPH.keys() - PLACES - {"import_preview", "source_backup"}),
        ("assess_and_plan", {"source_assessment", "migration_plan"}),
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
    told = {name for _, name in checks if name == "performance"}
    assert {key.name for key in graph.asset_check_keys if not graph.get(key).blocking} == told
    assert all(graph.get(key).description for key in graph.asset_check_keys)


def test_the_launchpad_is_small():
    fields = defs.resolve_job_def("migrate").run_config_schema.config_type.fields["resources"].config_type.fields
    config = fields["migration"].config_type.fields["config"].config_type
    assert set(config.fields) == {"migration_file", "dry_run", "fresh", "rehearse"}


@pytest.mark.parametrize("job", JOBS)
def test_what_the_launchpad_opens_with_is_valid_as_it_stands(job):
    found = defs.resolve_job_def(job)
    for opened in (opens_with(found), chosen_in(found)):
        assert opened["resources"]["migration"]["config"]["migration_file"] == ""
        assert opened["resources"]["migration"]["config"].get("fresh", False) is False
        assert dg.validate_run_config(found, opened)


def opens_with(job):
    """The text in the launchpad of a job before anything is chosen there: the defaults of its schema."""
    snap = JobSnap.from_job_def(job)
    [mode] = snap.mode_def_snaps
    known = snap.config_schema_snapshot
    return yaml.safe_load(default_values_yaml_from_type_snap(known, known.get_config_snap(mode.root_config_key)))


def chosen_in(job):
    """The text once a key range is chosen, of a job that has any."""
    ranged = job.partitioned_config
    return ranged.get_run_config_for_partition_key(RANGES[0]) if ranged else job.run_config


def test_what_is_held_to_have_key_ranges_is_what_has_them():
    assert {name for name, spec_ in specs().items() if spec_.partitions_def is not None} == resources.RANGED


@pytest.mark.parametrize(
    "op",
    [
        "target_states",
        "target_backup",
        "target_sync",
        "target_sample",
        "target_cutover",
        "target_rollback",
        "source_decommission",
    ],
)
def test_who_writes_to_the_target_waits_in_its_queue(op):
    jobs = [job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")]
    nodes = {node.name: node for job in jobs for node in job.nodes}
    assert nodes[op].definition.pool == "target"


def test_one_run_at_a_time_has_that_queue(dagster_home):
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        pools = instance.get_concurrency_config().pool_config
    assert pools.pool_granularity is PoolGranularity.RUN
    assert pools.default_pool_limit == 1


def test_a_target_is_stale_once_its_last_sync_is_longer_ago_than_max_lag():
    lag = timedelta(seconds=spec.Schedules().max_lag)
    assert specs()["synced_target"].freshness_policy == dg.FreshnessPolicy.time_window(
        fail_window=lag, warn_window=lag / 2
    )


SAYS_WHOSE = """
import json, sys
from agui_pipelines.definitions import defs
jobs = [job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")]
print(json.dumps({
    "assets": {s.key.to_user_string(): [list(s.owners), dict(s.tags), sorted(s.kinds)] for s in defs.resolve_all_asset_specs()},
    "jobs": {job.name: dict(job.tags) for job in jobs},
    "schedules": {s.name: [s.cron_schedule, s.execution_timezone] for s in defs.schedules},
}))
"""


def test_assets_jobs_and_schedules_are_those_of_the_migration_file(tmp_path):
    file = tmp_path / "migration.yaml"
    given = {
        "name": "m",
        "owners": ["team:data", "ann@example.com"],
        "tags": {"cost-center": "42"},
        "source": {"type": "sqlite"},
        "target": {"type": "redis"},
        "schedules": {"sync": "*/5 * * * *", "verify": "0 1 * * *", "time_zone": "Europe/Berlin"},
    }
    file.write_text(yaml.safe_dump(given))
    environment = {**os.environ, spec.FILE_VARIABLE: str(file)}
    said = subprocess.run(
        [sys.executable, "-c", SAYS_WHOSE], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True
    )
    found = json.loads(said.stdout)

    assert found["assets"].keys() == GRAPH.keys()
    for owners, tags, _ in found["assets"].values():
        assert owners == given["owners"]
        assert tags.items() >= given["tags"].items()
    for asset in ("source_system", "source_assessment", "exported_snapshot"):
        assert "sqlite" in found["assets"][asset][2]
    for asset in ("target_store", "target_states", "validation_report", "import_preview", "synced_target", "live_side"):
        assert "redis" in found["assets"][asset][2]
    assert all(tags.items() >= given["tags"].items() for tags in found["jobs"].values())
    assert found["schedules"] == {
        "incremental_sync": ["*/5 * * * *", "Europe/Berlin"],
        "verify_sample_nightly": ["0 1 * * *", "Europe/Berlin"],
    }


@pytest.mark.long  # `.ci/check` does so too
@pytest.mark.parametrize(
    "command", [("dg", "check", "defs"), ("dagster", "definitions", "validate", "-w", "workspace.yaml")], ids=" ".join
)
def test_dagsters_own_checks_pass_without_a_warning_of_our_code(command):
    program = Path(sys.executable).with_name(command[0])
    checked = subprocess.run([program, *command[1:]], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    said = checked.stdout + checked.stderr
    assert checked.returncode == 0, said
    assert "BetaWarning" not in said
    assert "DeprecationWarning" not in said


def test_importing_the_definitions_warns_of_nothing():
    code = "import agui_pipelines.definitions"
    said = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=CHECKOUT, capture_output=True, check=False)
    assert said.returncode == 0, said.stderr


def test_without_a_migration_file_there_are_16_ranges(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert declared("ranges") == 16


def test_the_migration_file_says_how_many_ranges_there_are(tmp_path, monkeypatch):
    file = tmp_path / "migration.yaml"
    file.write_text("ranges: 101\n")
    monkeypatch.setenv(spec.FILE_VARIABLE, str(file))

    assert declared("ranges") == 101


@pytest.mark.parametrize("text", ["ranges: 0", "ranges: many", "ranges: 257", "- no mapping"])
def test_a_wrong_migration_file_does_not_keep_the_definitions_from_loading(tmp_path, monkeypatch, text):
    file = tmp_path / "migration.yaml"
    file.write_text(text)
    monkeypatch.setenv(spec.FILE_VARIABLE, str(file))

    assert declared("ranges") == 16


def test_what_is_materialized_in_the_graph_is_one_process_too():
    assert defs.resolve_implicit_global_asset_job_def().executor_def is dg.in_process_executor
