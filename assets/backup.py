"""Backup: what source and target hold, sealed and read back, so that it can be put back exactly."""

import time
from collections.abc import Iterator

import dagster as dg

from agui_pipelines.phases.backup import create
from agui_pipelines.phases.import_ import back_up
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.declared import OWNERS, TAGS
from assets.partitions import ALL_IN_ONE_RUN, KEY_RANGES, TARGET_POOL
from assets.places import source_system, target_store
from assets.transform import staged_snapshot


@dg.asset(group_name="prepare", kinds={"parquet"}, code_version="1", owners=OWNERS, tags=TAGS, deps=[source_system])
def source_backup(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> dg.MaterializeResult[None]:
    """Everything that the source holds, if it is an AG-UI store, as sealed snapshots.

    `agui-migrate backup restore` puts it back. Not part of a migration, which reads its source only once; materialize it
    before a source is switched off. A foreign system has its own backups.
    """
    with migration.session(context) as session:
        began = time.monotonic()
        made = create(session, "source")
        return dg.MaterializeResult(metadata=metadata.of_backups([made], time.monotonic() - began))


@dg.asset(
    group_name="prepare",
    kinds={"parquet"},
    code_version="1",
    owners=OWNERS,
    tags=TAGS,
    deps=[staged_snapshot, target_store],
    partitions_def=KEY_RANGES,
    backfill_policy=ALL_IN_ONE_RUN,
    pool=TARGET_POOL,
    output_required=False,
)
def target_backup(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> Iterator[dg.MaterializeResult[None]]:
    """What the target holds under the ids that the import will write, as sealed snapshots, each read back and verified.

    A rollback puts it back and removes what was not there. Made once for each plan, before its first write. A dry run ends
    here.
    """
    if migration.dry_run:
        context.log.info("A dry run: nothing is written. What an import would do is told by the job dry_run.")
        return
    # Alone too, as a run in the graph may end here: what somebody else writes meanwhile would be half in the backup.
    with migration.planned(context) as (session, plan), session.exclusive():
        began = time.monotonic()
        made = back_up(session, plan, context.partition_keys)
        told = metadata.of_backups(made, time.monotonic() - began)
        for name in context.partition_keys:
            context.add_asset_metadata(metadata.of_bounds(plan.range(name)), partition_key=name)
        yield dg.MaterializeResult(metadata={"plan_id": plan.plan_id, **told})
