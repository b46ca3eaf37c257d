"""Rollback: put the target back as it was before a plan's first write, by itself after a failure, or when asked.

By itself it undoes what the failed run imported, and only while the target is not live. When asked, it runs the operator's
hooks around the restore: verify the backup, stop, restore, start, validate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from agui_pipelines.errors import BackupError, MigrationError, RefusedError, RollbackError
from agui_pipelines.ledger import Entry, Ledger
from agui_pipelines.phases import backup as backups
from agui_pipelines.phases.backup import Backup, RestoreReport
from agui_pipelines.phases.control import ABORTED
from agui_pipelines.phases.hooks import run_hook
from agui_pipelines.phases.import_ import PHASE as IMPORT
from agui_pipelines.phases.plan import PHASE as PLAN
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import BEGUN, RESTORE, RESTORE_BEGUN, not_voided, standing, voids
from agui_pipelines.phases.steps import is_live

PHASE: Final = "rollback"

_STILL_STOPPED: Final = "The applications that the stop hook has ended are still stopped."

StepName = Literal["verify", "stop", "restore", "start", "validate"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a rollback that was asked for."""

    step: StepName
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What became of the target after a run that failed."""

    status: Literal["nothing_written", "written_before", "rolled_back", "kept", "live"]
    sentence: str
    restored: tuple[RestoreReport, ...] = ()
    is_half: bool = False
    """Whether part of an import is left that nobody has asked to keep."""

    def to_dict(self) -> dict[str, Any]:
        return {"status": self.status, "restored": [asdict(report) for report in self.restored]}


def imported_in(ledger: Ledger, run_id: str) -> Entry | None:
    """The ledger's entry of the import that a Dagster run has begun; None if it did not come so far."""
    begun = ledger.entries(phase=BEGUN)
    return next((entry for entry in reversed(begun) if entry.outputs["run_id"] == run_id), None)


def after_failure(session: Session, run_id: str) -> Aftermath:
    """Undo what a failed run has imported, if the migration wants that and nobody relies on what is in the target since.

    Raises `RollbackError` if the target could not be put back; its backups are kept.
    """
    begun = imported_in(session.ledger, run_id)
    if begun is None:
        return _nothing_written(session)
    if is_live(session.ledger):
        return Aftermath(
            "live",
            "The target is live since its cutover, so it was left as it is. Look at it, and decide: agui-migrate rollback "
            "would take back what was written since.",
        )
    with ExitStack() as stack:
        try:
            stack.enter_context(session.exclusive())
        except MigrationError as error:
            raise _not_put_back(error, []) from error
        undoing = _undoing(session, begun)
        if undoing.kept:
            return Aftermath("kept", f"The target was left as it is: {undoing.kept}", is_half=not undoing.is_wanted)
        try:
            _verify(session, undoing.backups)
            restored = _put_back(session, undoing.backups)
        except Exception as error:  # whatever it is, people must hear that the target is half imported
            raise _not_put_back(error, undoing.backups) from error
    _record(session, begun.plan_id, restored, automatic=True)
    spared = f" Imported before, and left: {', '.join(undoing.spared)}; import them again." if undoing.spared else ""
    return Aftermath("rolled_back", f"{_told(restored)}{spared}", restored)


def _nothing_written(session: Session) -> Aftermath:
    """Of a run that did not come so far; the one that it resumed may have."""
    now = standing(session.ledger)
    if now.begun is None or now.begun.plan_id not in now.written:
        return Aftermath("nothing_written", "Nothing was written to the target.")
    undo = (
        "To undo it: agui-migrate rollback"
        if backups.of_plan(session, now.begun.plan_id)
        else "There is no backup to undo it by."
    )
    return Aftermath(
        "written_before",
        f"This run wrote nothing to the target, but an earlier one has, from {now.begun.at} on ({now.begun.plan_id}), and that "
        f"was neither proven nor taken back. {undo}",
    )


def _not_put_back(error: Exception, made: Sequence[Backup]) -> RollbackError:
    kept = f" Its backups are kept: {', '.join(each.backup_id for each in made)}." if made else ""
    return RollbackError(
        f"The target could not be put back as it was: {error}",
        why=f"It holds part of the import.{kept}",
        remedy="Mend what stands in the way, then: agui-migrate rollback",
        backups=[each.backup_id for each in made],
    )


@dataclass(frozen=True, slots=True)
class _Undoing:
    """What is to be done about a run that failed."""

    backups: Sequence[Backup] = ()
    """What is put back; nothing if what was imported is kept."""
    kept: str = ""
    """Why it is."""
    is_wanted: bool = False
    """Whether somebody wants it kept, or nothing is wrong with it; otherwise the target is left half imported."""
    spared: Sequence[str] = ()
    """Key ranges that were imported before, and are left as they are."""


def _undoing(session: Session, begun: Entry) -> _Undoing:
    ask = "To undo it: agui-migrate rollback"
    now, ranges = standing(session.ledger), set(begun.outputs["ranges"])
    before, finished, since, taken_back = _besides(session, begun)
    is_part = len(ranges) < _ranges_of_plan(session, begun)
    spared = before if is_part else set()
    made = [each for each in backups.of_plan(session, begun.plan_id) if _is_to_undo(session, each, ranges, spared)]
    wanted = {
        "what was imported has been proven.": begun.plan_id in now.proven,
        f"the run was ended by agui-migrate control abort. To resume, run again. {ask}": _was_aborted(session, begun),
        f"the migration file says so (on_failure: keep). {ask}": session.migration.on_failure == "keep",
        f"all of its key ranges were imported; what failed after that is of all key ranges of the plan. {ask}": (
            is_part and finished == ranges
        ),
        "it was taken back already.": taken_back and not made,
    }
    half = {
        "another run has imported since. Import its key ranges again.": since,
        f"its lock was lost, so another migration may have written there since. To resume, run again. {ask}": (
            begun.plan_id in now.lock_lost
        ),
        f"its backup is also of key ranges that other runs imported. {ask}": any(
            not backups.key_ranges(session, each) <= ranges - spared for each in made
        ),
        "its key ranges had been imported before, by another run, so to put them back would take that away. "
        f"Import them again. {ask}": spared == ranges,
        "there is no backup of it.": not made,
    }
    for reasons, is_wanted in ((wanted, True), (half, False)):
        kept = next((reason for reason, holds in reasons.items() if holds), "")
        if kept:
            return _Undoing(kept=kept, is_wanted=is_wanted)
    return _Undoing(made, spared=sorted(spared))


def _besides(session: Session, begun: Entry) -> tuple[set[str], set[str], bool, bool]:
    """Of the key ranges of a run: which had been imported before it, which were since; whether somebody else has begun to
    write any of them since, or anything of another plan; and whether something of them was put back since.
    """
    entries, ranges = session.ledger.entries(), set(begun.outputs["ranges"])
    at = entries.index(begun)

    def is_ours(each: Entry) -> bool:
        return (each.phase, each.plan_id) == (IMPORT, begun.plan_id) and each.unit in ranges

    others = [each for each in entries[at + 1 :] if each.phase == BEGUN]
    since = any(each.plan_id != begun.plan_id or ranges.intersection(each.outputs["ranges"]) for each in others)
    restored = {each.unit for each in entries[at:] if each.phase == RESTORE and each.plan_id in ("", begun.plan_id)}
    taken_back = any(
        each.phase == RESTORE_BEGUN
        and each.unit in restored
        and any(voids(each, begun.plan_id, name) for name in ranges)
        for each in entries[at:]
    )
    before, finished = ({each.unit for each in not_voided(some, is_ours)} for some in (entries[:at], entries[at:]))
    return before, finished, since, taken_back


def _ranges_of_plan(session: Session, begun: Entry) -> int:
    planned = session.ledger.last(PLAN, plan_id=begun.plan_id)
    return len(planned.outputs["ranges"]) if planned is not None else 0


def _is_to_undo(session: Session, backup: Backup, ranges: set[str], spared: set[str]) -> bool:
    """Whether a backup is of key ranges that a run has imported, and not only of such as were imported before."""
    return bool(backups.key_ranges(session, backup) & (ranges - spared))


def _was_aborted(session: Session, begun: Entry) -> bool:
    aborted = session.ledger.last(ABORTED)
    return aborted is not None and aborted.outputs["run_id"] == begun.outputs["run_id"]


def rollback(
    session: Session,
    backup_id: str | None = None,
    *,
    agreed: Sequence[Backup] | None = None,
    while_live: bool = False,
    tell: Callable[[Step], None] = lambda _: None,
) -> tuple[Step, ...]:
    """Put back a backup of the target, or, without an id, what the newest import or sync has replaced.

    `agreed` is what was `chosen` before and agreed to: nothing else is put back. `while_live`: although applications use the
    target, whose writes are lost then. Backups are verified before the target is taken from others, which may have to wait
    long otherwise. Each step is told when it is done.

    Raises `RefusedError` or `StagingError` before anything is stopped if there is no such backup, it does not verify, it is not
    what the choice is by now, or the target is live; `HookError` if a hook fails; `BackupError` if the target is not as it was.
    """
    if not while_live:
        require_not_live(session)
    backed_up = list(agreed or chosen(session, backup_id))
    steps = _Steps(tell)
    _verify(session, backed_up)
    steps.done("verify", f"{', '.join(each.backup_id for each in backed_up)}: intact")
    with session.exclusive():
        _require_unchanged(session, backup_id, backed_up)
        if not while_live:
            require_not_live(session)
        _roll_back(session, backed_up, steps)
    return tuple(steps.finished)


@dataclass(slots=True)
class _Steps:
    """What has been done so far, each with its time."""

    tell: Callable[[Step], None]
    finished: list[Step] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def done(self, name: StepName, detail: str) -> None:
        now = time.monotonic()
        self.finished.append(Step(name, detail, round(now - self._began, 3)))
        self._began = now
        self.tell(self.finished[-1])


def _roll_back(session: Session, backed_up: list[Backup], steps: _Steps) -> None:
    hooks = session.migration.hooks
    with _telling_what_is_stopped(session, steps):
        if hooks.stop is not None:
            run_hook(session, "stop", hooks.stop)
        steps.done("stop", "hook ended with 0" if hooks.stop else "no hook")
        restored = _put_back(session, backed_up)
        steps.done("restore", _told(restored))
        if hooks.start is not None:
            run_hook(session, "start", hooks.start)
        steps.done("start", "hook ended with 0" if hooks.start else "no hook")
    steps.done("validate", _validated(session, backed_up))
    _record(session, backed_up[-1].plan_id, restored, automatic=False)


@contextmanager
def _telling_what_is_stopped(session: Session, steps: _Steps) -> Iterator[None]:
    """Let what ends a rollback between its hooks also say what has become of the target and of whoever uses it."""
    hooks = session.migration.hooks
    try:
        yield
    except MigrationError as error:
        done = steps.finished[-1].step
        if done == "verify":
            error.why = f"Nothing was put back. What the stop hook has ended by then is stopped. {error.why}"
        elif done == "stop" and hooks.stop is not None:
            error.why = f"{error.why} {_STILL_STOPPED}".lstrip()
            error.remedy = (
                f"{error.remedy} A rollback that succeeds runs hooks.start; until then, start them by hand only if they can "
                "do with a target that is half put back."
            ).lstrip()
        elif done == "restore":
            still = f" {_STILL_STOPPED}" if hooks.stop is not None else ""
            error.why = f"The target was put back as it was, and that was proven.{still}"
            error.remedy = "Start the applications by hand; there is nothing left to roll back. Then mend hooks.start."
        raise
    except BaseException:
        if hooks.stop is not None:
            session.meter(PHASE).tell(f"{_STILL_STOPPED} A rollback that is run to its end starts them.")
        raise


def _verify(session: Session, made: Iterable[Backup]) -> None:
    for each in made:
        backups.verify(session, each)


def _put_back(session: Session, verified: Sequence[Backup]) -> tuple[RestoreReport, ...]:
    """The newest first, as each is of what an import found that came after the ones before."""
    return tuple(backups.put_back(session, each) for each in reversed(verified))


def _require_unchanged(session: Session, backup_id: str | None, backed_up: list[Backup]) -> None:
    """Raises `RefusedError` if the choice is another one by now. Nobody else can change it while the target is held."""
    now = [each.backup_id for each in chosen(session, backup_id)]
    before = [each.backup_id for each in backed_up]
    if now != before:
        raise RefusedError(
            f"What there is to roll back has changed meanwhile: it was {', '.join(before)}, and is now {', '.join(now)}.",
            why="Another run of this migration has imported or rolled back since it was chosen. Nothing was stopped, and "
            "nothing put back.",
            remedy="Look at agui-migrate backup list, then run the same command again.",
        )


def require_not_live(session: Session) -> None:
    """Raises `RefusedError` if applications use the target, or may."""
    if is_live(session.ledger):
        raise RefusedError(
            "The target is live since its cutover.",
            why="What applications have written there since would be gone, on both sides.",
            remedy="To return to the source, with what was written since: agui-migrate cutover --back. To put the target back "
            "all the same: agui-migrate rollback --while-live, or the migration's name as confirm of the job.",
        )


def _validated(session: Session, backed_up: list[Backup]) -> str:
    """What has become of the target since it was proven, right after the restore."""
    if session.migration.hooks.start is None:
        return "equal to the backup, by digest"
    try:
        for each in backed_up:
            backups.require_restored(session, each)
    except BackupError as error:
        return f"was equal to the backup, and has been written to since the start hook: {error.message}"
    return "equal to the backup, by digest, after the start hook too"


def chosen(session: Session, backup_id: str | None = None) -> list[Backup]:
    """What a rollback puts back: one backup, or all of the newest import. Raises `RefusedError` if there is none."""
    if backup_id is not None:
        found = backups.find(session, backup_id)
        if found.of != "target":
            raise RefusedError(
                f"The backup {backup_id} is of the source.",
                why="A rollback puts back the target.",
                remedy=f"To put back the source: agui-migrate backup restore --id {backup_id}",
            )
        return [found]
    begun = standing(session.ledger).begun
    existing = backups.of_plan(session, begun.plan_id) if begun else []
    if not existing:
        raise RefusedError(
            f"There is nothing to roll back: the migration '{session.migration.name}' has no backup of what its newest import "
            "replaced that was not put back already.",
            why="Backups are made before an import writes, unless backup.before_import is false.",
            remedy="To put back an older one, name it; agui-migrate backup list shows them.",
        )
    return existing


def _told(restored: tuple[RestoreReport, ...]) -> str:
    put_back = sum(sum(report.records.values()) for report in restored)
    removed = sum(sum(report.removed.values()) for report in restored)
    return (
        f"The target was put back as it was, and that was proven: {put_back:,} records that were there before, "
        f"{removed:,} removed that were not."
    )


def _record(session: Session, plan_id: str, restored: tuple[RestoreReport, ...], *, automatic: bool) -> None:
    outputs = {"automatic": automatic, "backups": [report.backup_id for report in restored]}
    session.ledger.record(Entry(PHASE, plan_id, outputs=outputs))
