"""Readiness: what must hold before the first write of a migration in place (see `in_place`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import pyarrow.compute as pc

from agui_pipelines.errors import CollisionError, RefusedError, StagingError, named
from agui_pipelines.phases.comparison import compared
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import BATCH_BYTES, Settling
from agui_pipelines.records import SCHEMAS, Kind
from agui_pipelines.staging import SnapshotReader

PHASE: Final = "unchanged"


def require_ready(
    session: Session, exported: Sequence[SnapshotReader | None], staged: Iterable[SnapshotReader]
) -> None:
    """Before the first write: everything is exported, no id changes, and the store is still what was exported.

    Raises `StagingError`, `CollisionError` or `RefusedError`.
    """
    complete = [snapshot for snapshot in exported if snapshot is not None]
    if len(complete) < len(exported):
        raise StagingError(
            f"{len(exported) - len(complete)} of {len(exported)} key ranges have not been exported.",
            why="In place, everything is exported before the first write.",
            remedy="Export and transform all key ranges first: run the whole migration.",
        )
    _require_same_ids(staged)
    _require_settled(session, complete)
    _require_unchanged(session, complete)


def _require_same_ids(staged: Iterable[SnapshotReader]) -> None:
    for snapshot in staged:
        for batch in snapshot.origins():
            renamed = batch.filter(pc.not_equal(batch.column("state_id"), batch.column("source_id")))
            if renamed.num_rows:
                raise CollisionError(
                    f"The transforms give other ids to states: {named(renamed.column('source_id').to_pylist())}.",
                    why="In place, what lies under the old ids would stay beside the new ones. Nothing was written.",
                    remedy="Leave transforms that change ids out, or migrate into another place.",
                )


def _require_settled(session: Session, exported: Sequence[SnapshotReader]) -> None:
    """What lies elsewhere than where it belongs would stay there, beside what is written."""
    with session.target() as target:
        if not isinstance(target, Settling):
            return
        for kind in Kind:
            count = sum(
                target.unsettled(kind, batch.select(SCHEMAS[kind].names))
                for snapshot in exported
                for segment in snapshot.segments(kind)
                for batch in snapshot.portions(segment, session.migration.batch_size, BATCH_BYTES)
            )
            if count:
                raise RefusedError(
                    f"{count:,} {kind}s of {target.describe()} do not lie where they belong, or do not say whose they are.",
                    why="What is written in place would come to lie beside them. Nothing was written.",
                    remedy="Upgrade the store within its major version first, which puts them there: agui-migrate upgrade.",
                )


def _require_unchanged(session: Session, exported: Sequence[SnapshotReader]) -> None:
    meter = session.meter(PHASE, total=sum(snapshot.manifest.records for snapshot in exported))
    with compared(session, exported, meter, expiry=True, times=True) as (comparison, _):
        found = {kind: comparison.result(kind) for kind in Kind}
    changed = [
        f"{ids.count:,} {kind}{'s' if ids.count != 1 else ''} {word} ({named(ids.ids)})"
        for kind, result in found.items()
        for word, ids in (
            ("gone", result.missing),
            ("changed", result.corrupted),
            ("with another expiry", result.untimely),
            ("with another time of creation or update", result.misdated),
            ("added", result.extra),
        )
        if ids.count
    ]
    meter.finish()
    if changed:
        raise RefusedError(
            f"The store is not what was exported any more: {'; '.join(changed)}.",
            why="Somebody writes there, and what they wrote since would be overwritten or left as it is. Nothing was written.",
            remedy="Stop whoever writes, then run again with --fresh.",
        )
