"""What the phases' reports look like as asset metadata. Numeric names are stable, so that the UI plots them over runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from agui_pipelines.expectations.runner import SuiteReport
from agui_pipelines.phases.backup import Backup
from agui_pipelines.phases.cutover_report import CutoverReport
from agui_pipelines.phases.decommission import DecommissionReport, Outlook
from agui_pipelines.phases.export import RangeReport, SnapshotReport
from agui_pipelines.phases.import_ import ImportReport
from agui_pipelines.phases.markdown import markdown
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.preflight import Preflight
from agui_pipelines.phases.preview import PreviewReport
from agui_pipelines.phases.sync import SyncReport
from agui_pipelines.phases.validate import ValidationReport
from agui_pipelines.resources import REPORTS_ON

Metadata = dict[str, Any]


def of_assessment(found: Preflight) -> Metadata:
    values = found.public
    rows = [
        {"check": c.name, "verdict": c.verdict, "of": c.of, "reason": c.reason, "remedy": c.remedy, "records": c.count}
        for c in found.checks
    ]
    sizes, cost = values["sizes"], values["cost"]
    counts = {name: values[name] for name in ("states", "versions", "snapshots", "document_bytes")}
    return {
        "verdict": values["verdict"],
        "resumed": found.resumed,
        "source": f"{values['source']} ({values['system']} {values['version']})",
        **{name: count for name, count in counts.items() if count is not None},
        "average_bytes": sizes["average"],
        "p99_bytes": sizes["p99"],
        "largest_bytes": sizes["maximum"],
        "sampled_states": cost["records"],
        "seconds": cost["seconds"],
        "checks": _table(rows),
        "assessment": dg.MetadataValue.json(values),
    }


def of_plan(plan: Plan, document: Mapping[str, Any] | None = None) -> Metadata:
    """`document`: that of the plan, if it has one."""
    rows = [
        {"range": r.name, "keys": r.keys, "weight": r.weight, "from": _text(r.lower), "below": _text(r.upper)}
        for r in plan.ranges
    ]
    return {
        "plan_id": plan.plan_id,
        "resumed": plan.resumed,
        "keys": plan.keys,
        "source": f"{plan.source} ({plan.source_server})",
        "target": f"{plan.target} ({plan.target_server})",
        "migration_context": plan.context_id,
        "key_ranges": _table(rows),
        "route": _table([{"property": name, "verdict": verdict} for name, verdict in plan.route.items()]),
        **({"plan": dg.MetadataValue.md(markdown(document))} if document else {}),
    }


def of_snapshot(report: SnapshotReport) -> Metadata:
    return {
        "plan_id": report.plan_id,
        "dagster/row_count": report.records,
        "bytes": report.bytes,
        "records_per_second": round(report.rate),
        "seconds": round(report.seconds, 3),
        "rejects": report.rejects,
        "vanished_keys": report.vanished,
        "snapshots": _table([_snapshot_row(r) for r in report.ranges]),
    }


def of_range(report: RangeReport) -> Metadata:
    return {
        "snapshot_id": report.snapshot_id,
        "range_records": sum(report.records.values()),
        "range_bytes": report.bytes,
        "range_rejects": report.rejects,
        "resumed": report.resumed,
    }


def of_backups(made: Sequence[Backup]) -> Metadata:
    return {
        "dagster/row_count": sum(sum(backup.records.values()) for backup in made),
        "bytes": sum(backup.bytes for backup in made),
        "backups": _table(
            [{"backup_id": b.backup_id, "of": b.place, "made": b.created_at, **b.records} for b in made],
        ),
    }


def of_import(report: ImportReport) -> Metadata:
    written = report.written
    return {
        "plan_id": report.plan_id,
        "dagster/row_count": report.records,
        "bytes": report.bytes,
        "records_per_second": round(report.rate),
        "seconds": round(report.seconds, 3),
        "inserted": written.inserted,
        "updated": written.updated,
        "unchanged": written.unchanged,
    }


def of_validation(report: ValidationReport) -> Metadata:
    values = report.to_dict()
    return {
        "passed": report.passed,
        "proven": report.proven,
        "sample": values["sample"]["ids"] if values["sample"] else "none: everything was compared",
        "plan_id": report.plan_id,
        **report.figures,
        "seconds": values["seconds"],
        "records_per_second": values["records_per_second"],
        "loss_ledger": _losses(report.loss_ledger),
        "report": dg.MetadataValue.json(values),
    }


def of_preview(report: PreviewReport) -> Metadata:
    return {
        "plan_id": report.plan_id,
        "seconds": round(report.seconds, 3),
        "loss_ledger": _losses(report.loss_ledger),
        "preview": dg.MetadataValue.json(report.to_dict()),
    }


def of_sync(report: SyncReport) -> Metadata:
    conflicts = [{"record": name} for name in report.conflicts.ids]
    numbers = {name: value for name, value in report.to_dict().items() if not isinstance(value, list)}
    return {**numbers, **({"conflicts": _table(conflicts)} if conflicts else {})}


def of_cutover(report: CutoverReport) -> Metadata:
    return {
        "outcome": report.outcome,
        "live": report.live,
        "plan_id": report.plan_id,
        "report": dg.MetadataValue.md(report.to_markdown()),
        **{
            name: seconds
            for name, seconds in (
                ("window_seconds", report.window_seconds),
                ("window_forecast_seconds", report.window_forecast),
            )
            if seconds is not None
        },
    }


def of_decommission(report: DecommissionReport) -> Metadata:
    return {
        "deleted": report.deleted,
        "gone": report.gone,
        "left": report.left.count,
        "archive_id": report.archive_id,
        "archived_records": sum(report.archived.values()),
        "seconds": round(report.seconds, 3),
        "left_records": _table([{"record": name} for name in report.left.ids]),
    }


def of_outlook(found: Outlook) -> Metadata:
    rows = [{"check": c.name, "passed": c.passed, "detail": c.detail} for c in found.checks]
    return {
        "ready": found.ready,
        "ids": found.ids,
        "records": sum(found.records.values()),
        "checks": _table(rows),
    }


def reports_on(place: dg.AssetSpec) -> dict[str, str]:
    """Tags of a step that is no asset: of which one it tells its progress."""
    return {REPORTS_ON: place.key.to_user_string()}


def of_suites(reports: Sequence[SuiteReport]) -> dg.AssetCheckResult:
    """A stage's suites as the outcome of one check; a critical expectation that failed makes it an error.

    None are run on a sample, which is no outcome to rely on.
    """
    if not reports:
        return dg.AssetCheckResult(
            passed=False, severity=dg.AssetCheckSeverity.WARN, description="Not looked at, as a sample was compared."
        )
    failed = [(report.suite, expectation) for report in reports for expectation in report.failed]
    rows = [
        {
            "suite": suite,
            "expectation": e.type,
            "column": e.column,
            "frame": e.frame,
            "severity": e.severity,
            "unexpected": e.unexpected,
            "ids": ", ".join(e.failing_ids),
            "detail": e.detail,
        }
        for suite, e in failed
    ]
    passed = all(report.passed for report in reports)
    return dg.AssetCheckResult(
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN if passed else dg.AssetCheckSeverity.ERROR,
        metadata={
            "suites": ", ".join(report.suite for report in reports),
            "rows": max(report.rows for report in reports),
            "expectations": sum(len(report.expectations) for report in reports),
            "failed_expectations": len(failed),
            **({"failures": _table(rows)} if rows else {}),
        },
    )


def _snapshot_row(report: RangeReport) -> dict[str, Any]:
    return {
        "range": report.range,
        "snapshot_id": report.snapshot_id,
        "records": sum(report.records.values()),
        "bytes": report.bytes,
        "rejects": report.rejects,
        "resumed": report.resumed,
    }


def _losses(ledger: Sequence[dict[str, Any]]) -> dg.MetadataValue[Any]:
    shown = ("property", "carries", "verdict", "present", "kept", "encoded", "lost")
    return _table([{**{k: row[k] for k in shown}, "examples": ", ".join(row["examples"])} for row in ledger])


def _table(rows: Sequence[dict[str, Any]]) -> dg.MetadataValue[Any]:
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows]) if rows else dg.MetadataValue.text("none")


def _text(key: bytes | None) -> str:
    return "" if key is None else key.decode("utf-8", "backslashreplace")
