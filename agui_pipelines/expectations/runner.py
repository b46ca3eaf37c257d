"""Runs one suite on one frame and gives back plain values.

Great Expectations is imported here only, and only when a suite is run: the import costs seconds and much memory, which is
why phases run suites by way of `worker`. Its analytics are off.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import orjson
import pandas as pd

from agui_pipelines.errors import SpecError

ID_LIMIT: Final = 100
"""Failing ids named for each expectation."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation's outcome."""

    type: str
    column: str
    severity: str
    """``critical`` blocks, ``warning`` and ``info`` do not."""
    passed: bool
    unexpected: int
    failing_ids: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """One suite's outcome on one frame of `rows` rows."""

    suite: str
    rows: int
    expectations: tuple[Expectation, ...]

    @property
    def passed(self) -> bool:
        """Whether no critical expectation failed."""
        return all(e.passed for e in self.expectations if e.severity == "critical")

    @property
    def failed(self) -> tuple[Expectation, ...]:
        return tuple(e for e in self.expectations if not e.passed)


def run_suite(name: str, frame: pd.DataFrame, *, path: Path | None = None) -> SuiteReport:
    """Run the shipped suite `name`, or the one in the JSON file `path`. Raises `SpecError` for a file that is no suite."""
    try:
        text = path.read_bytes() if path else files(__package__).joinpath("suites", f"{name}.json").read_bytes()
        suite = _suite(orjson.loads(text))
    except OSError as error:
        raise SpecError(f"The expectation suite {path or name} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SpecError(f"The expectation suite {path or name} is not one: {error}.") from error
    results = _validate(suite, frame)
    return SuiteReport(name, len(frame), tuple(_expectation(r) for r in results["results"]))


def warm() -> None:
    """Do now what the first suite would have to wait for."""
    _great_expectations()


def _great_expectations() -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations  # noqa: PLC0415 - costs seconds, so only when a suite is run

    return great_expectations


def _suite(values: dict[str, Any]) -> Any:
    gx = _great_expectations()
    suite = gx.ExpectationSuite(**values)
    # Great Expectations only logs what it does not know; a typing error must not switch an expectation off.
    known = Counter(e.expectation_type for e in suite.expectations)
    unknown = Counter(e["type"] for e in values["expectations"]) - known
    if unknown:
        raise ValueError(f"it holds expectations that are not known, or not valid: {', '.join(sorted(unknown))}")
    return suite


def _validate(suite: Any, frame: pd.DataFrame) -> dict[str, Any]:
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    definition = context.data_sources.add_pandas("snapshot").add_dataframe_asset("states")
    batch = definition.add_batch_definition_whole_dataframe("range").get_batch({"dataframe": frame})
    result_format = {
        "result_format": "COMPLETE",
        "unexpected_index_column_names": ["state_id"],
        "include_unexpected_rows": False,
    }
    values: dict[str, Any] = batch.validate(suite, result_format=result_format).to_json_dict()
    return values


def _expectation(result: dict[str, Any]) -> Expectation:
    config, outcome = result["expectation_config"], result.get("result") or {}
    indexes = outcome.get("unexpected_index_list") or []
    return Expectation(
        type=config["type"],
        column=str(config["kwargs"].get("column", "")),
        severity=str(config.get("severity") or "critical"),
        passed=bool(result["success"]),
        unexpected=int(outcome.get("unexpected_count") or 0),
        failing_ids=tuple(str(row.get("state_id")) for row in indexes[:ID_LIMIT]),
        detail=_exception(result.get("exception_info") or {}) or str(outcome.get("observed_value") or ""),
    )


def _exception(info: dict[str, Any]) -> str:
    """The first message of what could not be evaluated; keyed by metric in some versions, flat in others."""
    for part in (info, *(value for value in info.values() if isinstance(value, dict))):
        if message := part.get("exception_message"):
            return str(message)
    return ""
