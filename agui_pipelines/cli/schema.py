"""``schema``: the user's own numbered migrations of a store's documents."""

from __future__ import annotations

from dataclasses import asdict

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.phases.session import End, Session
from agui_pipelines.transforms.schema_migration import Direction
from agui_pipelines.upgrade.schema import FOLDER, Schema, SchemaReport


def status(migration: spec.Migration, of: End, *, json: bool) -> None:
    """Show every migration that there is, or was, and whether it was applied."""
    lines, applying = Schema(Session.open(migration), of).status()
    if json:
        values = {"migrations": [asdict(line) for line in lines], "applying": asdict(applying) if applying else None}
        output.print_json({"migration": migration.name, **values})
        return
    if not lines:
        output.note(f"There is no schema migration in {migration.folder / FOLDER}, and none was applied.")
    else:
        output.table(("Number", "File", "State", "Applied"), [(str(e.number), e.name, e.state, e.at) for e in lines])
    if applying is not None:
        output.say(f"\nBegun at {applying.at} and not finished: agui-migrate schema {applying.direction} goes on.")


def run(
    migration: spec.Migration, of: End, direction: Direction, to: int | None, *, dry_run: bool, yes: bool, json: bool
) -> None:
    """Apply what is due, or take back, once the user has agreed."""
    if not dry_run and not yes:
        what = "applies the schema migrations that are due" if direction == "up" else "takes schema migrations back"
        output.agree(f"This {what}, after a backup. Nobody else may write to the store meanwhile. Go on?")
    with output.progress() as listener:
        schema = Schema(Session.open(migration, listener), of)
        report = (schema.up if direction == "up" else schema.down)(to, dry_run=dry_run)
    if json:
        output.print_json({"migration": migration.name, **report.to_dict()})
    else:
        _print(report)


def _print(report: SchemaReport) -> None:
    if not report.changes:
        due = "applied" if report.direction == "up" else "taken back"
        output.say(f"{report.place}: there is nothing to be {due}.")
        return
    names = ", ".join(each.name for each in report.changes)
    if report.dry_run:
        output.say(
            f"Dry run: nothing was written. {report.direction}: {names} would change {report.changed:,} records."
        )
        return
    done = "Applied" if report.direction == "up" else "Took back"
    output.say(f"{done} {names} to {report.place}: {report.changed:,} records changed, and proven.")
