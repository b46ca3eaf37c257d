"""Import: staged snapshot to target."""

import dagster as dg

from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.steps import require_source_live
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.backup import target_backup
from assets.declared import OWNERS, TAGS, TARGET_KIND
from assets.partitions import ALL_IN_ONE_RUN, KEY_RANGES, TARGET_POOL
from assets.transform import staged_snapshot


@dg.asset(
    group_name="move",
    kinds={TARGET_KIND},
    code_version="1",
    owners=OWNERS,
    tags=TAGS,
    deps=[staged_snapshot, target_backup],
    partitions_def=KEY_RANGES,
    backfill_policy=ALL_IN_ONE_RUN,
    pool=TARGET_POOL,
)
def target_states(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> dg.MaterializeResult[None]:
    """The staged records in the target store, upserted batch by batch.

    Refuses before the first write if too many records were rejected or ids fall together. Repeating it changes nothing.
    """
    with migration.planned(context) as (session, plan):
        require_source_live(session.ledger)
        report = import_(session, plan, context.partition_keys)
        for each in report.ranges:
            planned = plan.range(each.range)
            context.add_asset_metadata(metadata.of_imported_range(each, planned), partition_key=each.range)
        return dg.MaterializeResult(metadata=metadata.of_import(report))
