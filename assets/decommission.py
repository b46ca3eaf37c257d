"""Decommission: an op, so that no "materialize all" ever reaches it."""

import dagster as dg

from agui_pipelines.phases.decommission import decommission, outlook
from agui_pipelines.resources import MigrationRun


class DecommissionConfig(dg.Config):
    """Whether something is to be deleted."""

    confirm: str = ""
    """The migration's name, to delete what it moved at the source; empty to be told what would go, and what it waits for."""


@dg.op
def source_decommission(
    context: dg.OpExecutionContext, config: DecommissionConfig, migration: dg.ResourceParam[MigrationRun]
) -> None:
    """Archive what was moved, then delete it at the source where it still equals the archive; or say what would go."""
    with migration.session(context) as session:
        if config.confirm:
            report = decommission(session, confirm=config.confirm)
            for id_ in report.left.ids:
                context.log.warning("Left, as it was written to since: %s", id_)
            context.add_output_metadata(
                {
                    "deleted": report.deleted,
                    "gone": report.gone,
                    "left": report.left.count,
                    "archive": report.archive_id,
                    "seconds": report.seconds,
                }
            )
            return
        found = outlook(session)
        for check in found.checks:
            context.log.info("%s: %s", check.name if check.passed else f"not {check.name}", check.detail)
        context.add_output_metadata(
            {"ready": found.ready, "ids": found.ids, "records": sum(found.records.values()), "said": found.reasons}
        )
