"""Upgrading a store where it is: survey, back up, the steps, the proof that nothing was lost, and the marker last.

What has been done stands in the ledger of the migration. An upgrade that was killed is taken up by the next one: with the
same backup, and without the steps that were finished. The other steps are idempotent. Until the marker is written, the
store is of the version that it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from agui_pipelines.errors import ValidationFailedError
from agui_pipelines.ledger import Entry
from agui_pipelines.phases import backup as backups
from agui_pipelines.phases.backup import Backup
from agui_pipelines.phases.session import End, Session
from agui_pipelines.staging.workspace import new_id
from agui_pipelines.upgrade import survey as surveys
from agui_pipelines.upgrade import versions
from agui_pipelines.upgrade.steps import step
from agui_pipelines.upgrade.survey import Survey
from agui_pipelines.upgrade.work import Work

BEGUN: Final = "upgrade_begun"
STEP: Final = "upgrade_step"
PHASE: Final = "upgrade"


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step: what it changed, or would change."""

    version: str
    to: str
    summary: str
    changes: dict[str, int]
    seconds: float = 0.0
    resumed: bool = False
    """Whether an earlier attempt had finished it."""


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What an upgrade did, or would do."""

    place: str
    marker: str | None
    """What the store said before; None if nothing."""
    version: str
    to: str
    steps: tuple[StepReport, ...]
    records: dict[str, int]
    backup_id: str = ""
    dry_run: bool = False
    resumed: bool = False
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report's public form."""
        return {
            "store": self.place,
            "marker": self.marker,
            "from": self.version,
            "to": self.to,
            "dry_run": self.dry_run,
            "resumed": self.resumed,
            "records": self.records,
            "steps": [
                {
                    "from": each.version,
                    "to": each.to,
                    "summary": each.summary,
                    "changes": each.changes,
                    "seconds": round(each.seconds, 3),
                    "resumed": each.resumed,
                }
                for each in self.steps
            ],
            "backup_id": self.backup_id or None,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Route:
    """What is to be done: what the store was found to be, and the steps from there."""

    found: Survey
    version: str
    to: str
    path: versions.Path

    @property
    def is_marked(self) -> bool:
        """Whether the store says already that it is of the version that it is to be."""
        return self.found.marker is not None and versions.says(self.found.marker, self.to)

    def would(self) -> tuple[StepReport, ...]:
        """The steps with what each would change."""
        reports = []
        for version, to in self.path:
            one = step(version, to)
            reports.append(StepReport(version, to, one.SUMMARY, dict(one.pending(self.found))))
        return tuple(reports)


@dataclass(slots=True)
class _Attempt:
    """An upgrade that has begun, here or in an earlier process."""

    upgrade_id: str
    backup: Backup
    done: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    resumed: bool = False


def preview(
    session: Session, of: End = "target", *, to: str | None = None, assumed: str | None = None
) -> UpgradeReport:
    """What an upgrade would do, found by reading; writes nothing. Raises what `upgrade` raises before it changes anything."""
    began = time.monotonic()
    surveys.require_store(session, of)
    route = _route(session, of, to, assumed)
    return _report(route, route.would(), began, dry_run=True)


def upgrade(
    session: Session,
    of: End = "target",
    *,
    to: str | None = None,
    assumed: str | None = None,
    fresh: bool = False,
    agree: Callable[[UpgradeReport], None] = lambda _: None,
) -> UpgradeReport:
    """Upgrade the store at one end, to the newest version that is reached automatically unless `to` names another.

    `assumed` is what the store is taken for, whatever it says. `agree` is asked before anything is changed, and raises to
    stop. `fresh` makes a new backup where an earlier attempt was killed.

    Raises `RefusedError` for what no upgrade leads to and for a store that contradicts itself, `LockedError` and `BackupError`
    before anything is changed; `ValidationFailedError` if the store does not hold afterwards what it held before.
    """
    began = time.monotonic()
    surveys.require_store(session, of)
    with session.exclusive(of):
        route = _route(session, of, to, assumed)
        if not route.path and route.is_marked:
            return _report(route, (), began)
        agree(_report(route, route.would(), began))
        attempt = _begin(session, of, route, fresh=fresh) if route.path else None
        reports = _steps(session, of, route, attempt) if attempt else ()
        if attempt:
            _require_unchanged(session, attempt.backup)
        with surveys.opened(session, of) as store:
            store.set_version(route.to)
        report = _report(route, reports, began, attempt)
        session.ledger.record(Entry(PHASE, "", of, attempt.upgrade_id if attempt else "", report.to_dict()))
        return report


def _route(session: Session, of: End, to: str | None, assumed: str | None) -> Route:
    found = surveys.survey(session, of)
    version = found.version(assumed)
    to = to or versions.newest(version)
    path = versions.path(version, to)
    if path:
        found.require_readable()
    for each in path:
        if assumed is None:
            step(*each).check(found)
    return Route(found, version, to, path)


def _begin(session: Session, of: End, route: Route, *, fresh: bool) -> _Attempt:
    """Take up the attempt that was killed, or begin another with a backup of its own."""
    earlier = None if fresh else _killed(session, of, route)
    if earlier is not None:
        return earlier
    made = backups.create(session, of)
    upgrade_id = new_id("upgrade")
    outputs = {"place": made.place, "from": route.version, "to": route.to, "backup_id": made.backup_id}
    session.ledger.record(Entry(BEGUN, "", of, upgrade_id, outputs))
    return _Attempt(upgrade_id, made)


def _killed(session: Session, of: End, route: Route) -> _Attempt | None:
    begun = next((e for e in reversed(session.ledger.entries(phase=BEGUN)) if e.unit == of), None)
    if begun is None or session.ledger.last(PHASE, unit=of, basis=begun.basis) is not None:
        return None
    same = begun.outputs["place"] == route.found.place and begun.outputs["from"] == route.version
    backup = next((b for b in backups.backups(session) if b.backup_id == begun.outputs["backup_id"]), None)
    if not same or backup is None or _restored(session, backup, begun):
        return None
    backups.verify(session, backup)
    done = {
        (str(entry.outputs["from"]), str(entry.outputs["to"])): dict(entry.outputs["changes"])
        for entry in session.ledger.entries(phase=STEP)
        if entry.basis == begun.basis
    }
    return _Attempt(begun.basis, backup, done, resumed=True)


def _restored(session: Session, backup: Backup, begun: Entry) -> bool:
    """Whether the store was put back meanwhile, so that the steps that were done are not."""
    return any(
        entry.phase.startswith("restore") and entry.unit == backup.backup_id
        for entry in session.ledger.entries()
        if entry.at >= begun.at
    )


def _steps(session: Session, of: End, route: Route, attempt: _Attempt) -> tuple[StepReport, ...]:
    reports = []
    for version, to in route.path:
        one, began = step(version, to), time.monotonic()
        changes = attempt.done.get((version, to))
        # What was done may be undone: a copy of the store, made before, may have been put back by other means.
        if changes is not None and any(one.pending(route.found).values()):
            changes = None
        resumed = changes is not None
        if changes is None:
            changes = dict(one.apply(Work(session, of, attempt.backup)))
            outputs = {"from": version, "to": to, "changes": changes}
            session.ledger.record(Entry(STEP, "", of, attempt.upgrade_id, outputs))
        reports.append(StepReport(version, to, one.SUMMARY, changes, time.monotonic() - began, resumed))
    return tuple(reports)


def _require_unchanged(session: Session, backup: Backup) -> None:
    """No step changes a document, a time or an id: the store must hold what it held, by exact digest."""
    wrong, _ = backups.changes_since(session, backup)
    if wrong:
        raise ValidationFailedError(
            f"After the steps of the upgrade, {backup.place} does not hold what it held before: {'; '.join(wrong)}.",
            why="Somebody may have written there meanwhile. The version marker was not changed.",
            remedy="If that was so, stop whoever writes and run again with --fresh. Else put back what was there: "
            f"agui-migrate backup restore --id {backup.backup_id}",
            backup_id=backup.backup_id,
        )


def _report(
    route: Route, steps: tuple[StepReport, ...], began: float, attempt: _Attempt | None = None, *, dry_run: bool = False
) -> UpgradeReport:
    return UpgradeReport(
        place=route.found.place,
        marker=route.found.marker,
        version=route.version,
        to=route.to,
        steps=steps,
        records=dict(route.found.records),
        backup_id=attempt.backup.backup_id if attempt else "",
        dry_run=dry_run,
        resumed=attempt.resumed if attempt else False,
        seconds=time.monotonic() - began,
    )
