"""The steps of a cutover in the ledger: what has begun, what is done, what was undone; and who carries them out in order.

Every step, and every single thing within one that reaches outside (an *effect*: a hook, a control record), is recorded before
it is begun and once it is done. So whoever comes after a process that was killed knows how far it may have come. A failing step
is undone with all that were begun before it, the last one first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from agui_pipelines.errors import CutoverError, MigrationError, RefusedError
from agui_pipelines.ledger import Entry, Ledger

PHASE: Final = "cutover"
"""Recorded when a cutover has come to an end; ``live`` says which side is: ``source`` or ``target``."""
OPENED: Final = "cutover_opened"
"""Recorded before its first step, with what it was asked for."""
STEP: Final = "cutover_step"
"""Recorded when a step, or an effect within one (``step/effect``), has ``begun``, is ``done`` or ``undone``."""
UNDOING: Final = "cutover_undoing"
"""Recorded before the first step is undone, with the reason."""

SWITCH: Final = "switch"

Direction = Literal["forward", "back"]
Side = Literal["source", "target"]
StepName = Literal["ready", "stop", "final_sync", "verify", "switch", "go_live"]
Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """A cutover, as far as the ledger knows it."""

    cutover_id: str
    plan_id: str
    """The plan whose import it stands on."""
    direction: Direction
    asked: Facts
    opened_at: str = ""
    steps: Mapping[str, str] = field(default_factory=dict)
    """What was last recorded of each step and effect: ``begun``, ``done`` or ``undone``."""
    facts: Mapping[str, Facts] = field(default_factory=dict)
    """What a step or effect that is done has found out."""
    begun_at: Mapping[str, str] = field(default_factory=dict)
    """When each step or effect was first begun, RFC 3339."""
    done_at: Mapping[str, str] = field(default_factory=dict)
    """When it was last done."""
    undoing: str = ""
    """Why it is being undone; empty if it is not."""
    outcome: Literal["", "done", "undone"] = ""

    @property
    def is_open(self) -> bool:
        """Whether it has not come to an end."""
        return not self.outcome

    def has_begun(self, name: str) -> bool:
        return self.steps.get(name) in ("begun", "done")

    def is_done(self, name: str) -> bool:
        return self.steps.get(name) == "done"

    @property
    def reached(self) -> str:
        """The step that was begun last; empty before the first one."""
        names = [name for name, state in self.steps.items() if "/" not in name and state != "undone"]
        return names[-1] if names else ""


def newest(ledger: Ledger) -> Progress | None:
    """The cutover that was opened last; None if there never was one."""
    opened = ledger.last(OPENED)
    return None if opened is None else progress_of(ledger, opened)


def last_done(ledger: Ledger, direction: Direction) -> Progress | None:
    """The last cutover in a direction that was done; None if there never was one."""
    for ended in reversed(ledger.entries(phase=PHASE)):
        if (ended.outputs["outcome"], ended.outputs["direction"]) == ("done", direction):
            first = ledger.last(OPENED, unit=ended.unit)
            return None if first is None else progress_of(ledger, first)
    return None


def progress_of(ledger: Ledger, opened: Entry) -> Progress:
    steps: dict[str, str] = {}
    facts: dict[str, Facts] = {}
    begun_at: dict[str, str] = {}
    done_at: dict[str, str] = {}
    for entry in ledger.entries(phase=STEP):
        if entry.basis != opened.unit:
            continue
        steps[entry.unit] = state = entry.outputs["state"]
        if state == "begun":
            begun_at.setdefault(entry.unit, entry.at)
        elif state == "done":
            facts[entry.unit] = entry.outputs["facts"]
            done_at[entry.unit] = entry.at
    undoing = ledger.last(UNDOING, unit=opened.unit)
    ended = ledger.last(PHASE, unit=opened.unit)
    return Progress(
        opened.unit,
        opened.plan_id,
        opened.outputs["direction"],
        opened.outputs["asked"],
        opened.at,
        steps,
        facts,
        begun_at,
        done_at,
        undoing.outputs["reason"] if undoing else "",
        ended.outputs["outcome"] if ended else "",
    )


def live_side(ledger: Ledger) -> Side:
    """Which side applications use, by the last cutover that came to an end."""
    entry = ledger.last(PHASE)
    return "target" if entry is not None and entry.outputs["live"] == "target" else "source"


def is_live(ledger: Ledger) -> bool:
    """Whether applications use the target, or may: a switch that has begun, and was neither finished nor undone, counts."""
    under_way = newest(ledger)
    if under_way is not None and under_way.is_open and under_way.has_begun(SWITCH):
        return True
    return live_side(ledger) == "target"


def require_source_live(ledger: Ledger) -> None:
    """Raises `RefusedError` if the target may be live: what the source holds is no longer what belongs there."""
    if is_live(ledger):
        raise RefusedError(
            "The target is live since its cutover.",
            why="What applications have written there since would be overwritten by what the source held before.",
            remedy="To return to the source, with what was written since: agui-migrate cutover --back.",
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `do` returns what it has found out, with a sentence for people as ``detail``; `undo` such a sentence."""

    name: StepName
    do: Callable[[], Facts]
    undo: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What has become of a step, for whoever watches."""

    step: str
    state: Literal["begun", "done", "undone"]
    detail: str = ""
    seconds: float = 0.0


@dataclass
class Machine:
    """Carries out one cutover. Its `progress` is what the ledger says, at any time."""

    ledger: Ledger
    progress: Progress
    tell: Callable[[Told], None]
    seconds: dict[str, float] = field(default_factory=dict)
    """What each step took in this process."""

    def carry_out(self, steps: Sequence[Step], undoable: Sequence[Step]) -> None:
        """Do some steps in order, and undo all that were ever begun if one fails, whatever it fails with.

        Raises what a step raised when nothing but the first one had been begun, which changes nothing; otherwise
        `CutoverError`, or what is no `MigrationError` as it is.
        """
        try:
            for step in steps:
                self._do(step)
        except BaseException as error:
            self.undo(undoable, error)
            raise

    def effect(self, name: str, work: Callable[[], None]) -> None:
        """Do something that reaches outside, unless it is recorded as done."""
        if self.progress.is_done(name):
            return
        self.record(name, "begun")
        work()
        self.record(name, "done")

    def known(self, name: str, find: Callable[[], Facts]) -> Facts:
        """What was found before something was changed, which nobody could find out afterwards."""
        if not self.progress.is_done(name):
            self.record(name, "done", find())
        return self.progress.facts[name]

    def record(self, name: str, state: Literal["begun", "done", "undone"], facts: Facts | None = None) -> None:
        outputs = {"state": state, "facts": facts or {}}
        self.ledger.record(Entry(STEP, self.progress.plan_id, name, self.progress.cutover_id, outputs=outputs))
        self._refresh()

    def undo(self, steps: Sequence[Step], error: BaseException | None, reason: str = "") -> None:
        """Undo every step that was begun, the last one first, and record the end.

        Raises `CutoverError` if that fails, and if there is an `error` of a step that was worth undoing, which it tells.
        """
        begun = [step for step in steps if self.progress.has_begun(step.name)]
        failed_at = begun[-1].name if begun else "ready"
        if not self.progress.undoing:
            outputs = {"reason": reason or _reason(error), "step": failed_at}
            self.ledger.record(Entry(UNDOING, self.progress.plan_id, self.progress.cutover_id, outputs=outputs))
            self._refresh()
        said = self._undone(begun, error)
        live = "source" if self.progress.direction == "forward" else "target"
        self.end("undone", live, {"step": failed_at, "reason": self.progress.undoing, "said": said})
        if isinstance(error, MigrationError) and len(begun) > 1:
            raise _undone(error, failed_at, live, said) from error

    def end(self, outcome: Literal["done", "undone"], live: str, facts: Facts) -> None:
        outputs = {"live": live, "outcome": outcome, "direction": self.progress.direction, **facts}
        self.ledger.record(Entry(PHASE, self.progress.plan_id, self.progress.cutover_id, outputs=outputs))
        self._refresh()

    def _do(self, step: Step) -> None:
        began = time.monotonic()
        self.record(step.name, "begun")
        self.tell(Told(step.name, "begun"))
        facts = step.do()
        took = self.seconds[step.name] = round(time.monotonic() - began, 3)
        self.record(step.name, "done", {**facts, "seconds": took})
        self.tell(Told(step.name, "done", facts.get("detail", ""), took))

    def _undone(self, begun: Sequence[Step], error: BaseException | None) -> list[str]:
        said = []
        for step in reversed(begun):
            try:
                told = step.undo() if step.undo is not None else ""
            except MigrationError as second:
                raise _not_undone(second, error, step.name) from second
            self.record(step.name, "undone")
            self.tell(Told(step.name, "undone", told))
            said += [told] if told else []
        return said

    def _refresh(self) -> None:
        opened = self.ledger.last(OPENED, unit=self.progress.cutover_id)
        assert opened is not None  # noqa: S101 - it was recorded before there was a machine
        self.progress = progress_of(self.ledger, opened)


def opened(ledger: Ledger, cutover_id: str, plan_id: str, direction: Direction, asked: Facts) -> Progress:
    """Record that a cutover is about to take its first step."""
    outputs = {"direction": direction, "asked": asked}
    return progress_of(ledger, ledger.record(Entry(OPENED, plan_id, cutover_id, outputs=outputs)))


def moment(text: str) -> datetime:
    """Of the ledger's times."""
    return datetime.fromisoformat(text)


def _reason(error: BaseException | None) -> str:
    if isinstance(error, MigrationError):
        return error.message
    return "It was interrupted." if error is None or isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}"


def _undone(error: MigrationError, step: str, live: str, said: Sequence[str]) -> CutoverError:
    return CutoverError(
        f"The cutover failed at its step '{step}' and was undone: {error.message}",
        why=" ".join(filter(None, [f"The {live} is live, as before.", *said, error.why])),
        remedy=error.remedy or "Mend what stood in the way, then run the same command again.",
        step=step,
        live=live,
        undone=True,
        **{name: value for name, value in error.data.items() if name not in ("step", "live", "undone")},
    )


def _not_undone(second: MigrationError, error: BaseException | None, step: str) -> CutoverError:
    before = f" It was undone as it had failed: {_reason(error)}" if error is not None else ""
    return CutoverError(
        f"The step '{step}' of the cutover could not be undone: {second.message}{before}",
        why=f"Which side is live is not settled until it is. {second.why}".rstrip(),
        remedy=f"{second.remedy} Then run the same command again: it goes on undoing.".lstrip(),
        step=step,
        undone=False,
    )
