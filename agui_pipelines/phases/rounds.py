"""Rounds of a sync: each is a plan of the purpose ``sync``, whose catalogue lists the ids that are to be read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from agui_pipelines.errors import RefusedError
from agui_pipelines.keyspace import CATALOGUE, LEFT_OUT, cut, write_catalogue
from agui_pipelines.ledger import Entry
from agui_pipelines.phases import cursor as cursors
from agui_pipelines.phases.cursor import Cursor
from agui_pipelines.phases.export import PHASE as EXPORT
from agui_pipelines.phases.export import exported
from agui_pipelines.phases.import_ import pending_ranges
from agui_pipelines.phases.looking import Findings
from agui_pipelines.phases.plan import PHASE as PLAN
from agui_pipelines.phases.plan import Plan, listing_id, outputs_of, plan_of, route_of
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import BEGUN, ROUND, is_half_written, open_round, standing
from agui_pipelines.phases.transform import PHASE as TRANSFORM
from agui_pipelines.phases.transform import staged_ranges
from agui_pipelines.staging import SnapshotReader
from agui_pipelines.staging.spool import remove_spool

FEW: Final = 5_000
"""Ids that are worked on as one key range."""

_PLAN_FIELDS: Final = frozenset(field.name for field in fields(Plan))


@dataclass(frozen=True, slots=True)
class Place:
    """What a source said of itself when a round began."""

    source: str
    server: str
    horizon: int | None


@dataclass(frozen=True, slots=True)
class Round:
    """One round: its plan, and what is told of it besides."""

    plan: Plan
    cursor_id: str
    """The cursor that it starts from."""
    server: str
    horizon: int | None
    feed: str
    complete: bool
    partial: int
    """As its own cursor will have it."""
    checked: int

    @property
    def round_id(self) -> str:
        return self.plan.plan_id

    @property
    def names(self) -> list[str]:
        return [r.name for r in self.plan.ranges]

    def exported(self, session: Session) -> list[SnapshotReader]:
        return [found for name in self.names if (found := exported(session, self.plan, name)) is not None]

    def staged(self, session: Session) -> list[SnapshotReader]:
        return list(staged_ranges(session, self.plan).values())

    def touched(self, session: Session) -> Iterator[pa.RecordBatch]:
        """The ids that it reads again, as batches of one column."""
        with session.workspace.reading(self.plan.catalogue) as file:
            yield from pq.ParquetFile(file).iter_batches(columns=["key"])


def begin(
    session: Session,
    round_id: str,
    cursor: Cursor,
    place: Place,
    found: Findings,
    leave: Iterable[bytes],
    *,
    scanned: str,
    **facts: Any,
) -> Round:
    """Plan a round over what was found, without the ids that are to be left alone, and name it in the ledger.

    `scanned`: the id under which a source that can only be scanned was; the round's own, unless another one began before.
    """
    name = f"catalogues/{scanned}.parquet"
    with session.workspace.writing(name) as file:
        write_catalogue(_keys(found, leave), file)
    with session.workspace.reading(name) as file:
        keys = pq.ParquetFile(file).metadata.num_rows
        ranges = cut(file, 1 if keys <= FEW else session.migration.ranges)
    with session.source() as source, session.target() as target:
        made = Plan(
            plan_id=round_id,
            purpose="sync",
            fingerprint=session.migration.fingerprint,
            source=source.describe(),
            target=target.describe(),
            source_server="",
            target_server="",
            context_id="",
            keys=keys,
            ranges=tuple(ranges),
            route=route_of(session, target),
            catalogue_checksum=session.workspace.checksum(name),
            listing="" if scanned == round_id else scanned,
            stamped_at=cursor.stamped_at,
        )
    told = {"cursor_id": cursor.cursor_id, "server": place.server, "horizon": place.horizon, **facts}
    return _of_entry(session.ledger.record(Entry(ROUND, round_id, outputs={**outputs_of(made), **told})))


def unfinished(session: Session) -> Round | None:
    """The round that has begun to write and has not come to its end; what others have left is removed."""
    entry = open_round(session.ledger)
    if entry is None:
        return None
    if is_half_written(session.ledger):
        return _of_entry(entry)
    forget(session, entry.plan_id)
    return None


def forget(session: Session, round_id: str, *, keeping_scan: bool = False) -> None:
    """Remove what a round keeps in the workspace, but for the snapshots that hold rejects."""
    for phase in (EXPORT, TRANSFORM):
        for entry in session.ledger.entries(phase=phase, plan_id=round_id):
            if not entry.outputs["rejects"]:
                session.workspace.remove_folder(f"snapshots/{entry.outputs['snapshot_id']}")
    named = session.ledger.last(ROUND, plan_id=round_id)
    if named is not None and not keeping_scan:
        session.workspace.remove(f"catalogues/{listing_id(named)}.parquet")
        remove_spool(session.workspace, listing_id(named))


def require_started(session: Session) -> None:
    """Raises `RefusedError` if there is nothing that a round could start from."""
    _base(session, cursors.current_cursor(session))


def starting_point(session: Session, server: str) -> Cursor:
    """The cursor to start from: the current one, or a first one of the last import that was proven.

    After another import was proven, what it did not move stays known from the cursor before, so that it is found to be gone.
    Raises `RefusedError` if there is nothing to start from.
    """
    current = cursors.current_cursor(session)
    base = _base(session, current)
    if isinstance(base, Cursor):
        return base
    before = current if current is not None and current.fingerprint == base.fingerprint else None
    names = [r.name for r in base.ranges]
    read = [found for name in names if (found := exported(session, base, name)) is not None]
    staged = staged_ranges(session, base).values()
    cursor_id, ids, records = cursors.write_first(session, before, read, staged)
    return cursors.record(
        session,
        Cursor(
            cursor_id=cursor_id,
            base_plan=base.plan_id,
            round_id="",
            fingerprint=base.fingerprint,
            source=base.source,
            server=base.source_identity or server,
            stamped_at=base.created_at,
            ids=ids,
            records=records,
        ),
    )


def _base(session: Session, current: Cursor | None) -> Plan | Cursor:
    """The current cursor, or the plan that a first one is to be made of. Raises `RefusedError` if there is neither."""
    ledger = session.ledger
    plans = [e for e in ledger.entries(phase=PLAN) if e.outputs["purpose"] == "migrate"]
    begun = [e for e in plans if ledger.last(BEGUN, plan_id=e.plan_id) is not None]
    written = ledger.last(BEGUN, plan_id=begun[-1].plan_id) if begun else None
    if current is not None and current.seeded and not (written is not None and written.at > current.created_at):
        return current
    proven = standing(ledger).proven
    if not begun or begun[-1].plan_id not in proven:
        raise _nothing_proven(session)
    base, begun_at = plan_of(begun[-1]), written.at if written is not None else ""
    if base.fingerprint != session.migration.fingerprint:
        raise RefusedError(
            f"The migration file has changed since {base.plan_id} was imported.",
            why="What a sync brings would not fit to what was brought before.",
            remedy="Run the whole migration again; then sync.",
        )
    # Ranges of it may have been imported again since the cursor was made.
    if current is not None and current.base_plan == base.plan_id and current.created_at >= begun_at:
        return current
    if pending := pending_ranges(session, base):
        raise RefusedError(
            f"The key ranges {', '.join(pending)} of {base.plan_id} were exported again, and not imported since.",
            why="What a sync brings is found by what the target was given, and that is not what was exported last.",
            remedy=f"Import them, which validates all: agui-migrate run {' '.join(f'--range={name}' for name in pending)}",
        )
    return base


def _nothing_proven(session: Session) -> RefusedError:
    return RefusedError(
        f"The newest import of the migration '{session.migration.name}' has not been validated, or was taken back; or nothing "
        "was imported yet.",
        why="A sync brings what has changed since an import, so it has to know that the target is what was imported.",
        remedy="Run the migration to its end first: agui-migrate run.",
    )


def _keys(found: Findings, leave: Iterable[bytes]) -> Iterator[pa.RecordBatch]:
    yield from found.changed.batches()
    yield from found.gone.batches()
    left = list(leave)
    if left:
        yield pa.RecordBatch.from_arrays(
            [pa.array(left, pa.binary()), pa.repeat(LEFT_OUT, len(left))], schema=CATALOGUE
        )


def _of_entry(entry: Entry) -> Round:
    plan = {name: value for name, value in entry.outputs.items() if name in _PLAN_FIELDS}
    facts = {name: value for name, value in entry.outputs.items() if name not in _PLAN_FIELDS}
    return Round(plan_of(Entry(entry.phase, entry.plan_id, outputs=plan, at=entry.at)), **facts)
