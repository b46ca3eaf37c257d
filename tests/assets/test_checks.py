"""The asset checks: each passes, and fails for its reason with the ids; what fails for sure stops the import in the same run."""

from __future__ import annotations

import json

import dagster as dg
import psycopg
import pyarrow as pa
import pytest
from dagster._core.errors import DagsterAssetCheckFailedError

from agui_pipelines import spec
from agui_pipelines.automation.overhead import around_steps
from agui_pipelines.definitions import defs
from agui_pipelines.errors import RejectLimitError
from agui_pipelines.expectations.runner import SuiteReport
from agui_pipelines.expectations.suites import Stage
from agui_pipelines.ports import Version
from agui_pipelines.records import Kind
from agui_pipelines.resources import MigrationFile
from agui_pipelines.spec import FileConfig
from agui_pipelines.stores import open_store
from assets import checks
from assets.declared import declared
from tests.assets.conftest import QUIET
from tests.integration.conftest import Move
from tests.partitions import tags

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
LONG_IDS = {"type": "expect_column_value_lengths_to_be_between", "kwargs": {"column": "state_id", "max_value": 2}}

IDS = pa.schema([("state_id", pa.string()), ("version_id", pa.string())])


def evaluations(result):
    """What every check of a run found, by its name."""
    return {e.check_name: e for e in result.get_asset_check_evaluations()}


def outcome(evaluation):
    return evaluation.passed, evaluation.severity


def shown(evaluation, name="failures"):
    """The rows of one of its tables."""
    return [record.data for record in evaluation.metadata[name].records]


def figures(evaluation):
    return {name: each.value for name, each in evaluation.metadata.items() if isinstance(each.value, int | float)}


def materialized(result):
    return {e.asset_key.to_user_string() for e in result.get_asset_materialization_events()}


# Rejects


def test_more_rejects_than_are_allowed_stop_the_run_before_the_import_and_are_named(launcher, legacy, moved):
    legacy.mset({b"session:\xff": b"{}", b"session:\xfe": b"{}", b"session:nul": rb'{"a":"\u0000"}'})
    too_many = launcher.but(limits={"max_rejects": 2})

    result = too_many.launch()

    assert not result.success
    assert materialized(result) == {"source_assessment", "migration_plan", "exported_snapshot", "staged_snapshot"}
    found = evaluations(result)
    assert outcome(found["rejects_within_limit"]) == (False, ERROR)
    assert figures(found["rejects_within_limit"]) == {"rejects": 3, "max_rejects": 2}
    assert {(row["id"], row["phase"]) for row in shown(found["rejects_within_limit"])} == {
        (r"session:\xff", "export"),
        (r"session:\xfe", "export"),
        ("session:nul", "transform"),
    }
    assert outcome(found["staged"]) == (True, WARN)
    assert moved() is None
    with pytest.raises(dg.Failure, match="3 records were rejected") as alone:
        too_many.launch(assets=["target_states"], check=True)
    [failed] = [e for e in result.filter_events(lambda e: e.is_step_failure) if e.step_key == "expect_staged"]
    assert failed.step_failure_data.user_failure_data.description == alone.value.description
    assert isinstance(alone.value.__cause__, RejectLimitError)


@pytest.mark.long
def test_as_many_rejects_as_are_allowed_are_told_and_stop_nothing(launcher, legacy, moved):
    legacy.set(b"session:\xff", b"{}")

    result = launcher.but(limits={"max_rejects": 1}).run()

    found = evaluations(result)["rejects_within_limit"]
    assert found.passed
    assert [row["id"] for row in shown(found)] == [r"session:\xff"]
    assert len(moved()) == 100


@pytest.mark.long
def test_a_dry_run_is_stopped_by_rejects_too(launcher, legacy):
    legacy.set(b"session:\xff", b"{}")

    result = launcher.run("dry_run", dry_run=True, check=False)

    assert outcome(evaluations(result)["rejects_within_limit"]) == (False, ERROR)
    assert "import_preview" not in materialized(result)


# Suites of one's own


@pytest.fixture
def loaded_with(launcher):
    """Runs a job over the definitions as they are loaded where the default migration file names `mine.json` for each stage."""
    jobs = [dg.define_asset_job("migrate", dg.AssetSelection.assets("target_states").upstream())]
    assets = [each for each in defs.assets or () if isinstance(each, dg.AssetsDefinition)]
    loaded = dg.Definitions(
        assets=assets,
        asset_checks=[checks.exported_checks(["mine.json"]), checks.staged_checks(["suites/mine.json"])],
        jobs=jobs,
        resources={"migration": MigrationFile()},
    )

    def run(**suites):
        for stage, expectations in suites.items():
            content = {"name": f"mine of {stage}", "expectations": expectations}
            (launcher.folder / stage).mkdir()
            (launcher.folder / stage / "mine.json").write_text(json.dumps(content))
        text = {**launcher.text, "expectations": {stage: f"{stage}/mine.json" for stage in suites}}
        (launcher.folder / "migration.yaml").write_text(json.dumps(text))  # which is YAML too
        settings = {"migration_file": str(launcher.folder / "migration.yaml")}
        return loaded.resolve_job_def("migrate").execute_in_process(
            instance=launcher.instance,
            tags=tags(),
            run_config={**QUIET, "resources": {"migration": {"config": settings}}},
            raise_on_error=False,
        )

    return run


def test_a_suite_of_ones_own_is_a_check_by_its_files_name_and_blocks(loaded_with, legacy, moved):
    legacy.delete(*[f"session:{i:03}" for i in range(2, 100)])

    result = loaded_with(staged=[LONG_IDS])

    found = {(e.asset_key.to_user_string(), e.check_name): e for e in result.get_asset_check_evaluations()}
    assert not result.success
    assert outcome(found["staged_snapshot", "mine"]) == (False, ERROR)
    assert [row["ids"] for row in shown(found["staged_snapshot", "mine"])] == ["000, 001"]
    assert found["staged_snapshot", "staged"].passed
    assert found["exported_snapshot", "exported"].passed
    absent = found["exported_snapshot", "mine"]
    assert (absent.passed, figures(absent)) == (True, {"expectations": 0})
    assert "has no such suite" in absent.description
    assert moved() is None


def test_what_expectations_and_rejects_stop_at_once_is_told_by_the_expectations(launcher, legacy, moved):
    legacy.set(b"session:\xff", b"{}")
    (launcher.folder / "mine.json").write_text(json.dumps({"name": "mine", "expectations": [LONG_IDS]}))
    failing = launcher.but(expectations={"staged": "mine.json"})

    with pytest.raises(DagsterAssetCheckFailedError, match="rejects_within_limit"):
        failing.run()

    assert moved() is None


def report(stage, name):
    return SuiteReport(stage, name, 1, ())


@pytest.mark.parametrize(
    ("asked", "named", "told"),
    [
        ([], ["staged"], {"staged": ["staged"], "own": []}),
        (["a/own.json"], ["staged", "one"], {"staged": ["staged"], "own": ["one"]}),
        (["other.json"], ["staged", "two"], {"staged": ["staged", "two"], "own": []}),
        (["own.json"], ["staged"], {"staged": [], "own": ["staged"]}),  # in place of the shipped one
        (["b/staged.json", "own.json"], ["staged", "one"], {"staged": ["staged"], "own": ["one"]}),
        (["rejects_within_limit.json"], ["staged", "odd"], {"staged": ["staged", "odd"], "own": []}),
    ],
)
def test_every_suite_of_a_run_is_told_by_its_own_check_or_by_that_of_the_shipped_one(asked, named, told):
    known = checks.specs(Stage.STAGED, "staged_snapshot", ["own.json"])

    found = checks.by_check(
        Stage.STAGED,
        spec.Expectations(staged=tuple(asked)),
        [report(Stage.STAGED, name) for name in named],
        known,
    )

    assert {name: [each.suite for each in some] for name, some in found.items()} == told


def test_checks_are_called_by_what_dagster_takes_and_are_never_two_of_one_name():
    found = checks.specs(
        Stage.LOADED, "validation_report", ["a/my-suite.v2.json", "my_suite_v2.json", "loaded.json", "a$b.json"]
    )

    names = [each.name for each in found]
    assert names == [
        *("loaded", "my_suite_v2", "a_b", "completeness", "digest_equality", "history_integrity", "performance"),
    ]
    assert [each.name for each in found if not each.blocking] == ["performance"]


def test_the_default_migration_file_says_which_suites_are_checks(tmp_path, monkeypatch):
    file = tmp_path / "migration.yaml"
    monkeypatch.setenv(spec.FILE_VARIABLE, str(file))
    assert declared("expectations") == spec.Expectations()

    file.write_text("expectations: {staged: mine.json, loaded: [a.json, b.json]}")
    assert declared("expectations") == spec.Expectations(staged=("mine.json",), loaded=("a.json", "b.json"))
    file.write_text('expectations: {staged: "${SUITES}/mine.json"}')
    assert declared("expectations") == spec.Expectations()  # as long as nothing is known of it
    monkeypatch.setenv("SUITES", "there")
    assert declared("expectations") == spec.Expectations(staged=("there/mine.json",))
    for broken in ("expectations: {stage: mine.json}", "expectations: 5", "expectations:\n", "- no mapping", "a: [\n"):
        file.write_text(broken)
        assert declared("expectations") == spec.Expectations()


# What was loaded


@pytest.fixture
def done(launcher):
    """The launcher, after everything was moved and proven."""
    assert Move(launcher.text, launcher.folder).run().validation.passed
    return launcher


OF_VALIDATION = {"loaded", "completeness", "digest_equality", "history_integrity", "performance"}


def test_a_validation_shows_what_is_missing_corrupted_and_besides_and_a_sample_proves_nothing(done, target):
    with psycopg.connect(target["connection_url"]) as connection:
        connection.execute("INSERT INTO ag_states VALUES ('another', '{}')")

    found = evaluations(done.run("validate"))

    assert found.keys() == OF_VALIDATION
    assert {outcome(each) for name, each in found.items() if name != "performance"} == {(True, ERROR), (True, WARN)}
    assert figures(found["completeness"])["extra_states"] == 1
    assert [(row["finding"], row["counts"], row["ids"]) for row in shown(found["completeness"], "findings")] == [
        ("extra_states", "no", "another")
    ]

    sampled = evaluations(done.run("validate", sample=5))

    assert {outcome(each) for each in sampled.values()} == {(False, WARN)}
    assert "of 100 ids only 5 were compared" in sampled["completeness"].description
    assert "as a sample was compared" in sampled["loaded"].description

    with psycopg.connect(target["connection_url"]) as connection:
        connection.execute("DELETE FROM ag_states WHERE state_id = '042'")
        connection.execute("UPDATE ag_states SET data = '{\"number\": 0}' WHERE state_id = '041'")

    result = done.run("validate", check=False)

    found = evaluations(result)
    assert not result.success
    assert outcome(found["completeness"]) == (False, ERROR)
    assert [row["ids"] for row in shown(found["completeness"]) if row["counts"] == "yes"] == ["042"]
    assert figures(found["completeness"])["missing_states"] == 1
    assert outcome(found["digest_equality"]) == (False, ERROR)
    assert [row["ids"] for row in shown(found["digest_equality"])] == ["041"]
    assert shown(found["digest_equality"], "differences") == [{"id": "041", "kind": "state", "differs_at": "/number"}]
    assert figures(found["digest_equality"])["corrupted_states"] == 1
    assert outcome(found["loaded"]) == (False, ERROR)
    assert found["history_integrity"].passed
    assert found["performance"].passed
    assert found["completeness"].metadata["report_file"].value.endswith("-validation.json")

    sampled = evaluations(done.run("validate", sample=100, check=False))

    assert outcome(sampled["completeness"]) == (False, ERROR)
    assert [row["ids"] for row in shown(sampled["completeness"]) if row["counts"] == "yes"] == ["042"]
    assert outcome(sampled["history_integrity"]) == (False, WARN)


def test_a_version_whose_parent_is_gone_in_the_target_breaks_the_integrity_of_histories(launcher, tmp_path):
    source, target = (
        {"type": "file", "file_options": {"base_dir": str(tmp_path / end), "durable": False}}
        for end in ("source", "target")
    )
    store = open_store(FileConfig.model_validate(source), tmp_path)
    store.set_state("s", b"{}")
    for number, parent in ((1, ""), (2, "v1")):
        at = f"2026-01-02T03:04:0{number}Z"
        store.save_version(Version(f"v{number}", "s", at, b"{}", parent_id=parent))
    stores = launcher.but(source=source, target=target, transforms=[])
    assert Move(stores.text, stores.folder).run().validation.passed

    whole = evaluations(stores.run("validate"))["history_integrity"]
    store = open_store(FileConfig.model_validate(target), tmp_path)
    store.remove(Kind.VERSION, pa.RecordBatch.from_pylist([{"state_id": "s", "version_id": "v1"}], IDS))
    broken = evaluations(stores.run("validate", check=False))["history_integrity"]

    assert (whole.passed, figures(whole)["versions_without_parent"]) == (True, 0)
    assert outcome(broken) == (False, ERROR)
    assert [(each["finding"], each["ids"]) for each in shown(broken)] == [("versions_without_parent", "s/v2")]
    assert figures(broken).keys() == figures(whole).keys()


def test_what_is_required_is_held_to_what_was_measured_and_only_warns(done):
    def judged(**requirements):
        result = done.but(requirements=requirements).run("validate")
        assert result.success
        return evaluations(result)["performance"]

    def verdicts(evaluation):
        return [(row["requirement"], row["verdict"]) for row in shown(evaluation, "requirements")]

    none = judged()
    assert (outcome(none), figures(none)) == ((True, WARN), {"missed_requirements": 0})
    assert "asks for none" in none.description

    met = judged(max_latency="1h", min_throughput=0.001, max_memory="1KiB", availability=99.9)
    assert met.passed
    assert verdicts(met) == [
        *(("max_latency", "met"), ("min_throughput", "met"), ("min_throughput", "met")),
        *(("max_memory", "not measured"), ("availability", "not measured")),  # of a PostgreSQL, and before it is used
    ]

    missed = judged(max_latency="1ns", min_throughput=1e12)
    assert outcome(missed) == (False, WARN)
    assert {verdict for _, verdict in verdicts(missed)} == {"missed"}
    assert figures(missed).keys() == {
        *("missed_requirements", "read_latency_seconds", "written_records_per_second", "read_records_per_second"),
    }
    assert figures(missed)["missed_requirements"] == 3


# What is measured of Dagster itself


def test_an_empty_run_has_the_steps_and_checks_of_a_real_one(instance):
    around_steps(instance, 0.0)

    [run] = instance.get_runs()
    told = [record.event_log_entry.dagster_event for record in instance.get_records_for_run(run.run_id).records]
    evaluated = {
        e.event_specific_data.check_name
        for e in told
        if e and e.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
    }
    steps = {e.step_key for e in told if e and e.is_step_success}
    graph = defs.resolve_job_def("migrate")
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert evaluated == {key.name for key in graph.asset_layer.asset_graph.asset_check_keys}
    assert steps == {node.name for node in graph.nodes}
