"""Changes: what of a source is no longer as a cursor has it. Only reads, and writes nothing anywhere."""

from __future__ import annotations

from dataclasses import dataclass

from agui_pipelines.phases.cursor import Cursor
from agui_pipelines.phases.observation import Names
from agui_pipelines.phases.session import Session


@dataclass(frozen=True, slots=True)
class Changes:
    """What a complete look at the source found: ids of the source."""

    changed: Names
    """Other than the cursor has them: new, updated, or with another expiry, version or snapshot."""
    gone: Names
    """Known to the cursor and no longer there, although their time was not over."""
    expired: int
    """No longer there, and rightly so."""
    checked: int
    seconds: float

    @property
    def none(self) -> bool:
        """Whether nobody has written there since. What has only expired does not count."""
        return not (self.changed.count or self.gone.count)


def changes_since(session: Session, cursor: Cursor) -> Changes:
    """Look at the whole source, and say what of it is not as the cursor has it."""
    raise NotImplementedError


def fingerprint_of_source(session: Session, *, lasting_until: int | None = None) -> str:
    """One digest, 32 hex digits, of all that a complete look at the source sees, in whatever order.

    If two are equal, nobody wrote in between. Records whose expiry comes before `lasting_until` (milliseconds since the
    epoch) are left out, so that what expires between two looks does not count: give both the same moment.
    """
    raise NotImplementedError
