"""``sync``: bring the changes of a source to the target, once or until stopped."""

from __future__ import annotations

import time
from collections import deque
from datetime import datetime
from typing import Any, Final

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.errors import UsageError
from agui_pipelines.expectations import worker
from agui_pipelines.phases import sync as phase
from agui_pipelines.phases.notify import notified
from agui_pipelines.phases.rounds import unfinished
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.sync import SyncReport
from agui_pipelines.spec.section import seconds

_MINUTE: Final = 60.0


def sync(migration: spec.Migration, *, accept_deletes: bool, complete: bool, json: bool) -> None:
    """One sync, and what it did."""
    worker.warm()
    with output.progress() as listener:
        session = Session.open(migration, listener)
        with notified(session, phase.PHASE):
            report = phase.sync(session, accept_deletes=accept_deletes, complete=complete)
    if json:
        output.print_json({"migration": migration.name, **report.to_dict()})
        return
    looked = "all of the source" if report.complete else "what was written since the last round"
    output.rows(
        f"Synced {migration.name}",
        {
            "Looked at": f"{report.checked:,} ids ({looked}, feed {report.feed}), {report.rate:,.0f}/s",
            "Created": report.created,
            "Updated": report.updated,
            "Deleted": report.deleted,
            "Rejected": report.rejected,
            "Lag": f"{report.lag_seconds:.1f} s",
        },
    )
    _tell_conflicts(migration, report)


def follow(migration: spec.Migration, *, every: str, accept_deletes: bool, json: bool) -> None:
    """Syncs until it is stopped: a line for each that changed something, and about once a minute one that says so."""
    try:
        pause = seconds(every)
    except ValueError as error:
        raise UsageError(f"--every: {error}.") from None
    worker.warm()
    told = _Told()
    session = Session.open(migration)
    with notified(session, phase.PHASE):
        try:
            with output.progress() as listener:
                for report in phase.follow(
                    Session.open(migration, listener), every=pause, accept_deletes=accept_deletes
                ):
                    told.add(report)
                    if json:
                        line = {"migration": migration.name, **report.to_dict(), "changes_per_minute": told.per_minute}
                        output.print_line(line)
                    elif told.is_due(report):
                        output.say(told.line(report))
                        _tell_conflicts(migration, report)
        except KeyboardInterrupt:
            # To be stopped is how it ends. What was ended in the middle of writing is another matter.
            if unfinished(session) is not None:
                raise
            if not json:
                output.say(f"Stopped. {told.rounds:,} rounds, {told.changes:,} changes.")


class _Told:
    """What a sync that goes on has done so far."""

    def __init__(self) -> None:
        self.rounds = self.changes = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._next = 0.0
        self._began = time.monotonic()

    def add(self, report: SyncReport) -> None:
        now = time.monotonic()
        self.rounds += 1
        self.changes += report.changes
        self._recent.append((now, report.changes))
        while self._recent[0][0] < now - _MINUTE:
            self._recent.popleft()

    @property
    def per_minute(self) -> int:
        """Changes per minute, over the last one, or as long as there is."""
        seconds = min(_MINUTE, max(1.0, time.monotonic() - self._began))
        return round(sum(changes for _, changes in self._recent) * _MINUTE / seconds)

    def is_due(self, report: SyncReport) -> bool:
        now = time.monotonic()
        if not report.changes and not report.conflicts.count and now < self._next:
            return False
        self._next = now + _MINUTE
        return True

    def line(self, report: SyncReport) -> str:
        return (
            f"{datetime.now().astimezone():%H:%M:%S}  +{report.created:,} ~{report.updated:,} -{report.deleted:,}  "
            f"lag {report.lag_seconds:.1f} s  {self.per_minute:,} changes/min  ({report.checked:,} ids looked at)"
        )


def _tell_conflicts(migration: spec.Migration, report: SyncReport) -> None:
    if report.conflicts.count:
        done: dict[str, Any] = {"source": "replaced", "target": "left alone"}
        output.note(
            f"{report.conflicts.count:,} records that somebody else has changed in the target were "
            f"{done.get(migration.sync.on_conflict, 'found')}: {', '.join(report.conflicts.ids[:20])}"
        )
