"""Decommission: an op, so that no "materialize all" ever reaches it."""

import dagster as dg

from agui_pipelines.phases.decommission import decommission, outlook
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.partitions import TARGET_POOL
from assets.places import source_archive


class DecommissionConfig(dg.Config):
    """Whether something is to be deleted."""

    confirm: str = ""
    """The migration's name, to delete what it moved at the source; empty to be told what would go, and what it waits for."""


@dg.op(pool=TARGET_POOL, tags=metadata.reports_on(source_archive))
def source_decommission(
    context: dg.OpExecutionContext, config: DecommissionConfig, migration: dg.ResourceParam[MigrationRun]
) -> None:
    """Archive what was moved, then delete it at the source where it still equals the archive; or say what would go."""
    with migration.session(context) as session:
        if config.confirm and not migration.dry_run:
            report = decommission(session, confirm=config.confirm)
            for id_ in report.left.ids:
                context.log.warning("Left, as it was written to since: %s", id_)
            done = metadata.of_decommission(report)
            context.log_event(dg.AssetMaterialization(source_archive.key, metadata=done))
            context.add_output_metadata(done)
            return
        found = outlook(session)
        for check in found.checks:
            context.log.info("%s: %s", check.name if check.passed else f"not {check.name}", check.detail)
        context.add_output_metadata(metadata.of_outlook(found))
