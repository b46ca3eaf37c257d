"""The jobs as Dagster runs them: what is materialized, what the UI is told, and what stops a run."""

from __future__ import annotations

import json

import dagster as dg
import psycopg
import pyarrow.parquet as pq
import pytest
import yaml

from agui_pipelines import spec
from agui_pipelines.definitions import defs
from agui_pipelines.errors import CollisionError, RejectLimitError, StagingError, UnreachableError
from tests.partitions import RANGES, tags

RANGED = ["exported_snapshot", "staged_snapshot", "target_states"]
STAGES = ["exported", "staged", "loaded"]
MEASURED = {"dagster/row_count", "bytes", "records_per_second", "seconds"}


def materialized(result, asset):
    """The metadata of each materialization of an asset in a run, by partition."""
    events = result.get_asset_materialization_events()
    found = [e.materialization for e in events if e.asset_key == dg.AssetKey(asset)]
    return {m.partition: {name: value.value for name, value in m.metadata.items()} for m in found}


def checked(result, stage):
    """The outcome of a stage's expectations: passed, severity, and a row for each that failed."""
    [evaluation] = [e for e in result.get_asset_check_evaluations() if e.check_name == stage]
    failures = evaluation.metadata.get("failures")
    rows = [record.data for record in failures.records] if isinstance(failures, dg.TableMetadataValue) else []
    return evaluation.passed, evaluation.severity, rows


def failure_of(result, asset):
    """What a failed asset said: description and metadata."""
    [event] = [e for e in result.filter_events(lambda e: e.is_step_failure) if e.step_key == asset]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None, event.step_failure_data.error
    return failure.description, {k: v.value for k, v in failure.metadata.items()}


def test_one_run_materializes_every_range_and_proves_the_result(launcher, moved):
    result = launcher.run()

    assert result.success
    assert moved() == {f"{i:03}": {"number": i} for i in range(100)}
    for asset in RANGED:
        found = materialized(result, asset)
        assert sorted(found) == list(RANGES)
        assert all(metadata.keys() >= {*MEASURED, "plan_id"} for metadata in found.values())
        assert all(metadata["dagster/row_count"] == 100 for metadata in found.values())
    for asset in ("exported_snapshot", "staged_snapshot"):
        found = materialized(result, asset)
        assert sum(metadata["range_records"] for metadata in found.values()) == 100
        prefix = asset.partition("_")[0]
        assert all(metadata["snapshot_id"].startswith(f"{prefix}-{name}-") for name, metadata in found.items())
    [plan] = materialized(result, "migration_plan").values()
    assert (plan["keys"], plan["resumed"]) == (100, False)
    [validation] = materialized(result, "validation_report").values()
    assert (validation["total_states"], validation["migrated_states"], validation["passed"]) == (100, 100, True)
    assert {validation[f"{name}_states"] for name in ("missing", "corrupted", "extra")} == {0}
    assert validation["report"]["migrated_states"] == 100
    for stage in STAGES:
        assert checked(result, stage) == (True, dg.AssetCheckSeverity.WARN, [])

    again = launcher.launch(ranges=("03", "03"), assets=RANGED)

    assert again.success
    assert {asset: list(materialized(again, asset)) for asset in RANGED} == {asset: ["03"] for asset in RANGED}
    [imported] = materialized(again, "target_states").values()
    number = materialized(again, "exported_snapshot")["03"]["range_records"]
    assert (imported["inserted"], imported["updated"], imported["unchanged"]) == (0, 0, number)
    assert number > 0
    assert launcher.run("validate").success


def test_a_dry_run_of_the_migration_checks_everything_and_writes_nothing(launcher, moved):
    result = launcher.launch("migrate", dry_run=True)

    assert result.success
    assert moved() is None
    done = {e.asset_key.to_user_string() for e in result.get_asset_materialization_events()}
    assert done == {"source_assessment", "migration_plan", "exported_snapshot", "staged_snapshot"}
    assert launcher.launch("migrate").success
    assert len(moved()) == 100


def test_two_ranges_alone_leave_the_others_and_cannot_be_proven(launcher, moved):
    assert launcher.launch(assets=["migration_plan"]).success
    assert launcher.launch(ranges=("01", "02"), assets=RANGED).success
    part = moved()
    assert part
    assert len(part) < 70

    result = launcher.run("validate", check=False)

    description, _ = failure_of(result, "validation_report")
    assert "00, 03" in description
    assert description.endswith("Import them, then validate.")


def test_a_range_that_fails_leaves_the_others_as_they_are(launcher, moved):
    assert launcher.launch(assets=["migration_plan", "exported_snapshot", "staged_snapshot"]).success
    [segment] = (launcher.folder / ".agui" / "launched" / "snapshots").glob("staged-01-*/state-*.parquet")
    damaged, chunks = bytearray(segment.read_bytes()), pq.ParquetFile(segment).metadata.row_group(0)
    documents = next(c for c in map(chunks.column, range(chunks.num_columns)) if c.path_in_schema == "data")
    damaged[documents.data_page_offset + documents.total_compressed_size // 2] ^= 1
    segment.write_bytes(damaged)
    written = ["target_backup", "target_states"]
    assert launcher.launch(ranges=("00", "00"), assets=written).success
    before = moved()

    assert not launcher.launch(ranges=("01", "01"), assets=written).success

    assert moved() == before
    assert launcher.launch(ranges=("02", "03"), assets=written).success
    assert len(moved()) > len(before) > 0
    description, _ = failure_of(launcher.run("validate", check=False), "validation_report")
    assert "The key ranges 01 have not been imported." in description


@pytest.fixture
def expecting(launcher):
    """The launcher, with a suite of one expectation for a stage."""

    def make(stage, type_, *, severity="critical", **kwargs):
        suite = {"name": "mine", "expectations": [{"type": type_, "kwargs": kwargs, "severity": severity}]}
        (launcher.folder / "mine.json").write_text(json.dumps(suite))
        return launcher.but(expectations={stage: "mine.json"})

    return make


NO_LONG_IDS = {"type_": "expect_column_value_lengths_to_be_between", "column": "state_id", "max_value": 2}


@pytest.mark.parametrize(
    ("stage", "last", "ids"), [("exported", "exported_snapshot", "session:"), ("staged", "staged_snapshot", "")]
)
def test_a_critical_expectation_that_fails_stops_the_run_before_the_import(expecting, moved, legacy, stage, last, ids):
    legacy.delete(*[f"session:{i:03}" for i in range(3, 100)])

    result = expecting(stage, **NO_LONG_IDS).run(check=False)

    assert not result.success
    passed, severity, [row] = checked(result, stage)
    assert (passed, severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert (row["suite"], row["expectation"], row["column"]) == ("mine", NO_LONG_IDS["type_"], "state_id")
    assert row["unexpected"] == 3
    assert row["ids"] == f"{ids}000, {ids}001, {ids}002"
    done = {e.asset_key.to_user_string() for e in result.get_asset_materialization_events()}
    assert done == {"source_assessment", "migration_plan", "exported_snapshot", last}
    assert moved() is None


def test_a_dry_run_is_stopped_by_the_same_expectations(expecting, moved):
    result = expecting("staged", **NO_LONG_IDS).run("dry_run", check=False, dry_run=True)

    assert not result.success
    assert checked(result, "staged")[0] is False
    assert not materialized(result, "import_preview")


def test_a_critical_expectation_of_what_was_loaded_fails_the_validation_and_is_shown(expecting, moved):
    launcher = expecting("loaded", "expect_column_values_to_not_match_regex", column="state_id", regex="^04[12]$")

    result = launcher.run(check=False)

    assert not result.success
    passed, severity, [row] = checked(result, "loaded")
    assert (passed, severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert sorted(row["ids"].split(", ")) == ["041", "042"]
    description, _ = failure_of(result, "validation_report")
    assert "The loaded records do not meet the expectations" in description
    assert materialized(result, "target_states")
    assert not materialized(result, "validation_report")
    assert (
        not expecting("loaded", "expect_column_values_to_be_null", column="kind").run("validate", check=False).success
    )
    assert launcher.but(expectations={}).run("validate").success


def test_what_is_missing_is_shown_by_the_expectations_too(launcher, target):
    launcher.run()
    with psycopg.connect(target["connection_url"]) as connection:
        connection.execute("DELETE FROM ag_states WHERE state_id = '042'")

    passed, severity, rows = checked(launcher.run("validate", check=False), "loaded")

    assert (passed, severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert {(row["frame"], row["column"], row["ids"]) for row in rows} == {
        ("records", "status", "042"),
        ("totals", "missing", "state"),
    }


def test_ids_that_fall_together_fail_the_transform_and_an_import_alone(launcher, moved):
    (launcher.folder / "shapes_one_id.py").write_text("def same(state_id, document):\n    return 'one', document\n")
    colliding = launcher.but(transforms=[{"python": "shapes_one_id:same"}])

    with pytest.raises(dg.Failure, match="'one'") as failed:
        colliding.run()
    with pytest.raises(dg.Failure, match="'one'") as failed_alone:
        colliding.launch(assets=["target_states"], check=True)

    assert isinstance(failed.value.__cause__, CollisionError)
    assert isinstance(failed_alone.value.__cause__, CollisionError)
    assert moved() is None


@pytest.mark.parametrize("stage", STAGES)
def test_an_expectation_that_only_warns_stops_nothing(expecting, moved, stage):
    launcher = expecting(
        stage, "expect_column_values_to_not_match_regex", severity="warning", column="state_id", regex="042$"
    )

    result = launcher.run()

    assert result.success
    passed, severity, [row] = checked(result, stage)
    assert (passed, severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (row["column"], row["severity"]) == ("state_id", "warning")
    assert row["ids"].removeprefix("session:") == "042"
    assert len(moved()) == 100


def test_a_refused_run_is_a_failure_that_says_what_to_do_and_is_not_retried(launcher, legacy, moved):
    legacy.set(b"session:\xff", b"{}")

    with pytest.raises(dg.Failure) as failed:
        launcher.run()

    assert isinstance(failed.value.__cause__, RejectLimitError)
    assert failed.value.allow_retries is False
    assert failed.value.description == str(failed.value.__cause__)
    assert "id_not_utf8" in failed.value.description
    assert "limits.max_rejects" in failed.value.description
    assert failed.value.metadata["error"].value == "RejectLimitError"
    assert "limits.max_rejects" in str(failed.value.metadata["remedy"].value)
    assert moved() is None


def test_an_unreachable_server_fails_the_assessment_and_nothing_else_runs(launcher, moved):
    unreachable = launcher.but(source={**launcher.text["source"], "connection_url": "redis://127.0.0.1:1/0"})

    result = unreachable.run(check=False)

    description, metadata = failure_of(result, "source_assessment")
    assert "127.0.0.1:1 cannot be reached" in description
    assert metadata["error"] == UnreachableError.__name__
    assert not result.get_asset_materialization_events()
    assert moved() is None


def test_a_range_alone_before_any_plan_says_what_to_do(launcher):
    with pytest.raises(dg.Failure, match="Nothing has been planned") as failed:
        launcher.launch(ranges=("03", "03"), assets=["exported_snapshot"], check=True)

    assert isinstance(failed.value.__cause__, StagingError)
    assert "migration_plan" in (failed.value.description or "")


def test_a_failed_validation_names_what_is_missing_and_shows_its_figures(launcher, target):
    launcher.run()
    with psycopg.connect(target["connection_url"]) as connection:
        connection.execute("DELETE FROM ag_states WHERE state_id = '042'")

    result = launcher.run("validate", check=False)

    assert not result.success
    description, metadata = failure_of(result, "validation_report")
    assert "1 state missing ('042')" in description
    assert metadata["error"] == "ValidationFailedError"
    assert (metadata["missing_states"], metadata["corrupted_states"]) == (1, 0)


def test_a_dry_run_previews_and_writes_nothing(launcher, moved):
    result = launcher.run("dry_run", dry_run=True)

    assert result.success
    [preview] = materialized(result, "import_preview").values()
    assert preview["preview"]["insert"]["state"] == 100
    assert not materialized(result, "target_states")
    assert moved() is None


def test_an_interrupted_run_is_resumed_unless_it_is_to_start_afresh(launcher):
    launcher.launch(assets=["migration_plan", "exported_snapshot"])

    resumed = launcher.run()
    [plan] = materialized(resumed, "migration_plan").values()
    assert plan["resumed"]
    assert all(metadata["resumed"] for metadata in materialized(resumed, "exported_snapshot").values())

    launcher.launch(assets=["migration_plan", "exported_snapshot"])
    fresh = launcher.launch(assets=["migration_plan", "exported_snapshot"], fresh=True)
    [plan] = materialized(fresh, "migration_plan").values()
    assert not plan["resumed"]
    assert not any(metadata["resumed"] for metadata in materialized(fresh, "exported_snapshot").values())


def test_the_launchpad_takes_the_file_of_the_environment(launcher, moved, monkeypatch):
    monkeypatch.setenv(spec.FILE_VARIABLE, str(launcher.folder / "migration.yaml"))

    assert launcher.launch(migration_file="").success

    assert len(moved()) == 100


def test_the_job_dry_run_is_dry_without_being_told(launcher, moved, monkeypatch):
    (launcher.folder / "migration.yaml").write_text(yaml.safe_dump(launcher.text))
    monkeypatch.setenv(spec.FILE_VARIABLE, str(launcher.folder / "migration.yaml"))

    result = defs.resolve_job_def("dry_run").execute_in_process(instance=launcher.instance, tags=tags())

    assert result.success
    assert materialized(result, "import_preview")
    assert moved() is None


def test_a_missing_file_is_told_by_the_launchpads_run(launcher):
    result = launcher.launch(migration_file=str(launcher.folder / "absent.yaml"))

    assert not result.success
    told = [f"{e.message} {e.event_specific_data}" for e in result.all_events if e.is_failure]
    assert any("absent.yaml does not exist" in text for text in told)


@pytest.mark.parametrize(
    ("job", "first", "written", "said"),
    [
        ("migrate", "source_assessment", None, "other.yaml does not exist"),
        ("sync", "target_sync", "name: [", "is not valid YAML"),
        ("cutover", "target_cutover", "name: 1", "name"),
    ],
)
def test_what_is_wrong_with_the_migration_file_is_said_by_the_first_step(launcher, job, first, written, said):
    file = launcher.folder / "other.yaml"
    if written is not None:
        file.write_text(written)

    result = defs.resolve_job_def(job).execute_in_process(
        instance=launcher.instance,
        run_config={"resources": {"migration": {"config": {"migration_file": str(file)}}}},
        tags=tags(),
        raise_on_error=False,
    )

    assert said in failure_of(result, first)[0]
