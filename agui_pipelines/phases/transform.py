"""Transform: turn exported snapshots into staged ones, and set aside what the target cannot hold.

Where the chain changes nothing, a staged snapshot references the exported segments; only a segment that holds a record
which the target refuses, or which is to carry what the target has no place for, is written again. What becomes of every
property on this route is counted on the way (see `losses`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines import losses
from agui_pipelines.canonical import Trait
from agui_pipelines.digests import digest_values
from agui_pipelines.errors import StagingError, UnstorableRecordError
from agui_pipelines.losses import Fates
from agui_pipelines.phases.export import SnapshotReport, exported, in_ranges, unusable_reject
from agui_pipelines.phases.history import History, newest_only
from agui_pipelines.phases.origins import beside, origins, require_distinct_ids, without_rows
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Forming, OnReject, Refusal, Store
from agui_pipelines.progress import Meter
from agui_pipelines.records import (
    DIGEST_FIELDS,
    DIGESTED,
    SCHEMAS,
    SOURCE_DATA,
    SOURCE_ID,
    SOURCE_TRAITS,
    Digester,
    Kind,
    digested,
    document_column,
    rejected,
    with_source,
)
from agui_pipelines.staging import Manifest, Segment, SnapshotReader, SnapshotWriter
from agui_pipelines.transforms import Chain, chain
from agui_pipelines.transforms.kept import carried, restored

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
            basis=lambda name: f"{sources[name].manifest.snapshot_id} | {stager.fingerprint}",
        )
    if not steps.identity:
        require_distinct_ids(list(staged_ranges(session, plan).values()))
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


Trial = Callable[[Kind, pa.RecordBatch, OnReject], tuple[pa.RecordBatch, dict[str, pa.BooleanArray]]]
"""What would become of a digested batch: the rows that the target takes, which carry what they were in the source (see
`records.with_source`), and which of them would lose what."""


def trial(session: Session, target: Store) -> Trial:
    """What would be staged of batches that were not exported; writes nothing, and does not connect to the target.

    Raises `SpecError` for a transform that cannot be used.
    """
    steps = chain(session.migration.transforms, session.migration.folder)
    stager = _Stager(session, steps, digest_values, session.meter(PHASE))

    def tried(
        kind: Kind, batch: pa.RecordBatch, on_reject: OnReject
    ) -> tuple[pa.RecordBatch, dict[str, pa.BooleanArray]]:
        kept = _without_refused(target, kind, stager.transformed(target, kind, batch, on_reject), on_reject)
        return kept, _present_and_lost(target, kind, kept)[1]

    return tried


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
            "keep": ",".join(sorted(migration.carried)),
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
                    if kind not in target.kinds:
                        fates += _without_place(target, source, kind, segment)
                        self.meter.add(segment.records, segment.document_bytes)
                        continue
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
        if not self.steps.identity or (migration.restore_kept and kind is Kind.STATE) or isinstance(target, Forming):
            return None
        found: list[Fates] = []
        for batch in source.segment_batches(segment, _SMALL[kind]):
            lost = target.losses(kind, batch)
            if _refusals(target, kind, batch) or (kind is Kind.STATE and lost.keys() & set(migration.carried)):
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
            changed = self.transformed(target, kind, batch, writer.reject)
            kept = _without_refused(target, kind, changed, writer.reject)
            had, lost = _present_and_lost(target, kind, kept)
            carrying, encoded = carried(kept, lost, self.session.migration.carried if kind is Kind.STATE else ())
            left = {name: mask for name, mask in lost.items() if name not in encoded}
            yield losses.fates(kept, had, left, encoded, ids=SOURCE_ID)
            if encoded:
                kept = self._digested(kind, carrying, writer.reject)
            writer.write(kind, kept.select(DIGESTED[kind].names))
            if not self.steps.identity:
                writer.write_origins(origins(kind, kept))

    def transformed(self, target: Store, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        """A digested batch that also carries what each of its rows was in the source."""
        changed = with_source(kind, batch)
        if kind is Kind.STATE and self.session.migration.restore_kept:
            changed = restored(changed)
        if not self.steps.identity:
            changed = self.steps.apply(kind, changed, on_reject)
        if isinstance(target, Forming):
            changed = _formed(target, kind, changed, on_reject)
        if changed.column("data").equals(batch.column("data")) and (kind is Kind.STATE or self.steps.identity):
            # Only ids or times changed, if anything, and a state's digests are those of its document alone.
            return beside(changed, batch.select([field.name for field in DIGEST_FIELDS]))
        return self._digested(kind, changed, on_reject)

    def _digested(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        usable, unusable = digested(kind, batch.select(SCHEMAS[kind].names), self.digester)
        for row, traits in unusable:
            on_reject(unusable_reject(kind, batch, row, traits, PHASE))
        sources = batch.select([SOURCE_ID, SOURCE_DATA, SOURCE_TRAITS])
        return beside(usable, without_rows(sources, {row for row, _ in unusable}))


def _without_place(target: Store, source: SnapshotReader, kind: Kind, segment: Segment) -> Iterator[Fates]:
    """The fates of records of a kind that the target does not know: none is staged, and their loss has to be accepted."""
    for batch in source.segment_batches(segment, _SMALL[kind]):
        yield losses.fates(batch, losses.present(kind, batch), target.losses(kind, batch), {})


def _formed(target: Forming, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
    """A batch whose documents have the form that the target keeps; what can have none is rejected."""
    data = batch.column("data")
    changed: dict[int, bytes] = {}
    unusable: set[int] = set()
    for row in range(batch.num_rows):
        document = data[row].as_py()
        try:
            form = target.formed(kind, document)
        except UnstorableRecordError as error:
            on_reject(rejected(kind, batch, row, PHASE, "unformable", error.message))
            unusable.add(row)
        else:
            if form != document:
                changed[row] = form
    if changed:
        documents = [changed.get(row, data[row].as_py()) for row in range(batch.num_rows)]
        index = batch.schema.get_field_index("data")
        batch = batch.set_column(index, batch.schema.field(index), document_column(documents))
    return without_rows(batch, unusable)


def _refusals(target: Store, kind: Kind, batch: pa.RecordBatch) -> list[Refusal]:
    """What this target refuses, and what no target should get: a state without an id."""
    empty = pc.indices_nonzero(pc.equal(batch.column("state_id"), "")).to_pylist()
    nameless = [Refusal(row, "empty_id", "Its id is empty, so nobody could ask for it.") for row in empty]
    return nameless + target.refusals(kind, batch)


def _present_and_lost(
    target: Store, kind: Kind, kept: pa.RecordBatch
) -> tuple[dict[str, pa.BooleanArray], dict[str, pa.BooleanArray]]:
    """Which rows of a transformed batch had a property, and which lose it to the target or have lost it on the way."""
    had, lost = losses.present(kind, kept), target.losses(kind, kept)
    # Whoever parses a document, as most transforms do, keeps the last of repeated keys, as every target may.
    twice = losses.named({"duplicate_keys": losses.with_trait(kept.column(SOURCE_TRAITS), Trait.DUPLICATE_KEYS)})
    gone = {name: pc.and_not(mask, had.get(name, losses.none(kept))) for name, mask in twice.items()}
    return had | twice, losses.either(lost, losses.named(gone))


def _without_refused(target: Store, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
    refusals = _refusals(target, kind, batch)
    if not refusals:
        return batch
    for refusal in {refusal.row: refusal for refusal in reversed(refusals)}.values():  # the first of each row
        on_reject(rejected(kind, batch, refusal.row, PHASE, refusal.reason, refusal.detail))
    return without_rows(batch, {refusal.row for refusal in refusals})
