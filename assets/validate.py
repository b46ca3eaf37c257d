"""Validate: proof that the target holds what was staged."""

import dagster as dg

from agui_pipelines.phases.validate import require_passed, validate
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.import_ import target_states


@dg.asset(
    group_name="prove",
    kinds={"postgres", "duckdb"},
    code_version="1",
    owners=["team:platform"],
    deps=[dg.AssetDep(target_states, partition_mapping=dg.AllPartitionMapping())],
)
def validation_report(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> dg.MaterializeResult[None]:
    """Every record of the target, read back in full and compared by exact digest with what was staged.

    Fails, with the ids, if anything is missing or corrupted, or expires at another moment. The report, with what differs, also
    lies in the workspace as JSON. A run that compares a sample proves nothing, and says so.
    """
    with migration.planned(context) as (session, plan):
        report = validate(session, plan, sample=migration.sample, seed=migration.seed)
        require_passed(report)
        return dg.MaterializeResult(metadata=metadata.of_validation(report))
