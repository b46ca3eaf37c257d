"""Preview: what an import would do, found without writing."""

import dagster as dg

from agui_pipelines.phases.preview import preview
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.declared import OWNERS, TAGS, TARGET_KIND
from assets.transform import staged_snapshot


@dg.asset(
    group_name="prepare",
    kinds={TARGET_KIND, "duckdb"},
    code_version="1",
    owners=OWNERS,
    tags=TAGS,
    deps=[dg.AssetDep(staged_snapshot, partition_mapping=dg.AllPartitionMapping())],
)
def import_preview(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> dg.MaterializeResult[None]:
    """How many records an import would insert, overwrite and leave, with the ids it would overwrite. Writes nothing."""
    with migration.planned(context) as (session, plan):
        report = preview(session, plan)
        return dg.MaterializeResult(metadata=metadata.of_preview(report))
