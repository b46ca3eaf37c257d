"""Sync: bring to the target what has changed at the source since the last time, and remove what is gone.

A round is a plan of the purpose ``sync`` whose catalogue lists the changed ids alone, so that it goes the way of every
migration: export, transform, expectations, backup, import. Its closing entry in the ledger is recorded last, after the
cursor, and that after the data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from agui_pipelines.phases.cursor import Cursor, current_cursor
from agui_pipelines.phases.observation import Names
from agui_pipelines.phases.session import Session

PHASE: Final = "sync"

__all__ = ["PHASE", "Cursor", "SyncReport", "current_cursor", "seed_cursor", "sync"]


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
    changed: int
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
        """The report as plain values."""
        values = asdict(self) | {"conflicts": list(self.conflicts.ids), "conflicts_count": self.conflicts.count}
        return values | {"seconds": round(self.seconds, 3), "lag_seconds": round(self.lag_seconds, 3)}


def sync(session: Session, *, accept_deletes: bool = False, complete: bool = False) -> SyncReport:
    """Bring the target to what the source is now. A round that was killed is finished first.

    `complete`: look at the whole source, whatever the migration file says. `accept_deletes`: pass the guards. Holds the
    target's lock. Raises `RefusedError` if nothing was migrated and proven yet, if a guard says no, or for conflicts;
    `ValidationFailedError` if the target is not what was written.
    """
    raise NotImplementedError


def seed_cursor(session: Session) -> Cursor:
    """Make the first cursor of a session without an import, while both ends are known to be equal.

    Reads the whole source and stages it; nothing is written to the target. For the reverse of a migration.
    """
    raise NotImplementedError
