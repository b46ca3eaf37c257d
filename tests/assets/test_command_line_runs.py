"""Runs whose command was killed are concluded; a run that the UI repeats is not taken for one of the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import dagster as dg
import psycopg
import pytest
from dagster._core.utils import make_new_run_id

from agui_pipelines import run_tags
from agui_pipelines.automation.sensors import killed_runs, rollback_after_failure
from agui_pipelines.owner import Owner
from tests.assets.test_rollback import SPOILED, asked, rolled_back

STARTED, CANCELING, FAILED = (
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
    dg.DagsterRunStatus.FAILURE,
)


@pytest.fixture
def begun(instance):
    """Has a run that goes on by what it is tagged with; gives its status once dead ones were concluded."""

    def run(tags, run_id=None):
        run = dg.DagsterRun(job_name="migrate", run_id=run_id or make_new_run_id(), status=STARTED, tags=tags)
        instance.add_run(run)
        run_tags.conclude_dead_runs(instance, "moved")
        return instance.get_run_by_id(run.run_id).status

    return run


def tags_of_dead_process(run_id):
    """What a command that was killed has left."""
    code = "import sys; from agui_pipelines import run_tags; print(run_tags.tags('moved', sys.argv[1]))"
    said = subprocess.run([sys.executable, "-c", code, run_id], capture_output=True, text=True, check=True)
    return eval(said.stdout)  # a dict of strings that our own code printed


def test_a_run_whose_command_was_killed_is_concluded(begun):
    run_id = make_new_run_id()
    assert begun(tags_of_dead_process(run_id), run_id) is FAILED


def test_a_run_whose_command_goes_on_is_not(begun):
    run_id = make_new_run_id()
    assert begun(run_tags.tags("moved", run_id), run_id) is STARTED


def test_a_process_that_got_the_number_of_a_dead_one_is_not_taken_for_it(begun):
    run_id = make_new_run_id()
    tags = run_tags.tags("moved", run_id)
    dead = tags_of_dead_process(run_id)
    number = json.loads(tags["agui/owner"])["process"]
    owner = json.dumps({**json.loads(dead["agui/owner"]), "process": number})
    assert begun({**dead, "agui/owner": owner}, run_id) is FAILED


def test_a_run_that_the_ui_repeats_is_not_concluded_with_the_one_before(begun):
    dead = make_new_run_id()
    assert begun(tags_of_dead_process(dead)) is STARTED


def test_a_run_that_is_being_cancelled_is_concluded_too(instance):
    run_id = make_new_run_id()
    run = dg.DagsterRun(job_name="migrate", run_id=run_id, status=CANCELING, tags=tags_of_dead_process(run_id))
    instance.add_run(run)

    assert run_tags.conclude_dead_runs(instance) == [run_id]
    assert instance.get_run_by_id(run_id).status is FAILED


def test_a_run_that_ends_while_it_is_looked_at_stays_as_it_ended(instance, monkeypatch):
    run_id = make_new_run_id()
    run = dg.DagsterRun(job_name="migrate", run_id=run_id, status=STARTED, tags=tags_of_dead_process(run_id))
    instance.add_run(run)
    is_gone = Owner.is_gone

    def is_gone_after_it_has_ended(owner):
        instance.handle_run_event(run_id, dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, "migrate"))
        return is_gone(owner)

    monkeypatch.setattr(Owner, "is_gone", is_gone_after_it_has_ended)

    assert run_tags.conclude_dead_runs(instance) == []
    assert instance.get_run_by_id(run_id).status is dg.DagsterRunStatus.SUCCESS


def test_runs_of_other_migrations_are_let_be(begun):
    run_id = make_new_run_id()
    assert begun({**tags_of_dead_process(run_id), "agui/migration": "another"}, run_id) is STARTED


def test_a_sensor_concludes_those_of_all_migrations(tmp_path):
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        dg.build_sensor_context(instance=instance) as context,
    ):
        assert "No process" in killed_runs.evaluate_tick(context).skip_message
        dead, going = make_new_run_id(), make_new_run_id()
        for run_id, tags in ((dead, tags_of_dead_process(dead)), (going, run_tags.tags("moved", going))):
            instance.add_run(dg.DagsterRun(job_name="migrate", run_id=run_id, status=STARTED, tags=tags))

        said = killed_runs.evaluate_tick(context).skip_message

        assert said == f"Marked as failed: {dead}."
        assert instance.get_run_by_id(dead).status is FAILED
        assert instance.get_run_by_id(going).status is STARTED


def test_a_run_that_the_ui_repeats_is_taken_back_when_it_fails_and_a_command_is_not(
    launcher, instance, moved, postgres_url
):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE ag_states (state_id varchar(255) PRIMARY KEY, data jsonb NOT NULL,"
            " created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now())"
        )
        connection.execute(SPOILED)
    before = make_new_run_id()
    again = launcher.launch(tags=run_tags.tags("launched", before))
    assert not again.success
    assert len(moved()) == 100

    assert rolled_back(instance, asked(rollback_after_failure, instance, again)).success
    assert moved() == {}

    run_id = make_new_run_id()
    told = launcher.launch(tags=run_tags.tags("launched", run_id), run_id=run_id)
    assert isinstance(asked(rollback_after_failure, instance, told), dg.SkipReason)
    assert os.getpid() == json.loads(told.dagster_run.tags["agui/owner"])["process"]


def test_a_run_of_the_ui_says_which_process_executes_it(launcher, instance):
    done = launcher.launch("assess_and_plan", rehearse=False)

    tags = instance.get_run_by_id(done.run_id).tags
    assert (tags["agui/run"], tags["agui/migration"], tags["agui/by"]) == (done.run_id, "launched", "dagster")
    assert json.loads(tags["agui/owner"])["process"] == os.getpid()
