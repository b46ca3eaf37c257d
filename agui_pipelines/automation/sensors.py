"""What reacts to runs: one that failed or was cancelled after it had begun to import is taken back, a dead one concluded.

Runs of the command line are not taken back here: it does that itself, and leaves an interrupted run to be resumed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import dagster as dg

from agui_pipelines import spec
from agui_pipelines.automation.jobs import AFTER_RUN, ATTEMPT, rollback_job
from agui_pipelines.errors import LockedError, MissingVariableError
from agui_pipelines.ledger import Ledger
from agui_pipelines.phases.rollback import imported_in
from agui_pipelines.run_tags import conclude_dead_runs, is_of_command_line
from agui_pipelines.staging import Workspace
from assets.import_ import target_states

LOOK_SECONDS: Final = 10
"""Between two looks of a sensor at how runs ended. Whatever it says of a run ends its look, so that each run takes one."""

ATTEMPTS: Final = 30
"""To undo a run while somebody else writes to the target: at 10 seconds between two looks of a sensor longer than the lock
of an owner that died lasts, several times over."""

_FIRST: Final = {"dagster/priority": "10"}
"""Before whatever else waits for the target: once that has imported, nobody can be taken back any more."""


def _request(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    run = context.dagster_run
    if run.job_name == rollback_job.name:
        return _request_again(context)
    if is_of_command_line(run):
        return dg.SkipReason("No run that imports, or one of the command line, which undoes its imports itself.")
    file = _given_file(run)
    try:
        outline = spec.outline(_named(file) or None)
        imported = imported_in(Ledger(Workspace(outline.workspace_url, outline.name)), run.run_id) is not None
    except Exception as error:  # noqa: BLE001 - Dagster would keep what is raised here from all runs that fail after this one
        if not _began_to_write(context):
            return dg.SkipReason(f"Run {run.run_id} had not begun to import, and cannot be looked up: {error}")
        context.log.warning(
            "What run %s imported cannot be looked up, so its rollback will fail: %s", run.run_id, error
        )
        imported = True
    if not imported:
        return dg.SkipReason(f"Run {run.run_id} had not begun to import.")
    return dg.RunRequest(
        run_key=f"rollback-{run.run_id}",
        run_config={
            "ops": {"target_rollback": {"config": {"after_run": run.run_id}}},
            "resources": {"migration": {"config": {"migration_file": file}}},
        },
        tags={AFTER_RUN: run.run_id, **_FIRST},
    )


def _given_file(run: dg.DagsterRun) -> Any:
    """What the run was told of its migration file: a name, or `{env: …}`, which Dagster takes for any text."""
    found: Any = run.run_config
    for key in ("resources", "migration", "config", "migration_file"):
        found = (found or {}).get(key)
    return found or ""


def _named(given: Any) -> str:
    if not isinstance(given, Mapping):
        return str(given)
    name = str(given.get("env"))
    if name not in os.environ:
        raise MissingVariableError(f"The environment variable {name}, which names the migration file, is not set.")
    return os.environ[name]


def _began_to_write(context: dg.RunStatusSensorContext) -> bool:
    """Whether the run came to the step that imports, by Dagster's own account."""
    events = context.instance.all_logs(context.dagster_run.run_id, of_type=dg.DagsterEventType.STEP_START)
    return any(event.step_key == target_states.op.name for event in events)


def _request_again(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """A rollback that found the target locked, be it by the run itself that is only just ending, is tried again."""
    run = context.dagster_run
    undone, attempt = run.tags.get(AFTER_RUN), int(run.tags.get(ATTEMPT, "1"))
    if undone is None or run.status is not dg.DagsterRunStatus.FAILURE or not _was_locked_out(context):
        return dg.SkipReason(
            "A rollback that was asked for, was cancelled, or failed for what does not pass by itself."
        )
    if attempt >= ATTEMPTS:
        return dg.SkipReason(
            f"Run {undone} was not taken back: another migration held the target's lock at each of {attempt} attempts. "
            "Look at what it has written, then decide: agui-migrate rollback"
        )
    said = "Another migration held the target's lock. Attempt %d of %d to undo the run %s."
    context.log.info(said, attempt + 1, ATTEMPTS, undone)
    return dg.RunRequest(
        run_key=f"rollback-{undone}-{attempt + 1}",
        run_config=run.run_config,
        tags={AFTER_RUN: undone, ATTEMPT: str(attempt + 1), **_FIRST},
    )


def _was_locked_out(context: dg.RunStatusSensorContext) -> bool:
    """Whether a step of the run failed as somebody else held the lock; see `resources.reported`."""
    events = context.instance.all_logs(context.dagster_run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    failures = [event.dagster_event.step_failure_data.user_failure_data for event in events if event.dagster_event]
    found = {
        each.metadata[name].value for each in failures if each for name in ("error", "cause") if name in each.metadata
    }
    return LockedError.__name__ in found


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.FAILURE,
    request_job=rollback_job,
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def rollback_after_failure(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """Puts the target back as it was once a run that had begun to import has failed (on_failure: rollback)."""
    return _request(context)


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.CANCELED,
    request_job=rollback_job,
    minimum_interval_seconds=LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def rollback_after_cancellation(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """Puts the target back as it was once a run that had begun to import was cancelled (on_failure: rollback)."""
    return _request(context)


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def killed_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Marks runs whose process on this machine was killed as failed, so that nobody waits in the queue for them."""
    dead = conclude_dead_runs(context.instance)
    return dg.SkipReason(
        f"Marked as failed: {', '.join(dead)}." if dead else "No process that executes one was killed."
    )


SENSORS = [rollback_after_failure, rollback_after_cancellation, killed_runs]
