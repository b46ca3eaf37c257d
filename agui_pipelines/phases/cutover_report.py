"""What a cutover took, beside what was expected: as values, in the workspace as JSON and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from agui_pipelines.ledger import Entry
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.steps import PHASE, Progress, live_side, moment
from agui_pipelines.phases.timeline import timings

REHEARSED: Final = "cutover_rehearsed"
"""Recorded after a rehearsal, with the seconds that its steps took."""

STEPS: Final = ("ready", "stop", "final_sync", "verify", "switch", "go_live")
IN_WINDOW: Final = STEPS[1:5]
"""The steps during which applications are stopped."""

_PROOF: Final = ("export", "expect_exported", "transform", "expect_staged", "validate", "expect_loaded", "replay")
_QUIET_SECONDS: Final = 1.0
"""What the proof that a side is quiet waits, and a smoke test takes, at least."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step. `seconds` is None if it was not done, `forecast` if nothing was known of it."""

    step: str
    state: str
    """``begun``, ``done`` or ``undone``; empty if it was never begun."""
    forecast: float | None
    seconds: float | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CutoverReport:
    """What came of a cutover, or of its rehearsal."""

    cutover_id: str
    migration: str
    direction: str
    outcome: str
    """``done``, ``undone``, ``rehearsed``, or ``unfinished`` if it could not be undone."""
    live: str
    """The side that applications use: ``source`` or ``target``."""
    plan_id: str
    """The plan that proved both sides equal."""
    steps: tuple[StepReport, ...]
    window_forecast: float | None
    """Seconds for which applications are stopped, as expected; the operator's hooks are not part of that."""
    window_seconds: float | None
    """Likewise, as it was: from the stop to the end of the switch. None if it did not come so far."""
    reason: str = ""
    """Why it was undone."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def to_markdown(self) -> str:
        """The same for people."""
        way = "the target" if self.direction == "forward" else "back to the source"
        rows = [
            f"| {each.step} | {each.state} | {_seconds(each.forecast)} | {_seconds(each.seconds)} | {_cell(each.detail)} |"
            for each in self.steps
        ]
        return "\n".join(
            [
                f"# Cutover of {self.migration} to {way}: {self.outcome}",
                "",
                f"{self.cutover_id}. Live now: **{self.live}**. Proven equal by {self.plan_id or 'nothing'}.",
                *([f"Undone: {self.reason}", ""] if self.reason else [""]),
                "| step | state | forecast | actual | |",
                "|---|---|---|---|---|",
                *rows,
                "",
                f"Window: {_seconds(self.window_forecast)} forecast, {_seconds(self.window_seconds)} actual.",
                *(f"- {note}" for note in self.notes),
                "",
            ]
        )


def estimated(session: Session, progress: Progress, scan: float) -> dict[str, float]:
    """Seconds that each step from the stop to the switch should take, the operator's hooks not counted.

    From the last rehearsal in this direction, or else from a sync that took `scan` seconds and from what the phases of the
    migration took.
    """
    rehearsed = session.ledger.last(REHEARSED, unit=progress.direction)
    if rehearsed is not None:
        known: Mapping[str, float] = rehearsed.outputs["seconds"]
        return {step: known.get(step, 0.0) for step in IN_WINDOW}
    proof = sum(seconds for unit, seconds in timings(session.ledger, progress.plan_id).items() if unit in _PROOF)
    return {
        "stop": round(2 * scan + _QUIET_SECONDS, 1),
        "final_sync": round(scan, 1),
        "verify": round(proof + 2 * scan, 1),
        "switch": 0.0,
    }


def report_name(cutover_id: str, suffix: str = "json") -> str:
    """Where in the workspace the report of a cutover lies."""
    return f"reports/{cutover_id}-cutover.{suffix}"


def recorded_report(session: Session, progress: Progress, notes: Sequence[str]) -> CutoverReport:
    """The report of a cutover as the ledger knows it, which is also written to the workspace."""
    forecast = progress.facts.get("ready", {}).get("forecast", {})
    ended = session.ledger.last(PHASE, unit=progress.cutover_id)
    report = CutoverReport(
        progress.cutover_id,
        session.migration.name,
        progress.direction,
        progress.outcome or "unfinished",
        live_side(session.ledger),
        str(progress.facts.get("verify", {}).get("plan_id", "")),
        tuple(_step(progress, name, forecast.get(name)) for name in STEPS),
        round(sum(forecast.values()), 1) if forecast else None,
        _window(progress),
        progress.undoing,
        (*notes, *(ended.outputs.get("said", ()) if ended is not None else ())),
    )
    _write(session, report)
    return report


def rehearsal_report(
    session: Session, progress: Progress, seconds: Mapping[str, float], notes: Sequence[str]
) -> CutoverReport:
    """The report of a rehearsal, whose times are kept as the forecast of the next cutover."""
    session.ledger.record(
        Entry(REHEARSED, progress.plan_id, progress.direction, outputs={"seconds": dict(seconds)}),
    )
    report = CutoverReport(
        progress.cutover_id,
        session.migration.name,
        progress.direction,
        "rehearsed",
        live_side(session.ledger),
        "",
        tuple(StepReport(name, "done", None, seconds[name]) for name in STEPS if name in seconds),
        round(sum(seconds.get(name, 0.0) for name in IN_WINDOW), 1),
        None,
        "",
        tuple(notes),
    )
    _write(session, report)
    return report


def _write(session: Session, report: CutoverReport) -> None:
    text = orjson.dumps(report.to_dict(), option=orjson.OPT_INDENT_2)
    session.workspace.write(report_name(report.cutover_id), text)
    session.workspace.write(report_name(report.cutover_id, "md"), report.to_markdown().encode())


def _step(progress: Progress, name: str, forecast: float | None) -> StepReport:
    facts = progress.facts.get(name, {})
    return StepReport(name, progress.steps.get(name, ""), forecast, facts.get("seconds"), facts.get("detail", ""))


def _window(progress: Progress) -> float | None:
    began, ended = progress.begun_at.get("stop"), progress.done_at.get("switch")
    return None if began is None or ended is None else round((moment(ended) - moment(began)).total_seconds(), 3)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f} s"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
