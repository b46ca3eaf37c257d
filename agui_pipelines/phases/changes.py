"""Changes: what of a source is no longer as a cursor has it. Only reads, and writes nothing anywhere but in scratch space."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from agui_pipelines.phases.confirming import confirm
from agui_pipelines.phases.cursor import Cursor
from agui_pipelines.phases.feeds import DigestFeed
from agui_pipelines.phases.looking import Opened, findings, look_at_all
from agui_pipelines.phases.observation import Names
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.progress import Meter
from agui_pipelines.sources.spooled import Spooled
from agui_pipelines.staging.spool import remove_spool
from agui_pipelines.staging.workspace import new_id

PHASE: Final = "changes"


@dataclass(frozen=True, slots=True)
class Changes:
    """What a complete look at the source found: ids of the source."""

    changed: Names
    """Other than the cursor has them: new, updated, or with another expiry, version or snapshot."""
    gone: Names
    """Known to the cursor and no longer there, whether or not their time was over."""
    expired: int
    """Of these, how many are rightly gone."""
    checked: int
    seconds: float

    @property
    def none(self) -> bool:
        """Whether nobody has written there since. What has only expired does not count."""
        return not self.changed.count and self.gone.count == self.expired


def changes_since(session: Session, cursor: Cursor) -> Changes:
    """Look at the whole source, and say what of it is not as the cursor has it."""
    meter = session.meter(PHASE)
    with looking(session, meter, cursor.stamped_at) as opened, findings() as found:
        DigestFeed().find(session, opened, cursor, meter, found)
        confirm(session, opened, cursor, meter, found)
        seconds = meter.finish().seconds
        return Changes(found.changed.names, found.gone.names, found.expired, found.checked, seconds)


def fingerprint_of_source(session: Session, *, lasting_until: int | None = None) -> str:
    """One digest, 32 hex digits, of all that a complete look at the source sees, in whatever order.

    If two are equal, nobody wrote in between. Records whose expiry comes before `lasting_until` (milliseconds since the
    epoch) are left out, so that what expires between two looks does not count: give both the same moment. Where the server
    tells expiries only about (before Redis 7), they are left out.
    """
    meter = session.meter(PHASE)
    # Whatever moment documents name, both looks name the same.
    with looking(session, meter, "2000-01-01T00:00:00+00:00") as opened, findings() as found:
        look_at_all(session, opened, meter, found, lasting_until=lasting_until)
        meter.finish()
        return f"{found.seen:032x}"


@contextmanager
def looking(session: Session, meter: Meter, stamped_at: str, *, keep: str = "") -> Iterator[Opened]:
    """What opens the source, as it is now, for each of several workers; one that can only be scanned is scanned for it.

    `keep`: the id under which what is scanned is kept; without one it is removed when the block ends.
    """
    spool_id = keep or new_id("look")
    try:
        with session.source(spool_id) as source:
            if isinstance(source, Spooled):
                retried(session, meter, lambda: source.fill(spool_id, meter.add))
        with session.source_at_once(spool_id, stamped_at) as opened:
            yield opened
    finally:
        if not keep:
            remove_spool(session.workspace, spool_id)
