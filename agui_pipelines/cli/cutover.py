"""``cutover``: make the target live, or return to the source, step by step."""

from __future__ import annotations

from typing import Any

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.expectations import worker
from agui_pipelines.phases import cutover as phase
from agui_pipelines.phases.cutover import Asked
from agui_pipelines.phases.cutover_report import CutoverReport, report_name
from agui_pipelines.phases.notify import notified
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.steps import PHASE, Told

UNDONE = 1
"""Exit code of a cutover that was undone although nothing failed now: what had been begun before was."""


def cutover(migration: spec.Migration, asked: Asked, *, rehearse: bool, json: bool) -> int:
    """Carry it out and tell each step as it is done; the exit code."""
    worker.warm()  # the proof runs the suites, while applications are stopped
    carried_out = phase.rehearse if rehearse else phase.cutover
    with output.progress() as listener:
        session = Session.open(migration, listener)
        with notified(session, PHASE):
            report = carried_out(session, asked, tell=_tell)
    if json:
        output.print_json(report.to_dict())
    else:
        _print(migration, report)
    returned = report.outcome == "undone" and report.direction == asked.direction
    return UNDONE if returned else 0


def _tell(told: Told) -> None:
    if told.state != "begun":
        undone = "undone: " if told.state == "undone" else ""
        seconds = f" ({told.seconds:.1f} s)" if told.seconds else ""
        output.note(f"{told.step:<11}{undone}{told.detail}{seconds}")


def _print(migration: spec.Migration, report: CutoverReport) -> None:
    title = {
        "done": f"Cut over {migration.name}: the {report.live} is live",
        "undone": f"Undone: the {report.live} of {migration.name} is live, as before",
        "rehearsed": f"Rehearsed the cutover of {migration.name}: the {report.live} is still live",
    }[report.outcome]
    output.rows(title, dict(_rows(report)))
    for note in report.notes:
        output.say(f"  Note: {note}")
    workspace = Session.open(migration).workspace
    output.say(f"\nReport   {workspace.path(report_name(report.cutover_id, 'md'))}")


def _rows(report: CutoverReport) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for step in report.steps:
        if step.seconds is not None:
            expected = "" if step.forecast is None else f", {step.forecast:,.1f} s expected"
            rows.append((step.step, f"{step.seconds:,.1f} s{expected}"))
    if report.window_forecast is not None:
        rows.append(("Window, expected", f"{report.window_forecast:,.1f} s, besides the hooks"))
    if report.window_seconds is not None:
        rows.append(("Window, actual", f"{report.window_seconds:,.1f} s"))
    return rows
