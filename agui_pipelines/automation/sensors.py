"""What reacts to runs: one that failed or was cancelled after it had begun to import is taken back.

Runs of the command line are not looked at: it does that itself, and leaves an interrupted run to be resumed.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from agui_pipelines import spec
from agui_pipelines.automation.command_line import is_of_command_line
from agui_pipelines.automation.jobs import AFTER_RUN, rollback_job
from agui_pipelines.ledger import Ledger
from agui_pipelines.phases.rollback import imported_in
from agui_pipelines.staging import Workspace


def _request(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    run = context.dagster_run
    if run.job_name == rollback_job.name or is_of_command_line(run):
        return dg.SkipReason("No run that imports, or one of the command line, which undoes its imports itself.")
    config: Any = run.run_config
    file = config.get("resources", {}).get("migration", {}).get("config", {}).get("migration_file", "")
    outline = spec.outline(file or None)
    if imported_in(Ledger(Workspace(outline.workspace_url, outline.name)), run.run_id) is None:
        return dg.SkipReason(f"Run {run.run_id} had not begun to import.")
    return dg.RunRequest(
        run_key=f"rollback-{run.run_id}",
        run_config={
            "ops": {"target_rollback": {"config": {"after_run": run.run_id}}},
            "resources": {"migration": {"config": {"migration_file": file}}},
        },
        tags={AFTER_RUN: run.run_id},
    )


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.FAILURE, request_job=rollback_job, default_status=dg.DefaultSensorStatus.RUNNING
)
def rollback_after_failure(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """Puts the target back as it was once a run that had begun to import has failed (on_failure: rollback)."""
    return _request(context)


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.CANCELED, request_job=rollback_job, default_status=dg.DefaultSensorStatus.RUNNING
)
def rollback_after_cancellation(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    """Puts the target back as it was once a run that had begun to import was cancelled (on_failure: rollback)."""
    return _request(context)


SENSORS = [rollback_after_failure, rollback_after_cancellation]
