"""What a command shows: progress on standard error, its result on standard output, and one JSON object with ``--json``."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from agui_pipelines.errors import MigrationError
from agui_pipelines.progress import Listener
from agui_pipelines.progress import Progress as State

PHASES: Final = {
    "plan": "Plan",
    "export": "Export",
    "transform": "Transform",
    "expect_staged": "Expectations",
    "import": "Import",
    "validate": "Validate",
    "preview": "Preview",
}
PLAIN_SECONDS: Final = 5.0
"""How often a plain line is printed for a phase that goes on, when standard error is no terminal."""

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


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
        with self._lock:
            now = time.monotonic()
            finished = state.total is not None and state.done >= state.total
            if finished and state.phase in self._finished:
                return
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


def _amount(state: State) -> str:
    return f"{state.done:,} of {state.total:,}" if state.total is not None else f"{state.done:,}"


def _rate(state: State) -> str:
    return f"{state.rate:,.0f}/s"


def print_json(value: Mapping[str, Any]) -> None:
    """The one JSON object, last on standard output."""
    sys.stdout.flush()
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def print_error(error: MigrationError) -> None:
    """What was found, why it matters, what to do: a line each."""
    stderr.print(f"[bold red]Error:[/] {_plain(error.message)}", soft_wrap=True)
    for line in filter(None, (error.why, error.remedy)):
        stderr.print(f"       {_plain(line)}", soft_wrap=True)


def note(text: str) -> None:
    """A sentence for people, on standard error."""
    stderr.print(_plain(text), soft_wrap=True)


def rows(title: str, values: Mapping[str, object]) -> None:
    """A small two-column table on standard output."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in values.items():
        table.add_row(
            name, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _plain(str(value))
        )
    stdout.print(table, soft_wrap=True)


def _plain(text: str) -> str:
    """Text in which brackets are just brackets."""
    return text.replace("[", "\\[")
