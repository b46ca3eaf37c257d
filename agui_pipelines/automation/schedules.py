"""What runs by itself. Each schedule is off until somebody switches it on, and is of the default migration file.

A tick that would be in the way of somebody, or have nothing to do, is skipped, and says why. What is broken, such as a server
that cannot be reached, skips none: the run fails of it as any other does, and tells whoever is to be notified.
"""

from __future__ import annotations

import dagster as dg

from agui_pipelines import spec
from agui_pipelines.automation.jobs import sync_job, verify_sample_job
from agui_pipelines.errors import MigrationError, RefusedError, SpecError, UsageError
from agui_pipelines.phases.rounds import require_started
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.steps import require_source_live
from agui_pipelines.phases.sync import require_two_places
from agui_pipelines.run_tags import is_of_another
from assets import declared

_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dg.schedule(
    job=sync_job,
    name="incremental_sync",
    cron_schedule=declared.SCHEDULES.sync,
    execution_timezone=declared.SCHEDULES.time_zone,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def incremental_sync(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Brings what has changed at the source to the target (schedules.sync in the migration file).

    Skipped while a sync or another run goes on, before the first import was validated, and after a cutover.
    """
    return _due(context, sync_job)


@dg.schedule(
    job=verify_sample_job,
    name="verify_sample_nightly",
    cron_schedule=declared.SCHEDULES.verify,
    execution_timezone=declared.SCHEDULES.time_zone,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def verify_sample_nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Compares a sample of the target with what was left there (schedules.verify and .sample in the migration file).

    Skipped while somebody writes to the target, before the first import was validated, and after a cutover.
    """
    return _due(context, verify_sample_job)


def _due(context: dg.ScheduleEvaluationContext, job: dg.JobDefinition) -> dg.RunRequest | dg.SkipReason:
    try:
        migration = spec.load()
        if under_way := _under_way(context.instance, job, migration.name):
            return dg.SkipReason(f"The run {under_way} of {job.name} has not ended yet.")
        if migration.schedules != declared.SCHEDULES:
            return dg.SkipReason(
                "The migration file's schedules are not those that were loaded: reload the code location."
            )
        _require_due(Session.open(migration))
    except (RefusedError, UsageError, SpecError) as error:
        return dg.SkipReason(str(error))
    except MigrationError as error:
        # A tick that is skipped is heard of by nobody; a run that fails of this is.
        context.log.warning("The run is let begin, and is going to fail: %s", error)
    return dg.RunRequest()


def _under_way(instance: dg.DagsterInstance, job: dg.JobDefinition, migration: str) -> str:
    """Id of a run of the job that has not ended, and may be of this migration."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job.name, statuses=_UNDER_WAY))
    return next((run.run_id for run in runs if not is_of_another(run, migration)), "")


def _require_due(session: Session) -> None:
    """Raises `RefusedError` where a run would be refused, `LockedError` where it would be in somebody's way."""
    require_two_places(session)
    require_source_live(session.ledger)
    require_started(session)
    session.require_unlocked()


SCHEDULES = [incremental_sync, verify_sample_nightly]
