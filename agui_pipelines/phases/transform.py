"""Transform: turn exported snapshots into staged ones, and set aside what the target cannot hold.

Where the chain changes nothing, a staged snapshot references the exported segments; only a segment that holds a record
which the target refuses is written again, without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.errors import CollisionError, RejectLimitError, StagingError, named
from agui_pipelines.keyspace import sorted_on_disk
from agui_pipelines.phases.export import SnapshotReport, digested_or_rejected, exported, in_ranges
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import OnReject, Refusal, Store
from agui_pipelines.progress import Meter
from agui_pipelines.records import DIGEST_FIELDS, DIGESTED, SCHEMAS, Digester, Kind, Reject, id_columns
from agui_pipelines.staging import Manifest, Segment, SnapshotReader, SnapshotWriter
from agui_pipelines.transforms import Chain, chain

PHASE: Final = "transform"

# What refusals and losses are decided on; the documents themselves stay on disk.
_SMALL: Final = {
    kind: [name for name in schema.names if name not in ("data", "delta", "metadata")]
    for kind, schema in DIGESTED.items()
}


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
            basis=lambda name: f"{sources[name].manifest.snapshot_id} | {steps.fingerprint}",
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
    """Refuse before the first write: `RejectLimitError` for too many rejects, `CollisionError` for ids that fall together."""
    readers = list(snapshots)
    _require_few_rejects(session, readers)
    if any(reader.manifest.transform != "identity" for reader in readers):
        _require_distinct_ids(readers)


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

    def stage(self, source: SnapshotReader) -> Manifest:
        exported_ = source.manifest
        losses: Counter[str] = Counter()
        referenced: list[Segment] = []
        with (
            self.session.target() as target,
            SnapshotWriter(
                self.session.workspace, stage="staged", plan_id=exported_.plan_id, range_=exported_.range
            ) as writer,
        ):
            for kind in Kind:
                for segment in source.segments(kind):
                    self.session.require_going()
                    if self.steps.identity and _holds_all(target, source, kind, segment, losses):
                        referenced.append(segment)
                    else:
                        self._rewrite(target, source, kind, segment, writer, losses)
                    self.meter.add(segment.records, segment.document_bytes)
            return writer.seal(
                parents=(exported_.snapshot_id,),
                transform=self.steps.fingerprint,
                losses=dict(losses),
                referenced=tuple(referenced),
                vanished=exported_.vanished,
            )

    def _rewrite(
        self,
        target: Store,
        source: SnapshotReader,
        kind: Kind,
        segment: Segment,
        writer: SnapshotWriter,
        losses: Counter[str],
    ) -> None:
        for batch in source.segment_batches(segment):
            for changed in self._transformed(kind, batch, writer.reject):
                kept = _without_refused(target, kind, changed, writer.reject)
                losses.update(target.losses(kind, kept))
                writer.write(kind, kept)

    def _transformed(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        if self.steps.identity:
            yield batch
            return
        bare = self.steps.apply(kind, batch.select(SCHEMAS[kind].names), on_reject)
        if kind is Kind.STATE and bare.column("data").equals(batch.column("data")):
            # Only ids or times changed, and a state's digests are those of its document alone.
            digests = [batch.column(field.name) for field in DIGEST_FIELDS]
            yield pa.RecordBatch.from_arrays([*bare.columns, *digests], schema=DIGESTED[kind])
            return
        yield from digested_or_rejected(kind, bare, partial(_as_transformed, on_reject), digester=self.digester)


def _holds_all(target: Store, source: SnapshotReader, kind: Kind, segment: Segment, losses: Counter[str]) -> bool:
    """Whether the target can hold every record of an exported segment; if so, what it would lose of them is counted."""
    found: Counter[str] = Counter()
    for batch in source.segment_batches(segment, _SMALL[kind]):
        if _refusals(target, kind, batch):
            return False
        found.update(target.losses(kind, batch))
    losses.update(found)
    return True


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
