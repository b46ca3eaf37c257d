"""Key ranges by themselves: what a dry run, a failure or a repair of one of them does to the target, and to the others."""

from __future__ import annotations

import dagster as dg
import psycopg
import pytest
import yaml

from agui_pipelines import spec
from agui_pipelines.phases.plan import current
from agui_pipelines.phases.rollback import after_failure
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.validate import pending_ranges
from agui_pipelines.resources import MigrationFile
from tests.assets.test_jobs import failure_of
from tests.partitions import RANGES, tags

READ = ["migration_plan", "exported_snapshot", "staged_snapshot"]
WRITTEN = ["target_backup", "target_states"]


@pytest.fixture
def session(launcher):
    def open_():
        return Session.open(spec.parse(launcher.text, folder=launcher.folder))

    return open_


@pytest.fixture
def staged(launcher):
    """The launcher, once everything is staged."""
    assert launcher.launch(assets=READ).success
    return launcher


def imported(launcher, name, *, check=True):
    result = launcher.launch(ranges=(name, name), assets=WRITTEN)
    assert result.success or not check
    return result


def test_a_dry_run_of_what_writes_alone_writes_nothing(launcher, moved):
    assert launcher.launch("dry_run", dry_run=True).success

    result = launcher.launch(assets=["target_states"], dry_run=True)

    assert not result.success
    assert moved() is None


def test_nothing_that_the_job_dry_run_has_read_is_imported_later_whatever_it_was_told(launcher, session, legacy, moved):
    assert launcher.launch("dry_run", dry_run=False).success
    assert moved() is None
    assert current(session(), "dry_run")
    legacy.set("session:001", '{"number": 1000}')
    legacy.set("session:100", '{"number": 100}')
    legacy.delete("session:002")

    assert launcher.launch().success

    assert (moved()["001"], moved()["100"], len(moved())) == ({"number": 1000}, {"number": 100}, 100)
    assert "002" not in moved()


def told(result):
    """All that a run says of its failures."""
    return " ".join(f"{event.message} {event.event_specific_data}" for event in result.all_events if event.is_failure)


@pytest.mark.parametrize("job", ["migrate", "dry_run", "__ASSET_JOB"])
def test_a_run_without_key_ranges_is_refused_before_it_reads_anything(launcher, moved, job):
    result = launcher.launch(job, ranges=None, assets=[*READ, *WRITTEN] if job.startswith("_") else None)

    assert not result.success
    assert "No key ranges were chosen." in told(result)
    assert "DagsterInvariantViolationError" not in told(result)
    assert not result.get_asset_materialization_events()
    assert not (launcher.folder / ".agui").exists()
    assert moved() is None


@pytest.mark.parametrize("assets", [["migration_plan"], ["validation_report"], ["import_preview"]])
def test_what_is_not_made_range_by_range_is_materialized_without_any(launcher, assets):
    launcher.launch("dry_run")
    launcher.launch()

    assert launcher.launch("__ASSET_JOB", ranges=None, assets=assets).success


def test_a_run_that_only_checks_needs_no_key_ranges_and_no_lock(launcher):
    file = launcher.folder / "migration.yaml"
    file.write_text(yaml.safe_dump(launcher.text))
    check = dg.AssetCheckKey(dg.AssetKey("staged_snapshot"), "staged")
    run = dg.DagsterRun("__ASSET_JOB", asset_check_selection=frozenset({check}))
    asked = dg.InitResourceContext({}, dg.build_resources({}), None, {}, dagster_run=run)

    other = Session.open(spec.parse({**launcher.text, "name": "other"}, folder=launcher.folder))
    with other.exclusive(), MigrationFile(migration_file=str(file)).yield_for_execution(asked) as made:
        assert made.migration.name == "launched"


@pytest.mark.parametrize("job", ["migrate", "dry_run"])
@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"dagster/partition": "01"}, "Of the key ranges 00 to 03, only 01 was chosen."),
        (tags("01", "03"), "Of the key ranges 00 to 03, only 01 to 03 were chosen."),
    ],
)
def test_the_job_of_the_whole_migration_over_some_ranges_is_refused(launcher, session, moved, job, tags, said):
    result = launcher.launch(job, ranges=None, tags=tags)

    assert not result.success
    description, metadata = failure_of(result, "source_assessment")
    assert description.startswith(said)
    assert metadata["error"] == "UsageError"
    assert "agui-migrate run --range" in metadata["remedy"]
    assert not session().ledger.entries()
    assert moved() is None


def test_a_finished_migration_is_still_one_after_some_ranges_of_the_job_were_refused(launcher, session):
    assert launcher.launch().success
    plan_id = current(session()).plan_id

    assert not launcher.launch(ranges=("01", "01")).success

    assert current(session()).plan_id == plan_id
    assert launcher.launch("sync").success


def test_ranges_one_by_one_as_a_backfill_of_the_graph_has_them(launcher, session, moved):
    assert launcher.launch("__ASSET_JOB", assets=["source_assessment", "migration_plan"], ranges=None).success
    for name in RANGES:
        one = {"dagster/partition": name}
        assert launcher.launch("__ASSET_JOB", assets=[*READ[1:], *WRITTEN], ranges=None, tags=one).success

    assert len(moved()) == 100
    assert launcher.launch("validate").success


def test_what_is_not_proven_as_others_are_missing_is_kept(staged, session, moved):
    result = staged.launch(ranges=("01", "01"), assets=[*WRITTEN, "validation_report"])

    assert not result.success
    part = moved()
    assert 0 < len(part) < 100
    aftermath = after_failure(session(), result.run_id)
    assert (aftermath.status, moved()) == ("kept", part)
    assert "all of its key ranges were imported" in aftermath.sentence


def test_a_range_that_fails_is_taken_back_alone(staged, session, moved, target):
    imported(staged, "00")
    before = moved()
    with psycopg.connect(target["connection_url"], autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;"
            "CREATE TRIGGER refuse BEFORE INSERT ON ag_states FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    failed = imported(staged, "01", check=False)
    assert not failed.success

    aftermath = after_failure(session(), failed.run_id)

    assert (aftermath.status, moved()) == ("rolled_back", before)
    assert pending_ranges(session(), current(session())) == list(RANGES[1:])


def test_a_repair_that_fails_afterwards_keeps_what_was_there(staged, session, moved):
    for name in RANGES:
        imported(staged, name)
    assert staged.run("validate").success

    again = imported(staged, "01")
    aftermath = after_failure(session(), again.run_id)

    assert (aftermath.status, len(moved())) == ("kept", 100)
    assert "all of its key ranges were imported" in aftermath.sentence


def test_what_was_imported_before_is_repaired_with_the_others_that_are_chosen(staged, moved, target):
    imported(staged, "00")
    part = moved()
    with psycopg.connect(target["connection_url"], autocommit=True) as connection:
        connection.execute("DELETE FROM ag_states")

    assert staged.launch(ranges=("00", "01"), assets=WRITTEN).success

    assert part.items() < moved().items()


def test_a_strategy_that_no_run_carries_out_is_refused_in_the_graph_too(launcher, moved):
    result = launcher.but(strategy="blue_green").launch("__ASSET_JOB", assets=[*READ, *WRITTEN])

    description, _ = failure_of(result, "target_backup")
    assert "blue_green cannot be carried out" in description
    assert moved() is None
