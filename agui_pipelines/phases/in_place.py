"""Migrating a store in place: source and target are one, so nothing may be read again once something has been written.

Everything is exported before the first write, under ids that stay; what the store holds then must still be what was exported
(see `readiness`); and as long as it is half rewritten, no other plan is made. What it held is backed up as ever, and a
rollback puts it back.
"""

from __future__ import annotations

from agui_pipelines.errors import RefusedError, SamePlaceError
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import standing
from agui_pipelines.ports import Reader, Store


def require_one_place(source: Reader, target: Store) -> None:
    """Raises `SamePlaceError` unless both ends are the same store, opened in the same way."""
    if not isinstance(source, Store):
        found = f"The source is no AG-UI store, but {source.describe()}"
    elif source.place() != target.place() or source.describe() != target.describe():
        found = f"Source and target are two: {source.describe()}, and {target.describe()}"
    else:
        return
    raise SamePlaceError(
        f"{found}; and the migration file says in_place: true.",
        why="In place, a store is rewritten where it is: both ends have to be the same, with the same settings.",
        remedy="Write the same store under source and target, or leave in_place out.",
    )


def require_not_begun(session: Session) -> None:
    """Raises `RefusedError` while the store may be half rewritten by an earlier plan, so that it must not be exported."""
    begun = sorted(standing(session.ledger).written)
    if begun:
        raise RefusedError(
            f"The import of {begun[-1]} into the store that it was exported from has begun, and was neither proven nor taken "
            "back.",
            why="The store may be half rewritten, so it must not be exported again: what was changed would be changed twice.",
            remedy="Run the same migration again, unchanged and without --fresh, to finish it; or take it back: agui-migrate "
            "rollback.",
        )


def is_begun(session: Session, plan_id: str) -> bool:
    """Whether a plan may have written to the store that it was exported from, and that was not taken back."""
    return session.migration.in_place and plan_id in standing(session.ledger).written


def is_rewritten(session: Session, plan_id: str) -> bool:
    """Likewise, also if it was proven: what is there must not be exported under that plan again."""
    now = standing(session.ledger)
    return session.migration.in_place and plan_id in now.written | now.proven


def refuse_export(range_: str) -> RefusedError:
    """What is raised where a key range would be read again."""
    return RefusedError(
        f"The key range {range_} cannot be exported: the import into the same store has begun.",
        why="The store may be half rewritten, so what is there is not what was to be migrated.",
        remedy="Take the migration back (agui-migrate rollback), then run it again.",
    )
