"""Sync: an op, so that no "materialize all" ever reaches it; a schedule does."""

import dagster as dg

from agui_pipelines.phases.sync import sync
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.partitions import TARGET_POOL
from assets.places import synced_target


class SyncConfig(dg.Config):
    """How a sync is to be carried out."""

    accept_deletes: bool = False
    """Go on although much is gone at the source, or another server answers than before."""
    complete: bool = False
    """Look at the whole source, whatever the migration file says."""


@dg.op(pool=TARGET_POOL, tags=metadata.reports_on(synced_target))
def target_sync(context: dg.OpExecutionContext, config: SyncConfig, migration: dg.ResourceParam[MigrationRun]) -> None:
    """Find what has changed at the source since the import or the last sync, bring it to the target, and prove that."""
    with migration.session(context) as session:
        report = sync(session, accept_deletes=config.accept_deletes, complete=config.complete)
        figures = (report.created, report.updated, report.deleted, report.checked)
        context.log.info("%d created, %d updated, %d deleted; %d ids looked at", *figures)
        found = metadata.of_sync(report)
        context.log_event(dg.AssetMaterialization(synced_target.key, metadata=found))
        context.add_output_metadata(found)
