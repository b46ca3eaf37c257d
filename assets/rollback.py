"""Rollback: an op, so that no "materialize all" ever reaches it."""

import dagster as dg

from agui_pipelines.errors import RefusedError, UsageError
from agui_pipelines.phases.rollback import after_failure, rollback
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.partitions import TARGET_POOL
from assets.places import target_store


class RollbackConfig(dg.Config):
    """What is to be taken back."""

    backup: str = ""
    """Id of a backup; empty for what the target held before the newest import or sync."""
    confirm: str = ""
    """The migration's name, to put the target back although it is live: what was written there since is lost."""
    after_run: str = ""
    """Id of a run that failed: only what that run imported is taken back, and only while the target is not live."""


@dg.op(pool=TARGET_POOL, tags=metadata.reports_on(target_store))
def target_rollback(
    context: dg.OpExecutionContext, config: RollbackConfig, migration: dg.ResourceParam[MigrationRun]
) -> None:
    """Verify the backup, run the stop hook, restore, run the start hook, validate; or undo what a failed run imported."""
    with migration.session(context) as session:
        if not config.after_run:
            steps = rollback(
                session,
                config.backup or None,
                while_live=config.confirm == migration.migration.name,
                tell=lambda step: context.log.info("%s: %s", step.step, step.detail),
            )
            context.add_output_metadata({step.step: step.detail for step in steps})
            return
        if context.instance.get_run_by_id(config.after_run) is None:
            raise UsageError(
                f"There is no run {config.after_run!r}.",
                why="Nothing was taken back.",
                remedy="Copy the id of the run that failed from the list of runs; or leave after_run empty.",
            )
        aftermath = after_failure(session, config.after_run)
        context.log.info(aftermath.sentence)
        if aftermath.status == "live" or aftermath.is_half:  # a run that fails is what people are alerted of
            raise RefusedError(aftermath.sentence)
        context.add_output_metadata({"status": aftermath.status, "said": aftermath.sentence})
