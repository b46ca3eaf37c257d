"""``rollback``: take a migration back, step by step."""

from __future__ import annotations

from dataclasses import asdict

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.phases import rollback as phase
from agui_pipelines.phases.notify import notified
from agui_pipelines.phases.rollback import Step
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.steps import is_live


def rollback(migration: spec.Migration, backup_id: str | None, *, yes: bool, while_live: bool, json: bool) -> None:
    """Put the target back once the user has agreed, and tell each step as it is done."""
    session = Session.open(migration)
    if not while_live:
        phase.require_not_live(session)
    chosen = phase.chosen(session, backup_id)
    if not yes:
        ids = ", ".join(each.backup_id for each in chosen)
        live = "The target is live, and what was written there since is lost. " if is_live(session.ledger) else ""
        output.agree(f"{live}This puts {chosen[0].place} back as it was at {chosen[0].created_at} ({ids}). Go on?")

    def tell(step: Step) -> None:
        output.note(f"{step.step:<9}{step.detail} ({step.seconds:.1f} s)")

    with output.progress() as listener:
        session = Session.open(migration, listener)
        with notified(session, phase.PHASE):
            steps = phase.rollback(session, backup_id, agreed=chosen, while_live=while_live, tell=tell)
    if json:
        ids_ = [each.backup_id for each in chosen]
        output.print_json({"migration": migration.name, "backups": ids_, "steps": [asdict(step) for step in steps]})
    else:
        output.say(f"Rolled back {migration.name}: {chosen[0].place} is as it was at {chosen[0].created_at}.")
