"""Guards of a sync: when it is safer to ask than to go on."""

from __future__ import annotations

from agui_pipelines.errors import RefusedError, named
from agui_pipelines.phases.cursor import Cursor
from agui_pipelines.phases.looking import Findings
from agui_pipelines.phases.observation import Names
from agui_pipelines.phases.rounds import Place
from agui_pipelines.phases.session import Session

_ACCEPT = "If that is what it should be, sync once with --accept-deletes, or accept_deletes of the job."


def require_same_place(cursor: Cursor, place: Place, *, accept_deletes: bool) -> None:
    """Raises `RefusedError` if the source is another server than it was, or an older state of the same."""
    if cursor.source != place.source:
        raise RefusedError(
            f"The source is {place.source}; what the target stands for came from {cursor.source}.",
            why="What one place has changed cannot be told from what another one holds.",
            remedy="Correct the source in the migration file, or run the whole migration again.",
        )
    if accept_deletes:
        return
    if cursor.server and cursor.server != place.server:
        raise RefusedError(
            f"At {place.source} another server answers than before ({place.server}; it was {cursor.server}).",
            why="It may hold other data, or was started again with less than it had; what it lacks would be removed from the "
            "target. Nothing was written.",
            remedy=f"See what it holds. {_ACCEPT}",
        )
    if cursor.horizon is not None and place.horizon is not None and place.horizon < cursor.horizon:
        raise RefusedError(
            f"The source ({place.source}) is older than it was: its transactions are at {place.horizon:,}, and were at "
            f"{cursor.horizon:,}.",
            why="It was put back to an earlier state, and the target would follow. Nothing was written.",
            remedy=f"See what it holds. {_ACCEPT}",
        )


def require_few_deletes(
    session: Session, cursor: Cursor, found: Findings, *, complete: bool, accept_deletes: bool
) -> None:
    """Raises `RefusedError` if the source is empty, or more of it is gone than the migration file allows."""
    if accept_deletes or not complete or not cursor.ids:
        return
    if not found.checked:
        raise RefusedError(
            f"The source is empty; it held {cursor.ids:,} ids.",
            why="It may have been flushed, and the target would be emptied. Nothing was written.",
            remedy=_ACCEPT,
        )
    gone = found.gone.count - found.expired + found.bared
    allowed = session.migration.sync.max_delete_fraction
    if gone > allowed * cursor.ids:
        raise RefusedError(
            f"Of {cursor.ids:,} ids that the source held, {gone:,} are gone, or have lost their state "
            f"({gone / cursor.ids:.0%}): {named(found.gone.names.ids or found.changed.names.ids)}.",
            why=f"The migration allows {allowed:.0%} (sync.max_delete_fraction). Nothing was written.",
            remedy=_ACCEPT,
        )


def conflict(conflicts: Names, *, begun: bool) -> RefusedError:
    """That somebody else has changed what a round was to write; `begun`: after it had written some of it."""
    many = conflicts.count != 1
    found = (
        f"{conflicts.count:,} record{'s' if many else ''} of the target {'were' if many else 'was'} changed by somebody else "
        f"since {'they were' if many else 'it was'} written: {named(conflicts.ids)}."
    )
    if begun:
        return RefusedError(
            found,
            why="A round that was interrupted has to be finished, and would replace what they wrote.",
            remedy="To replace it all the same, set sync.on_conflict: source; or take the round back: agui-migrate rollback.",
            conflicts=list(conflicts.ids),
        )
    return RefusedError(
        found,
        why="What they wrote would be lost. Nothing was written.",
        remedy="Say which side counts: sync.on_conflict: source replaces them, target leaves them alone.",
        conflicts=list(conflicts.ids),
    )
