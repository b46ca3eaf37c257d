"""A run of the whole job holds the target's lock from its first step to its last, however it ends."""

from __future__ import annotations

import dagster as dg
import pytest

from agui_pipelines import spec
from agui_pipelines.errors import LockedError
from agui_pipelines.phases.session import Session
from tests.assets.test_jobs import failure_of


@pytest.fixture
def target(tmp_path):
    return {"type": "file", "file_options": {"base_dir": str(tmp_path / "store"), "durable": False}}


@pytest.fixture
def watched(launcher):
    """A migration whose transform notes whether the lock is held, and fails if it is told so."""
    launcher.folder.joinpath("shapes_watching.py").write_text(
        "from pathlib import Path\n"
        "HERE = Path(__file__).parent\n"
        "def watch(state_id, document):\n"
        "    HERE.joinpath('seen').write_text(str(HERE.joinpath('store', '.agui-lock').exists()))\n"
        "    if HERE.joinpath('interrupt').exists():\n"
        "        raise KeyboardInterrupt\n"
        "    return ('one' if HERE.joinpath('collide').exists() else state_id), document\n"
    )
    return launcher.but(transforms=[{"python": "shapes_watching:watch"}])


def other(launcher):
    return Session.open(spec.parse({**launcher.text, "name": "other"}, folder=launcher.folder))


def seen(launcher):
    return launcher.folder.joinpath("seen").read_text()


def test_the_lock_is_held_before_anything_is_written_and_released_in_the_end(watched):
    assert watched.launch().success
    assert seen(watched) == "True"
    with other(watched).exclusive():
        pass
    assert not watched.folder.joinpath("store", ".agui-lock").exists()


def test_a_run_that_fails_releases_the_lock_and_leaves_nothing(watched):
    watched.folder.joinpath("collide").touch()
    assert not watched.launch().success
    assert seen(watched) == "True"
    assert not watched.folder.joinpath("store").exists()


def test_a_run_that_is_interrupted_releases_the_lock_and_leaves_nothing(watched):
    watched.folder.joinpath("interrupt").touch()
    with pytest.raises((KeyboardInterrupt, dg.DagsterExecutionInterruptedError)):
        watched.launch(check=True)
    assert seen(watched) == "True"
    assert not watched.folder.joinpath("store").exists()


def test_a_second_run_is_refused_before_it_reads_anything(watched):
    with other(watched).exclusive():
        refused = watched.launch()
        assert not watched.folder.joinpath(".agui", "launched", "snapshots").exists()
    description, metadata = failure_of(refused, "source_assessment")
    assert "The migration 'other' (process" in description
    assert metadata["error"] == LockedError.__name__


GRAPH = ["migration_plan", "exported_snapshot", "staged_snapshot", "target_backup", "target_states"]


def test_what_is_materialized_in_the_graph_writes_alone_from_its_first_step_on(watched):
    with other(watched).exclusive():
        refused = watched.launch("__ASSET_JOB", assets=GRAPH)
        assert "The migration 'other' (process" in failure_of(refused, "migration_plan")[0]
        assert not watched.folder.joinpath(".agui", "launched", "snapshots").exists()
        assert watched.launch("__ASSET_JOB", assets=GRAPH[:3]).success

    assert watched.launch("__ASSET_JOB", assets=GRAPH, fresh=True).success
    assert seen(watched) == "True"
    assert not watched.folder.joinpath("store", ".agui-lock").exists()


def test_a_dry_run_of_the_graph_needs_no_lock(watched):
    with other(watched).exclusive():
        assert watched.launch("__ASSET_JOB", assets=GRAPH, dry_run=True).success
        assert seen(watched) == "True"


def test_a_backup_is_not_made_while_somebody_else_writes(watched):
    assert watched.launch("__ASSET_JOB", assets=GRAPH[:3]).success
    with other(watched).exclusive():
        refused = watched.launch("__ASSET_JOB", assets=["target_backup"])
    description, metadata = failure_of(refused, "target_backup")
    assert "The migration 'other' (process" in description
    assert metadata["error"] == LockedError.__name__

    assert watched.launch("__ASSET_JOB", assets=["target_backup"]).success


def test_a_dry_run_and_a_validation_need_no_lock(watched):
    assert watched.launch().success
    with other(watched).exclusive():
        assert watched.launch("validate").success
        assert watched.launch("dry_run", dry_run=True).success
