"""Control of a run that goes on: pause, resume, abort and another rate, from another process.

A run leaves a file ``control/<token>-run.json`` in the workspace for as long as it works, with its owner and how it goes.
Who wants something of it adds a file ``control/<token>-<ns since the epoch>-command.json``, so that two who do so at once are
both heard; its workers look for them about once a second, between batches. A command is for the run that it finds; the next
run begins by the migration file again.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import orjson

from agui_pipelines.errors import AbortedError, MigrationError, RefusedError, StagingError, UsageError
from agui_pipelines.owner import Owner
from agui_pipelines.pace import TokenBucket
from agui_pipelines.spec import Migration, StrategyType
from agui_pipelines.staging import Workspace

LOOK_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 5.0
"""For how long a command waits for its run to answer."""
ABORTED: Final = "aborted"
"""Ledger entries of this phase name the runs that were ended by a command, which are not taken back by themselves."""

_FOLDER: Final = "control"
_RUN, _COMMAND = "-run.json", "-command.json"
_TURN: Final = 0.2
_RATE: Final = re.compile(r"rate=(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Wish:
    """How somebody wants a run to go."""

    rate: float | None = None
    """States per second; None for what the migration file says."""
    paused: bool = False
    aborted: bool = False
    number: int = 0
    """How many commands it took to get there."""


@dataclass(frozen=True, slots=True)
class Going:
    """A run that goes on."""

    owner: Owner
    strategy: StrategyType | None
    rate: float | None
    """States per second at which it goes; None for as many as there are."""
    paused: bool
    aborted: bool
    seen: int = 0
    """The number of the newest wish that it has seen."""

    def to_dict(self) -> dict[str, Any]:
        """What people are told."""
        return {
            "process": self.owner.process,
            "host": self.owner.host,
            "since": self.owner.since,
            "strategy": self.strategy or "big_bang",
            "rate": self.rate,
            "paused": self.paused,
            "aborted": self.aborted,
        }

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self))


@dataclass(slots=True)
class Run:
    """What this process does in a workspace, and how it is to go."""

    workspace: Workspace
    owner: Owner
    strategy: StrategyType | None
    rate: float | None
    """That of the migration file."""
    bucket: TokenBucket = field(default_factory=TokenBucket)
    wish: Wish = field(default_factory=Wish)
    users: int = 0
    sees_through: bool = False
    """Whether what it does now is carried out to its end, whoever wants it aborted."""
    _held: bool = False
    _looked: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        self.bucket.set_rate(self.rate)
        self._answer()

    def look(self) -> Wish:
        """What is wished of it, as it was found a second ago at most."""
        with self._lock:
            if time.monotonic() - self._looked < LOOK_SECONDS:
                return self.wish
            self._looked = time.monotonic()
            wish = _wish(self.workspace, self.owner.token)
            if wish is not None and wish.number > self.wish.number:
                self.wish = wish
                if self.strategy == "rolling":
                    self.bucket.set_rate(self.rate if wish.rate is None else wish.rate)
                self._answer()
            return self.wish

    def turned(self, *, held: bool) -> bool:
        """Whether this is the first worker that is held, or goes on."""
        with self._lock:
            changed, self._held = self._held != held, held
            return changed

    def end(self) -> None:
        """Leave nothing behind. What cannot be removed is known for what it is, as its owner is gone."""
        with suppress(MigrationError):
            for name in (*_commands(self.workspace, self.owner.token), f"{self.owner.token}{_RUN}"):
                self.workspace.remove(f"{_FOLDER}/{name}")
        self.owner.leave()

    def _answer(self) -> None:
        """That it cannot be told how a run goes is no reason to end it."""
        wish = self.wish
        going = Going(self.owner, self.strategy, self.bucket.rate, wish.paused, wish.aborted, wish.number)
        with suppress(MigrationError):
            self.workspace.write(f"{_FOLDER}/{self.owner.token}{_RUN}", going.to_json())


_runs: Final[dict[str, Run]] = {}
_changing: Final = threading.Lock()


@contextmanager
def going(workspace: Workspace, migration: Migration) -> Iterator[Run]:
    """Let what is done in a workspace be controlled until the block ends, together with other such blocks of this process."""
    key = str(workspace)
    with _changing:
        run = _runs.get(key)
        if run is None:
            strategy = migration.strategy
            rolling = strategy is not None and strategy.type == "rolling"
            run = Run(
                workspace,
                Owner.here(migration.name),
                strategy.type if strategy else None,
                strategy.rate if strategy and rolling else None,
            )
            run.begin()
            _runs[key] = run
        run.users += 1
    try:
        yield run
    finally:
        with _changing:
            run.users -= 1
            if not run.users:
                del _runs[key]
                run.end()


def obey(
    workspace: Workspace, require_going: Callable[[], None], stop: threading.Event, tell: Callable[[str], None]
) -> None:
    """Called by workers between batches: waits while the run is paused. Raises `AbortedError` once it is to end.

    `require_going` is asked meanwhile, and may raise. `tell` is told that the run waits, and that it goes on, once each.
    """
    run = _runs.get(str(workspace))
    if run is None:
        return
    wish = run.look()
    if run.sees_through and wish.aborted:
        return
    if wish.paused and not wish.aborted and run.turned(held=True):
        tell("It is held by agui-migrate control pause, with its locks. To let it go on: agui-migrate control resume")
    while wish.paused and not wish.aborted:
        stop.wait(_TURN)
        require_going()
        wish = run.look()
        if not wish.paused and run.turned(held=False):
            tell("It goes on.")
    if wish.aborted:
        raise AbortedError(
            "This run was ended by agui-migrate control abort.",
            why="What it had finished is kept.",
            remedy="Run the same command again to resume.",
        )


def see_through(workspace: Workspace) -> None:
    """From now on the run is not aborted by a command: it undoes what it has done, and nobody is helped by half of that."""
    if (run := _runs.get(str(workspace))) is not None:
        run.sees_through = True


def bucket(workspace: Workspace) -> TokenBucket | None:
    """What the states of a run have to pass; None outside of one."""
    run = _runs.get(str(workspace))
    return run.bucket if run is not None else None


def runs(workspace: Workspace) -> list[Going]:
    """The runs that go on in a workspace. Files of those that were killed are passed over."""
    found = []
    for name in workspace.names(_FOLDER):
        if name.endswith(_RUN):
            with suppress(StagingError):  # it has ended just now
                if (run := _going(workspace.read(f"{_FOLDER}/{name}"))) is not None and not run.owner.is_gone():
                    found.append(run)
    return found


def remove_dead(workspace: Workspace) -> None:
    """Remove the files of runs that were killed."""
    names = list(workspace.names(_FOLDER))  # first, as a run may begin just now
    alive = tuple(run.owner.token for run in runs(workspace))
    for name in names:
        if not name.startswith(alive):
            workspace.remove(f"{_FOLDER}/{name}")


def command(workspace: Workspace, name: str, word: str) -> list[Going]:
    """Have the runs that go on in a workspace ``pause``, ``resume``, ``abort`` or go at ``rate=<states per second>``.

    Returns how each goes then, those that have not answered after `ANSWER_SECONDS` as they went before: they have been
    told, and will see it before their next batch. Raises `UsageError` for another word, `RefusedError` if there is no run, or
    none that has a rate.
    """
    change = _change(word)
    remove_dead(workspace)
    found = runs(workspace)
    if not found:
        raise RefusedError(
            f"No run of '{name}' goes on in {workspace}.",
            why="A command is for a run that goes on; the next one begins by the migration file.",
            remedy="To change how it begins, change strategy in the migration file.",
        )
    if "rate" in change and not any(run.strategy == "rolling" for run in found):
        raise RefusedError(
            f"The run of '{name}' is not a rolling one, so that it has no rate.",
            why="Only strategy: {type: rolling, rate: …} lets states through one portion at a time.",
            remedy="agui-migrate control pause holds it; or abort it, change strategy, and run it again to resume.",
        )
    numbers = {}
    for run in found:
        workspace.write(f"{_FOLDER}/{run.owner.token}-{time.time_ns():020}{_COMMAND}", orjson.dumps(change))
        numbers[run.owner.token] = len(_commands(workspace, run.owner.token))
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        now = {run.owner.token: run for run in runs(workspace)}
        if all(token not in now or now[token].seen >= number for token, number in numbers.items()):
            break
        time.sleep(_TURN)
    now = {run.owner.token: run for run in runs(workspace)}
    return [now.get(run.owner.token, replace(run, **change, seen=numbers[run.owner.token])) for run in found]


def _change(word: str) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = {
        "pause": {"paused": True},
        "resume": {"paused": False},
        "abort": {"aborted": True},
    }
    if word in known:
        return known[word]
    rate = _RATE.fullmatch(word)
    if rate is None or float(rate[1]) <= 0:
        raise UsageError(
            f"'{word}' is no command.", remedy="Commands: pause, resume, abort, rate=500 (states per second, above 0)."
        )
    return {"rate": float(rate[1])}


def _commands(workspace: Workspace, token: str) -> list[str]:
    """The names of the files in which somebody wants something of a run, oldest first."""
    return sorted(name for name in workspace.names(_FOLDER) if name.startswith(token) and name.endswith(_COMMAND))


def _wish(workspace: Workspace, token: str) -> Wish | None:
    """What all commands together come to; None if there is none. What cannot be read of them is passed over."""
    try:
        names = _commands(workspace, token)
    except MigrationError:
        return None
    wish = Wish(number=len(names))
    for name in names:
        with suppress(MigrationError, ValueError, TypeError):
            changed = replace(wish, **orjson.loads(workspace.read(f"{_FOLDER}/{name}")), number=len(names))
            if changed.rate is None or changed.rate > 0:
                wish = changed
    return wish if names else None


def _going(text: bytes) -> Going | None:
    try:
        values = orjson.loads(text)
        return Going(**{**values, "owner": Owner(**values["owner"])})
    except (ValueError, TypeError, KeyError):
        return None
