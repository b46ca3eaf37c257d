"""What checks found, as the outcomes of asset checks: passed or not, numbers that the UI plots, and tables with failing ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import dagster as dg

from agui_pipelines.expectations.runner import SuiteReport
from agui_pipelines.phases.admission import SetAside
from agui_pipelines.phases.integrity import LINKS, ORPHANS
from agui_pipelines.phases.observation import Names
from agui_pipelines.phases.performance import Finding
from agui_pipelines.phases.validate import ValidationReport
from agui_pipelines.records import Kind
from assets.metadata import IDS, Metadata, table

COMPLETENESS: Final = "completeness"
DIGEST_EQUALITY: Final = "digest_equality"
HISTORY_INTEGRITY: Final = "history_integrity"
PERFORMANCE: Final = "performance"
REJECTS_WITHIN_LIMIT: Final = "rejects_within_limit"

_ERROR: Final = dg.AssetCheckSeverity.ERROR
_WARN: Final = dg.AssetCheckSeverity.WARN


def of_suites(reports: Mapping[str, Sequence[SuiteReport]], *, sampled: bool = False) -> Iterator[dg.AssetCheckResult]:
    """The outcome of each check by what its suites found; a critical expectation that failed makes it an error.

    None are run on a sample, which is no outcome to rely on.
    """
    for check, some in reports.items():
        if some:
            yield _of_suites(check, some)
        elif sampled:
            yield _unknown(check, "Not looked at, as a sample was compared.")
        else:
            yield dg.AssetCheckResult(
                passed=True,
                check_name=check,
                description="The migration file of this run has no such suite, or one of its own in its place.",
                metadata={"expectations": 0},
            )


def _of_suites(check: str, reports: Sequence[SuiteReport]) -> dg.AssetCheckResult:
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
    return dg.AssetCheckResult(
        passed=not failed,
        check_name=check,
        severity=_WARN if all(report.passed for report in reports) else _ERROR,
        metadata={
            "suites": ", ".join(report.suite for report in reports),
            "rows": max(report.rows for report in reports),
            "expectations": sum(len(report.expectations) for report in reports),
            "failed_expectations": len(failed),
            **({"failures": table(rows)} if rows else {}),
        },
    )


def of_rejects(found: SetAside) -> dg.AssetCheckResult:
    """Why each was rejected is told in one word: more, which may quote a document, stands with it in the workspace."""
    rows = [{"id": r.name, "kind": str(r.kind), "phase": r.phase, "reason": r.reason} for r in found.first[:IDS]]
    return dg.AssetCheckResult(
        passed=found.within_limit,
        check_name=REJECTS_WITHIN_LIMIT,
        severity=_ERROR,
        description=f"{found.count:,} rejected, {found.allowed:,} allowed.",
        metadata={
            "rejects": found.count,
            "max_rejects": found.allowed,
            **({"failures": table(rows)} if rows else {}),
        },
    )


def of_validation(report: ValidationReport, link: Metadata) -> Iterator[dg.AssetCheckResult]:
    """What a validation found, by what it proves. `link`: the metadata that leads to its report."""
    yield _completeness(report, link)
    yield _digest_equality(report, link)
    yield _history_integrity(report, link)


def of_performance(found: Sequence[Finding], *, sampled: bool = False) -> dg.AssetCheckResult:
    """A requirement that is missed warns. What could not be measured is told, and holds nothing up."""
    if sampled:
        return _unknown(PERFORMANCE, "Not looked at, as a sample was compared.")
    missed = [each for each in found if each.met is False]
    verdicts = {True: "met", False: "missed", None: "not measured"}
    rows = [
        {"requirement": f.requirement, "required": f.required, "measured": f.measured, "verdict": verdicts[f.met]}
        for f in found
    ]
    said = "; ".join(f"{each.requirement} ({each.required}): {each.measured}" for each in missed or found)
    return dg.AssetCheckResult(
        passed=not missed,
        check_name=PERFORMANCE,
        severity=_WARN,
        description=f"{said}." if said else "The migration file asks for none (requirements).",
        metadata={
            "missed_requirements": len(missed),
            **{each.name: each.figure for each in found if each.figure is not None},
            **({"requirements": table(rows)} if rows else {}),
        },
    )


def _completeness(report: ValidationReport, link: Metadata) -> dg.AssetCheckResult:
    found = {f"missing_{kind}s": each.missing for kind, each in report.kinds.items()}
    others = {f"extra_{kind}s": each.extra for kind, each in report.kinds.items()}
    others["unreadable_records"] = Names(report.errors, report.error_count)
    return _judged(
        COMPLETENESS,
        report,
        report.complete,
        found,
        {"compared_records": sum(each.total for each in report.kinds.values()), **link},
        besides=others,
    )


def _digest_equality(report: ValidationReport, link: Metadata) -> dg.AssetCheckResult:
    states = report.kinds[Kind.STATE]
    found = {f"corrupted_{kind}s": each.corrupted for kind, each in report.kinds.items()}
    times = {"expiry_states": (states.untimely, report.expiry_accepted)}
    times["timestamp_states"] = (states.misdated, report.timestamps_accepted)
    paths = [
        {"id": d.id, "kind": kind, "differs_at": ", ".join(d.paths)}
        for kind, findings in report.differences.items()
        for d in findings.get("corrupted", ())[:IDS]
    ]
    return _judged(
        DIGEST_EQUALITY,
        report,
        report.equal,
        found | {name: names for name, (names, accepted) in times.items() if not accepted},
        {
            "equal_records": sum(each.migrated for each in report.kinds.values()),
            "normalised_records": sum(each.normalised for each in report.kinds.values()),
            **({"differences": table(paths)} if paths else {}),
            **link,
        },
        besides={name: names for name, (names, accepted) in times.items() if accepted},
    )


def _history_integrity(report: ValidationReport, link: Metadata) -> dg.AssetCheckResult:
    source, target = report.integrity.source, report.integrity.target
    besides = {ORPHANS: target.get(ORPHANS, Names())}
    besides |= {f"source_{finding}": source.get(finding, Names()) for finding in (*LINKS, ORPHANS)}
    if report.replay is not None:
        besides["deviating_versions"] = report.replay.deviating
    return _judged(
        HISTORY_INTEGRITY,
        report,
        report.integrity.holds,
        {finding: target.get(finding, Names()) for finding in LINKS},
        {"records_alone": report.integrity.unpaired, **link},
        besides=besides,
    )


def _judged(
    check: str,
    report: ValidationReport,
    passed: bool,
    found: Mapping[str, Names],
    metadata: Metadata,
    *,
    besides: Mapping[str, Names],
) -> dg.AssetCheckResult:
    """`found` counts against the migration, `besides` is only told. That a sample met it proves nothing."""
    rows = [
        {"finding": name, "counts": counts, "records": names.count, "ids": ", ".join(names.ids[:IDS])}
        for some, counts in ((found, "yes"), (besides, "no"))
        for name, names in some.items()
        if names.count
    ]
    told: Metadata = {name: names.count for name, names in {**found, **besides}.items()}
    told |= {**({"failures" if not passed else "findings": table(rows)} if rows else {}), **metadata}
    if report.sample is not None and passed:
        said = f"Not proven: of {report.sample.of:,} ids only {len(report.sample.ids):,} were compared, which met it."
        return _unknown(check, said, told)
    wrong = ", ".join(f"{names.count:,} {name.replace('_', ' ')}" for name, names in found.items() if names.count)
    return dg.AssetCheckResult(
        passed=passed, check_name=check, severity=_ERROR, description=f"{wrong}." if wrong else None, metadata=told
    )


def _unknown(check: str, said: str, metadata: Mapping[str, Any] | None = None) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=False, check_name=check, severity=_WARN, description=said, metadata=metadata or {}
    )
