"""What a command shows: progress on standard error, its result on standard output, and one JSON object with ``--json``."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from agui_pipelines.errors import MigrationError, UsageError
from agui_pipelines.progress import Listener
from agui_pipelines.progress import Progress as State

PHASES: Final = {
    "assess": "Assess",
    "plan": "Plan",
    "rehearse": "Rehearse",
    "export": "Export",
    "transform": "Transform",
    "expect_exported": "Check export",
    "expect_staged": "Check staged",
    "expect_loaded": "Check loaded",
    "import": "Import",
    "validate": "Validate",
    "validate_sample": "Sample",
    "recheck": "Look again",
    "recheck_source": "Look at source",
    "replay": "Replay",
    "preview": "Preview",
    "backup": "Backup",
    "restore": "Restore",
    "restore_others": "Look for more",
    "restore_proof": "Prove",
    "rollback": "Roll back",
    "sync": "Look for changes",
    "sync_target": "Look at target",
    "changes": "Look for changes",
    "differences": "Describe",
    "survey": "Survey",
    "settle": "Settle",
    "unchanged": "Compare",
    "control": "Control",
}
UNFOLDED: Final = 100_000
"""Columns of what is no terminal: a program reads it line by line."""
PLAIN_SECONDS: Final = 5.0
"""How often a plain line is printed for a phase that goes on, when standard error is no terminal."""

# Without markup, as names and messages hold whatever users put into them, brackets too.
stdout = Console(highlight=False, markup=False)
stderr = Console(stderr=True, highlight=False, markup=False)


@contextmanager
def progress() -> Iterator[Listener]:
    """A listener that draws a bar a phase on a terminal, and prints plain lines elsewhere."""
    if not stderr.is_terminal:
        yield _PlainLines()
        return
    bars = Progress(
        TextColumn("{task.description:<13}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[amount]:>20}  {task.fields[rate]:>12}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=stderr,
    )
    with bars:
        yield _Bars(bars)


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __call__(self, state: State, /) -> None:
        if state.note:
            self._bars.console.print(_note(state), soft_wrap=True)
        with self._lock:
            if state.phase not in self._tasks:
                self._tasks[state.phase] = self._bars.add_task(PHASES.get(state.phase, state.phase), amount="", rate="")
            self._bars.update(
                self._tasks[state.phase],
                completed=state.done,
                total=state.total,
                amount=_amount(state),
                rate=_rate(state),
            )


class _PlainLines:
    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._finished: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, state: State, /) -> None:
        if state.note:
            stderr.print(_note(state), soft_wrap=True)
            return
        with self._lock:
            now = time.monotonic()
            finished = state.total is not None and state.done >= state.total
            if finished and state.phase in self._finished:
                return
            if state.phase in self._finished:  # it begins once more, as a cutover exports several times
                self._finished.discard(state.phase)
                del self._next[state.phase]
            if finished:
                self._finished.add(state.phase)
            elif now < self._next.setdefault(state.phase, now + PLAIN_SECONDS):
                return
            self._next[state.phase] = now + PLAIN_SECONDS
        remaining = ""
        if state.total and state.rate and not finished:
            remaining = f", {(state.total - state.done) / state.rate:.0f} s left"
        name = PHASES.get(state.phase, state.phase)
        line = f"{name}: {_amount(state)} in {state.seconds:.1f} s, {_rate(state)}{remaining}"
        stderr.print(line, soft_wrap=True)


def _note(state: State) -> str:
    return f"{PHASES.get(state.phase, state.phase)}: {state.note}"


def _amount(state: State) -> str:
    return f"{state.done:,} of {state.total:,}" if state.total is not None else f"{state.done:,}"


def _rate(state: State) -> str:
    return f"{state.rate:,.0f}/s"


def print_json(value: Mapping[str, Any]) -> None:
    """The one JSON object, last on standard output."""
    sys.stdout.flush()
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def print_line(value: Mapping[str, Any]) -> None:
    """A JSON object on a line of its own, of a command that goes on."""
    sys.stdout.flush()
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def print_error(error: MigrationError) -> None:
    """What was found, why it matters, what to do: a line each."""
    stderr.print(Text("Error: ", style="bold red") + Text(error.message), soft_wrap=True)
    for line in filter(None, (error.why, error.remedy)):
        stderr.print(f"       {line}", soft_wrap=True)


def print_failure(error: MigrationError) -> None:
    """A failure as the one JSON object: what a result would say, as far as it is known, and ``failure``."""
    data = dict(error.data)
    report = data.pop("report", {})
    data.pop("figures", None)
    known = {"migration": data.pop("migration")} if "migration" in data else {}
    failure = {
        "error": type(error).__name__,
        "message": error.message,
        "why": error.why,
        "remedy": error.remedy,
        **data,
    }
    print_json({**known, **report, "failure": failure})


def note(text: str) -> None:
    """A sentence for people, on standard error."""
    stderr.print(text, soft_wrap=True)


def say(text: str) -> None:
    """A line of a result, on standard output, never folded."""
    stdout.print(text, soft_wrap=True)


def agree(question: str) -> None:
    """Ask before something is replaced. Raises `UsageError` where nobody can be asked."""
    if not stderr.is_terminal:
        raise UsageError(question, why="Nobody can be asked here.", remedy="Give --yes to go on.")
    typer.confirm(question, abort=True, err=True)


def rows(title: str, values: Mapping[str, object]) -> None:
    """A small two-column table on standard output."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in values.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
    stdout.print(table, soft_wrap=True)


def table(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """A table with a heading on standard output, in which nothing is cut: folded on a terminal, one line a row elsewhere."""
    found = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        found.add_column(column, overflow="fold")
    for line in lines:
        found.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in line))
    stdout.print(found, width=None if stdout.is_terminal else UNFOLDED)
