"""Sync: bring to the target what has changed at the source since the last time, and remove what is gone.

A round is a plan of the purpose ``sync`` whose catalogue lists the changed ids alone, so that it goes the way of every
migration: export, transform, expectations, backup, import. What was exported is compared with the target afterwards. The
cursor is made of what was exported, not of what was seen to have changed, since a record may change in between; it is
recorded after the data, and the round's closing entry after that.

A round that was ended before its first write is forgotten, and what it found is found again. One that has begun to write is
finished first, with what it had exported, since what it wrote is known by that alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agui_pipelines.errors import (
    LockLostError,
    MigrationError,
    RefusedError,
    UnreachableError,
    ValidationFailedError,
    named,
)
from agui_pipelines.ledger import Entry
from agui_pipelines.phases import cursor as cursors
from agui_pipelines.phases import guards, rounds
from agui_pipelines.phases.applying import Application, application
from agui_pipelines.phases.changes import looking
from agui_pipelines.phases.confirming import confirm
from agui_pipelines.phases.cursor import Cursor, current_cursor
from agui_pipelines.phases.expect import expect_exported, expect_staged
from agui_pipelines.phases.export import export, exported
from agui_pipelines.phases.feeds import choose
from agui_pipelines.phases.import_ import back_up, import_
from agui_pipelines.phases.looking import Findings, findings
from agui_pipelines.phases.observation import Names
from agui_pipelines.phases.plan import plan, require_usable
from agui_pipelines.phases.recheck import look_again
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.rounds import Round
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import BEGUN, LOCK_LOST, ROUND, SYNC, SYNC_FAILED
from agui_pipelines.phases.steps import require_source_live
from agui_pipelines.phases.transform import staged_ranges, transform
from agui_pipelines.ports import Watermarked
from agui_pipelines.records import Kind
from agui_pipelines.staging.spool import remove_spool
from agui_pipelines.staging.workspace import new_id

PHASE: Final = SYNC

__all__ = ["PHASE", "Cursor", "SyncReport", "current_cursor", "follow", "seed_cursor", "sync"]

_REMOVED: Final = "sync_removed"
"""Recorded once a round has removed what is gone, with how many records that were."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync found and did. Records are states, versions and snapshots; ids are those of the source."""

    round_id: str
    """The round's plan; empty if nothing had changed."""
    feed: str
    """``digest`` or ``watermark``."""
    complete: bool
    """Whether the whole source was looked at, so that what is gone was found too."""
    checked: int
    """Ids that were looked at."""
    changed: int = 0
    """Ids that were read again."""
    created: int = 0
    updated: int = 0
    deleted: int = 0
    """Records of the target."""
    unchanged: int = 0
    """Records that were written and there already."""
    rejected: int = 0
    conflicts: Names = field(default_factory=Names)
    """Records of the target that somebody else has changed, and that were left alone, or replaced, as configured."""
    seconds: float = 0.0
    lag_seconds: float = 0.0
    """How old, when it ended, the moment was up to which the target has everything."""

    @property
    def plan_id(self) -> str:
        return self.round_id

    @property
    def rate(self) -> float:
        """Ids that were looked at per second."""
        return self.checked / self.seconds if self.seconds else 0.0

    @property
    def changes(self) -> int:
        """Records that were created, updated or deleted."""
        return self.created + self.updated + self.deleted

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values; ids cut to 1,000 with their full number beside them."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "conflicts"}
        return {
            **values,
            "conflicts": list(self.conflicts.ids),
            "conflicts_count": self.conflicts.count,
            "seconds": round(self.seconds, 3),
            "lag_seconds": round(self.lag_seconds, 3),
            "checked_per_second": round(self.rate),
        }


def sync(
    session: Session, *, accept_deletes: bool = False, complete: bool = False, while_live: bool = False
) -> SyncReport:
    """Bring the target to what the source is now. A round that was killed while it wrote is finished first.

    `complete`: look at the whole source, whatever the migration file says. `accept_deletes`: pass the guards. Holds the
    target's lock. Raises `RefusedError` if nothing was migrated and proven yet, if a guard says no, or for conflicts;
    `ValidationFailedError` if the target is not what was written. `while_live`: although the target may be what applications
    use, which is refused otherwise.
    """
    with session.exclusive():
        if not while_live:
            require_source_live(session.ledger)
        return _sync(session, accept_deletes=accept_deletes, complete=complete, partial=None)


def follow(session: Session, *, every: float, accept_deletes: bool = False) -> Iterator[SyncReport]:
    """Rounds without end, each `every` seconds after the one before, until `Session.stop` is set.

    One that a server's absence has ended is tried again. `accept_deletes`: of the first. Raises as `sync`.
    """
    partial = 0
    while not session.stop.is_set():
        # What ends a round ends its workers by their event, which is of use only once.
        of_round = replace(session, stop=threading.Event())
        try:
            with of_round.exclusive():
                require_source_live(session.ledger)
                report = _sync(of_round, accept_deletes=accept_deletes, complete=False, partial=partial)
        except MigrationError as error:
            if not (error.transient or isinstance(error, UnreachableError)):
                raise
            session.meter(PHASE).tell(f"{error.message} Looking again in {every:.0f} s.")
        else:
            accept_deletes = False
            partial = 0 if report.complete else partial + 1
            yield report
        session.stop.wait(every)


def _sync(session: Session, *, accept_deletes: bool, complete: bool, partial: int | None) -> SyncReport:
    began = time.monotonic()
    require_two_places(session)
    open_ = rounds.unfinished(session)
    finished = _finish(session, open_, began) if open_ is not None else None
    report = _round(session, accept_deletes=accept_deletes, complete=complete, partial=partial)
    if finished is None:
        return report
    totals = {
        name: getattr(report, name) + getattr(finished, name)
        for name in ("changed", "created", "updated", "deleted", "unchanged", "rejected")
    }
    return replace(report, round_id=report.round_id or finished.round_id, seconds=time.monotonic() - began, **totals)


def require_two_places(session: Session) -> None:
    """Raises `RefusedError` for a migration in place."""
    if session.migration.in_place:
        raise RefusedError(
            "A migration in place has nothing to sync: its source is its target.", remedy="Leave in_place out."
        )


def _round(session: Session, *, accept_deletes: bool, complete: bool, partial: int | None) -> SyncReport:
    began = time.monotonic()
    place = _place(session)
    before = rounds.starting_point(session, place.server)
    guards.require_same_place(before, place, accept_deletes=accept_deletes)
    meter = session.meter(PHASE)
    round_id = new_id("sync")
    found_by = replace(before, partial=max(before.partial, partial or 0))
    older = before.horizon is not None and place.horizon is not None and place.horizon < before.horizon
    try:
        with findings() as found:
            with looking(session, meter, before.stamped_at, keep=round_id) as opened:
                feed = choose(session, opened, found_by, place.horizon, complete=complete or older)
                feed.find(session, opened, before, meter, found)
                confirm(session, opened, before, meter, found)
            guards.require_few_deletes(session, before, found, complete=feed.complete, accept_deletes=accept_deletes)
            facts = {
                "feed": feed.name,
                "complete": feed.complete,
                "partial": 0 if feed.complete else found_by.partial + 1,
                "checked": found.checked,
            }
            if not (found.changed.count or found.gone.count):
                remove_spool(session.workspace, round_id)
                return _nothing(session, before, place, facts, began, following=partial is not None)
            return _carried_out(session, before, place, round_id, found, facts, began)
    except BaseException:
        if session.ledger.last(ROUND, plan_id=round_id) is None:
            remove_spool(session.workspace, round_id)
        raise


def _place(session: Session) -> rounds.Place:
    with session.source() as source, session.target() as target:
        require_usable(session, source, target)
        meter = session.meter(PHASE)
        horizon = retried(session, meter, source.horizon) if isinstance(source, Watermarked) else None
        return rounds.Place(source.describe(), source.place().server, horizon)


def _nothing(
    session: Session, before: Cursor, place: rounds.Place, facts: dict[str, Any], began: float, *, following: bool
) -> SyncReport:
    """Nothing has changed: the cursor stays, but for up to when it is known to hold."""
    moved = replace(before, horizon=place.horizon, server=place.server, partial=facts["partial"], created_at="")
    # Who follows counts the rounds that do not look at everything by itself.
    is_news = (moved.horizon, moved.server) != (before.horizon, before.server)
    if is_news if facts["complete"] else not following:
        cursors.record(session, moved)
    seconds = time.monotonic() - began
    return SyncReport("", facts["feed"], facts["complete"], facts["checked"], seconds=seconds, lag_seconds=seconds)


def _carried_out(
    session: Session,
    before: Cursor,
    place: rounds.Place,
    round_id: str,
    found: Findings,
    facts: dict[str, Any],
    began: float,
) -> SyncReport:
    """Plan the round and carry it out; without what is in conflict, if that is to be left alone."""
    left = Names()
    leave: set[bytes] = set()
    scanned = round_id
    while True:
        begun = rounds.begin(session, round_id, before, place, found, leave, scanned=scanned, **facts)
        if leave and not begun.plan.keys:  # nothing but what is left alone
            rounds.forget(session, round_id)
            seconds = time.monotonic() - began
            return SyncReport(
                "", begun.feed, begun.complete, begun.checked, conflicts=left, seconds=seconds, lag_seconds=seconds
            )
        _stage(session, begun)
        meter = session.meter("sync_target")
        with application(session, begun, before, meter) as applied:
            conflicts, ids = applied.conflicts()
            policy = session.migration.sync.on_conflict
            if conflicts.count and policy == "target" and not leave.issuperset(ids):
                left = Names(tuple(sorted({*left.ids, *conflicts.ids})), left.count + conflicts.count)
                leave.update(ids)
                # What is left alone is to be found again, and so everything that was written since.
                place = replace(place, horizon=before.horizon)
                rounds.forget(session, round_id, keeping_scan=True)
                round_id = new_id("sync")
                continue
            if conflicts.count and policy != "source":
                raise guards.conflict(conflicts, begun=False)
            return _written(session, begun, before, applied, left if leave else conflicts, began)


def _stage(session: Session, begun: Round) -> None:
    export(session, begun.plan, begun.names)
    expect_exported(session, begun.plan)
    transform(session, begun.plan, begun.names)
    expect_staged(session, begun.plan)


def _finish(session: Session, begun: Round, began: float) -> SyncReport | None:
    """Carry a round to its end that was ended while it wrote."""
    if current := current_cursor(session):
        if current.round_id == begun.round_id:  # only its closing entry was missing
            return _closed(session, begun, SyncReport(begun.round_id, begun.feed, begun.complete, begun.checked))
        if current.cursor_id == begun.cursor_id:
            _stage(session, begun)  # which is only looked up
            with application(session, begun, current, session.meter("sync_target")) as applied:
                conflicts, _ = applied.conflicts()
                if conflicts.count and session.migration.sync.on_conflict != "source":
                    raise guards.conflict(conflicts, begun=True)
                return _written(session, begun, current, applied, conflicts, began)
    rounds.forget(session, begun.round_id)
    return None


def _written(
    session: Session, begun: Round, before: Cursor, applied: Application, conflicts: Names, began: float
) -> SyncReport:
    """Remove and write what the round is for, prove it, and only then record the cursor."""
    plan_ = begun.plan
    try:
        back_up(session, plan_, begun.names, applied.removed_ids())
        session.ledger.record(
            Entry(BEGUN, begun.round_id, outputs={"run_id": session.run_id, "ranges": list(begun.names)})
        )
        removed = session.ledger.last(_REMOVED, plan_id=begun.round_id)
        if removed is None:
            # First, as a record may take the place of one that is gone.
            count = applied.remove()
            removed = session.ledger.record(Entry(_REMOVED, begun.round_id, outputs={"records": count}))
        imported = import_(session, plan_, begun.names)
    except LockLostError:
        session.ledger.record(Entry(LOCK_LOST, begun.round_id, outputs={"run_id": session.run_id}))
        raise
    _require_as_written(session, begun, applied)
    read, staged = begun.exported(session), begun.staged(session)
    cursor_id, ids, records = cursors.write(session, before, begun.touched(session), read, staged, applied.kept())
    cursors.record(
        session,
        replace(
            before,
            cursor_id=cursor_id,
            round_id=begun.round_id,
            server=begun.server,
            ids=ids,
            records=records,
            horizon=begun.horizon if begun.complete or before.horizon is not None else None,
            partial=begun.partial,
            created_at="",
        ),
    )
    seconds = time.monotonic() - began
    written = imported.written
    return _closed(
        session,
        begun,
        SyncReport(
            round_id=begun.round_id,
            feed=begun.feed,
            complete=begun.complete,
            checked=begun.checked,
            changed=plan_.keys,
            created=written.inserted,
            updated=written.updated,
            deleted=removed.outputs["records"],
            unchanged=written.unchanged,
            rejected=sum(s.manifest.rejects for s in (*read, *staged)),
            conflicts=conflicts,
            seconds=seconds,
            lag_seconds=seconds,
        ),
    )


def _require_as_written(session: Session, begun: Round, applied: Application) -> None:
    """Raises `ValidationFailedError` unless the target holds what the round has written, and nothing that is gone."""
    applied.look_again()
    look_again(session, applied.comparison)
    found = {kind: applied.comparison.result(kind) for kind in Kind}
    wrong = [
        f"{ids.count:,} {kind}{'s' if ids.count != 1 else ''} {word} ({named(ids.ids)})"
        for kind, result in found.items()
        for word, ids in (
            ("missing", result.missing),
            ("corrupted", result.corrupted),
            ("with another expiry", result.untimely),
            ("with another time of creation or update", result.misdated),
        )
        if ids.count
    ]
    there = applied.still_there()
    if there.count:
        wrong.append(f"{there.count:,} records that are gone at the source ({named(there.ids)})")
    if not wrong:
        return
    session.ledger.record(Entry(SYNC_FAILED, begun.round_id))
    raise ValidationFailedError(
        f"The target is not what the round {begun.round_id} has written: {'; '.join(wrong)}.",
        why="Somebody else may be writing there. The cursor was not moved.",
        remedy="Stop whoever writes there, then sync again: the round is written once more.",
    )


def _closed(session: Session, begun: Round, report: SyncReport) -> SyncReport:
    session.ledger.record(Entry(PHASE, begun.round_id, outputs={"passed": True, "public": report.to_dict()}))
    rounds.forget(session, begun.round_id)
    cursors.remove_old(session)
    return report


def seed_cursor(session: Session, *, rehearsal: bool = False) -> Cursor:
    """Make the first cursor of a session without an import, while both ends are known to be equal.

    Reads the whole source and stages it; nothing is written to the target. For the reverse of a migration: what was staged
    stands for what the target holds, and where it does not, a later sync names conflicts. A rehearsal does all of it, and
    keeps nothing.
    """
    place = _place(session)
    made = plan(session, purpose="verify", fresh=True)
    names = [r.name for r in made.ranges]
    export(session, made, names)
    transform(session, made, names)
    read = [found for name in names if (found := exported(session, made, name)) is not None]
    cursor_id, ids, records = cursors.write(session, None, (), read, staged_ranges(session, made).values())
    cursor = Cursor(
        cursor_id=cursor_id,
        base_plan=made.plan_id,
        round_id="",
        fingerprint=made.fingerprint,
        source=place.source,
        server=place.server,
        stamped_at=made.created_at,
        ids=ids,
        records=records,
        horizon=place.horizon,
        seeded=True,
    )
    if rehearsal:
        session.workspace.remove_folder(cursor.folder)
        return cursor
    return cursors.record(session, cursor)
