"""``run`` and ``validate``: run the Dagster job, then tell what came of it."""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.cli.runs import execute
from agui_pipelines.errors import MigrationError, RefusedError, RollbackError, named
from agui_pipelines.ledger import Entry
from agui_pipelines.losses import FORM, MEANING
from agui_pipelines.phases.rollback import Aftermath, after_failure
from agui_pipelines.phases.session import Session


def migrate(migration: spec.Migration, path: str | None, *, dry_run: bool, fresh: bool, json: bool) -> None:
    """Run the job ``migrate`` (or ``dry_run``) and print the result."""
    session = Session.open(migration)
    before = {entry.plan_id for entry in session.ledger.entries(phase="plan")}
    run_id = _run("dry_run" if dry_run else "migrate", migration, path, dry_run=dry_run, fresh=fresh)
    report = _report(session, "preview" if dry_run else "validate")
    if report["plan_id"] in before:
        output.note(f"Resumed {report['plan_id']}: what an earlier run had finished was not done again.")
    values = {"migration": migration.name, "run_id": run_id, **report, "phases": _phases(session, report["plan_id"])}
    if json:
        output.print_json(values)
    elif dry_run:
        _print_preview(values)
    else:
        print_result(migration, session, values)


def revalidate(migration: spec.Migration, path: str | None, *, json: bool) -> None:
    """Run the job ``validate`` and print the result."""
    run_id = _run("validate", migration, path)
    session = Session.open(migration)
    values = {"migration": migration.name, "run_id": run_id, **_report(session, "validate")}
    if json:
        output.print_json(values)
    else:
        print_result(migration, session, values)


def _run(job: str, migration: spec.Migration, path: str | None, *, dry_run: bool = False, fresh: bool = False) -> str:
    """Run a job and return its run id. What a failed import has written is undone, and the error says so."""
    run_id, debug = str(uuid4()), bool(os.environ.get("AGUI_DEBUG"))
    try:
        with output.progress() as listener:
            execute(job, migration, listener, run_id=run_id, file=path, dry_run=dry_run, fresh=fresh, debug=debug)
    except MigrationError as error:
        error.data["migration"] = migration.name
        if job == "migrate":
            raise _told_with_aftermath(error, migration, run_id) from error
        raise
    except Exception:
        if job == "migrate":
            output.note(_undo(migration, run_id).sentence)
        raise
    return run_id


def _told_with_aftermath(error: MigrationError, migration: spec.Migration, run_id: str) -> MigrationError:
    """The error of a failed run, with what became of the target; one that tells both if it could not be put back."""
    try:
        aftermath = _undo(migration, run_id)
    except RollbackError as second:
        second.data |= {**error.data, "cause": {"error": type(error).__name__, "message": error.message}}
        second.message = f"{error.message} {second.message}"
        return second
    except MigrationError as second:
        error.why = f"{error.why} What became of the target cannot be told: {second.message}".lstrip()
        return error
    if aftermath.status != "nothing_written":
        error.why = f"{error.why} {aftermath.sentence}".lstrip()
        error.data["rollback"] = aftermath.to_dict()
    return error


def _undo(migration: spec.Migration, run_id: str) -> Aftermath:
    # A session of its own: the failed one's workers have been told to stop.
    with output.progress() as listener:
        return after_failure(Session.open(migration, listener, run_id=run_id), run_id)


def _report(session: Session, phase: str) -> dict[str, Any]:
    entry = session.ledger.last(phase)
    if entry is None:
        raise RefusedError(f"The run ended without a {phase} in the ledger.", remedy="See the run in the UI.")
    public: dict[str, Any] = entry.outputs["public"]
    return public


def _phases(session: Session, plan_id: str) -> dict[str, Any]:
    """Seconds and records per second of each phase, from the plan's ledger entries."""
    timings: list[Entry] = session.ledger.entries(phase="timing", plan_id=plan_id)
    return {entry.unit: entry.outputs for entry in timings}


def print_result(migration: spec.Migration, session: Session, values: dict[str, Any]) -> None:
    """A validated migration, for people: what was moved, what was not, and where to look next."""
    found = {
        "States": values["total_states"],
        "Migrated and proven equal": values["migrated_states"],
        "  of these normalised": values["normalised_states"],
        "Missing": values["missing_states_count"],
        "Corrupted": values["corrupted_states_count"],
        "Expired on the way": values["expired_states"],
        "In the target besides": values["extra_states_count"],
        "Rejected": values["rejected_records"],
        "Gone while exporting": values["vanished_keys"],
    }
    for noun in ("versions", "snapshots"):
        if values[noun][f"total_{noun}"]:
            found[noun.capitalize()] = (
                f"{values[noun][f'migrated_{noun}']:,} of {values[noun][f'total_{noun}']:,} proven equal"
            )
    output.rows(f"Migration {migration.name}", found)
    _print_losses(values["loss_ledger"])
    _print_warnings(values["expectations"])
    if values["errors_count"]:
        output.say(
            f"  Note: the target holds {values['errors_count']:,} unreadable records: {named(values['errors'])}."
        )
    for name, phase in values.get("phases", {}).items():
        output.say(
            f"  {output.PHASES.get(name, name):<13}{phase['seconds']:>8.1f} s {phase['records_per_second']:>10,}/s"
        )
    report = session.workspace.path(f"reports/{values['plan_id']}-validation.json")
    output.say(f"\nReport   {report}")
    output.say("Runs     agui-migrate ui")


def _print_preview(values: dict[str, Any]) -> None:
    output.rows(
        "Dry run: nothing was written. An import would",
        {
            "insert states": values["insert"]["state"],
            "overwrite states": values["overwrite"]["state"],
            "leave states that are there already": values["unchanged"]["state"],
            "not touch other states": values["untouched"]["state"],
        },
    )
    _print_losses(values["loss_ledger"])
    _print_warnings(values["expectations"])


def _print_warnings(suites: list[dict[str, Any]]) -> None:
    """The expectations that failed and block nothing."""
    for suite in suites:
        for found in suite["failures"]:
            output.say(
                f"  {found['severity'].capitalize()}: {suite['stage']} records, suite {suite['suite']}: {found['message']}"
            )


def _print_losses(ledger: list[dict[str, Any]]) -> None:
    """What this route keeps of each property that the source has; nothing if it has none worth telling."""
    found = [row for row in ledger if row["carries"] == "meaning" or (row["lost"] and row["property"] != "layout")]
    if not found:
        return
    output.say("\nWhat this route keeps")
    for row in found:
        counts = ", ".join(f"{row[word]:,} {word}" for word in ("kept", "encoded", "lost") if row[word])
        what = {**MEANING, **FORM}[row["property"]]
        told = f"{row['property']} ({what})" if row["lost"] else row["property"]
        output.say(f"  {told}: {counts}")
