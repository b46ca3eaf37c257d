"""Admission: what must hold of staged snapshots before the first write to the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines import losses
from agui_pipelines.errors import CollisionError, LossError, RejectLimitError, named
from agui_pipelines.keyspace import sorted_on_disk
from agui_pipelines.phases.origins import require_distinct_ids
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Store
from agui_pipelines.records import SCHEMAS, Kind, Reject, id_columns
from agui_pipelines.staging import SnapshotReader

NAMED: Final = 1000
"""Rejects that are named, at most; all of them are in the snapshots."""

_SLOTS: Final = pa.schema([pa.field("slot", pa.string()), pa.field("id", pa.string())])


@dataclass(frozen=True, slots=True)
class SetAside:
    """What was rejected on the way to staged snapshots."""

    count: int
    allowed: int
    """See `limits.max_rejects`."""
    reasons: dict[str, int]
    """How many for each reason, the most frequent first."""
    first: tuple[Reject, ...]
    """Up to `NAMED` of them."""

    @property
    def within_limit(self) -> bool:
        return self.count <= self.allowed

    def require_within_limit(self) -> None:
        """Raise `RejectLimitError`, which names what was rejected, if that is more than is allowed."""
        if self.within_limit:
            return
        kinds = ", ".join(f"{number:,} {reason}" for reason, number in self.reasons.items())
        raise RejectLimitError(
            f"{self.count:,} record{'s were' if self.count != 1 else ' was'} rejected ({kinds}): "
            f"{named([r.name for r in self.first])}. {self.first[0].detail}",
            why=f"The migration allows {self.allowed:,}; importing would leave them behind.",
            remedy="Their raw bytes are kept in the snapshots' rejects. Mend them at the source, or set limits.max_rejects "
            "to accept the loss, and run again.",
            rejected=self.count,
            rejects=[{"id": r.name, "kind": str(r.kind), "reason": r.reason, "detail": r.detail} for r in self.first],
        )


def rejects(session: Session, snapshots: Iterable[SnapshotReader]) -> Iterator[Reject]:
    """What was rejected on the way to these staged snapshots, in export and in transform."""
    for snapshot in snapshots:
        for parent in snapshot.manifest.parents:
            yield from SnapshotReader(session.workspace, parent).rejects()
        yield from snapshot.rejects()


def require_importable(session: Session, snapshots: Iterable[SnapshotReader]) -> None:
    """Refuse before the first write.

    Raises `RejectLimitError` for too many rejects, `LossError` for a loss that the migration does not accept,
    `CollisionError` for ids that fall together.
    """
    readers = list(snapshots)
    set_aside(session, readers).require_within_limit()
    _require_accepted_losses(session, readers)
    if any(reader.manifest.transform != "identity" for reader in readers):
        require_distinct_ids(readers)
    _require_own_slots(session, readers)


def set_aside(session: Session, snapshots: Iterable[SnapshotReader]) -> SetAside:
    """What was rejected on the way to these staged snapshots, beside what the migration allows."""
    found: list[Reject] = []
    reasons: Counter[str] = Counter()
    for reject in rejects(session, snapshots):
        reasons[reject.reason] += 1
        if len(found) < NAMED:
            found.append(reject)
    return SetAside(reasons.total(), session.migration.limits.max_rejects, dict(reasons.most_common()), tuple(found))


def _require_accepted_losses(session: Session, readers: list[SnapshotReader]) -> None:
    found = losses.together(reader.manifest.fates for reader in readers)
    refused = losses.unaccepted(found, session.migration.accept_losses)
    if not refused:
        return
    told = "; ".join(
        f"{_records(fate.lost)} {losses.MEANING[name]} ({named(fate.examples)})" for name, fate in refused.items()
    )
    accepted = ", ".join(sorted({*session.migration.accept_losses, *refused}))
    keepable = ", ".join(name for name in losses.KEEPABLE if name in refused)
    instead = f", or let the documents carry it: keep: [{keepable}]" if keepable else ""
    raise LossError(
        f"This route would lose what carries meaning: {told}.",
        why="What is not in the target after the switch is gone for good; this run has written nothing.",
        remedy=f"Accept it with this line in the migration file: accept_losses: [{accepted}]{instead}. Then run again.",
        losses={name: fate.lost for name, fate in refused.items()},
        loss_ledger=losses.table(found, session.migration.accept_losses),
    )


def _records(count: int) -> str:
    return f"{count:,} records have" if count != 1 else "1 record has"


def _require_own_slots(session: Session, readers: list[SnapshotReader]) -> None:
    """Refuse records whose ids differ and of which the target could keep only one; see `Store.slots`."""
    with session.target() as target:
        for kind in Kind:
            columns = list(id_columns(kind))
            nothing = pa.RecordBatch.from_pylist([], pa.schema([SCHEMAS[kind].field(name) for name in columns]))
            if target.slots(kind, nothing) is None or not any(reader.segments(kind) for reader in readers):
                continue
            batches = (batch for reader in readers for batch in reader.batches(kind, columns))
            query = "SELECT min(id) AS one, max(id) AS other FROM rows GROUP BY slot HAVING count(*) > 1 ORDER BY 1 LIMIT 100"
            shared = [
                (row["one"], row["other"])
                for batch in sorted_on_disk((_slots(target, kind, batch) for batch in batches), _SLOTS, query)
                for row in batch.to_pylist()
            ]
            if shared:
                raise CollisionError(
                    f"Several {kind}s would take one place in the target: "
                    f"{named([f'{one} and {other}' for one, other in shared])}.",
                    why="It tells them apart by less than their ids, so one would overwrite the other. This run has written "
                    "nothing.",
                    remedy="Change one of the ids by a transform or at the source, or choose another target.",
                    ids=[id_ for pair in shared for id_ in pair],
                )


def _slots(target: Store, kind: Kind, batch: pa.RecordBatch) -> pa.RecordBatch:
    ids = [batch.column(name) for name in id_columns(kind)]
    names = pc.binary_join_element_wise(*ids, "/") if len(ids) > 1 else ids[0]
    return pa.RecordBatch.from_arrays([target.slots(kind, batch), names], schema=_SLOTS)
