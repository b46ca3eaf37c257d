"""``plan``: make a plan with its document, and show it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.cli.runs import execute
from agui_pipelines.errors import MigrationError, RefusedError, UsageError
from agui_pipelines.phases.markdown import markdown
from agui_pipelines.phases.plan import is_begun, open_plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.timeline import document, document_name


def propose(migration: spec.Migration, path: str | None, *, rehearsal: bool, save: Path | None, json: bool) -> None:
    """Run the job ``plan`` and print the document. A plan that is being carried out already is only shown.

    A plan that has its document and under which nothing was done yet is followed by a new one.
    """
    if save is not None and save.exists():
        raise UsageError(f"{save} exists already.", remedy="Name another file with --output, or remove it.")
    session = Session.open(migration)
    before = open_plan(session)
    written = document(session.workspace, before.plan_id) if before else None
    if before and written and is_begun(session.ledger, before.plan_id):
        output.note(f"{before.plan_id} is being carried out; this is its document. `agui-migrate run` goes on with it.")
    else:
        _run(migration, path, fresh=written is not None, rehearse=rehearsal)
        written = _newest(session)
    text = markdown(written)
    if save is not None:
        save.write_text(text, "utf-8")
    if json:
        output.print_json(written)
        return
    output.say(text if save is None else f"Wrote {save}.")
    output.note(
        f"Kept as {session.workspace.path(document_name(written['plan_id'], 'md'))}; `agui-migrate run` takes it up."
    )


def _run(migration: spec.Migration, path: str | None, **options: Any) -> None:
    """The target is locked meanwhile: what another migration writes there would be measured too."""
    try:
        with Session.open(migration).exclusive(), output.progress() as listener:
            debug = bool(os.environ.get("AGUI_DEBUG"))
            execute(
                "assess_and_plan",
                migration,
                listener,
                run_id=str(uuid4()),
                file=path,
                debug=debug,
                propose=True,
                **options,
            )
    except MigrationError as error:
        error.data["migration"] = migration.name
        raise


def _newest(session: Session) -> dict[str, Any]:
    made = session.ledger.last("plan")
    written = document(session.workspace, made.plan_id) if made else None
    if written is None:
        raise RefusedError("The run ended without a plan in the workspace.", remedy="See the run in the UI.")
    return written
