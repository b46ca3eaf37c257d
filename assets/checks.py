"""Great Expectations suites as asset checks: a critical expectation that fails stops what is downstream in the run."""

import dagster as dg

from agui_pipelines.expectations.runner import SuiteReport
from agui_pipelines.phases.expect import expect_staged
from agui_pipelines.resources import MigrationRun
from assets.transform import staged_snapshot


@dg.asset_check(asset=staged_snapshot, name="staged_expectations", blocking=True)
def staged_expectations(
    context: dg.AssetCheckExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> dg.AssetCheckResult:
    """The suite `staged`: ids unique, not null and of storable length, documents valid JSON and of sensible size."""
    with migration.planned(context) as (session, plan):
        return _result(expect_staged(session, plan))


def _result(reports: tuple[SuiteReport, ...]) -> dg.AssetCheckResult:
    failed = [expectation for report in reports for expectation in report.failed]
    rows = [
        dg.TableRecord(
            {
                "expectation": e.type,
                "column": e.column,
                "severity": e.severity,
                "unexpected": e.unexpected,
                "ids": ", ".join(e.failing_ids),
            }
        )
        for e in failed
    ]
    passed = all(report.passed for report in reports)
    return dg.AssetCheckResult(
        passed=passed and not failed,
        severity=dg.AssetCheckSeverity.WARN if passed else dg.AssetCheckSeverity.ERROR,
        metadata={
            "rows": sum(report.rows for report in reports),
            "expectations": sum(len(report.expectations) for report in reports),
            "failed_expectations": len(failed),
            **({"failures": dg.MetadataValue.table(rows)} if rows else {}),
        },
    )
