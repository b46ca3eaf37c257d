"""Expect: run the expectation suites over what was exported, what is about to be written, and what was found loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.errors import RefusedError, named
from agui_pipelines.expectations.frames import FRAME_ROWS, loaded_records, snapshot_records, totals
from agui_pipelines.expectations.runner import Expectation, SuiteReport, together
from agui_pipelines.expectations.suites import Frame, Stage, Suite, suites
from agui_pipelines.expectations.worker import run_suites_apart
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.comparison import Comparison, KindComparison
from agui_pipelines.phases.export import exported
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import staged_ranges
from agui_pipelines.records import Kind
from agui_pipelines.staging import SnapshotReader

PHASES: Final = {stage: f"expect_{stage}" for stage in Stage}
"""Under which name the ledger has each stage."""

_ROWS: Final = {Stage.EXPORTED: ("exported",), Stage.STAGED: ("staged",), Stage.LOADED: ("compared", "extra")}
"""The totals that say how many rows the records' frames have."""


def expect_exported(session: Session, plan: Plan) -> tuple[SuiteReport, ...]:
    """Hold the exported snapshots of all ranges to their suites; one report a suite, recorded in the ledger."""
    snapshots = _exported_ranges(session, plan)
    numbers = {kind: {"exported": _count(snapshots, kind), "bytes": _bytes(snapshots, kind)} for kind in Kind}
    return _expect(session, plan, Stage.EXPORTED, snapshot_records(snapshots), numbers)


def expect_staged(session: Session, plan: Plan) -> tuple[SuiteReport, ...]:
    """Likewise the staged ones, which are what an import would write."""
    before, snapshots = _exported_ranges(session, plan), list(staged_ranges(session, plan).values())
    numbers = {
        kind: {
            "exported": _count(before, kind),
            "staged": _count(snapshots, kind),
            "bytes": _bytes(snapshots, kind),
        }
        for kind in Kind
    }
    return _expect(session, plan, Stage.STAGED, snapshot_records(snapshots), numbers)


def expect_loaded(
    session: Session,
    plan: Plan,
    comparison: Comparison,
    kinds: Mapping[str, KindComparison],
    staged: Mapping[Kind, int],
) -> tuple[SuiteReport, ...]:
    """Likewise what a joined comparison read back from the target; `staged`: how many records of each kind it had to find."""
    numbers = {kind: {"staged": staged[kind], **_found(kinds[kind])} for kind in Kind}
    return _expect(session, plan, Stage.LOADED, loaded_records(comparison.statuses(FRAME_ROWS)), numbers)


def asked_of(session: Session, stage: Stage) -> tuple[Suite, ...]:
    """The suites that a stage is held to. Raises `SpecError` for a file that is no usable suite."""
    return suites(stage, session.migration.expectations, session.migration.folder)


def _expect(
    session: Session, plan: Plan, stage: Stage, frames: Iterable[pa.Table], numbers: dict[Kind, dict[str, int]]
) -> tuple[SuiteReport, ...]:
    asked = asked_of(session, stage)
    rows = sum(sum(of_kind[name] for name in _ROWS[stage]) for of_kind in numbers.values())
    meter = session.meter(PHASES[stage], total=rows)
    found = [run_suites_apart(asked, Frame.TOTALS, totals(stage, numbers))]
    for frame in frames:
        found.append(run_suites_apart(asked, Frame.RECORDS, frame))
        meter.add(frame.num_rows)
        session.heartbeat()
    session.conclude(meter, plan.plan_id)
    reports = tuple(together(of_suite) for of_suite in zip(*found, strict=True))
    outputs = {"passed": all(r.passed for r in reports), "reports": [asdict(r) for r in reports]}
    session.ledger.record(Entry(PHASES[stage], plan.plan_id, outputs=outputs))
    return reports


def _found(kind: KindComparison) -> dict[str, int]:
    return {
        "compared": kind.total,
        "found": kind.migrated + kind.corrupted.count,
        "normalised": kind.normalised,
        "expired": kind.expired,
        "missing": kind.missing.count,
        "corrupted": kind.corrupted.count,
        "extra": kind.extra.count,
    }


def _exported_ranges(session: Session, plan: Plan) -> list[SnapshotReader]:
    return [found for r in plan.ranges if (found := exported(session, plan, r.name)) is not None]


def _count(snapshots: Iterable[SnapshotReader], kind: Kind) -> int:
    return sum(s.manifest.summary(kind).records for s in snapshots)


def _bytes(snapshots: Iterable[SnapshotReader], kind: Kind) -> int:
    return sum(s.manifest.summary(kind).document_bytes for s in snapshots)


def recorded(session: Session, plan_id: str) -> list[dict[str, Any]]:
    """What the suites found when they were last run under a plan: of each its stage, name, rows, and what failed."""
    entries = [session.ledger.last(phase, plan_id=plan_id) for phase in PHASES.values()]
    return [public(report) for entry in entries if entry is not None for report in _reports(entry)]


def public(report: SuiteReport) -> dict[str, Any]:
    """A suite's outcome as a migration's report has it."""
    return {
        "stage": report.stage,
        "suite": report.suite,
        "passed": report.passed,
        "rows": report.rows,
        "expectations": len(report.expectations),
        "failures": [
            {
                "message": told(e),
                **{
                    name: getattr(e, name)
                    for name in ("type", "column", "frame", "severity", "unexpected", "failing_ids")
                },
            }
            for e in report.failed
        ],
    }


def require_expected(session: Session, plan: Plan) -> None:
    """Raises `RefusedError` if the suites of a plan's records, when they were last run, did not let them pass.

    Within one Dagster run the checks see to that themselves; a later run could start after them.
    """
    newest = [session.ledger.last(PHASES[stage], plan_id=plan.plan_id) for stage in (Stage.EXPORTED, Stage.STAGED)]
    if any(entry is not None and not entry.outputs["passed"] for entry in newest):
        raise recorded_refusal(session)


def recorded_refusal(session: Session) -> RefusedError:
    """The error that says which critical expectations stopped a run before its import, and of which stage."""
    before_import = (PHASES[Stage.EXPORTED], PHASES[Stage.STAGED])
    newest = [e for e in session.ledger.entries() if e.phase in before_import and not e.outputs["passed"]][-1]
    reports = [report for report in _reports(newest) if not report.passed]
    stage = reports[0].stage
    failed = [e for report in reports for e in report.failed if e.severity == "critical"]
    return RefusedError(
        f"The {stage} records do not meet the expectations: {'; '.join(map(told, failed))}.",
        why="Importing them would put bad data into the target.",
        remedy="Mend the source or the transforms, or the suite if it asks too much, and run again.",
        stage=stage,
        expectations=[asdict(e) for e in failed],
    )


def told(e: Expectation) -> str:
    """A failed expectation in one phrase, for people."""
    if e.detail:
        return f"{e.type}({e.column}) could not be evaluated: {e.detail}"
    rows = f"{e.unexpected:,} row{'s' if e.unexpected != 1 else ''}"
    return f"{e.type}({e.column}): {rows} of the {e.frame}, {named(e.failing_ids)}"


def _reports(entry: Entry) -> list[SuiteReport]:
    return [SuiteReport.of(values) for values in entry.outputs["reports"]]
