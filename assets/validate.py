"""Validate: proof that the target holds what was staged."""

from collections.abc import Iterator
from typing import Final

import dagster as dg

from agui_pipelines.phases.validate import require_passed, validate
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.declared import OWNERS, TAGS, TARGET_KIND
from assets.import_ import target_states

LOADED: Final = "loaded_expectations"


@dg.asset(
    group_name="prove",
    kinds={TARGET_KIND, "duckdb"},
    code_version="1",
    owners=OWNERS,
    tags=TAGS,
    deps=[dg.AssetDep(target_states, partition_mapping=dg.AllPartitionMapping())],
    check_specs=[
        dg.AssetCheckSpec(
            LOADED,
            asset="validation_report",
            blocking=True,
            description="The suite `loaded`, and the migration's own: all that was staged was compared, nothing is missing, "
            "digests are equal.",
        )
    ],
)
def validation_report(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
    """Every record of the target, read back in full and compared by exact digest with what was staged.

    Fails, with the ids, if anything is missing or corrupted, or expires at another moment. The report, with what differs, also
    lies in the workspace as JSON. A run that compares a sample proves nothing, and says so.
    """
    with migration.planned(context) as (session, plan):
        report = validate(session, plan, sample=migration.sample, seed=migration.seed)
        yield metadata.of_suites(report.loaded)  # told even if the validation then fails
        require_passed(report)
        yield dg.MaterializeResult(metadata=metadata.of_validation(report))
