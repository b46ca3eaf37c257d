"""Leftovers: what runs that were killed have left in the workspace. No ledger entry knows it, so nothing ever reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from agui_pipelines.phases.backup import backups
from agui_pipelines.phases.plan import is_open, listing_id
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import ROUND

_GRACE: Final = timedelta(days=1)
"""What is younger may belong to a run that is going on and has not recorded it yet."""

_MADE: Final = re.compile(r"-(\d{8}T\d{6})-[0-9a-f]{6}(\.parquet)?$")
"""The end of names that `staging.workspace.new_id` makes."""


def remove_leftovers(session: Session) -> None:
    """Remove snapshots and catalogues that nothing knows, and files that were never finished, once they are a day old.

    And at once, how far those imports had come that will not be resumed.
    """
    before = datetime.now(UTC) - _GRACE
    known = set(_known(session))
    for folder, remove in (
        ("snapshots", session.workspace.remove_folder),
        ("catalogues", session.workspace.remove),
    ):
        for name in session.workspace.names(folder):
            made = _MADE.search(name)
            if name.removesuffix(".parquet") not in known and made and made[1] < f"{before:%Y%m%dT%H%M%S}":
                remove(f"{folder}/{name}")
    _forget_progress(session)
    session.workspace.remove_unfinished(before)


def _forget_progress(session: Session) -> None:
    """Remove how far imports had come of which nobody will resume any more: only the newest plan is, while it is open."""
    names = session.workspace.names("progress")
    plans = [entry.plan_id for entry in session.ledger.entries(phase="plan") if entry.outputs["purpose"] == "migrate"]
    resumed = {
        entry.outputs["snapshot_id"]
        for plan_id in plans[-1:]
        if is_open(session.ledger, plan_id)
        for entry in session.ledger.entries(phase="transform", plan_id=plan_id)
    }
    for name in names:
        if name.removesuffix(".json") not in resumed:
            session.workspace.remove(f"progress/{name}")


def _known(session: Session) -> Iterator[str]:
    for entry in session.ledger.entries():
        if entry.phase in ("export", "transform"):
            yield entry.outputs["snapshot_id"]
        elif entry.phase in ("plan", ROUND):
            yield listing_id(entry)
    for backup in backups(session):
        yield backup.backup_id
        yield from backup.snapshots.values()
