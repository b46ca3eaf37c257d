"""What tells the runs of the command line from those of the UI, and whether the command that ran one still lives.

A run that is executed again from the UI inherits the tags of the one before. So they name the run that they are of: where
that is another one, they say nothing.
"""

from __future__ import annotations

import platform
from typing import Final

import dagster as dg

from agui_pipelines.owner import Owner, exists

_MIGRATION: Final = "agui/migration"
_RUN: Final = "agui/run"
_HOST: Final = "agui/host"
_PROCESS: Final = "agui/process"
_STARTED: Final = "agui/process_started"


def tags(migration: str, run_id: str) -> dict[str, str]:
    """Tags of a run that this process executes."""
    here = Owner.here(migration)
    return {
        _MIGRATION: migration,
        _RUN: run_id,
        _HOST: here.host,
        _PROCESS: str(here.process),
        _STARTED: here.started,
    }


def is_of_command_line(run: dg.DagsterRun) -> bool:
    return run.tags.get(_RUN) == run.run_id


def conclude_dead_runs(instance: dg.DagsterInstance, migration: str = "") -> list[str]:
    """Mark runs (of a migration, if one is given) whose command was killed on this machine as failed; their ids.

    Dagster watches only runs that it launched itself. Others wait in the queue for as long as one seems to go on.
    """
    here = {_HOST: platform.node(), **({_MIGRATION: migration} if migration else {})}
    dead = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags=here))
        if is_of_command_line(run) and not exists(int(run.tags[_PROCESS]), run.tags[_STARTED])
    ]
    for run in dead:
        instance.report_run_failed(run, "The process that ran it was killed. Run the migration again to resume.")
    return [run.run_id for run in dead]
