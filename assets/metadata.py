"""What the phases' reports look like as asset metadata. Numeric names are stable, so that the UI plots them over runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import dagster as dg

from agui_pipelines.keyspace import KeyRange
from agui_pipelines.phases.backup import Backup
from agui_pipelines.phases.comparison import KindComparison
from agui_pipelines.phases.cutover_report import CutoverReport
from agui_pipelines.phases.decommission import DecommissionReport, Outlook
from agui_pipelines.phases.export import RangeReport, SnapshotReport
from agui_pipelines.phases.import_ import ImportReport, RangeImport
from agui_pipelines.phases.markdown import losses, markdown
from agui_pipelines.phases.markdown import table as markdown_table
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.preflight import Preflight
from agui_pipelines.phases.preview import PreviewReport
from agui_pipelines.phases.spot_check import SpotCheck
from agui_pipelines.phases.sync import SyncReport
from agui_pipelines.phases.validate import ValidationReport
from agui_pipelines.records import DIGESTED, Kind
from agui_pipelines.resources import REPORTS_ON
from agui_pipelines.spec import redacted
from agui_pipelines.staging import Workspace

Metadata = dict[str, Any]

IDS: Final = 100
"""Ids that a table names of each finding; the reports in the workspace name more."""

_COLUMNS: Final = {
    "state_id": "The state that it is, or belongs to.",
    "version_id": "A version's own id; of a snapshot, the version that it was made of.",
    "snapshot_id": "A snapshot's own id.",
    "data": "The document: JSON, as the bytes that the source holds or the transforms made.",
    "delta": "What leads from the parent's document to this one: JSON Patch.",
    "metadata": "What the application keeps beside the document, as JSON text.",
    "parent_id": "The version before; empty for the first.",
    "extra": "Members that the format does not know, as one JSON object.",
    "timestamp": "When it was made, as the store has it.",
    "created_at": "RFC 3339; null where it is not known.",
    "updated_at": "RFC 3339; null where it is not known.",
    "expires_at": "When the state goes by itself; null for never.",
    "raw_digest": "xxh3_128 of the document's bytes.",
    "canonical": "xxh3_128 of the document's value, or of a whole version or snapshot.",
    "spelling": "The same with numbers as they are spelled; null where that is equal.",
    "traits": "What sets the document apart, as bits.",
    "size": "Bytes of the document.",
}

_DIFFERENT: Final = ("missing", "corrupted", "extra", "untimely", "misdated")


def of_assessment(found: Preflight) -> Metadata:
    values = found.public
    rows = [
        {
            "check": c.name,
            "verdict": c.verdict,
            "of": c.of,
            "reason": c.reason,
            "remedy": c.remedy,
            "records": c.count,
            "ids": ", ".join(c.ids[:IDS]),
        }
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
        "checks": table(rows),
        "assessment": dg.MetadataValue.json(values),
    }


def of_plan(plan: Plan, document: Mapping[str, Any] | None = None) -> Metadata:
    """`document`: that of the plan, if it has one; the plan is shown in short if not."""
    rows = [{"range": r.name, "keys": r.keys, "weight": r.weight, **_bounds(r)} for r in plan.ranges]
    return {
        "plan_id": plan.plan_id,
        "resumed": plan.resumed,
        "keys": plan.keys,
        "source": f"{plan.source} ({plan.source_server})",
        "target": f"{plan.target} ({plan.target_server})",
        "migration_context": plan.context_id,
        "key_ranges": table(rows),
        "route": table([{"property": name, "verdict": verdict} for name, verdict in plan.route.items()]),
        "plan": dg.MetadataValue.md(markdown(document) if document else _plan_in_short(plan, rows)),
    }


def _plan_in_short(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> str:
    ranges = [tuple(map(str, row.values())) for row in rows]
    return "\n\n".join(
        (
            f"# Migration plan {plan.plan_id}",
            f"{plan.keys:,} keys in {len(plan.ranges)} ranges. `agui-migrate plan`, or its job, makes a document.",
            markdown_table(("range", "keys", "weight", "from", "below"), ranges),
            markdown_table(("property", "on this route"), plan.route.items()),
        )
    )


def of_snapshot(report: SnapshotReport) -> Metadata:
    others = [kind for kind in (Kind.VERSION, Kind.SNAPSHOT) if any(r.records.get(kind) for r in report.ranges)]
    return {
        "plan_id": report.plan_id,
        "dagster/row_count": report.records,
        "dagster/column_schema": _columns(Kind.STATE),
        **{f"{kind}_columns": dg.MetadataValue.table_schema(_columns(kind)) for kind in others},
        "bytes": report.bytes,
        "records_per_second": round(report.rate),
        "seconds": round(report.seconds, 3),
        "rejects": report.rejects,
        "vanished_keys": report.vanished,
        "snapshots": table([_snapshot_row(r) for r in report.ranges]),
    }


def of_range(report: RangeReport, planned: KeyRange) -> Metadata:
    return {
        "snapshot_id": report.snapshot_id,
        "range_records": sum(report.records.values()),
        "range_bytes": report.bytes,
        "range_rejects": report.rejects,
        "resumed": report.resumed,
        **of_bounds(planned),
    }


def of_imported_range(report: RangeImport, planned: KeyRange) -> Metadata:
    return {
        "snapshot_id": report.snapshot_id,
        "range_records": report.records,
        "range_bytes": report.bytes,
        "range_inserted": report.inserted,
        "range_updated": report.updated,
        "range_unchanged": report.unchanged,
        "resumed": report.resumed,
        **of_bounds(planned),
    }


def of_bounds(planned: KeyRange) -> Metadata:
    """Which ids of the source a range has, how many, and what they weigh: bytes where the source tells them, else 1 each."""
    bounds = {f"range_{name}": bound for name, bound in _bounds(planned).items()}
    return {**bounds, "range_ids": planned.keys, "range_weight": planned.weight}


def of_backups(made: Sequence[Backup], seconds: float) -> Metadata:
    """`seconds`: how long it took to make or to find them."""
    return {
        "dagster/row_count": sum(sum(backup.records.values()) for backup in made),
        "bytes": sum(backup.bytes for backup in made),
        "seconds": round(seconds, 3),
        "backups": table(
            [{"backup_id": b.backup_id, "of": b.place, "made": b.created_at, **b.records} for b in made],
        ),
    }


def of_import(report: ImportReport) -> Metadata:
    written, shown = report.written, ("range", "snapshot_id", "records", "inserted", "updated", "unchanged", "resumed")
    return {
        "plan_id": report.plan_id,
        "dagster/row_count": report.records,
        "bytes": report.bytes,
        "records_per_second": round(report.rate),
        "seconds": round(report.seconds, 3),
        "inserted": written.inserted,
        "updated": written.updated,
        "unchanged": written.unchanged,
        "ranges": table([{name: getattr(each, name) for name in shown} for each in report.ranges]),
    }


def of_validation(report: ValidationReport) -> Metadata:
    values = report.to_dict()
    return {
        "passed": report.passed,
        "proven": report.proven,
        "sample": values["sample"]["ids"] if values["sample"] else "none: everything was compared",
        "plan_id": report.plan_id,
        "snapshot_ids": ", ".join(report.snapshot_ids),
        **report.figures,
        "rejects": report.rejected,
        "vanished_keys": report.vanished,
        "bytes": report.bytes,
        "seconds": values["seconds"],
        "records_per_second": values["records_per_second"],
        "comparison": table([_compared_row(kind, found) for kind, found in report.kinds.items()]),
        "findings": table(_findings(report)),
        "expectations": table([_suite_row(suite) for suite in report.expectations]),
        "loss_ledger": _losses(report.loss_ledger),
        "report": dg.MetadataValue.json(values),
    }


def of_preview(report: PreviewReport) -> Metadata:
    figures = {name: getattr(report, name) for name in ("insert", "overwrite", "unchanged", "untouched")}
    return {
        "plan_id": report.plan_id,
        "seconds": round(report.seconds, 3),
        **{f"{name}_records": sum(of_kind.values()) for name, of_kind in figures.items()},
        "records": table([{"kind": str(kind), **{name: figures[name][kind] for name in figures}} for kind in Kind]),
        "overwritten_states": ", ".join(report.overwritten_states.ids[:IDS]) or "none",
        "expectations": table([_suite_row(suite) for suite in report.expectations]),
        "loss_ledger": _losses(report.loss_ledger),
        "preview": dg.MetadataValue.json(report.to_dict()),
    }


def of_sync(report: SyncReport) -> Metadata:
    conflicts = [{"record": name} for name in report.conflicts.ids[:IDS]]
    numbers = {name: value for name, value in report.to_dict().items() if not isinstance(value, list)}
    return {**numbers, **({"conflicts": table(conflicts)} if conflicts else {})}


def of_spot_check(report: SpotCheck) -> Metadata:
    rows = [
        {"finding": name.replace("_", " "), "records": names.count, "ids": ", ".join(names.ids[:IDS])}
        for name, names in report.findings.items()
    ]
    values = {name: value for name, value in report.to_dict().items() if not isinstance(value, dict)}
    # The report has only the counts of what was found; a chart of one needs its zeros too.
    counts = {
        f"{word}_{kind}s_count": getattr(found, word).count
        for kind, found in report.kinds.items()
        for word in ("missing", "corrupted", "untimely")
    }
    return {**values, **counts, "ids": len(report.sample.ids), "of_ids": report.sample.of, "found": table(rows)}


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
        "left_records": table([{"record": name} for name in report.left.ids[:IDS]]),
    }


def of_outlook(found: Outlook) -> Metadata:
    rows = [{"check": c.name, "passed": c.passed, "detail": c.detail} for c in found.checks]
    return {
        "ready": found.ready,
        "ids": found.ids,
        "records": sum(found.records.values()),
        "checks": table(rows),
    }


def reports_on(place: dg.AssetSpec) -> dict[str, str]:
    """Tags of a step that is no asset: of which one it tells its progress."""
    return {REPORTS_ON: place.key.to_user_string()}


def link(workspace: Workspace, name: str, called: str = "report_file") -> Metadata:
    """What leads to a file of the workspace that people read."""
    where = str(workspace.path(name))
    return {called: dg.MetadataValue.path(where) if workspace.is_local else dg.MetadataValue.url(redacted(where))}


def _compared_row(kind: str, found: KindComparison) -> dict[str, Any]:
    counts = {name: getattr(found, name) for name in ("total", "migrated", "normalised", "expired")}
    return {"kind": kind, **counts, **{name: getattr(found, name).count for name in _DIFFERENT}}


def _findings(report: ValidationReport) -> list[dict[str, Any]]:
    """What was found that is not as it was staged, whether it counts or not, with the first ids."""
    named = [(kind, name, getattr(found, name)) for kind, found in report.kinds.items() for name in _DIFFERENT]
    named += [("history", finding, names) for finding, names in report.integrity.target.items()]
    rows = [
        {"of": of, "finding": finding.replace("_", " "), "records": names.count, "ids": ", ".join(names.ids[:IDS])}
        for of, finding, names in named
        if names.count
    ]
    if report.error_count:
        told = "; ".join(report.errors[:IDS])
        rows.append({"of": "target", "finding": "unreadable", "records": report.error_count, "ids": told})
    return rows


def _suite_row(suite: Mapping[str, Any]) -> dict[str, Any]:
    failures = suite["failures"]
    return {
        "stage": suite["stage"],
        "suite": suite["suite"],
        "passed": suite["passed"],
        "rows": suite["rows"],
        "expectations": suite["expectations"],
        "failed": len(failures),
        "what": "; ".join(each["message"] for each in failures),
        "ids": ", ".join([id_ for each in failures for id_ in each["failing_ids"]][:IDS]),
    }


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
    return dg.MetadataValue.md(losses(ledger)) if ledger else dg.MetadataValue.text("none")


def _columns(kind: Kind) -> dg.TableSchema:
    return dg.TableSchema(
        [
            dg.TableColumn(
                field.name, str(field.type), _COLUMNS[field.name], dg.TableColumnConstraints(nullable=field.nullable)
            )
            for field in DIGESTED[kind]
        ]
    )


def table(rows: Sequence[dict[str, Any]]) -> dg.MetadataValue[Any]:
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows]) if rows else dg.MetadataValue.text("none")


def _bounds(planned: KeyRange) -> dict[str, str]:
    """From which id of the source on a range goes, and below which; the first and the last have no end."""
    return {
        "from": "(the first)" if planned.lower is None else _text(planned.lower),
        "below": "(no end)" if planned.upper is None else _text(planned.upper),
    }


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
