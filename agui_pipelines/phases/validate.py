"""Validate: prove that the target holds, by exact digest, everything that was staged, and name what it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from agui_pipelines import losses
from agui_pipelines.errors import StagingError, ValidationFailedError, named
from agui_pipelines.expectations.runner import SuiteReport
from agui_pipelines.expectations.suites import Stage
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.admission import rejects
from agui_pipelines.phases.comparison import KindComparison, compared
from agui_pipelines.phases.expect import asked_of, expect_loaded, recorded, told
from agui_pipelines.phases.import_ import imported
from agui_pipelines.phases.leftovers import remove_leftovers
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import staged_ranges
from agui_pipelines.records import Kind

PHASE: Final = "validate"


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The outcome of one full comparison."""

    plan_id: str
    snapshot_ids: tuple[str, ...]
    kinds: dict[str, KindComparison]
    errors: tuple[str, ...]
    """Records of the target that cannot be read as what they should be, by name (the first 1,000)."""
    error_count: int
    rejected: int
    vanished: int
    losses: dict[str, int]
    loss_ledger: list[dict[str, Any]]
    """What became of every property on this route; see `losses.table`."""
    seconds: float
    rate: float
    bytes: int = 0
    loaded: tuple[SuiteReport, ...] = ()
    """What the suites of the stage ``loaded`` found."""
    expectations: tuple[dict[str, Any], ...] = ()
    """What the suites of all stages found; see `expect.public`."""

    @property
    def passed(self) -> bool:
        """Nothing is missing or corrupted, and what is expected of it is met.

        Records of the target's own (extra), or unreadable ones, are another's.
        """
        proven = all(k.missing.count == 0 and k.corrupted.count == 0 for k in self.kinds.values())
        return proven and all(suite.passed for suite in self.loaded)

    @property
    def figures(self) -> dict[str, int]:
        """The numbers of the states alone, under the names that charts know."""
        states = self.kinds[Kind.STATE]
        return {
            "total_states": states.total,
            "migrated_states": states.migrated,
            "normalised_states": states.normalised,
            "missing_states": states.missing.count,
            "corrupted_states": states.corrupted.count,
            "extra_states": states.extra.count,
            "errors": self.error_count,
        }

    def to_dict(self) -> dict[str, Any]:
        """The report's public form: numbers, and lists of ids cut to 1,000 with their full length beside them."""
        states = self.kinds[Kind.STATE]
        return {
            "passed": self.passed,
            "plan_id": self.plan_id,
            **_public(states),
            "errors": list(self.errors),
            "errors_count": self.error_count,
            "versions": _public(self.kinds[Kind.VERSION], "versions"),
            "snapshots": _public(self.kinds[Kind.SNAPSHOT], "snapshots"),
            "rejected_records": self.rejected,
            "vanished_keys": self.vanished,
            "losses": self.losses,
            "loss_ledger": self.loss_ledger,
            "expectations": list(self.expectations),
            "snapshot_ids": list(self.snapshot_ids),
            "seconds": round(self.seconds, 3),
            "records_per_second": round(self.rate),
        }


def _public(kind: KindComparison, noun: str = "states") -> dict[str, Any]:
    public: dict[str, Any] = {
        f"total_{noun}": kind.total,
        f"migrated_{noun}": kind.migrated,
        f"normalised_{noun}": kind.normalised,
        f"expired_{noun}": kind.expired,
    }
    for name, found in (("missing", kind.missing), ("corrupted", kind.corrupted), ("extra", kind.extra)):
        public[f"{name}_{noun}"] = list(found.ids)
        public[f"{name}_{noun}_count"] = found.count
    return public


def validate(session: Session, plan: Plan) -> ValidationReport:
    """Compare everything that was staged under the plan with the whole target, record the outcome and close the plan.

    Raises `StagingError` while some range has not been imported, `SpecError` for an expectation suite that cannot be used. A
    failed comparison is returned, not raised: call `require_passed` on it.
    """
    snapshots = staged_ranges(session, plan)
    pending = [
        r.name for r in plan.ranges if r.name not in snapshots or imported(session, plan, snapshots[r.name]) is None
    ]
    if pending:
        raise StagingError(
            f"The key ranges {', '.join(pending)} have not been imported.",
            why="A partly migrated set cannot be proven complete.",
            remedy="Import them, then validate.",
            pending=pending,
        )
    asked_of(session, Stage.LOADED)  # what is wrong with them is told before the target is read
    manifests = [snapshot.manifest for snapshot in snapshots.values()]
    meter = session.meter(PHASE, total=sum(m.records for m in manifests))
    with compared(session, list(snapshots.values()), meter) as (comparison, unreadable):
        kinds = {str(kind): comparison.result(kind) for kind in Kind}
        progress = session.conclude(meter, plan.plan_id)
        staged = {kind: sum(m.summary(kind).records for m in manifests) for kind in Kind}
        loaded = expect_loaded(session, plan, comparison, kinds, staged)
    fates = losses.together(m.fates for m in manifests)
    report = ValidationReport(
        plan_id=plan.plan_id,
        snapshot_ids=tuple(m.snapshot_id for m in manifests),
        kinds=kinds,
        errors=unreadable.ids,
        error_count=unreadable.count,
        rejected=sum(1 for _ in rejects(session, snapshots.values())),
        vanished=sum(m.vanished for m in manifests),
        losses=losses.lost(fates),
        loss_ledger=losses.table(fates, session.migration.accept_losses),
        seconds=progress.seconds,
        rate=progress.rate,
        bytes=progress.bytes,
        loaded=loaded,
        expectations=tuple(recorded(session, plan.plan_id)),
    )
    name = f"reports/{plan.plan_id}-validation.json"
    session.workspace.write(name, orjson.dumps(report.to_dict(), option=orjson.OPT_INDENT_2))
    session.ledger.record(Entry(PHASE, plan.plan_id, outputs={"passed": report.passed, "public": report.to_dict()}))
    remove_leftovers(session)
    return report


def require_passed(report: ValidationReport) -> None:
    """Raise `ValidationFailedError` unless the validation passed."""
    if report.passed:
        return
    findings = [
        f"{found.count:,} {kind}{'s' if found.count != 1 else ''} {word} ({named(found.ids)})"
        for kind, comparison in report.kinds.items()
        for word, found in (("missing", comparison.missing), ("corrupted", comparison.corrupted))
        if found.count
    ]
    data = {"report": report.to_dict(), "figures": report.figures}
    if findings:
        raise ValidationFailedError(
            f"The target is not what was exported: {'; '.join(findings)}.",
            why="The migration is not proven.",
            remedy="See the report in the workspace, then run the migration again: it writes what differs.",
            **data,
        )
    unmet = [told(e) for suite in report.loaded for e in suite.failed if e.severity == "critical"]
    raise ValidationFailedError(
        f"The loaded records do not meet the expectations: {'; '.join(unmet)}.",
        why="The target holds exactly what was staged, but not what it should hold.",
        remedy="Mend the source or the transforms, or the suite if it asks too much, and run again.",
        **data,
    )
