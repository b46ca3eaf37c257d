"""What a store says of itself beside its records: its version, and which schema migrations were applied to it.

Whoever puts a whole store back puts that back too. What is put back under the ids of one plan only leaves it alone, unless
the plan itself has changed it, which the ledger knows.
"""

from __future__ import annotations

from typing import Final

import orjson

from agui_pipelines.errors import ConnectionFailedError, LockLostError, RefusedError, StoreError
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import VALIDATE
from agui_pipelines.ports import Reader, Store
from agui_pipelines.spec import ForeignConfig
from agui_pipelines.transforms import names
from agui_pipelines.transforms.format_1_to_2 import NAME as FORMAT_1_TO_2
from agui_pipelines.transforms.format_1_to_2 import SCHEMA_VERSION

MARKED: Final = "marked"
"""Recorded before a plan changes the version marker of its target: what it was ``before``, and is ``after``."""
CARRIED: Final = "carried"
"""Recorded before a plan has its target say which schema migrations were ``applied``, where that said nothing of any."""

_VERSION, _APPLIED = "version", "applied"


def require_whole(session: Session, *ends: Reader | Store) -> None:
    """Raises `RefusedError` for an end that schema migrations of another run may have half rewritten; see `upgrade.schema`."""
    for end in ends:
        if not isinstance(end, Store):
            continue
        try:
            record = orjson.loads(end.applied() or b"null")
        except (StoreError, ValueError):
            continue  # a record that cannot be read is told by whoever is to apply some
        applying = record.get("applying") if isinstance(record, dict) else None
        if isinstance(applying, dict) and applying.get("batch") != session.run_id:
            raise RefusedError(
                f"Schema migrations are being applied to {end.describe()}: {applying.get('direction')} "
                f"{', '.join(map(str, applying.get('numbers', ())))}, since {applying.get('at')}.",
                why="Some of its documents may have changed already and others not. This run has written nothing.",
                remedy=f"Wait for it, or finish it where it was begun (workspace {applying.get('workspace')}): agui-migrate "
                f"schema {applying.get('direction')}. If that workspace is lost, restore a backup of the whole store.",
            )


def marks_of(store: Store) -> dict[str, str | None] | None:
    """What a store says of itself, as text; None if that cannot be read, which is no reason not to read its records."""
    try:
        applied = store.applied()
        return {_VERSION: store.version(), _APPLIED: None if applied is None else applied.decode()}
    except (StoreError, UnicodeDecodeError):
        return None


def put_marks_back(session: Session, store: Store, marks: dict[str, str | None] | None, plan_id: str) -> None:
    """Let a store say of itself what it did when it was backed up, as a whole or before the first write of a plan."""
    if plan_id:
        carried = session.ledger.last(CARRIED, plan_id=plan_id)
        if carried is not None and store.applied() == carried.outputs["applied"].encode():
            store.set_applied(None)
        marked = session.ledger.last(MARKED, plan_id=plan_id)
        if marked is not None and store.version() == marked.outputs["after"]:
            store.set_version(marked.outputs["before"])
        return
    if marks is None:
        return
    now = marks_of(store)
    if now is None or now[_VERSION] != marks[_VERSION]:
        store.set_version(marks[_VERSION])
    if now is None or now[_APPLIED] != marks[_APPLIED]:
        applied = marks[_APPLIED]
        store.set_applied(None if applied is None else applied.encode())


def mark_format(session: Session, plan_id: str, *, others: int) -> None:
    """After a migration to data format 2.0 was proven, have its target say so.

    A target that says something of another major version is left as it is, and so is one that holds `others` besides what was
    migrated. That it cannot be marked is told, and no reason to call the migration a failure.
    """
    if FORMAT_1_TO_2 not in names(session.migration.transforms):
        return
    meter = session.meter(VALIDATE)
    try:
        with session.target() as target:
            before = target.version()
        if before == SCHEMA_VERSION:
            return
        if others or not (before or "1.").startswith("1."):
            why = f" It holds {others:,} other states." if others else ""
            meter.tell(f"The target's version marker stays as it is ({before or 'none'}).{why}")
            return
        with session.exclusive(), session.target() as target:
            session.ledger.record(Entry(MARKED, plan_id, outputs={"before": before, "after": SCHEMA_VERSION}))
            target.set_version(SCHEMA_VERSION)
    except LockLostError:
        raise
    except StoreError as error:
        meter.tell(f"The target cannot be marked as {SCHEMA_VERSION}: {error.message}")


def carry_applied(session: Session, plan_id: str, *, others: int) -> None:
    """After a migration was proven, have its target say which schema migrations its documents went through at the source.

    Otherwise they would be applied to them again. A target that says something of its own is left as it is, and so is one that
    holds `others` besides; that is told.
    """
    if session.migration.in_place or isinstance(session.migration.source, ForeignConfig):
        return
    meter = session.meter(VALIDATE)
    try:
        with session.source_store() as source:
            applied = source.applied()
        with session.target() as target:
            before = target.applied()
        if applied is None or before == applied:
            return
        if others or before is not None:
            meter.tell(
                "The source's documents went through schema migrations of which the target does not say the same; see "
                "agui-migrate schema status, with --of source and without, before applying any."
            )
            return
        with session.exclusive(), session.target() as target:
            session.ledger.record(Entry(CARRIED, plan_id, outputs={"applied": applied.decode()}))
            target.set_applied(applied)
    except LockLostError:
        raise
    except (StoreError, ConnectionFailedError, UnicodeDecodeError) as error:
        meter.tell(f"Which schema migrations the source's documents went through was not carried over: {error}")
