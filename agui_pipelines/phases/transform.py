"""Transform: turn exported snapshots into staged ones, and set aside what the target cannot hold.

Where the chain changes nothing, a staged snapshot references the exported segments; only a segment that holds a record
which the target refuses, or which is to carry what the target has no place for, is written again. What becomes of every
property on this route is counted on the way (see `losses`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines import losses
from agui_pipelines.errors import CollisionError, LossError, RejectLimitError, StagingError, named
from agui_pipelines.keyspace import sorted_on_disk
from agui_pipelines.losses import Fates
from agui_pipelines.phases.export import SnapshotReport, digested_or_rejected, exported, in_ranges
from agui_pipelines.phases.history import History, newest_only
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import OnReject, Refusal, Store
from agui_pipelines.progress import Meter
from agui_pipelines.records import DIGEST_FIELDS, DIGESTED, SCHEMAS, Digester, Kind, Reject, id_columns
from agui_pipelines.staging import Manifest, Segment, SnapshotReader, SnapshotWriter
from agui_pipelines.transforms import Chain, chain
from agui_pipelines.transforms.kept import carried, restored

PHASE: Final = "transform"

# What refusals and losses are decided on; the documents themselves stay on disk.
_SMALL: Final = {
    kind: [name for name in schema.names if name not in ("data", "delta", "metadata")]
    for kind, schema in DIGESTED.items()
}

_SLOTS: Final = pa.schema([pa.field("slot", pa.string()), pa.field("id", pa.string())])


def transform(session: Session, plan: Plan, ranges: Sequence[str]) -> SnapshotReport:
    """Stage the named key ranges, which must have been exported.

    Raises `CollisionError` if the transforms gave several records of the plan one id.
    """
    steps = chain(session.migration.transforms, session.migration.folder)
    sources = {name: _require_exported(session, plan, name) for name in ranges}
    meter = session.meter(PHASE, total=sum(source.manifest.records for source in sources.values()))
    with session.digester(meter.total) as digester:
        stager = _Stager(session, steps, digester, meter)
        reports = in_ranges(
            session,
            plan,
            ranges,
            PHASE,
            meter,
            work=lambda name: stager.stage(sources[name]),
            basis=lambda name: f"{sources[name].manifest.snapshot_id} | {stager.fingerprint}",
        )
    if not steps.identity:
        _require_distinct_ids(list(staged_ranges(session, plan).values()))
    return SnapshotReport(plan.plan_id, reports, session.conclude(meter, plan.plan_id).seconds)


def staged(session: Session, plan: Plan, range_: str) -> SnapshotReader | None:
    """The newest staged snapshot of a range, or None if there is none for what was last exported."""
    source = exported(session, plan, range_)
    entry = session.ledger.last(PHASE, plan_id=plan.plan_id, unit=range_)
    if source is None or entry is None or not entry.basis.startswith(source.manifest.snapshot_id):
        return None
    return SnapshotReader(session.workspace, entry.outputs["snapshot_id"])


def staged_ranges(session: Session, plan: Plan) -> dict[str, SnapshotReader]:
    """The staged snapshots of all ranges that have one."""
    found = {r.name: staged(session, plan, r.name) for r in plan.ranges}
    return {name: reader for name, reader in found.items() if reader is not None}


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
    _require_few_rejects(session, readers)
    _require_accepted_losses(session, readers)
    if any(reader.manifest.transform != "identity" for reader in readers):
        _require_distinct_ids(readers)
    _require_own_slots(session, readers)


def _require_few_rejects(session: Session, readers: list[SnapshotReader]) -> None:
    allowed = session.migration.limits.max_rejects
    found: list[Reject] = []
    reasons: Counter[str] = Counter()
    count = 0
    for reject in rejects(session, readers):
        count += 1
        reasons[reject.reason] += 1
        if len(found) < 1000:  # noqa: PLR2004 - enough to name; all of them are in the snapshots
            found.append(reject)
    if count <= allowed:
        return
    kinds = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
    raise RejectLimitError(
        f"{count:,} record{'s were' if count != 1 else ' was'} rejected ({kinds}): {named([r.name for r in found])}. "
        f"{found[0].detail}",
        why=f"The migration allows {allowed:,}; importing would leave them behind.",
        remedy="Their raw bytes are kept in the snapshots' rejects. Mend them at the source, or set limits.max_rejects to "
        "accept the loss, and run again.",
        rejected=count,
        rejects=[{"id": r.name, "kind": str(r.kind), "reason": r.reason, "detail": r.detail} for r in found],
    )


def _require_accepted_losses(session: Session, readers: list[SnapshotReader]) -> None:
    found = losses.together(reader.manifest.fates for reader in readers)
    refused = losses.unaccepted(found, session.migration.accept_losses)
    if not refused:
        return
    told = "; ".join(
        f"{fate.lost:,} records ({named(fate.examples)}) have {losses.MEANING[name]}" for name, fate in refused.items()
    )
    accepted = ", ".join(sorted({*session.migration.accept_losses, *refused}))
    keepable = ", ".join(name for name in losses.KEEPABLE if name in refused)
    instead = f", or let the documents carry it: keep: [{keepable}]" if keepable else ""
    raise LossError(
        f"This route would lose what carries meaning: {told}.",
        why="What is not in the target after the switch is gone for good; nothing was written.",
        remedy=f"Accept it with this line in the migration file: accept_losses: [{accepted}]{instead}. Then run again.",
        losses={name: fate.lost for name, fate in refused.items()},
        loss_ledger=losses.table(found, session.migration.accept_losses),
    )


def _require_distinct_ids(readers: list[SnapshotReader]) -> None:
    for kind in Kind:
        if not any(reader.segments(kind) for reader in readers):
            continue
        columns = list(id_columns(kind))
        schema = pa.schema([SCHEMAS[kind].field(name) for name in columns])
        batches = (batch.select(columns) for reader in readers for batch in reader.batches(kind, columns))
        keys = ", ".join(columns)
        query = f"SELECT {keys}, count(*) AS n FROM rows GROUP BY {keys} HAVING n > 1 ORDER BY {keys} LIMIT 100"  # noqa: S608
        twice = [
            "/".join(row[c] for c in columns) for b in sorted_on_disk(batches, schema, query) for row in b.to_pylist()
        ]
        if twice:
            raise CollisionError(
                f"After the transforms, several {kind}s want the same id: {named(twice)}.",
                why="Only one of each could be kept.",
                remedy="Change the transforms so that different ids stay different, and run again.",
                ids=twice,
            )


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
                    why="It tells them apart by less than their ids, so one would overwrite the other. Nothing was written.",
                    remedy="Change one of the ids by a transform or at the source, or choose another target.",
                    ids=[id_ for pair in shared for id_ in pair],
                )


def _slots(target: Store, kind: Kind, batch: pa.RecordBatch) -> pa.RecordBatch:
    ids = [batch.column(name) for name in id_columns(kind)]
    names = pc.binary_join_element_wise(*ids, "/") if len(ids) > 1 else ids[0]
    return pa.RecordBatch.from_arrays([target.slots(kind, batch), names], schema=_SLOTS)


def _require_exported(session: Session, plan: Plan, name: str) -> SnapshotReader:
    source = exported(session, plan, name)
    if source is None:
        raise StagingError(
            f"The key range {name} has not been exported under the plan {plan.plan_id}.",
            why="There is nothing to transform.",
            remedy="Materialize its exported snapshot first.",
        )
    return source


@dataclass(frozen=True, slots=True)
class _Stager:
    """Stages exported snapshots, one at a time in each thread."""

    session: Session
    steps: Chain
    digester: Digester
    meter: Meter

    @property
    def fingerprint(self) -> str:
        """Changes when an exported snapshot would be staged in another way."""
        migration = self.session.migration
        parts = {
            "keep": ",".join(sorted(migration.keep)),
            "restore_kept": migration.restore_kept,
            "history_limit": migration.history_limit,
        }
        return " | ".join([self.steps.fingerprint, *(f"{name}:{value}" for name, value in parts.items() if value)])

    def stage(self, source: SnapshotReader) -> Manifest:
        exported_ = source.manifest
        referenced: list[Segment] = []
        fates: list[Fates] = []
        with (
            self.session.target() as target,
            SnapshotWriter(
                self.session.workspace, stage="staged", plan_id=exported_.plan_id, range_=exported_.range
            ) as writer,
        ):
            for kind in Kind:
                history = newest_only(source, self.session.migration.history_limit if kind is Kind.VERSION else None)
                for segment in source.segments(kind):
                    self.session.require_going()
                    found = self._as_it_is(target, source, kind, segment) if history is None else None
                    if found is not None:
                        referenced.append(segment)
                        fates.append(found)
                    else:
                        fates += self._rewrite(target, source, kind, segment, writer, history)
                    self.meter.add(segment.records, segment.document_bytes)
            return writer.seal(
                parents=(exported_.snapshot_id,),
                transform=self.steps.fingerprint,
                fates=losses.together(fates),
                referenced=tuple(referenced),
                vanished=exported_.vanished,
            )

    def _as_it_is(self, target: Store, source: SnapshotReader, kind: Kind, segment: Segment) -> Fates | None:
        """The fates of an exported segment's properties if it can be imported as it is; None if it must be rewritten."""
        migration = self.session.migration
        if not self.steps.identity or (migration.restore_kept and kind is Kind.STATE):
            return None
        found: list[Fates] = []
        for batch in source.segment_batches(segment, _SMALL[kind]):
            lost = target.losses(kind, batch)
            if _refusals(target, kind, batch) or (kind is Kind.STATE and lost.keys() & set(migration.keep)):
                return None
            found.append(losses.fates(batch, losses.present(kind, batch), lost, {}))
        return losses.together(found)

    def _rewrite(
        self,
        target: Store,
        source: SnapshotReader,
        kind: Kind,
        segment: Segment,
        writer: SnapshotWriter,
        history: History | None,
    ) -> Iterator[Fates]:
        for exported_ in source.segment_batches(segment):
            batch = exported_
            if history is not None:
                batch, beyond = history.split(exported_)
                yield losses.fates(exported_, {"history": beyond}, {"history": beyond}, {})
            for changed in self._transformed(kind, batch, writer.reject):
                kept = _without_refused(target, kind, changed, writer.reject)
                had, lost = losses.present(kind, kept), target.losses(kind, kept)
                carrying, encoded = carried(kept, lost, self.session.migration.keep if kind is Kind.STATE else ())
                yield losses.fates(
                    kept, had, {name: mask for name, mask in lost.items() if name not in encoded}, encoded
                )
                if encoded:
                    bare = carrying.select(SCHEMAS[kind].names)
                    for digested in digested_or_rejected(kind, bare, writer.reject, digester=self.digester):
                        writer.write(kind, digested)
                else:
                    writer.write(kind, kept)

    def _transformed(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        bare = batch.select(SCHEMAS[kind].names)
        if kind is Kind.STATE and self.session.migration.restore_kept:
            bare = restored(bare)
        if not self.steps.identity:
            bare = self.steps.apply(kind, bare, on_reject)
        if bare.column("data").equals(batch.column("data")) and (kind is Kind.STATE or self.steps.identity):
            # Only ids or times changed, if anything, and a state's digests are those of its document alone.
            digests = [batch.column(field.name) for field in DIGEST_FIELDS]
            yield pa.RecordBatch.from_arrays([*bare.columns, *digests], schema=DIGESTED[kind])
            return
        yield from digested_or_rejected(kind, bare, partial(_as_transformed, on_reject), digester=self.digester)


def _as_transformed(on_reject: OnReject, reject: Reject) -> None:
    on_reject(Reject(reject.kind, reject.id, reject.raw, PHASE, reject.reason, reject.detail))


def _refusals(target: Store, kind: Kind, batch: pa.RecordBatch) -> list[Refusal]:
    """What this target refuses, and what no target should get: a state without an id."""
    empty = pc.indices_nonzero(pc.equal(batch.column("state_id"), "")).to_pylist()
    nameless = [Refusal(row, "empty_id", "Its id is empty, so nobody could ask for it.") for row in empty]
    return nameless + target.refusals(kind, batch)


def _without_refused(target: Store, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
    refusals = _refusals(target, kind, batch)
    if not refusals:
        return batch
    for refusal in {refusal.row: refusal for refusal in reversed(refusals)}.values():  # the first of each row
        key = "/".join(batch.column(c)[refusal.row].as_py() for c in id_columns(kind))
        raw = batch.column("data")[refusal.row].as_py()
        on_reject(Reject(kind, key.encode(), raw, PHASE, refusal.reason, refusal.detail))
    refused = {refusal.row for refusal in refusals}
    keep = [row for row in range(batch.num_rows) if row not in refused]
    return batch.take(pa.array(keep, pa.int64()))
