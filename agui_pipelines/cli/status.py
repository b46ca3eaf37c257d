"""``status``: where a migration stands, from its ledger alone; connects to nothing."""

from __future__ import annotations

from typing import Any

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.ledger import Entry, Ledger
from agui_pipelines.phases import control
from agui_pipelines.phases.plan import is_open
from agui_pipelines.phases.standing import (
    BEGUN,
    RESTORE,
    RESTORE_BEGUN,
    SYNC,
    VALIDATE,
    is_half_written,
    not_voided,
    standing,
)
from agui_pipelines.phases.steps import PHASE as CUTOVER
from agui_pipelines.phases.steps import is_live, live_side
from agui_pipelines.phases.steps import newest as newest_cutover
from agui_pipelines.staging import Workspace


def show(file: str | None, *, json: bool) -> None:
    """Print the newest plan, how far each phase has come under it, and the newest validation."""
    outline = spec.outline(file)
    values = describe(Workspace(outline.workspace_url, outline.name), outline.name)
    if json:
        output.print_json(values)
        return
    for run in values["going"]:
        output.note(told(outline.name, run))
    if "plan_id" not in values:
        output.note(f"Nothing has been planned for '{outline.name}' yet. Start with: agui-migrate run")
        return
    found: dict[str, object] = {
        "Plan": values["plan_id"],
        "Made": values["planned_at"],
        "State": values["state"],
        "Keys": values["keys"],
    }
    for phase, done in values["phases"].items():
        found[output.PHASES.get(phase, phase)] = (
            f"{done['ranges']} of {values['ranges']} ranges, {done['records']:,} records"
        )
    if validation := values["validation"]:
        found["Validation"] = f"{'passed' if validation['passed'] else 'FAILED'} at {validation['at']}"
    if sync := values["sync"]:
        found["Changes synced"] = sync["at"]
        found["Changes"] = ", ".join(f"{sync[name]:,} {name}" for name in ("created", "updated", "deleted"))
    if cutover := values["cutover"]:
        found["Live"] = values["live"]
        found["Cutover"] = cutover["state"]
    output.rows(f"Migration {outline.name}", found)


def told(name: str, run: dict[str, Any]) -> str:
    """How a run goes, for people."""
    how = "is ending" if run["aborted"] else "is paused" if run["paused"] else "goes on"
    rate = f", at {run['rate']:g} states a second" if run["rate"] is not None else ""
    return f"{name} {how}{rate}: process {run['process']} on {run['host']}, since {run['since']}."


def describe(workspace: Workspace, name: str) -> dict[str, Any]:
    """The same as plain values."""
    ledger, going = Ledger(workspace), [run.to_dict() for run in control.runs(workspace)]
    plan = _newest_plan(ledger)
    if plan is None:
        return {"migration": name, "state": "not started", "going": going}
    phases = {}
    for phase in ("export", "transform", "import"):
        done = imports(ledger, plan.plan_id) if phase == "import" else ledger.entries(phase=phase, plan_id=plan.plan_id)
        newest = {entry.unit: entry.outputs for entry in done}
        records = sum(
            sum(o["records"].values()) if isinstance(o["records"], dict) else o["records"] for o in newest.values()
        )
        phases[phase] = {"ranges": len(newest), "records": records}
    validation = ledger.last("validate", plan_id=plan.plan_id)
    taken_back = _taken_back(ledger, plan.plan_id)
    return {
        "migration": name,
        "state": _live_state(ledger) or _interrupted(ledger) or _state(ledger, plan, taken_back=bool(taken_back)),
        "going": going,
        "taken_back_at": taken_back,
        "plan_id": plan.plan_id,
        "planned_at": plan.at,
        "purpose": plan.outputs["purpose"],
        "keys": plan.outputs["keys"],
        "ranges": len(plan.outputs["ranges"]),
        "phases": phases,
        "validation": {"passed": validation.outputs["passed"], "at": validation.at} if validation else None,
        "sync": _sync(ledger),
        "live": live_side(ledger),
        "cutover": _cutover(ledger),
    }


def _newest_plan(ledger: Ledger) -> Entry | None:
    """A dry run's only until something was written: from then on it changes nothing of where the migration stands."""
    plans = ledger.entries(phase="plan")
    migrations = [entry for entry in plans if entry.outputs["purpose"] == "migrate"]
    if any(ledger.last(BEGUN, plan_id=entry.plan_id) for entry in migrations):
        return migrations[-1]
    tried = [entry for entry in plans if entry.outputs["purpose"] in ("migrate", "dry_run")]
    return tried[-1] if tried else None


def imports(ledger: Ledger, plan_id: str) -> list[Entry]:
    """What was imported under a plan, and is there still."""
    return not_voided(ledger.entries(), lambda each: (each.phase, each.plan_id) == ("import", plan_id))


def _sync(ledger: Ledger) -> dict[str, Any] | None:
    """The newest sync that found changes; one that finds none leaves nothing in the ledger."""
    found = ledger.last(SYNC)
    if found is None:
        return None
    figures = {name: found.outputs["public"][name] for name in ("created", "updated", "deleted", "conflicts_count")}
    return {"round_id": found.plan_id, "at": found.at, **figures}


def _cutover(ledger: Ledger) -> dict[str, Any] | None:
    """The newest cutover, and what is to be done about it."""
    found = newest_cutover(ledger)
    if found is None:
        return None
    again = f"agui-migrate cutover{' --back' if found.direction == 'back' else ''}"
    way = "to the target" if found.direction == "forward" else "back to the source"
    ended = ledger.last(CUTOVER, unit=found.cutover_id)
    if ended is not None:
        state = f"{way}: {found.outcome} at {ended.at}"
    elif found.undoing:
        state = f"{way}: being undone since its step '{found.reached}'; finish that with {again}"
    else:
        state = f"{way}: began its step '{found.reached}' and has not ended; {again} finishes or undoes it"
    return {
        "id": found.cutover_id,
        "direction": found.direction,
        "outcome": found.outcome or None,
        "step": found.reached,
        "undone_because": found.undoing or None,
        "opened_at": found.opened_at,
        "state": state,
    }


def _taken_back(ledger: Ledger, plan_id: str) -> str | None:
    """When the target was put back as it was after the plan's last import had begun."""
    begun = ledger.last(BEGUN, plan_id=plan_id)
    if begun is None or ledger.last(BEGUN, plan_id=plan_id, since=(RESTORE_BEGUN,)) is not None:
        return None
    restored = ledger.last(RESTORE, since=(RESTORE_BEGUN,))
    return restored.at if restored else None


def _live_state(ledger: Ledger) -> str:
    """That the target is live, or may be; empty if it is not."""
    if not is_live(ledger):
        return ""
    return "cut over: the target is live" if live_side(ledger) == "target" else "being cut over"


def _interrupted(ledger: Ledger) -> str:
    """What was ended while it wrote and has to be finished first; empty if nothing was."""
    if unfinished := standing(ledger).unfinished:
        return "being taken back: finish it with agui-migrate rollback " + " ".join(sorted(unfinished))
    return "a sync was ended while it wrote: finish it with agui-migrate sync" if is_half_written(ledger) else ""


def _state(ledger: Ledger, plan: Entry, *, taken_back: bool) -> str:
    purpose = plan.outputs["purpose"]
    if taken_back:
        return "taken back: the target is as it was; run it again to migrate"
    if plan.plan_id in standing(ledger).proven:
        return "migrated and proven"
    if is_open(ledger, plan.plan_id):
        return "unfinished: run it again to resume"
    if purpose == "dry_run":
        return "previewed; nothing was written"
    validation = ledger.last(VALIDATE, plan_id=plan.plan_id)
    return "imported again since it was proven" if validation and validation.outputs["passed"] else "validation failed"
