"""Validate: prove that the target holds, by exact digest, everything that was staged, and name what it does not.

`comparison` joins both sides, `recheck` looks again at what does not match, `differences` says in what; `integrity` and
`replay` look at histories. A sample (`sample`) is compared in the same way and recorded apart: it proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from agui_pipelines import losses
from agui_pipelines.errors import RefusedError, StagingError, ValidationFailedError, named
from agui_pipelines.expectations.runner import SuiteReport
from agui_pipelines.expectations.suites import Stage
from agui_pipelines.ledger import Entry
from agui_pipelines.phases import integrity as links
from agui_pipelines.phases.admission import rejects
from agui_pipelines.phases.comparison import KindComparison, compared
from agui_pipelines.phases.cursor import require_newest
from agui_pipelines.phases.differences import Differences, differences
from agui_pipelines.phases.expect import asked_of, expect_loaded, recorded, told
from agui_pipelines.phases.import_ import pending_ranges
from agui_pipelines.phases.integrity import Integrity
from agui_pipelines.phases.leftovers import remove_leftovers
from agui_pipelines.phases.marks import carry_applied, mark_format
from agui_pipelines.phases.observation import Names
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.recheck import Recheck, SourceChanges, changed_at_source, look_again
from agui_pipelines.phases.replay import Replay, replay
from agui_pipelines.phases.sample import Sample, choose, staged_ids
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import writes
from agui_pipelines.phases.strays import strays
from agui_pipelines.phases.timeline import side_by_side
from agui_pipelines.phases.transform import staged_ranges
from agui_pipelines.records import Kind
from agui_pipelines.staging import SnapshotReader

PHASE: Final = "validate"
SAMPLE_PHASE: Final = "validate_sample"
"""Under which a sampled validation is recorded: whoever asks for a validation of the plan does not find it."""


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The outcome of one comparison, full unless it has a `sample`."""

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
    expiry_compared: bool = False
    """Whether the target has a place for expiries."""
    expiry_accepted: bool = False
    """Whether the migration file accepts that they are lost."""
    timestamps_compared: tuple[str, ...] = ()
    """The times of a state, other than its expiry, for which the target has a place."""
    timestamps_accepted: bool = False
    """Whether the migration file accepts that they are lost."""
    integrity: Integrity = field(default_factory=Integrity)
    replay: Replay | None = None
    """None for a sample."""
    recheck: Recheck = field(default_factory=Recheck)
    source_changes: SourceChanges = field(default_factory=SourceChanges)
    differences: Differences = field(default_factory=dict)
    sample: Sample | None = None
    loaded: tuple[SuiteReport, ...] = ()
    """What the suites of the stage ``loaded`` found; none are run on a sample."""
    expectations: tuple[dict[str, Any], ...] = ()
    """What the suites of all stages found; see `expect.public`."""
    timeline: dict[str, Any] | None = None
    """What the plan's phases took, beside what its document said; see `timeline.side_by_side`."""
    strays: Names | None = None
    """Of a plan that only proves: records that the migration brought into the target once, and the source has no more."""

    @property
    def passed(self) -> bool:
        """Nothing is missing or corrupted, no time is another, no link broken that was whole, and every expectation met.

        Records of the target's own (extra), or unreadable ones, are another's, unless the migration is known to have brought
        them (strays); so are deviations that the source has too.
        """
        return self.complete and self.equal and self.integrity.holds and all(suite.passed for suite in self.loaded)

    @property
    def complete(self) -> bool:
        """Nothing is missing, and nothing is there that the migration brought once and the source has no more."""
        return not (self.strays and self.strays.count) and all(k.missing.count == 0 for k in self.kinds.values())

    @property
    def equal(self) -> bool:
        """No document is another by its digest, and no time another, unless it is accepted that times are lost."""
        timely = self.expiry_accepted or self.kinds[Kind.STATE].untimely.count == 0
        dated = self.timestamps_accepted or self.kinds[Kind.STATE].misdated.count == 0
        return timely and dated and all(k.corrupted.count == 0 for k in self.kinds.values())

    @property
    def proven(self) -> bool:
        """Whether the migration is proven: a sample that passes proves nothing."""
        return self.passed and self.sample is None

    @property
    def figures(self) -> dict[str, int]:
        """The numbers of the states alone, and of what histories deviate in, under the names that charts know."""
        states = self.kinds[Kind.STATE]
        return {
            "total_states": states.total,
            "migrated_states": states.migrated,
            "normalised_states": states.normalised,
            "missing_states": states.missing.count,
            "corrupted_states": states.corrupted.count,
            "extra_states": states.extra.count,
            "expiry_states": states.untimely.count,
            "timestamp_states": states.misdated.count,
            "deviating_versions": self.replay.deviating.count if self.replay else 0,
            "errors": self.error_count,
        }

    def to_dict(self) -> dict[str, Any]:
        """The report's public form: numbers, JSON pointers, and lists of ids cut to 1,000 with their full length beside them.

        It tells nothing of what documents hold.
        """
        return self._as_dict(
            {
                kind: {
                    finding: [{"id": d.id, "paths": list(d.paths)} for d in some] for finding, some in findings.items()
                }
                for kind, findings in self.differences.items()
            }
        )

    def to_json(self) -> str:
        """The report as it lies in the workspace: also with what differs, values and all."""
        described = {
            kind: {finding: [d.described for d in some] for finding, some in findings.items()}
            for kind, findings in self.differences.items()
        }
        return orjson.dumps(self._as_dict(described), option=orjson.OPT_INDENT_2).decode()

    def _as_dict(self, described: dict[str, Any]) -> dict[str, Any]:
        states = self.kinds[Kind.STATE]
        return {
            "passed": self.passed,
            "proven": self.proven,
            "sample": self.sample.to_dict() if self.sample else None,
            "plan_id": self.plan_id,
            **_public(states),
            "expiry_compared": self.expiry_compared,
            "expiry_states": list(states.untimely.ids),
            "expiry_states_count": states.untimely.count,
            "timestamps_compared": list(self.timestamps_compared),
            "timestamp_states": list(states.misdated.ids),
            "timestamp_states_count": states.misdated.count,
            "errors": list(self.errors),
            "errors_count": self.error_count,
            "versions": _public(self.kinds[Kind.VERSION], "versions"),
            "snapshots": _public(self.kinds[Kind.SNAPSHOT], "snapshots"),
            "rejected_records": self.rejected,
            "vanished_keys": self.vanished,
            "losses": self.losses,
            "loss_ledger": self.loss_ledger,
            "integrity": self.integrity.to_dict(),
            "replay": self.replay.to_dict() if self.replay else None,
            "rechecked_records": self.recheck.records,
            "settled_records": self.recheck.settled,
            "changed_at_source": list(self.source_changes.ids.ids),
            "changed_at_source_count": self.source_changes.ids.count,
            "changed_at_source_checked": self.source_changes.checked,
            "changed_at_source_unknown": self.source_changes.unknown,
            "differences": described,
            "expectations": list(self.expectations),
            "timeline": self.timeline,
            **self._strays(),
            "snapshot_ids": list(self.snapshot_ids),
            "seconds": round(self.seconds, 3),
            "records_per_second": round(self.rate),
        }

    def _strays(self) -> dict[str, Any]:
        return {} if self.strays is None else {"strays": list(self.strays.ids), "strays_count": self.strays.count}


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


def validate(session: Session, plan: Plan, *, sample: int = 0, seed: int | None = None) -> ValidationReport:
    """Compare everything that was staged under the plan with the whole target, record the outcome and close the plan.

    With `sample`, compare only so many ids, chosen at random by `seed`, which leaves the plan as open as it was. Raises
    `StagingError` while some range has not been imported (or, of a plan that only proves, staged), `SpecError` for an
    expectation suite that cannot be used, `RefusedError` if this migration writes to the target meanwhile. A failed
    comparison is returned, not raised: call `require_passed` on it.
    """
    require_newest(
        session, plan, why="The target is not to be what that plan staged any more; each sync proves what it brings."
    )
    before = writes(session.ledger)
    staged = _require_imported(session, plan)
    manifests = [snapshot.manifest for snapshot in staged]
    chosen = choose(staged_ids(staged), sample, seed) if sample else None
    compares_expiry = plan.route.get("expiry") == "kept"
    meter = session.meter(
        SAMPLE_PHASE if chosen else PHASE, total=None if chosen else sum(m.records for m in manifests)
    )
    ids = chosen.ids if chosen else None
    asked_of(session, Stage.LOADED)  # what is wrong with the suites is told before the target is read
    there = compared(session, staged, meter, ids=ids, expiry=compares_expiry, times=True)
    with there as (comparison, unreadable):
        recheck = look_again(session, comparison)
        kinds = {str(kind): comparison.result(kind) for kind in Kind}
        integrity = links.examine(session, comparison, staged, unpaired=unreadable.unpaired)
        found = differences(session, comparison, staged)
        changes = changed_at_source(session, plan, comparison, staged)
        progress = session.conclude(meter, plan.plan_id)
        counts = {kind: sum(m.summary(kind).records for m in manifests) for kind in Kind}
        loaded = () if chosen else expect_loaded(session, plan, comparison, kinds, counts)
        astray = strays(session, comparison) if plan.purpose == "verify" else None
    fates = losses.together(m.fates for m in manifests)
    replayed = None if chosen else replay(session, plan.plan_id, staged)
    report = ValidationReport(
        plan_id=plan.plan_id,
        snapshot_ids=tuple(m.snapshot_id for m in manifests),
        kinds=kinds,
        errors=unreadable.ids,
        error_count=unreadable.count,
        rejected=sum(1 for _ in rejects(session, staged)),
        vanished=sum(m.vanished for m in manifests),
        losses=losses.lost(fates),
        loss_ledger=losses.table(fates, session.migration.accept_losses),
        seconds=progress.seconds,
        rate=progress.rate,
        bytes=progress.bytes,
        expiry_compared=compares_expiry,
        expiry_accepted="expiry" in session.migration.accept_losses,
        timestamps_compared=comparison.times,
        timestamps_accepted="timestamps" in session.migration.accept_losses,
        integrity=integrity,
        replay=replayed,
        recheck=recheck,
        source_changes=changes,
        differences=found,
        sample=chosen,
        loaded=loaded,
        expectations=tuple(recorded(session, plan.plan_id)),
        timeline=None if chosen else side_by_side(session.workspace, session.ledger, plan.plan_id),
        strays=astray,
    )
    if writes(session.ledger) != before:
        raise RefusedError(
            "The target was written to while it was compared: another run of this migration imports, syncs or rolls back.",
            why="What was found is of no use, whatever it is.",
            remedy="Wait until that has ended, then validate again.",
        )
    if report.proven:
        others = report.kinds[Kind.STATE].extra.count
        mark_format(session, plan.plan_id, others=others)
        carry_applied(session, plan.plan_id, others=others)
    _record(session, report, before)
    remove_leftovers(session)
    return report


def _require_imported(session: Session, plan: Plan) -> Sequence[SnapshotReader]:
    snapshots, proves = staged_ranges(session, plan), plan.purpose == "verify"
    if pending := pending_ranges(session, plan):
        raise StagingError(
            f"The key ranges {', '.join(pending)} have not been {'staged' if proves else 'imported'}.",
            why="A partly migrated set cannot be proven complete.",
            remedy=f"{'Stage' if proves else 'Import'} them, then validate.",
            pending=pending,
        )
    return list(snapshots.values())


def report_name(plan_id: str, *, sampled: bool) -> str:
    """Where in the workspace the report of a validation lies."""
    return f"reports/{plan_id}-{'sample' if sampled else 'validation'}.json"


def _record(session: Session, report: ValidationReport, before: int) -> None:
    """`before`: how often the target had been written to (see `standing.writes`); if it was again by now, this is no proof."""
    sampled = report.sample is not None
    session.workspace.write(report_name(report.plan_id, sampled=sampled), report.to_json().encode())
    outputs = {"passed": report.passed, "writes": before, "public": report.to_dict()}
    session.ledger.record(Entry(SAMPLE_PHASE if sampled else PHASE, report.plan_id, outputs=outputs))


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
    untimely = report.kinds[Kind.STATE].untimely
    if untimely.count:
        findings.append(f"{untimely.count:,} states with another expiry ({named(untimely.ids)})")
    misdated = report.kinds[Kind.STATE].misdated
    if misdated.count:
        findings.append(f"{misdated.count:,} states with another time of creation or update ({named(misdated.ids)})")
    findings += [
        f"{found.count:,} {finding.replace('_', ' ')} ({named(found.ids)})"
        for finding, found in report.integrity.target.items()
        if found.count and finding != links.ORPHANS
    ]
    if report.strays is not None and report.strays.count:
        findings.append(f"{report.strays.count:,} records that are gone from the source ({named(report.strays.ids)})")
    if findings:
        raise ValidationFailedError(
            f"The target is not what was exported: {'; '.join(findings)}.",
            why=" ".join(filter(None, ("The migration is not proven.", _example(report), _changed(report)))),
            remedy="See the report in the workspace, then run the migration again: it writes what differs.",
            report=report.to_dict(),
            figures=report.figures,
        )
    unmet = [told(e) for suite in report.loaded for e in suite.failed if e.severity == "critical"]
    raise ValidationFailedError(
        f"The loaded records do not meet the expectations: {'; '.join(unmet)}.",
        why="The target holds exactly what was staged, but not what it should hold.",
        remedy="Mend the source or the transforms, or the suite if it asks too much, and run again.",
        report=report.to_dict(),
        figures=report.figures,
    )


def _example(report: ValidationReport) -> str:
    """Where the first records differ, by JSON pointers."""
    different = [d for findings in report.differences.values() for d in findings.get("corrupted", ()) if d.paths]
    told = [f"{d.id!r} at {', '.join(d.paths[:3])}" for d in different[:3]]
    return f"It differs, for example, in {'; '.join(told)}." if told else ""


def _changed(report: ValidationReport) -> str:
    changes = report.source_changes
    if not changes.ids.count:
        return ""
    return (
        f"Of {changes.checked:,} mismatching states, {changes.ids.count:,} have changed at the source since the export."
    )
