"""Expect: run the expectation suites over the staged snapshots' small columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import pandas as pd

from agui_pipelines.errors import RefusedError, named
from agui_pipelines.expectations.frames import state_frame
from agui_pipelines.expectations.runner import SuiteReport
from agui_pipelines.expectations.worker import run_suite_apart
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import staged_ranges
from agui_pipelines.records import Kind
from agui_pipelines.staging import SnapshotReader

PHASE: Final = "expect_staged"
FRAME_ROWS: Final = 250_000
"""Key ranges are gathered into frames of about this size: a suite costs a quarter of a second, however small its frame."""


def expect_staged(session: Session, plan: Plan) -> tuple[SuiteReport, ...]:
    """Run the suite ``staged`` on the staged snapshots of all ranges, one report a frame, recorded in the ledger."""
    snapshots = staged_ranges(session, plan)
    meter = session.meter(PHASE, total=sum(s.manifest.summary(Kind.STATE).records for s in snapshots.values()))
    reports = []
    for frame in _frames(list(snapshots.values())):
        reports.append(run_suite_apart("staged", frame))
        meter.add(len(frame))
        session.heartbeat()
    session.conclude(meter, plan.plan_id)
    outputs = {"passed": all(r.passed for r in reports), "reports": [asdict(r) for r in reports]}
    session.ledger.record(Entry(PHASE, plan.plan_id, outputs=outputs))
    return tuple(reports)


def recorded_refusal(session: Session) -> RefusedError:
    """The error that says which critical expectations failed when the suite was last run."""
    entry = session.ledger.last(PHASE)
    reports = entry.outputs["reports"] if entry else []
    failed = [
        e for report in reports for e in report["expectations"] if not e["passed"] and e["severity"] == "critical"
    ]
    findings = "; ".join(
        f"{e['type']}({e['column']}): {e['unexpected']:,} rows, {named(e['failing_ids'])}" for e in failed
    )
    return RefusedError(
        f"The staged records do not meet the expectations: {findings}.",
        why="Importing them would put bad data into the target.",
        remedy="Mend the source or the transforms and run again.",
        expectations=failed,
    )


def _frames(snapshots: list[SnapshotReader]) -> Iterator[pd.DataFrame]:
    group: list[pd.DataFrame] = []
    rows = 0
    for snapshot in snapshots:
        records = snapshot.manifest.summary(Kind.STATE).records
        if group and rows + records > FRAME_ROWS:
            yield pd.concat(group, ignore_index=True)
            group, rows = [], 0
        group.append(state_frame(snapshot))
        rows += records
    if group:
        yield pd.concat(group, ignore_index=True)
