"""What a plan says a run will take, beside what it took. Knows the plan's document and the ledger, and no phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from agui_pipelines.errors import StagingError
from agui_pipelines.ledger import Ledger
from agui_pipelines.staging import Workspace

TIMED: Final = (
    "plan",
    "export",
    "expect_exported",
    "transform",
    "expect_staged",
    "backup",
    "import",
    "validate",
    "expect_loaded",
    "replay",
)
"""The units of the ledger's timings that follow each other in a run, in their order. Others lie within one of them."""
BETWEEN: Final = "between"
"""What a run does between those: looking for ids that fall together, checksums, the ledger."""
START_UP: Final = "start_up"
"""Until the first phase begins, and what Dagster does around the steps."""
AROUND: Final = "around"
"""Both of these together."""
TOTAL: Final = "total"


@dataclass(frozen=True, slots=True)
class Seconds:
    """An estimate: what is expected, and a range that it should lie in."""

    low: float
    expected: float
    high: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def rounded(self) -> dict[str, float]:
        return {name: round(value, 1) for name, value in asdict(self).items()}


def document_name(plan_id: str, suffix: str = "json") -> str:
    """Where in the workspace a plan's document lies."""
    return f"plans/{plan_id}.{suffix}"


def document(workspace: Workspace, plan_id: str) -> dict[str, Any] | None:
    """The document of a plan; None if it has none. Raises `StagingError` if it is damaged."""
    name = document_name(plan_id)
    if not workspace.has(name):
        return None
    try:
        values: dict[str, Any] = orjson.loads(workspace.read(name))
    except ValueError as error:
        raise StagingError(
            f"The plan {workspace.path(name)} is damaged: {error}.",
            why="It is written once, and says what the migration was planned to be.",
            remedy="Restore the file, or remove it: the migration itself does not need it.",
        ) from error
    return values


def timings(ledger: Ledger, plan_id: str, *, after: str = "") -> dict[str, float]:
    """Seconds of each unit of `TIMED`, when it was last run under a plan, after a moment (RFC 3339) if one is given."""
    entries = [entry for entry in ledger.entries(phase="timing", plan_id=plan_id) if entry.at > after]
    found = {entry.unit: float(entry.outputs["seconds"]) for entry in entries}
    return {unit: found[unit] for unit in TIMED if unit in found}


def side_by_side(
    workspace: Workspace, ledger: Ledger, plan_id: str, *, total_seconds: float | None = None
) -> dict[str, Any] | None:
    """Estimate and actual of each phase of a plan, as plain values; None where the plan has no measured estimate.

    `total_seconds` is what the whole command took, if that is known. A run that was resumed took less than all, which is said.
    """
    values = document(workspace, plan_id)
    if values is None or not values["timeline"]["measured"]:
        return None
    estimated: Mapping[str, dict[str, float]] = values["timeline"]["phases"]
    actual = timings(ledger, plan_id, after=values["written_at"])  # the plan's own listing is none of the run's
    rows = [_row(name, estimated.get(name), actual.get(name)) for name in TIMED if name in estimated or name in actual]
    resumed = _resumed(ledger, plan_id)
    result: dict[str, Any] = {"phases": rows, "resumed": resumed}
    if total_seconds is not None:
        # What lies between the phases cannot be told from what lies around them.
        around = [estimated[name] for name in (BETWEEN, START_UP) if name in estimated]
        summed = {key: round(sum(each[key] for each in around), 1) for key in ("low", "expected", "high")}
        rows.append(_row(AROUND, summed, max(0.0, total_seconds - sum(actual.values()))))
        result[TOTAL] = _row(TOTAL, values["timeline"][TOTAL], total_seconds)
    return result


def _row(name: str, estimated: Mapping[str, float] | None, actual: float | None) -> dict[str, Any]:
    expected = estimated["expected"] if estimated else None
    within = estimated["low"] <= actual <= estimated["high"] if estimated and actual is not None else None
    return {
        "phase": name,
        "low": estimated["low"] if estimated else None,
        "expected": expected,
        "high": estimated["high"] if estimated else None,
        "actual": None if actual is None else round(actual, 3),
        "within": within,
        "ratio": round(actual / expected, 2) if expected and actual is not None else None,
    }


def _resumed(ledger: Ledger, plan_id: str) -> bool:
    """Whether some of the export had been done before the run whose time was taken last."""
    timing = ledger.last("timing", plan_id=plan_id, unit="export")
    exports = ledger.entries(phase="export", plan_id=plan_id)
    if timing is None or not exports:
        return False
    began = datetime.fromisoformat(timing.at) - timedelta(seconds=float(timing.outputs["seconds"]) + 1)
    return datetime.fromisoformat(exports[0].at) < began
