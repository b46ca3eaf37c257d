"""Assess: what the source holds, and whether it can be moved."""

import dagster as dg

from agui_pipelines.phases.preflight import before_run
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.declared import OWNERS, SOURCE_KIND, TAGS
from assets.partitions import KEY_RANGES
from assets.places import source_system


@dg.asset(
    group_name="assess",
    kinds={SOURCE_KIND},
    code_version="1",
    owners=OWNERS,
    tags=TAGS,
    deps=[source_system],
)
def source_assessment(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> dg.MaterializeResult[None]:
    """What the source holds and how it is used, from its own counters and a sample, and the compatibility checks.

    Takes a few seconds at most. A check of the target's place that blocks ends the run here, before anything is planned or
    written. A run that goes on with what was exported does not look again.
    """
    with migration.cut_into(len(KEY_RANGES.get_partition_keys())).session(context) as session:
        found = before_run(session, migration.purpose, fresh=migration.fresh)
        return dg.MaterializeResult(metadata=metadata.of_assessment(found))
