"""Transform: exported to staged snapshot."""

import dagster as dg

from agui_pipelines.phases.transform import transform
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.declared import OWNERS, TAGS
from assets.export import exported_snapshot
from assets.partitions import ALL_IN_ONE_RUN, KEY_RANGES


@dg.asset(
    group_name="move",
    kinds={"parquet"},
    code_version="1",
    owners=OWNERS,
    tags=TAGS,
    deps=[exported_snapshot],
    partitions_def=KEY_RANGES,
    backfill_policy=ALL_IN_ONE_RUN,
)
def staged_snapshot(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> dg.MaterializeResult[None]:
    """The records as the target will get them: transformed, checked against what the target can hold.

    Unchanged segments are referenced, not copied. What the target would refuse is kept as a reject, by name.
    """
    with migration.planned(context) as (session, plan):
        report = transform(session, plan, context.partition_keys)
        for each in report.ranges:
            context.add_asset_metadata(metadata.of_range(each, plan.range(each.range)), partition_key=each.range)
        return dg.MaterializeResult(metadata=metadata.of_snapshot(report))
