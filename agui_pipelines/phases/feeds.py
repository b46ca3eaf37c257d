"""Feeds: how is found what has changed at a source since a cursor was made.

A feed may name ids that have not changed: they are read again, and nothing comes of it. It never leaves one out that has,
except for what a feed that is not `complete` cannot see, such as what is gone.
"""

from __future__ import annotations

from typing import Final, Protocol

from agui_pipelines.errors import RefusedError
from agui_pipelines.phases.cursor import Cursor
from agui_pipelines.phases.looking import Findings, Opened, look_at_all
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Clocked, Watermarked
from agui_pipelines.progress import Meter

_HORIZON_REACH: Final = 1 << 31
"""Transactions that the server's own numbers tell apart."""


class ChangeFeed(Protocol):
    """One way to find what has changed. Others, such as notifications of a server, are added beside these."""

    name: str
    complete: bool
    """Whether it looks at everything, so that what is gone is found."""

    def find(self, session: Session, opened: Opened, cursor: Cursor, meter: Meter, found: Findings) -> None:
        """Collect the ids that have changed, and that are gone. Only reads."""
        ...


class DigestFeed:
    """Looks at everything and compares digests; serves every source."""

    name = "digest"
    complete = True

    def find(self, session: Session, opened: Opened, cursor: Cursor, meter: Meter, found: Findings) -> None:
        with opened() as source:
            # The time comes first: what expires while we look may have been seen or not.
            now = retried(session, meter, source.now) if isinstance(source, Clocked) else None
        look_at_all(session, opened, meter, found, cursor=cursor, now=now)


class WatermarkFeed:
    """Asks a PostgreSQL server for the rows that were written by transactions which the cursor cannot know; see `Watermarked`.

    That an id is gone tells no row: every n-th round is to be one of the digest feed.
    """

    name = "watermark"
    complete = False

    def find(self, session: Session, opened: Opened, cursor: Cursor, meter: Meter, found: Findings) -> None:
        def ask() -> None:
            with opened() as source, meter.provisional() as count:
                if not isinstance(source, Watermarked) or cursor.horizon is None:
                    raise RefusedError("The source does not tell which rows were written since the last round.")
                for batch in source.written_since(cursor.horizon):
                    session.require_going()
                    found.changed.add(batch.column("key").to_pylist())
                    count(batch.num_rows, 0)

        retried(session, meter, ask)
        found.take(checked=found.changed.count)
        found.changed.close()
        found.gone.close()


def choose(session: Session, opened: Opened, cursor: Cursor, horizon: int | None, *, complete: bool) -> ChangeFeed:
    """The feed of a round. `horizon`: what the source says now; None if it has none.

    Raises `RefusedError` if the migration file asks for a watermark that the source has not.
    """
    asked = session.migration.sync.feed
    if asked == "watermark" and horizon is None:
        with opened() as source:
            told = source.describe()
        raise RefusedError(
            f"sync.feed is 'watermark', and the source ({told}) has none.",
            why="Only rows of a PostgreSQL table tell by which transaction they were written, not those of a query.",
            remedy="Set sync.feed to 'digest', or leave it out.",
        )
    known = cursor.horizon
    usable = horizon is not None and known is not None and 0 <= horizon - known < _HORIZON_REACH
    due = cursor.partial + 1 >= session.migration.sync.digest_every
    if complete or asked == "digest" or not usable or due:
        return DigestFeed()
    return WatermarkFeed()
