"""Runs suites on one frame and gives back plain values.

Great Expectations is imported here only, and only when a suite is run: the import costs seconds and much memory, which is
why phases run suites by way of `worker`. Its analytics are off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.expectations.suites import Frame, Suite

ID_LIMIT: Final = 100
"""Failing ids named for each expectation."""

_IDS: Final = {Frame.RECORDS: ["kind", "state_id", "version_id", "snapshot_id"], Frame.TOTALS: ["kind"]}


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation's outcome."""

    number: int
    """Its place in the suite, from 1 on."""
    type: str
    column: str
    """Or columns, with commas between them."""
    frame: str
    severity: str
    """``critical`` blocks, ``warning`` and ``info`` do not."""
    passed: bool
    considered: int
    """Rows that it looked at."""
    unexpected: int
    mostly: float
    """The part of the rows considered that has to be as expected."""
    failing_ids: tuple[str, ...]
    """The first `ID_LIMIT`, a version as ``state/version``; of totals, the kinds."""
    detail: str
    """Why it could not be evaluated, if it could not."""


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """One suite's outcome on frames of `rows` records in all."""

    stage: str
    suite: str
    rows: int
    expectations: tuple[Expectation, ...]

    @classmethod
    def of(cls, values: dict[str, Any]) -> SuiteReport:
        """The inverse of `dataclasses.asdict`, of values that may have been JSON meanwhile."""
        found = [Expectation(**{**e, "failing_ids": tuple(e["failing_ids"])}) for e in values["expectations"]]
        return cls(**{**values, "expectations": tuple(found)})

    @property
    def passed(self) -> bool:
        """Whether no critical expectation failed."""
        return all(e.passed for e in self.expectations if e.severity == "critical")

    @property
    def failed(self) -> tuple[Expectation, ...]:
        return tuple(e for e in self.expectations if not e.passed)

    def and_of(self, other: SuiteReport) -> SuiteReport:
        """The outcome on the frames of both, as if they were one."""
        found: dict[int, Expectation] = {}
        for each in (*self.expectations, *other.expectations):
            found[each.number] = _together(found[each.number], each) if each.number in found else each
        return replace(self, rows=self.rows + other.rows, expectations=tuple(found[n] for n in sorted(found)))


def together(reports: Sequence[SuiteReport]) -> SuiteReport:
    """One suite's outcome, from those on each of its frames."""
    return reduce(SuiteReport.and_of, reports)


def _together(one: Expectation, other: Expectation) -> Expectation:
    considered, unexpected = one.considered + other.considered, one.unexpected + other.unexpected
    detail = one.detail or other.detail
    return replace(
        one,
        considered=considered,
        unexpected=unexpected,
        passed=not detail and _enough(considered, unexpected, one.mostly),
        failing_ids=(*one.failing_ids, *other.failing_ids)[:ID_LIMIT],
        detail=detail,
    )


def _enough(considered: int, unexpected: int, mostly: float) -> bool:
    return unexpected == 0 or (considered - unexpected) / considered >= mostly


def run_suite(suite: Suite, frame: Frame, table: pa.Table) -> SuiteReport:
    """Run what a suite expects of a frame. Raises ValueError for a suite that Great Expectations does not take whole."""
    rows = table.num_rows if frame is Frame.RECORDS else 0
    numbered = [
        {**values, "meta": {"number": number}}
        for number, values in enumerate(suite.values["expectations"], 1)
        if values.get("meta", {}).get("frame", Frame.RECORDS) == frame
    ]
    if not numbered:
        return SuiteReport(suite.stage, suite.name, rows, ())
    results = _validate(_gx_suite(suite.name, numbered), frame, table)
    found = sorted((_expectation(frame, result) for result in results["results"]), key=lambda e: e.number)
    return SuiteReport(suite.stage, suite.name, rows, tuple(found))


def warm() -> None:
    """Do now what the first suite would have to wait for."""
    _great_expectations()


def _great_expectations() -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations  # noqa: PLC0415 - costs seconds, so only when a suite is run

    return great_expectations


def _gx_suite(name: str, expectations: list[dict[str, Any]]) -> Any:
    suite = _great_expectations().ExpectationSuite(name=name, expectations=expectations)
    # Great Expectations only logs some of what it cannot use; a mistake must not switch an expectation off.
    if len(suite.expectations) != len(expectations):
        raise ValueError(f"Great Expectations left out an expectation of the suite {name}")
    return suite


def _validate(suite: Any, frame: Frame, table: pa.Table) -> dict[str, Any]:
    context = _great_expectations().get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    definition = context.data_sources.add_pandas("snapshot").add_dataframe_asset(str(frame))
    batch = definition.add_batch_definition_whole_dataframe("range").get_batch({"dataframe": table.to_pandas()})
    result_format = {
        "result_format": "COMPLETE",
        "unexpected_index_column_names": _IDS[frame],
        "include_unexpected_rows": False,
    }
    values: dict[str, Any] = batch.validate(suite, result_format=result_format).to_json_dict()
    return values


def _expectation(frame: Frame, result: dict[str, Any]) -> Expectation:
    config, outcome = result["expectation_config"], result.get("result") or {}
    kwargs = config["kwargs"]
    columns = [kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs]
    rows = outcome.get("unexpected_index_list") or []
    return Expectation(
        number=config["meta"]["number"],
        type=config["type"],
        column=", ".join([*columns, *kwargs.get("column_list", [])]),
        frame=frame,
        severity=config["severity"],
        passed=bool(result["success"]),
        considered=int(outcome.get("element_count", 0)) - int(outcome.get("missing_count", 0)),
        unexpected=int(outcome.get("unexpected_count", 0)),
        mostly=float(kwargs.get("mostly", 1)),
        failing_ids=tuple(_named(row) for row in rows[:ID_LIMIT]),
        detail=_exception(result.get("exception_info") or {}),
    )


def _named(row: dict[str, Any]) -> str:
    if "state_id" not in row:
        return str(row["kind"])
    own = row["snapshot_id"] if row["kind"] == "snapshot" else row["version_id"]
    return str(row["state_id"]) if row["kind"] == "state" else f"{row['state_id']}/{own}"


def _exception(info: dict[str, Any]) -> str:
    """The first message of what could not be evaluated; keyed by metric in some versions, flat in others."""
    for part in (info, *(value for value in info.values() if isinstance(value, dict))):
        if message := part.get("exception_message"):
            return str(message)
    return ""
