"""``run`` and ``validate``: run the Dagster job, then tell what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from uuid import uuid4

from agui_pipelines import spec
from agui_pipelines.cli import clock, output
from agui_pipelines.cli.runs import RangesAlone, execute
from agui_pipelines.cli.status import imports
from agui_pipelines.errors import MigrationError, RefusedError, RollbackError, StagingError, UsageError, named
from agui_pipelines.keyspace import adjacent, range_names
from agui_pipelines.ledger import Entry
from agui_pipelines.losses import FORM, MEANING
from agui_pipelines.phases.import_ import pending_ranges
from agui_pipelines.phases.notify import notify
from agui_pipelines.phases.pacing import require_carried_out
from agui_pipelines.phases.plan import Plan, current, is_begun, open_plan
from agui_pipelines.phases.rollback import PHASE as ROLLBACK
from agui_pipelines.phases.rollback import Aftermath, after_failure
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.timeline import AROUND, side_by_side
from agui_pipelines.phases.validate import SAMPLE_PHASE, report_name

_Options = ParamSpec("_Options")


def _of_migration(
    command: Callable[Concatenate[spec.Migration, _Options], None],
) -> Callable[Concatenate[spec.Migration, _Options], None]:
    """Let whatever is refused or fails in a command say of which migration."""

    @wraps(command)
    def named_(migration: spec.Migration, /, *args: _Options.args, **options: _Options.kwargs) -> None:
        try:
            command(migration, *args, **options)
        except MigrationError as error:
            error.data["migration"] = migration.name
            raise

    return named_


@_of_migration
def migrate(migration: spec.Migration, path: str | None, *, dry_run: bool, fresh: bool, json: bool) -> None:
    """Run the job ``migrate`` (or ``dry_run``) and print the result."""
    if not dry_run:
        require_carried_out(migration)
    session = Session.open(migration)
    before = {entry.plan_id for entry in session.ledger.entries(phase="plan")}
    begun = {plan_id for plan_id in before if is_begun(session.ledger, plan_id)}
    run_id = _run("dry_run" if dry_run else "migrate", migration, path, dry_run=dry_run, fresh=fresh)
    report = _report(session, "preview" if dry_run else "validate")
    plan_id = report["plan_id"]
    if plan_id in begun:
        output.note(f"Resumed {plan_id}: what an earlier run had finished was not done again.")
    elif plan_id in before:
        output.note(f"Carried out {plan_id}, which had been made before.")
    values = {"migration": migration.name, "run_id": run_id, **report, "phases": _phases(session, plan_id)}
    if not dry_run:
        values["timeline"] = side_by_side(session.workspace, session.ledger, plan_id, total_seconds=clock.elapsed())
    if json:
        output.print_json(values)
    elif dry_run:
        _print_preview(values)
    else:
        print_result(migration, session, values)


@_of_migration
def migrate_ranges(
    migration: spec.Migration, path: str | None, ranges: Sequence[str], *, fresh: bool, json: bool
) -> None:
    """Move some key ranges and print what they hold; with the last one that was pending, the whole is validated.

    A plan under which something was exported holds, so that a range is what it was before, unless it is `fresh`. Raises
    `UsageError` for a range that there is not.
    """
    require_carried_out(migration)
    session = Session.open(migration)
    plan = None if fresh else _begun_plan(session)
    names = range_names(len(plan.ranges) if plan else migration.ranges)
    if unknown := sorted(set(ranges).difference(names)):
        raise UsageError(
            f"There is no key range {', '.join(map(repr, unknown))}.",
            remedy=f"They are named {names[0]} to {names[-1]}; give --range once for each.",
        )
    if fresh:
        _tell_given_up(session)
    run_ids: list[str] = []
    for number, group in enumerate(adjacent(sorted(set(ranges)), names)):
        only = RangesAlone(group, planned=plan is None and not number)
        run_ids.append(_run("migrate", migration, path, only=only, fresh=fresh and not number))
    made = current(session)
    pending = pending_ranges(session, made)
    values: dict[str, Any] = {
        "migration": migration.name,
        "run_ids": run_ids,
        "plan_id": made.plan_id,
        "ranges": [_range_row(session, made, name) for name in sorted(set(ranges))],
        "pending_ranges": pending,
        "validated": not pending,  # only then it says whether that passed
    }
    if not pending:
        values["run_ids"].append(_run("validate", migration, path))
        values |= _report(session, "validate")
    if json:
        output.print_json(values)
        return
    found = {f"Range {row['range']}": f"{row['keys']:,} keys, {row['records']:,} records" for row in values["ranges"]}
    output.rows(f"Migration {migration.name}", found)
    if pending:
        output.say(
            f"\nNot validated: {len(pending):,} of {len(made.ranges):,} key ranges are pending: {', '.join(pending)}. "
            "To move them all: agui-migrate run"
        )
        return
    print_result(migration, session, values)


def _tell_given_up(session: Session) -> None:
    """Name the key ranges that had been imported under the plan in whose place a fresh one is made."""
    found = open_plan(session)
    done = sorted({entry.unit for entry in imports(session.ledger, found.plan_id)}) if found else []
    if found and done:
        output.note(
            f"Gives up {found.plan_id}, under which the key ranges {', '.join(done)} had been imported: "
            "all ranges are pending under the new plan."
        )


def _begun_plan(session: Session) -> Plan | None:
    """The newest plan, if it is of this migration file, and its listing of the source is what was exported by."""
    try:
        found = current(session)
    except StagingError:
        return None
    return found if is_begun(session.ledger, found.plan_id) else None


def _range_row(session: Session, made: Plan, name: str) -> dict[str, Any]:
    key_range = made.range(name)
    entry = session.ledger.last("import", plan_id=made.plan_id, unit=name)
    return {
        "range": name,
        "from": _key_text(key_range.lower),
        "below": _key_text(key_range.upper),
        "keys": key_range.keys,
        "weight": key_range.weight,
        "records": entry.outputs["records"] if entry else 0,
    }


def _key_text(key: bytes | None) -> str | None:
    return None if key is None else key.decode("utf-8", "backslashreplace")


@_of_migration
def revalidate(
    migration: spec.Migration, path: str | None, *, sample: int = 0, seed: int | None = None, json: bool
) -> None:
    """Run the job ``validate``, over a random sample if one is asked for, and print the result."""
    run_id = _run("validate", migration, path, sample=sample, seed=seed)
    session = Session.open(migration)
    report = _report(session, SAMPLE_PHASE if sample else "validate")
    values = {"migration": migration.name, "run_id": run_id, **report}
    if json:
        output.print_json(values)
    else:
        print_result(migration, session, values)


def _run(job: str, migration: spec.Migration, path: str | None, **options: Any) -> str:
    """Run a job, with the options of `runs.execute`, and return its run id.

    What a failed import has written is undone, and the error says so. A migration holds its target's lock from before the
    first step, so that a second one does not read for an hour before it is refused, until that is done.
    """
    run_id, debug = str(uuid4()), bool(os.environ.get("AGUI_DEBUG"))
    writes = job == "migrate"
    with Session.open(migration).exclusive() if writes else nullcontext():
        try:
            with output.progress() as listener:
                execute(job, migration, listener, run_id=run_id, file=path, debug=debug, **options)
        except MigrationError as error:
            if writes:
                raise _told_with_aftermath(error, migration, run_id) from error
            raise
        except Exception as error:
            if writes:
                _tell_aftermath(error, migration, run_id)
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


def _tell_aftermath(error: Exception, migration: spec.Migration, run_id: str) -> None:
    """Say what became of the target after a defect of ours, which is told by itself."""
    try:
        output.note(_undo(migration, run_id).sentence)
    except MigrationError as second:
        output.note(f"After {type(error).__name__}: {second}")


def _undo(migration: spec.Migration, run_id: str) -> Aftermath:
    # A session of its own: the failed one's workers have been told to stop.
    with output.progress() as listener:
        session = Session.open(migration, listener, run_id=run_id)
        try:
            aftermath = after_failure(session, run_id)
        except RollbackError as error:
            notify(session, "failure", ROLLBACK, error=type(error).__name__, message=error.message)
            raise
        if aftermath.status != "nothing_written":
            notify(session, "finish", ROLLBACK, status=aftermath.status, message=aftermath.sentence)
        return aftermath


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
        "Equal" if values["sample"] else "Migrated and proven equal": values["migrated_states"],
        "  of these normalised": values["normalised_states"],
        "Missing": values["missing_states_count"],
        "Corrupted": values["corrupted_states_count"],
        "Expired on the way": values["expired_states"],
        "In the target besides": values["extra_states_count"],
        "Rejected": values["rejected_records"],
        "Gone while exporting": values["vanished_keys"],
    }
    for noun in ("versions", "snapshots"):
        if total := values[noun][f"total_{noun}"]:
            equal = "equal" if values["sample"] else "proven equal"
            found[noun.capitalize()] = f"{values[noun][f'migrated_{noun}']:,} of {total:,} {equal}"
    output.rows(f"Migration {migration.name}{_sampled(values['sample'])}", found)
    _print_losses(values["loss_ledger"])
    _print_warnings(values["expectations"])
    for note in _notes(values):
        output.say(f"  Note: {note}.")
    _print_times(values.get("phases", {}), values["timeline"])
    report = session.workspace.path(report_name(values["plan_id"], sampled=bool(values["sample"])))
    output.say(f"\nReport   {report}")
    output.say("Runs     agui-migrate ui")


def _print_times(phases: dict[str, Any], timeline: dict[str, Any] | None) -> None:
    """What each phase took and, where the plan says it, what it was estimated to take."""
    estimated = {row["phase"]: row for row in timeline["phases"]} if timeline else {}
    for name, phase in phases.items():
        told = _estimate(estimated[name]) if name in estimated else ""
        output.say(
            f"  {output.PHASES.get(name, name):<13}{phase['seconds']:>8.1f} s {phase['records_per_second']:>10,}/s{told}"
        )
    if timeline and "total" in timeline:
        total = timeline["total"]
        around = next(row for row in timeline["phases"] if row["phase"] == AROUND)
        output.say(f"  {'Around':<13}{around['actual']:>8.1f} s {'':>12}{_estimate(around)}")
        output.say(f"  {'The whole run':<13}{total['actual']:>8.1f} s {'':>12}{_estimate(total)}")
    if timeline and timeline["resumed"]:
        output.say("  Part of it had been done by an earlier run, and is not in these times.")


def _estimate(row: dict[str, Any]) -> str:
    if row["expected"] is None:
        return ""
    return f"   planned {row['expected']:,.1f} s ({row['low']:,.1f} to {row['high']:,.1f})"


def _sampled(sample: dict[str, int] | None) -> str:
    if sample is None:
        return ""
    return f": sample of {sample['ids']:,} of {sample['of']:,} ids (seed {sample['seed']}), not a proof"


def _notes(values: dict[str, Any]) -> Iterator[str]:
    """What does not make a validation fail, and should be known all the same."""
    if values["errors_count"]:
        yield f"the target holds {values['errors_count']:,} unreadable records: {named(values['errors'])}"
    if values["settled_records"]:
        yield f"{values['settled_records']:,} records did not match at first, and did at a second look"
    for finding, found in values["integrity"]["source"].items():
        if found and isinstance(found, list):
            count = values["integrity"]["source"][f"{finding}_count"]
            yield f"{count:,} {finding.replace('_', ' ')}, as in the source: {named(found)}"
    replay = values["replay"]
    if replay and replay["deviating_versions_count"]:
        count, of = replay["deviating_versions_count"], replay["replayed_versions"]
        told = named(replay["deviating_versions"])
        yield f"{count:,} of {of:,} versions are not what their Delta makes of their parent, as in the source: {told}"


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
