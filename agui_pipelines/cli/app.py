"""The commands. Each one reads its options, calls the engine, prints, and leaves the exit code to `main`.

Exit codes: 0 done and proven, 1 failed, 2 bad usage or configuration, 3 refused by a check, 130 interrupted.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, get_args

import typer

from agui_pipelines import spec
from agui_pipelines.cli import clock, output
from agui_pipelines.cli import flags as flag_files
from agui_pipelines.cli.flags import Flags
from agui_pipelines.errors import MigrationError, UsageError

INTERRUPTED = 130
BROKEN_PIPE = 141
"""As shells say of what a broken pipe has ended."""

End = Literal["source", "target"]
"""As `phases.session` has it, which takes a second to load."""

_TyperError: Any = typer.BadParameter.__mro__[2]
"""The base of what typer raises for a wrong command line (ClickException), wherever this version of typer keeps it."""

app = typer.Typer(
    name="agui-migrate",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

MigrationFile = Annotated[
    str | None,
    typer.Argument(
        metavar="[MIGRATION]",
        help="The migration file.  [default: $AGUI_MIGRATION, then migration.yaml]",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, last on standard output.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Dagster's own log.")] = False,
) -> None:
    """Migrate agent state into and between AG-UI stores, and prove that nothing was lost.

    `agui-migrate demo` shows all of it on servers of its own.
    """
    if debug:
        os.environ["AGUI_DEBUG"] = "1"


@app.command()
def run(
    file: MigrationFile = None,
    *,
    source: Annotated[
        str | None,
        typer.Option(
            help="Kind of source: redis, postgres, file (AG-UI stores), redis_keys, postgresql_rows, langgraph, jsonl, csv, "
            "parquet, sqlite, sqlalchemy, custom."
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Kind of target: redis, postgres, file.")] = None,
    source_config: Annotated[
        Path | None, typer.Option(help="Its other keys, as AG-UI configures a store (YAML or JSON).")
    ] = None,
    target_config: Annotated[Path | None, typer.Option(help="Likewise, of the target.")] = None,
    match: Annotated[str | None, typer.Option(help="Keys to move, as a Redis glob (redis_keys only).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Records per write to the target.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Folder or URL for snapshots, ledger and reports.")] = None,
    accept_losses: Annotated[
        str | None, typer.Option(help="Properties that may be lost on this route, such as expiry,duplicate_keys.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Properties that the documents carry where the target has no place: timestamps,expiry."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read, transform and check everything; write nothing.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming an interrupted run.")] = False,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range", help="Move this key range alone (00, 01, …), again if need be; may be given repeatedly."
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the migration file that the flags amount to, and stop.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a whole migration: plan, export, transform, check, import, validate.

    Killed or interrupted, the same command resumes. The run is seen in the Dagster UI (`agui-migrate ui`).
    """
    from agui_pipelines.cli.migrate import migrate, migrate_ranges  # noqa: PLC0415 - the engine takes a second to load

    given = Flags(source, target, source_config, target_config, match, batch_size, workspace, accept_losses, keep)
    if ranges and (dry_run or save is not None):
        raise UsageError(
            f"--range and {'--dry-run' if dry_run else '--output'} do not go together.",
            why=f"{'A dry run' if dry_run else 'A migration file'} is of the whole migration.",
            remedy="Leave one of them out.",
        )
    if save is not None:
        flag_files.write(flag_files.mapping(given), save)
        output.note(f"Wrote {save}. Run it with: agui-migrate run {save}")
        return
    migration, path = _migration(file, given)
    if ranges:
        migrate_ranges(migration, path, ranges, fresh=fresh, json=json)
        return
    migrate(migration, path, dry_run=dry_run, fresh=fresh, json=json)


@app.command()
def plan(
    file: MigrationFile = None,
    *,
    no_rehearsal: Annotated[
        bool,
        typer.Option("--no-rehearsal", help="Do not move samples to measure the timeline: the plan then has none."),
    ] = False,
    save: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the plan into this file, as Markdown.")
    ] = None,
    json: Json = False,
) -> None:
    """Plan a migration: strategy, timeline, resources, risks and what the route keeps, as a document.

    The timeline is measured: samples of the source go through the whole pipeline into a scratch place beside the target,
    which is removed afterwards. The next `run` takes the plan up.
    """
    from agui_pipelines.cli.plan import propose  # noqa: PLC0415

    migration, path = _migration(file, None)
    propose(migration, path, rehearsal=not no_rehearsal, save=save, json=json)


@app.command()
def validate(
    file: MigrationFile = None,
    *,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Compare only N ids, chosen at random, with their histories. That is not a proof."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Choose the ids of an earlier sample again.")] = None,
    json: Json = False,
) -> None:
    """Read the target back in full and compare it, by exact digest, with what was last staged."""
    if seed is not None and sample is None:
        raise UsageError("--seed is for a sample: give --sample as well.")
    from agui_pipelines.cli.migrate import revalidate  # noqa: PLC0415

    migration, path = _migration(file, None)
    revalidate(migration, path, sample=sample or 0, seed=seed, json=json)


@app.command()
def sync(
    file: MigrationFile = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until stopped; shows lag and changes per minute.")
    ] = False,
    every: Annotated[
        str, typer.Option("--every", metavar="DURATION", help="With --follow: the pause between two looks.")
    ] = "5s",
    accept_deletes: Annotated[
        bool,
        typer.Option(
            "--accept-deletes", help="Go on this once although much is gone, or another server answers than before."
        ),
    ] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="Look at the whole source, whatever sync.feed says.")
    ] = False,
    json: Json = False,
) -> None:
    """Bring what has changed at the source since the import, or the last sync, to the target; remove what is gone.

    Changes go through the same transforms and checks as the migration, and are read back. A record that somebody else has
    changed in the target stops it, unless `sync.on_conflict` says which side counts. With `--follow --json`, a line of JSON a
    round.
    """
    from agui_pipelines.cli import sync as syncs  # noqa: PLC0415

    migration = _migration(file, None)[0]
    if follow:
        if complete:
            raise UsageError("--complete is for a single sync; with --follow, set sync.digest_every: 1.")
        syncs.follow(migration, every=every, accept_deletes=accept_deletes, json=json)
    else:
        syncs.sync(migration, accept_deletes=accept_deletes, complete=complete, json=json)


@app.command()
def rollback(
    backup: Annotated[
        str | None,
        typer.Argument(
            metavar="[BACKUP]",
            help="Which backup (backup-…).  [default: what it held before the newest import or sync round]",
            show_default=False,
        ),
    ] = None,
    file: MigrationFile = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    while_live: Annotated[
        bool,
        typer.Option(
            "--while-live", help="Although applications use the target: what they have written there is lost."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Take the newest import or sync back: verify the backup, stop, restore, start, validate.

    `hooks.stop` and `hooks.start` of the migration file are commands that are run around the restore. A backup that does not
    verify is refused before anything is stopped.
    """
    from agui_pipelines.cli import rollback as rollbacks  # noqa: PLC0415

    if backup is not None and file is None and not backup.startswith("backup-"):
        backup, file = None, backup  # as with every other command, the file may come first
    rollbacks.rollback(_migration(file, None)[0], backup, yes=yes, while_live=while_live, json=json)


@app.command()
def decommission(
    file: MigrationFile = None,
    *,
    confirm: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Delete it: the migration's name.  [default: only say what would go]"),
    ] = None,
    json: Json = False,
) -> None:
    """Delete at the source what was moved, once the target has been live for long enough and nobody writes to the source.

    It is archived first (`backup restore` brings it back), and only what still equals the archive goes. What the migration did
    not move is not touched, and what has changed since is left and named.
    """
    from agui_pipelines.cli import decommission as decommissions  # noqa: PLC0415

    decommissions.decommission(_migration(file, None)[0], confirm, json=json)


@app.command()
def cutover(
    file: MigrationFile = None,
    *,
    back: Annotated[
        bool, typer.Option("--back", help="Return to the source, with what was written to the target since.")
    ] = False,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="Do everything but stop, switch and the hooks; say how long it would take."),
    ] = False,
    source_is_stopped: Annotated[
        bool, typer.Option("--source-is-stopped", help="The applications have been stopped by hand: run no stop hook.")
    ] = False,
    max_window: Annotated[
        str | None,
        typer.Option("--max-window", metavar="10m", help="Past it, counted from the stop, undo.", show_default=False),
    ] = None,
    no_way_back: Annotated[
        bool, typer.Option("--no-way-back", help="Even where the target's records could not be brought back.")
    ] = False,
    accept_deletes: Annotated[
        bool,
        typer.Option(
            "--accept-deletes", help="Although much is gone at the live side, or another server answers there."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Make the target live: check, stop, sync, verify, switch, try it. A step that fails undoes all that came before it.

    `hooks.stop`, `start`, `switch` and `acceptance` of the migration file are commands that are run around it. Killed at any
    step, the same command finishes or undoes; the opposite one undoes. Where it stands: `agui-migrate status`.
    """
    from agui_pipelines.cli import cutover as cutovers  # noqa: PLC0415
    from agui_pipelines.phases.cutover import Asked  # noqa: PLC0415

    seconds = None if max_window is None else spec.seconds_of(max_window)
    asked = Asked(back, source_is_stopped, seconds, no_way_back, accept_deletes)
    code = cutovers.cutover(_migration(file, None)[0], asked, rehearse=rehearse, json=json)
    if code:
        raise typer.Exit(code)


Of = Annotated[str, typer.Option("--of", help="Which end of the migration: target or source.")]
StoreKind = Annotated[
    str | None, typer.Option("--store", help="Instead of a migration file: the kind of store: redis, postgres, file.")
]
StoreConfig = Annotated[
    Path | None, typer.Option("--config", help="Its other keys, as AG-UI configures a store (YAML or JSON).")
]
StoreWorkspace = Annotated[
    str | None, typer.Option("--workspace", help="With --store: folder or URL for backup and ledger.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
def upgrade(
    file: MigrationFile = None,
    *,
    of: Of = "target",
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="VERSION", help="Up to which version.  [default: the newest there is a way to]"),
    ] = None,
    assumed: Annotated[
        str | None,
        typer.Option("--from", metavar="VERSION", help="What the store is, whatever its marker and its documents say."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the steps and what they would change; write nothing.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Make a new backup instead of going on where an upgrade was killed.")
    ] = False,
    store: StoreKind = None,
    config: StoreConfig = None,
    workspace: StoreWorkspace = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Upgrade a store where it is: backup first, then step by step, version marker last.

    Nobody else may write to the store meanwhile. From 1.x to 2.0 the way is a migration with `format_1_to_2`.
    """
    from agui_pipelines.cli import upgrade as upgrades  # noqa: PLC0415

    migration = _of_one_store(file, store, config, workspace)
    upgrades.upgrade(migration, _end(of), to=to, assumed=assumed, dry_run=dry_run, fresh=fresh, yes=yes, json=json)


@app.command()
def assess(
    file: MigrationFile = None,
    *,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="States to read.  [default: assessment.sample, 10000]", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say what the source holds, how it is used, and whether it can be moved into the target.

    Counts everything where the server tells it cheaply, reads a sample of states in small batches, and watches the use for
    two seconds. `assessment.rate` limits the records that are looked at per second (as fast as it goes unless given).
    Privileges are tried on a scratch key, table or file of the target, which is removed again. Ends with 3 if a check blocks.
    """
    from agui_pipelines.cli import assess as assessments  # noqa: PLC0415

    assessments.assess(_migration(file, None)[0], sample=sample, json=json)


@app.command("upgrade-config")
def upgrade_config(
    file: Annotated[Path, typer.Argument(metavar="CONFIG", help="An AG-UI configuration or a migration file.")],
    *,
    save: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write it; without, only the difference is shown.")
    ] = None,
    json: Json = False,
) -> None:
    """Turn a flat AG-UI configuration (2.0: `StorageBackend`, `KeyPrefix`, …) into the nested keys of 2.1.

    YAML keeps its comments and its order, JSON its order. What cannot be placed is named and stays as it is; then it ends
    with 1.
    """
    from agui_pipelines.cli.configuration import upgrade  # noqa: PLC0415

    upgrade(file, save, json=json)


@app.command()
def status(file: MigrationFile = None, *, json: Json = False) -> None:
    """Say where a migration stands, from its ledger."""
    from agui_pipelines.cli.status import show  # noqa: PLC0415

    show(file, json=json)


@app.command()
def control(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[MIGRATION] COMMAND",
            help="The migration's file or name, and: pause, resume, abort, or rate=N (states per second).",
        ),
    ],
    *,
    json: Json = False,
) -> None:
    """Have a run that goes on pause, resume, end, or, if it is a rolling one, go at another rate.

    It sees that within about a second, between two batches. What is paused keeps its locks; what was ended is resumed when it
    is run again. The next run begins by the migration file.
    """
    from agui_pipelines.cli import control as controls  # noqa: PLC0415

    controls.control(words, json=json)


@app.command()
def demo(
    *,
    states: Annotated[int, typer.Option(min=1, help="How many states to fill the legacy Redis with.")] = 20_000,
    workspace: Annotated[Path, typer.Option(help="Where the demo keeps its files.")] = Path(".agui/demo"),
    hold: Annotated[bool, typer.Option("--hold", help="Keep the servers running afterwards, until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Start a real Redis and a real PostgreSQL, fill one with a legacy workload, and migrate it into the other."""
    from agui_pipelines.cli.demo import demonstrate  # noqa: PLC0415

    demonstrate(states=states, workspace=workspace, hold=hold, json=json)


@app.command()
def ui(
    file: MigrationFile = None,
    *,
    port: Annotated[int, typer.Option(help="Port of the web server.")] = 3000,
    host: Annotated[str, typer.Option(help="Address that the web server listens on.")] = "127.0.0.1",
) -> None:
    """Open the Dagster UI on this migration's runs, until Ctrl-C."""
    from agui_pipelines.cli.ui import serve  # noqa: PLC0415

    serve(file, host=host, port=port)


expectations_app = typer.Typer(
    name="expectations",
    no_args_is_help=True,
    help="The suites that records are held to.",
    rich_markup_mode="markdown",
)
app.add_typer(expectations_app)


@expectations_app.command("show")
def expectations_show(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="exported, staged or loaded.")],
) -> None:
    """Print the suite that a stage is held to, as a file to edit: `show staged > staged.json`.

    The migration file names the edited one: `expectations: {staged: staged.json}`. Under the same name it takes the place of
    the shipped suite, under another name it is looked at besides.
    """
    from agui_pipelines.expectations.suites import Stage, shipped  # noqa: PLC0415

    if stage not in list(Stage):
        raise UsageError(f"There is no stage '{stage}'.", remedy=f"Stages: {', '.join(Stage)}.")
    output.say(shipped(Stage(stage)).decode().rstrip())


backup_app = typer.Typer(
    name="backup",
    no_args_is_help=True,
    help="Back up a store, and put it back exactly as it was.",
    rich_markup_mode="markdown",
)
app.add_typer(backup_app)

BackupId = Annotated[str | None, typer.Option("--id", help="Which backup.  [default: the newest]", show_default=False)]


@backup_app.command("create")
def backup_create(
    file: MigrationFile = None,
    *,
    of: Annotated[str, typer.Option(help="Which end to back up: target or source.")] = "target",
    json: Json = False,
) -> None:
    """Back up everything that a store holds, with histories, times and expiries, and read the backup back."""
    from agui_pipelines.cli import backup as backups  # noqa: PLC0415

    backups.create(_migration(file, None)[0], of, json=json)


@backup_app.command("list")
def backup_list(file: MigrationFile = None, *, json: Json = False) -> None:
    """List the backups of a migration, the newest last."""
    from agui_pipelines.cli import backup as backups  # noqa: PLC0415

    backups.listed(_migration(file, None)[0], json=json)


@backup_app.command("verify")
def backup_verify(file: MigrationFile = None, *, id_: BackupId = None, json: Json = False) -> None:
    """Read a backup from one end to the other and compare its checksums."""
    from agui_pipelines.cli import backup as backups  # noqa: PLC0415

    backups.verify(_migration(file, None)[0], id_, json=json)


@backup_app.command("restore")
def backup_restore(
    file: MigrationFile = None,
    *,
    id_: BackupId = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Put back what a backup holds, remove what was not there, and prove by digest that all is as it was."""
    from agui_pipelines.cli import backup as backups  # noqa: PLC0415

    backups.restore(_migration(file, None)[0], id_, yes=yes, json=json)


@backup_app.command("delete")
def backup_delete(
    file: MigrationFile = None,
    *,
    id_: Annotated[str, typer.Option("--id", help="Which backup.")],
    force: Annotated[bool, typer.Option("--force", help="Even if its migration is not proven.")] = False,
    json: Json = False,
) -> None:
    """Delete a backup. While the migration that it was made for is not validated, it is the only way back."""
    from agui_pipelines.cli import backup as backups  # noqa: PLC0415

    backups.delete(_migration(file, None)[0], id_, force=force, json=json)


schema_app = typer.Typer(
    name="schema",
    no_args_is_help=True,
    help="Numbered changes of your own to a store's documents, from the folder `migrations` beside the migration file.",
    rich_markup_mode="markdown",
)
app.add_typer(schema_app)

UpTo = Annotated[int | None, typer.Option("--to", metavar="N", help="Up to this number.  [default: all]")]
DownTo = Annotated[
    int | None, typer.Option("--to", metavar="N", help="All after this number; 0 for all.  [default: the newest one]")
]
SchemaDryRun = Annotated[bool, typer.Option("--dry-run", help="Find out what would change; write nothing.")]


@schema_app.command("status")
def schema_status(file: MigrationFile = None, *, of: Of = "target", json: Json = False) -> None:
    """List the migrations, and which of them were applied to the store."""
    from agui_pipelines.cli import schema  # noqa: PLC0415

    schema.status(_migration(file, None)[0], _end(of), json=json)


@schema_app.command("up")
def schema_up(
    file: MigrationFile = None,
    *,
    of: Of = "target",
    to: UpTo = None,
    dry_run: SchemaDryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Apply the migrations that were not applied yet: backup first, proven afterwards, put back if something fails."""
    from agui_pipelines.cli import schema  # noqa: PLC0415

    schema.run(_migration(file, None)[0], _end(of), "up", to, dry_run=dry_run, yes=yes, json=json)


@schema_app.command("down")
def schema_down(
    file: MigrationFile = None,
    *,
    of: Of = "target",
    to: DownTo = None,
    dry_run: SchemaDryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Take migrations back by their `down`, the newest first."""
    from agui_pipelines.cli import schema  # noqa: PLC0415

    schema.run(_migration(file, None)[0], _end(of), "down", to, dry_run=dry_run, yes=yes, json=json)


def _end(of: str) -> End:
    if of not in get_args(End):
        raise UsageError(f"--of is '{of}'; it can be target or source.")
    return "source" if of == "source" else "target"


def _of_one_store(file: str | None, store: str | None, config: Path | None, workspace: str | None) -> spec.Migration:
    """The migration file, or what one would be for a store that the command line names."""
    if store is None:
        if config is not None or workspace is not None:
            raise UsageError("--config and --workspace are for a store that --store names.")
        return _migration(file, None)[0]
    if file is not None:
        raise UsageError("Give a migration file or --store, not both.")
    return spec.parse(flag_files.of_store(store, config, workspace), origin="command line")


def _migration(file: str | None, given: Flags | None) -> tuple[spec.Migration, str | None]:
    """The migration and, if it came from a file, the file's absolute path."""
    if given is not None and given.given:
        if file is not None:
            raise UsageError("Give a migration file or --source and --target, not both.")
        return spec.parse(flag_files.mapping(given), origin="command line"), None
    path = spec.default_file(file)
    text = spec.read_mapping(path, what="migration file")
    changed = {**text, **(flag_files.overrides(given) if given else {})}
    return spec.parse(changed, folder=path.resolve().parent, origin=str(path)), str(path.resolve())


def main(arguments: list[str] | None = None) -> None:
    """The entry point: runs a command, prints what went wrong in sentences, and exits."""
    own_process = arguments is None
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--debug" in arguments:  # accepted before and after the command
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    clock.start(own_process=own_process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may hold what the terminal's encoding, or none, can say
            stream.reconfigure(errors="backslashreplace")
    with _terminated_as_interrupted():
        code = _exit_code(arguments)
    sys.exit(code)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: workers stop, connections close, and what is finished stays finished.

    So does the end of its terminal, unless somebody has seen to it that this does not matter (nohup).
    """

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        raise KeyboardInterrupt

    heard = [signal.SIGTERM] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGTERM, signal.SIGHUP]
    previous = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit_code(arguments: list[str]) -> int:
    try:
        result: Any = app(arguments, standalone_mode=False)
    except MigrationError as error:
        _debug_traceback()
        output.print_error(error)
        if "--json" in arguments:
            output.print_failure(error)
        return error.exit_code
    except _TyperError as error:
        error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            return BROKEN_PIPE  # whoever read what we say has gone, as head does
        return _defect(error, arguments)
    except Exception as error:  # noqa: BLE001 - the last resort
        return _defect(error, arguments)
    if result == INTERRUPTED:  # which is also what newer versions of typer return for a Ctrl-C
        output.note("Interrupted. What was finished is kept; run the same command again to resume.")
    return result if isinstance(result, int) else 0


def _defect(error: BaseException, arguments: list[str]) -> int:
    """Tell a defect of ours in one line."""
    _debug_traceback()
    defect = MigrationError(
        f"Unexpected {type(error).__name__}: {str(error).strip() or 'no message'}.",
        why="This is a defect of agui-migrate, not of your data.",
        remedy="Run again with --debug for the traceback, and report it.",
    )
    output.print_error(defect)
    if "--json" in arguments:
        output.print_failure(defect)
    return defect.exit_code


def _debug_traceback() -> None:
    if os.environ.get("AGUI_DEBUG"):
        traceback.print_exc()
