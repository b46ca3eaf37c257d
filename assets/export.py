"""Export: source to exported snapshot."""

import dagster as dg

from agui_pipelines.phases.export import export
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.declared import OWNERS, SOURCE_KIND, TAGS
from assets.partitions import ALL_IN_ONE_RUN, KEY_RANGES
from assets.places import source_system
from assets.plan import migration_plan


@dg.asset(
    group_name="move",
    kinds={SOURCE_KIND, "parquet"},
    code_version="1",
    owners=OWNERS,
    tags=TAGS,
    deps=[migration_plan, source_system],
    partitions_def=KEY_RANGES,
    backfill_policy=ALL_IN_ONE_RUN,
)
def exported_snapshot(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> dg.MaterializeResult[None]:
    """Every record of the source as its own bytes, with digests, in sealed Parquet segments.

    Reads each key once and never blocks the source. What cannot become a record is kept as a reject, by name.
    """
    with migration.planned(context) as (session, plan):
        report = export(session, plan, context.partition_keys)
        for each in report.ranges:
            context.add_asset_metadata(metadata.of_range(each, plan.range(each.range)), partition_key=each.range)
        return dg.MaterializeResult(metadata=metadata.of_snapshot(report))
