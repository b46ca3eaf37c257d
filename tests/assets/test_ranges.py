"""Key ranges by themselves: what a dry run, a failure or a repair of one of them does to the target, and to the others."""

from __future__ import annotations

import psycopg
import pytest

from agui_pipelines import spec
from agui_pipelines.phases.plan import current
from agui_pipelines.phases.rollback import after_failure
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.validate import pending_ranges
from tests.assets.test_jobs import failure_of
from tests.partitions import RANGES

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


def test_a_preview_leaves_the_plan_of_a_migration_open(launcher, session, moved):
    assert launcher.launch("dry_run", dry_run=False).success
    made = current(session())

    assert launcher.launch().success
    assert current(session()).plan_id == made.plan_id


def test_the_job_of_the_whole_migration_over_one_range_moves_it_and_is_not_undone(launcher, session, moved):
    result = launcher.launch("migrate", ranges=("01", "01"))

    assert not result.success  # as it is not proven
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
