"""Which process executes a run, and whether it still lives; and what tells the runs of the command line from those of the UI.

Dagster does not watch the runs of a command line, and of its own it does not notice when the machine, or the process that
launched them, is gone. While a run seems to go on, all others for the same target wait.

A run that is executed again from the UI inherits the tags of the one before. So they name the run that they are of: where
that is another one, they say nothing.
"""

from __future__ import annotations

from typing import Final

import dagster as dg

from agui_pipelines.owner import Owner

_MIGRATION: Final = "agui/migration"
_RUN: Final = "agui/run"
_BY: Final = "agui/by"
_OWNER: Final = "agui/owner"
_COMMAND_LINE: Final = "command line"
_GOING: Final = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


def tags(migration: str, run_id: str, *, by: str = _COMMAND_LINE) -> dict[str, str]:
    """Tags of a run that this process executes."""
    owner = Owner.here(migration).to_json().decode()
    return {_MIGRATION: migration, _RUN: run_id, _BY: by, _OWNER: owner}


def tag_own_process(instance: dg.DagsterInstance, run: dg.DagsterRun, migration: str) -> None:
    """Say of a run that Dagster has launched that this process executes it."""
    if not _is_of_its_own(run):
        instance.add_run_tags(run.run_id, tags(migration, run.run_id, by="dagster"))


def is_of_command_line(run: dg.DagsterRun) -> bool:
    return _is_of_its_own(run) and run.tags.get(_BY) == _COMMAND_LINE


def is_of_another(run: dg.DagsterRun, migration: str) -> bool:
    """Whether a run is known to be of another migration. Of one that no process executes yet that is not known."""
    return _is_of_its_own(run) and run.tags.get(_MIGRATION) != migration


def conclude_dead_runs(instance: dg.DagsterInstance, migration: str = "") -> list[str]:
    """Mark runs (of a migration, if one is given) whose process has died on this machine as failed; their ids.

    Of a process on another machine, or in a container that counts its processes apart, nothing is known here.
    """
    going = dg.RunsFilter(statuses=_GOING, tags={_MIGRATION: migration} if migration else {})
    dead = [run for run in instance.get_runs(going) if _is_of_its_own(run) and _has_died(run)]
    # A process may have ended its run, and then itself, after the runs were looked up; from now on it ends nothing any more.
    dead = [run for run in dead if _goes_on(instance, run)]
    for run in dead:
        instance.report_run_failed(run, "The process that ran it was killed. Run the migration again to resume.")
    return [run.run_id for run in dead]


def _is_of_its_own(run: dg.DagsterRun) -> bool:
    """Whether the tags of a run are about itself, and not about the run that it repeats."""
    return run.tags.get(_RUN) == run.run_id


def _goes_on(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    now = instance.get_run_by_id(run.run_id)
    return now is not None and now.status in _GOING


def _has_died(run: dg.DagsterRun) -> bool:
    owner = Owner.parsed(run.tags.get(_OWNER))
    return owner is not None and owner.is_gone()
