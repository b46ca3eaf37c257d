"""Validate: proof that the target holds what was staged."""

from collections.abc import Iterator

import dagster as dg

from agui_pipelines.expectations.suites import Stage
from agui_pipelines.phases.performance import measure
from agui_pipelines.phases.validate import report_name, require_passed, validate
from agui_pipelines.resources import MigrationRun
from assets import checks, metadata, outcomes
from assets.declared import OWNERS, TAGS, TARGET_KIND
from assets.import_ import target_states
from assets.partitions import TARGET_POOL


@dg.asset(
    group_name="prove",
    kinds={TARGET_KIND, "duckdb"},
    code_version="1",
    owners=OWNERS,
    tags=TAGS,
    deps=[dg.AssetDep(target_states, partition_mapping=dg.AllPartitionMapping())],
    check_specs=checks.LOADED,
    pool=TARGET_POOL,  # what is written to meanwhile proves nothing
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
        sampled = report.sample is not None
        link = metadata.link(session.workspace, report_name(plan.plan_id, sampled=sampled))
        suites = checks.by_check(Stage.LOADED, session.migration.expectations, report.loaded, checks.LOADED)
        yield from outcomes.of_validation(report, link)  # told even if the validation then fails
        yield from outcomes.of_suites(suites, sampled=sampled)
        yield outcomes.of_performance(() if sampled else measure(session, plan, report), sampled=sampled)
        require_passed(report)
        yield dg.MaterializeResult(metadata={**metadata.of_validation(report), **link})
