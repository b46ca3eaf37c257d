"""Preview: what an import would do to the target, found by reading it and writing nothing (``--dry-run``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from agui_pipelines import losses
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.admission import require_importable
from agui_pipelines.phases.comparison import compared
from agui_pipelines.phases.expect import recorded
from agui_pipelines.phases.observation import Names
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import staged_ranges
from agui_pipelines.records import Kind

PHASE: Final = "preview"


@dataclass(frozen=True, slots=True)
class PreviewReport:
    """Records that an import would insert, overwrite, and find as they should be; and those it would not touch."""

    plan_id: str
    insert: dict[str, int]
    overwrite: dict[str, int]
    overwritten_states: Names
    unchanged: dict[str, int]
    untouched: dict[str, int]
    losses: dict[str, int]
    loss_ledger: list[dict[str, Any]]
    expectations: list[dict[str, Any]]
    """What the suites found; see `expect.public`."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "dry_run": True,
            **{
                name: getattr(self, name)
                for name in ("plan_id", "insert", "overwrite", "unchanged", "untouched", "losses", "loss_ledger")
            },
            "overwritten_states": list(self.overwritten_states.ids),
            "overwritten_states_count": self.overwritten_states.count,
            "expectations": self.expectations,
            "seconds": round(self.seconds, 3),
        }


def preview(session: Session, plan: Plan) -> PreviewReport:
    """Compare what was staged with the target as it is, and close the plan.

    Raises what an import would raise before its first write: `RejectLimitError`, `LossError`, `CollisionError`.
    """
    snapshots = staged_ranges(session, plan)
    require_importable(session, snapshots.values())
    meter = session.meter(PHASE)
    with compared(session, list(snapshots.values()), meter) as (comparison, _):
        kinds = {str(kind): comparison.result(kind) for kind in Kind}
    fates = losses.together(s.manifest.fates for s in snapshots.values())
    report = PreviewReport(
        plan_id=plan.plan_id,
        insert={name: k.missing.count + k.expired for name, k in kinds.items()},
        overwrite={name: k.corrupted.count for name, k in kinds.items()},
        overwritten_states=kinds[Kind.STATE].corrupted,
        unchanged={name: k.migrated for name, k in kinds.items()},
        untouched={name: k.extra.count for name, k in kinds.items()},
        losses=losses.lost(fates),
        loss_ledger=losses.table(fates, session.migration.accept_losses),
        expectations=recorded(session, plan.plan_id),
        seconds=session.conclude(meter, plan.plan_id).seconds,
    )
    if plan.purpose == "dry_run":  # which it closes; one that is to be carried out stays open
        session.ledger.record(Entry(PHASE, plan.plan_id, outputs={"public": report.to_dict()}))
    return report
