"""Cutover: make the target the side that applications use, in a maintenance window; or return to the source.

Six steps, each recorded before and after, each with its undo (see `steps`): *ready* (all that must hold, and a sync while
everything still runs), *stop* (the applications, and proof that the side they used is quiet), *final_sync*, *verify* (both
sides in full, both ways), *switch* (the control records, then the applications), *go_live* (a smoke test, the operator's
acceptance).

The way back (`back`) is the same machine in the other direction: its syncs bring to the source what was written to the target
since the switch. So that they know what that is, *verify* seeds the cursor of the opposite direction while both are equal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from agui_pipelines import losses
from agui_pipelines.errors import HookError, MigrationError, RefusedError, UsageError, named
from agui_pipelines.phases import control
from agui_pipelines.phases.changes import changes_since, fingerprint_of_source
from agui_pipelines.phases.control_record import ControlRecord, control_record
from agui_pipelines.phases.cursor import current_cursor
from agui_pipelines.phases.cutover_report import CutoverReport, estimated, recorded_report, rehearsal_report
from agui_pipelines.phases.deadline import Clock, Deadline
from agui_pipelines.phases.hooks import run_hook
from agui_pipelines.phases.marks import require_whole
from agui_pipelines.phases.notify import notify
from agui_pipelines.phases.plan import Plan, current
from agui_pipelines.phases.proof import prove
from agui_pipelines.phases.reverse import require_exact, session_back
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.smoke import smoke
from agui_pipelines.phases.standing import VALIDATE, decommissioned, standing
from agui_pipelines.phases.steps import (
    PHASE,
    SWITCH,
    Direction,
    Facts,
    Machine,
    Progress,
    Side,
    Step,
    StepName,
    Told,
    last_done,
    live_side,
    moment,
    newest,
    opened,
)
from agui_pipelines.phases.sync import seed_cursor, sync
from agui_pipelines.phases.validate import require_passed
from agui_pipelines.ports import Store
from agui_pipelines.records import Kind
from agui_pipelines.spec import ForeignConfig, Hook
from agui_pipelines.staging.workspace import new_id

PAUSE_SECONDS: Final = 1.0
"""Between the two looks that prove a side quiet, besides what they take."""
_LASTING_SECONDS: Final = 60.0
"""What expires within so long (and the time of some looks) is no sign of a writer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a cutover was asked for."""

    back: bool = False
    source_is_stopped: bool = False
    """Whether the operator says that applications have been stopped by hand: no hook is run for it."""
    max_window: float | None = None
    """Seconds from the stop to the end of the go-live validation; past it, all is undone."""
    no_way_back: bool = False
    """Whether it is agreed to that there is no way back."""
    accept_deletes: bool = False
    """Whether its first sync goes on although much is gone, or another server answers than before; see `guards`.

    Of one that is being undone already: whether bringing back what was written to the new side does."""

    @property
    def direction(self) -> Direction:
        return "back" if self.back else "forward"


def now() -> datetime:
    return datetime.now(UTC)


def cutover(
    session: Session, asked: Asked, *, tell: Callable[[Told], None] = lambda _: None, clock: Clock = now
) -> CutoverReport:
    """Cut over, or go on with (or undo) what a process that was killed has begun.

    One that is under way is undone if the other direction is asked for, if it was being undone already, or if its time is over
    before the switch was done. Raises `RefusedError` if something does not hold before anything is stopped, `CutoverError` for
    a step that failed and was undone, or could not be.
    """
    require_two_sides(session)
    with session.exclusive():
        found = newest(session.ledger)
        if found is not None and found.is_open:
            merged = _merged(asked, found)
            machine = Machine(session.ledger, found, _telling(session, tell))
            under_way = _Cutover(session, _way_back(session, merged), merged, machine, clock)
            under_way.accepts_undo = asked.accept_deletes and bool(found.undoing)
            return under_way.resumed(cancelled=found.direction != asked.direction)
        plan_id = _require_side(session, asked)
        back = _way_back(session, asked)  # which may be refused, before anything is recorded
        progress = opened(session.ledger, new_id("cutover"), plan_id, asked.direction, asdict(asked))
        machine = Machine(session.ledger, progress, _telling(session, tell))
        return _Cutover(session, back, asked, machine, clock).carried_out()


def rehearse(
    session: Session, asked: Asked, *, tell: Callable[[Told], None] = lambda _: None, clock: Clock = now
) -> CutoverReport:
    """Do everything but stop, switch and the hooks, while applications run, and say how long the window would be.

    The sync is a real one; nothing else stays in the stores. Raises `RefusedError` for what would refuse the cutover.
    """
    require_two_sides(session)
    with session.exclusive():
        found = newest(session.ledger)
        if found is not None and found.is_open:
            raise RefusedError(
                "A cutover is under way, and was neither finished nor undone.",
                remedy="Finish it by running it again, or undo it by asking for the other direction. See agui-migrate status.",
            )
        plan_id = _require_side(session, asked)
        back = _way_back(session, asked)
        progress = Progress(new_id("rehearsal"), plan_id, asked.direction, asdict(asked))
        return _Cutover(session, back, asked, Machine(session.ledger, progress, tell), clock).rehearsed()


def require_two_sides(session: Session) -> None:
    """Raises `UsageError` for a migration in place, which has nothing to switch."""
    if session.migration.in_place:
        raise UsageError(
            "The migration rewrites one store in place, so there are no two sides to switch between.",
            remedy="What it has done is in use already. To take it back: agui-migrate rollback.",
        )


def _telling(session: Session, tell: Callable[[Told], None]) -> Callable[[Told], None]:
    """Let whoever the migration file names hear of the steps too."""

    def both(told: Told) -> None:
        facts = {"message": told.detail} if told.detail else {}
        notify(session, "cutover", PHASE, step=told.step, status=told.state, **facts)
        tell(told)

    return both


def _merged(asked: Asked, found: Progress) -> Asked:
    """What the one under way was asked for, and what is agreed to besides by now."""
    before = Asked(**found.asked)
    return replace(
        before,
        source_is_stopped=before.source_is_stopped or asked.source_is_stopped,
        no_way_back=before.no_way_back or asked.no_way_back,
        accept_deletes=before.accept_deletes or asked.accept_deletes,
        max_window=before.max_window if asked.max_window is None else asked.max_window,
    )


def _require_side(session: Session, asked: Asked) -> str:
    """The plan that a cutover stands on. Raises `RefusedError` if the side to be made live is live already."""
    live = live_side(session.ledger)
    if asked.back and live == "source":
        raise RefusedError(
            "The source is live, so there is nothing to return from.",
            remedy="To make the target live: agui-migrate cutover.",
        )
    if not asked.back and live == "target":
        raise RefusedError(
            "The target is live since its cutover.",
            remedy="To return to the source, with what was written since: agui-migrate cutover --back.",
        )
    if not asked.back:
        return _proven_plan(session).plan_id
    if (begun := decommissioned(session.ledger)) is not None:
        raise RefusedError(
            f"What the migration moved is being deleted at the source, or was, since {begun.at}.",
            why="There is no side to return to.",
            remedy=f"To return all the same, first put it back: agui-migrate backup restore --id {begun.unit}",
        )
    last = last_done(session.ledger, "forward")
    if last is None or last.asked["no_way_back"]:
        raise RefusedError(
            "The cutover was made without a way back.",
            why="What was written to the target since the switch is not known.",
            remedy="Plan a migration in the other direction.",
        )
    return last.plan_id


def _way_back(session: Session, asked: Asked) -> Session | None:
    """The session of the opposite direction of the migration file's; None if it is agreed that there is none."""
    return None if asked.no_way_back and not asked.back else session_back(session)


def _proven_plan(session: Session) -> Plan:
    """The newest plan, if its import was validated. Raises `RefusedError`, or as `plan.current`."""
    plan = current(session)
    if plan.plan_id in standing(session.ledger).proven:
        return plan
    validation = session.ledger.last(VALIDATE, plan_id=plan.plan_id)
    found = "has not been validated" if validation is None else "was last validated without success, or changed since"
    raise RefusedError(
        f"What was imported by {plan.plan_id} {found}.",
        why="Only a target that is proven to hold everything may become live. Nothing was stopped.",
        remedy="Run the migration to its end: agui-migrate run. Or, if it was: agui-migrate validate.",
    )


class _Cutover:
    """One cutover, and what its steps share."""

    def __init__(self, session: Session, back: Session | None, asked: Asked, machine: Machine, clock: Clock) -> None:
        self.forward = session
        """The migration as its file has it: whose ledger and hooks count."""
        self.asked = asked
        self.machine = machine
        self.deadline = Deadline(clock)
        self.notes: list[str] = []
        self.is_forward = machine.progress.direction == "forward"
        self.is_resumed = self.is_rehearsal = self.accepts_undo = False
        work, self.other = (session, back) if self.is_forward else (_there(back), session)
        self.plain = work
        self.work = self.deadline.watching(work)
        """From the side that is live to the one that is to be; `other` is of the opposite direction, None if there is none."""
        self.old: Side = "source" if self.is_forward else "target"
        self.new: Side = "target" if self.is_forward else "source"

    @property
    def steps(self) -> list[Step]:
        return [
            Step("ready", self.ready),
            Step("stop", self.stop, self.start_again),
            Step("final_sync", self.final_sync),
            Step("verify", self.verify),
            Step("switch", self.switch, self.switch_back),
            Step("go_live", self.go_live),
        ]

    # What becomes of it --------------------------------------------------------------------------------------------

    def carried_out(self) -> CutoverReport:
        return self._through(self.steps)

    def resumed(self, *, cancelled: bool) -> CutoverReport:
        """Go on, or undo."""
        progress = self.machine.progress
        self.is_resumed = True
        self._set_deadline()
        reason = self._undone_because(cancelled=cancelled)
        if reason or progress.undoing:
            with self._both_sides():
                self.machine.undo(self.steps, None, reason)
                return self._written()
        if not progress.has_begun(SWITCH):
            return self._through(self.steps)  # all of it again, but for what was done outside: time has passed
        self.deadline.at = None  # applications may be on the new side already, so that is worth its time
        return self._through([step for step in self.steps[-2:] if not progress.is_done(step.name)])

    def _through(self, steps: Sequence[Step]) -> CutoverReport:
        with self._both_sides():
            try:
                self.machine.carry_out(steps, self.steps)
            except BaseException:
                with suppress(MigrationError):  # what it failed with matters
                    self._written()
                raise
            self.machine.end("done", self.new, {"plan_id": self.proven_by})
            return self._written()

    def rehearsed(self) -> CutoverReport:
        self.is_rehearsal = True
        seconds: dict[str, float] = {}

        def timed(name: StepName, work: Callable[[], str]) -> None:
            began = time.monotonic()
            self.machine.tell(Told(name, "begun"))
            said = work()
            seconds[name] = round(time.monotonic() - began, 3)
            self.machine.tell(Told(name, "done", said, seconds[name]))

        with self._both_sides():
            timed("ready", lambda: str(self.ready()["detail"]))
            timed("stop", self._looked_twice)
            timed("final_sync", lambda: str(self.final_sync()["detail"]))
            timed("verify", self._proven_in_use)
            timed("go_live", self._smoked)
        return rehearsal_report(self.forward, self.machine.progress, seconds, self.notes)

    def _looked_twice(self) -> str:
        try:
            self._require_quiet()
        except RefusedError:
            return f"not stopped; the {self.old} is being written to"
        return f"not stopped; nobody writes to the {self.old} at the moment"

    def _proven_in_use(self) -> str:
        """A mismatch counts only if nobody wrote since the last sync."""
        report = prove(self.work)
        cursor = current_cursor(self.work)
        written = cursor is None or not changes_since(self.work, cursor).none
        if not report.passed and not written:
            require_passed(report)
        if self.other is not None:
            seed_cursor(self.other, rehearsal=True)
        if not report.passed:
            self._note(
                "Both sides differ, as they are being written to; whether they are equal is seen once that is stopped."
            )
        return f"{report.figures['migrated_states']:,} of {report.figures['total_states']:,} states equal on both sides"

    def _undone_because(self, *, cancelled: bool) -> str:
        progress = self.machine.progress
        if cancelled:
            return "It was asked to return before it was done."
        if self.deadline.passed and not progress.is_done("switch"):
            return f"It was killed, and its time is over ({self.deadline.of})."
        return ""

    @contextmanager
    def _both_sides(self) -> Iterator[None]:
        """Besides the target, which is held, the source is, where it is written to by more than a record."""
        with ExitStack() as stack:
            if not self.is_forward:
                stack.enter_context(self.work.exclusive())
            yield

    def _written(self) -> CutoverReport:
        return recorded_report(self.forward, self.machine.progress, self.notes)

    def _note(self, said: str) -> None:
        self.notes.append(said)
        self.forward.meter(PHASE).tell(said)

    @property
    def proven_by(self) -> str:
        return str(self.machine.progress.facts.get("verify", {}).get("plan_id", ""))

    # ready ---------------------------------------------------------------------------------------------------------

    def ready(self) -> Facts:
        self._require_window()
        self._require_stoppable()
        with self.work.source() as source, self.work.target() as target:
            require_whole(self.work, source, target)
        self._require_records()
        if self.is_forward:
            self._require_way_back(_proven_plan(self.forward))
        accept = self.asked.accept_deletes
        report = sync(self.work, accept_deletes=accept, complete=accept)
        forecast = estimated(self.forward, self.machine.progress, report.seconds)
        return {
            "forecast": forecast,
            "sync_seconds": report.seconds,
            "detail": f"{report.changes:,} records caught up, window of about {sum(forecast.values()):,.0f} s expected",
        }

    def _require_window(self) -> None:
        """Raises `RefusedError` outside of the maintenance window."""
        window = self.forward.migration.maintenance_window
        now = self.deadline.clock()
        if window is None or window.ends(now) is not None:
            return
        opens = window.opens(now)
        when = f"The next one begins at {opens.isoformat(timespec='minutes')}." if opens else "It is over."
        self._refuse(
            f"It is {now.isoformat(timespec='minutes')}, outside of the maintenance window.",
            why=f"{when} Nothing was stopped.",
            remedy="Come again then, or change maintenance_window in the migration file.",
        )

    def _require_stoppable(self) -> None:
        if self.asked.source_is_stopped or self.forward.migration.hooks.stop is not None:
            return
        self._refuse(
            "Nothing says how the applications are stopped.",
            why=f"What they write to the {self.old} during the switch would be lost.",
            remedy="Give hooks.stop in the migration file, or stop them by hand and say so: --source-is-stopped, or "
            "source_is_stopped of the job.",
        )

    def _refuse(self, message: str, *, why: str, remedy: str) -> None:
        """Raises `RefusedError` for what matters only once something is to be stopped; a rehearsal notes it."""
        if not self.is_rehearsal:
            raise RefusedError(message, why=why, remedy=remedy)
        self._note(f"A cutover would be refused: {message} {why}")

    def _require_records(self) -> None:
        """Raises `RefusedError` if another migration's cutover has something to say about the side that is live."""
        with self._store(self.old) as store:
            found = control_record(store) if store is not None else None
            place = store.describe() if store is not None else ""
        if found is not None and found.live == "other":
            raise RefusedError(
                f"{place} says that it is not live, since {found.since}, by the migration '{found.migration}'.",
                why="Applications use another store already, so what is there may be old.",
                remedy="Migrate from the store that they use, or return by that migration: agui-migrate cutover --back.",
            )

    def _require_way_back(self, plan: Plan) -> None:
        """Raises `RefusedError` if there is none, unless that is agreed to."""
        if self.other is None:
            self._note("There is no way back from this cutover by itself.")
            return
        require_exact(self.forward, self.other, plan)
        entry = self.forward.ledger.last(VALIDATE, plan_id=plan.plan_id)
        if entry is not None:
            self._require_own_target(entry.outputs["public"])
        with self.other.target() as source:
            route = losses.route(source.losses, self.other.migration.carried)
        lost = [
            name
            for name, verdict in route.items()
            if verdict == "lost" and name in losses.MEANING and name not in self.forward.migration.accept_losses
        ]
        if lost:
            self._note(f"On the way back, what is written since the switch would lose: {', '.join(sorted(lost))}.")

    def _require_own_target(self, public: dict[str, Any]) -> None:
        """What else is in the target could not be told from what is written since the switch.

        Of a kind that the source has no place for, nothing is ever brought back.
        """
        with self.work.source() as source:
            kinds = source.kinds
        others = public["extra_states_count"]
        others += sum(public[f"{kind}s"][f"extra_{kind}s_count"] for kind in kinds if kind is not Kind.STATE)
        if others:
            raise RefusedError(
                f"The target holds {others:,} records besides those of this migration.",
                why="On the way back they could not be told from what was written since the switch.",
                remedy="Migrate into a place of its own, or cut over without a way back: --no-way-back, or "
                "no_way_back of the job.",
            )

    # stop, final sync, verify --------------------------------------------------------------------------------------

    def stop(self) -> Facts:
        self._set_deadline()
        hook = self.forward.migration.hooks.stop
        if hook is not None and not self.asked.source_is_stopped:
            if self.is_resumed and self.machine.progress.is_done("stop/hook"):
                self._hook("stop", hook, self.old)  # somebody may have started them while nothing went on
            self.machine.effect("stop/hook", partial(self._hook, "stop", hook, self.old))
        self.deadline.require()
        took = self._require_quiet()
        said = "hook ended with 0" if self.machine.progress.is_done("stop/hook") else "stopped by hand"
        return {"detail": f"{said}, quiet for {took:,.1f} s"}

    def start_again(self) -> str:
        self._lift_deadline()
        hook = self.forward.migration.hooks.start
        if not self.machine.progress.has_begun("stop/hook"):
            return f"What was stopped by hand can be started again: the {self.old} is live."
        if hook is None:
            return f"There is no start hook: start the applications again, on the {self.old}."
        self.machine.effect("undo/start", partial(self._hook, "start", hook, self.old))
        return "The start hook ended with 0."

    def _require_quiet(self) -> float:
        """Seconds for which nobody wrote. Raises `RefusedError` if somebody did."""
        began = time.monotonic()
        took = float(self.machine.progress.facts.get("ready", {}).get("sync_seconds", 0.0))
        lasting = int((time.time() + _LASTING_SECONDS + 4 * took) * 1000)
        first = fingerprint_of_source(self.work, lasting_until=lasting)
        self.work.stop.wait(PAUSE_SECONDS)
        if fingerprint_of_source(self.work, lasting_until=lasting) != first:
            raise RefusedError(
                f"The {self.old} is not quiet: it was written to between two looks.",
                why="What is written there during the switch would be lost.",
                remedy="Find out who writes, and have hooks.stop end that too.",
            )
        return time.monotonic() - began

    def final_sync(self) -> Facts:
        # What was agreed to was for the first sync: what is gone since then, nobody has seen.
        report = sync(self.work, complete=True)
        self.deadline.require()
        return {"detail": f"{report.changes:,} records changed since", "sync": report.to_dict()}

    def verify(self) -> Facts:
        report = prove(self.work)
        require_passed(report)
        self._require_unwritten()
        if self.other is not None:
            if self.is_forward:
                self._require_own_target(report.to_dict())
            seed_cursor(self.deadline.watching(self.other))
        self.deadline.require()
        states = report.figures["migrated_states"]
        return {"plan_id": report.plan_id, "detail": f"{states:,} states equal on both sides, and their histories"}

    def _require_unwritten(self) -> None:
        """Raises `RefusedError` if the side that was stopped is not what the other one stands for."""
        cursor = current_cursor(self.work)
        if cursor is None:
            raise RefusedError("The last sync has been taken back.", remedy="Run the same command again.")
        found = changes_since(self.work, cursor)
        if not found.none:
            ids = [*found.changed.ids, *found.gone.ids]
            raise RefusedError(
                f"Somebody has written to the {self.old} after it was stopped: {named(ids)}.",
                why="What was written is not on the other side.",
                remedy="Find out who writes, and have hooks.stop end that too.",
            )

    # switch --------------------------------------------------------------------------------------------------------

    def switch(self) -> Facts:
        if self.is_resumed and self.machine.progress.has_begun(SWITCH):
            self._require_unwritten()  # time has passed since that was proven
        self.machine.known("switch/before", lambda: {side: self._said(side) for side in (self.old, self.new)})
        since = self.deadline.clock().isoformat(timespec="milliseconds")
        name = self.forward.migration.name
        this = ControlRecord("this", since, name, self.proven_by).to_bytes()
        other = ControlRecord("other", since, name, self.proven_by).to_bytes()
        self.machine.effect(SWITCH, partial(self._say, self.new, this))
        self.machine.effect("switch/old", partial(self._say, self.old, other))
        hook = self.forward.migration.hooks.switch
        if hook is not None:
            self.machine.effect("switch/hook", partial(self._hook, "switch", hook, self.new))
        self.deadline.require()
        if self._is_foreign("source"):
            self._note("The source is a foreign system, which has no place for a control record.")
        return {"detail": f"the {self.new} is live{', hook ended with 0' if hook else ''}"}

    def switch_back(self) -> str:
        """What was written to the new side meanwhile is brought to the old one first."""
        self._lift_deadline()
        progress, hooks = self.machine.progress, self.forward.migration.hooks
        if not progress.has_begun(SWITCH):
            return ""
        if progress.has_begun("switch/hook") and hooks.stop is not None:
            self.machine.effect("undo/stop", partial(self._hook, "stop", hooks.stop, self.new))
        brought = self._bring_back()
        for side in (self.old, self.new):
            said = progress.facts["switch/before"][side]
            self._say(side, None if said is None else said.encode())
        if progress.has_begun("switch/hook") and hooks.switch is not None:
            self.machine.effect("undo/switch", partial(self._hook, "switch", hooks.switch, self.old))
        return brought

    def _bring_back(self) -> str:
        if self.other is None:
            return f"What was written to the {self.new} since the switch, if anything was, stays there."
        try:
            report = sync(_anew(self.other), accept_deletes=self.accepts_undo, complete=True, while_live=True)
        except MigrationError as error:
            if self.forward.migration.hooks.switch is None or self.machine.progress.has_begun("switch/hook"):
                raise
            # Nobody was switched: a new side that has failed is no reason to leave the old one stopped.
            return f"Applications had not been switched to the {self.new}, so nothing is brought back from it: {error.message}"
        if not report.changes:
            return f"Nothing had been written to the {self.new} since the switch."
        return f"{report.changes:,} records that had been written to the {self.new} since the switch were brought back."

    # go live -------------------------------------------------------------------------------------------------------

    def go_live(self) -> Facts:
        self._require_unwritten()
        said = self._smoked()
        hook = self.forward.migration.hooks.acceptance
        if hook is not None:
            self.machine.effect("go_live/acceptance", partial(self._hook, "acceptance", hook, self.new))
        self.deadline.require()
        return {"detail": f"{said}{', acceptance hook ended with 0' if hook else ''}"}

    def _smoked(self) -> str:
        if self._is_foreign(self.new):
            return "no smoke test of a foreign system"
        smoke(self.work)
        return "wrote, read and removed a record"

    # What they share -----------------------------------------------------------------------------------------------

    def _set_deadline(self) -> None:
        began = self.machine.progress.begun_at.get("stop")
        if began is None:
            return
        window = self.forward.migration.maintenance_window
        ends = window.ends(moment(began)) if window is not None else None
        self.deadline.begin(moment(began), self.asked.max_window, ends)

    def _lift_deadline(self) -> None:
        """What is undone takes the time that it takes."""
        self.deadline.at = None
        control.see_through(self.forward.steered_in)

    def _hook(self, name: str, hook: Hook, side: Side) -> None:
        try:
            run_hook(self.forward, name, self.deadline.shortened(hook), phase=PHASE, side=side)
        except HookError:
            self.deadline.require()  # if it was ended for that, that is what matters
            raise

    def _is_foreign(self, side: Side) -> bool:
        return side == "source" and isinstance(self.forward.migration.source, ForeignConfig)

    @contextmanager
    def _store(self, side: Side) -> Iterator[Store | None]:
        """A side as a store of which this process holds the lock; None if it is foreign."""
        with ExitStack() as stack:
            if self._is_foreign(side):
                yield None
            elif side == "target":
                yield stack.enter_context(self.forward.target())
            elif not self.is_forward:
                yield stack.enter_context(self.plain.target())
            else:
                stack.enter_context(self.forward.exclusive("source"))
                yield stack.enter_context(self.forward.source_store())

    def _said(self, side: Side) -> str | None:
        with self._store(side) as store:
            found = store.live() if store is not None else None
        return None if found is None else found.decode()

    def _say(self, side: Side, record: bytes | None) -> None:
        with self._store(side) as store:
            if store is not None:
                store.set_live(record)


def _there(session: Session | None) -> Session:
    if session is None:  # asked for the way back, so that it was made, or refused
        raise RefusedError("There is no way back.")
    return session


def _anew(session: Session) -> Session:
    """The session for work that comes after a failure, which has told its workers to stop."""
    return replace(session, stop=threading.Event())
