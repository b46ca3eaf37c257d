"""Great Expectations suites as asset checks: a critical expectation that fails stops what is downstream in the run.

The suites of what was loaded are run within the validation, which reads the target; see `validation_report`.
"""

import dagster as dg

from agui_pipelines.phases.expect import expect_exported, expect_staged
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.export import exported_snapshot
from assets.transform import staged_snapshot


@dg.asset_check(asset=exported_snapshot, blocking=True)
def exported_expectations(
    context: dg.AssetCheckExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> dg.AssetCheckResult:
    """The suite `exported`, and the migration's own: ids unique and not null, documents valid JSON and of sensible size."""
    with migration.planned(context) as (session, plan):
        return metadata.of_suites(expect_exported(session, plan))


@dg.asset_check(asset=staged_snapshot, blocking=True)
def staged_expectations(
    context: dg.AssetCheckExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> dg.AssetCheckResult:
    """The suite `staged`, and the migration's own: the same of what the transforms made of it, before anything is written."""
    with migration.planned(context) as (session, plan):
        return metadata.of_suites(expect_staged(session, plan))
