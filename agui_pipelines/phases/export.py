"""Export: read each key range once, digest every document, and seal what was read as a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Final

import pyarrow as pa

from agui_pipelines import losses
from agui_pipelines.canonical import UNUSABLE, Trait
from agui_pipelines.digests import digest_values
from agui_pipelines.keyspace import held_by
from agui_pipelines.ledger import Entry
from agui_pipelines.phases import in_place, pacing
from agui_pipelines.phases.belonging import Belonging
from agui_pipelines.phases.listed import Listed
from agui_pipelines.phases.plan import Plan, is_open
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import OnReject, Reader, Store
from agui_pipelines.progress import Meter
from agui_pipelines.records import Digester, Kind, Reject, digested, gathered, rejected
from agui_pipelines.staging import Manifest, SnapshotReader, SnapshotWriter
from agui_pipelines.staging.flow import Behind, ahead

PHASE: Final = "export"
GATHER_ROWS: Final = 2_000
GATHER_BYTES: Final = 4 * 1024 * 1024
"""A source reads in batches of a few hundred; handing those from thread to thread would cost more than their digests."""


@dataclass(frozen=True, slots=True)
class RangeReport:
    """What a phase made of one key range: how many records of each kind, document bytes, and what could not go on."""

    range: str
    snapshot_id: str
    records: dict[str, int]
    bytes: int
    rejects: int = 0
    vanished: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    resumed: bool = False
    """Whether it had been finished before and was not done again."""


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What export or transform made of several key ranges."""

    plan_id: str
    ranges: tuple[RangeReport, ...]
    seconds: float

    @property
    def records(self) -> int:
        return sum(sum(r.records.values()) for r in self.ranges)

    @property
    def bytes(self) -> int:
        return sum(r.bytes for r in self.ranges)

    @property
    def rejects(self) -> int:
        return sum(r.rejects for r in self.ranges)

    @property
    def vanished(self) -> int:
        return sum(r.vanished for r in self.ranges)

    @property
    def rate(self) -> float:
        """Records per second, of what was not resumed."""
        done = sum(sum(r.records.values()) for r in self.ranges if not r.resumed)
        return done / self.seconds if self.seconds else 0.0


def export(session: Session, plan: Plan, ranges: Sequence[str]) -> SnapshotReport:
    """Export the named key ranges. While the plan is open, a range that is finished and without rejects is not repeated.

    All ranges that are read by one call are read as they were at one moment, if the source is `ports.Consistent`. That is
    not the moment of the plan: what was added since then is read too, what is gone counts as vanished. Raises
    `StagingError` for a catalogue that is damaged.
    """
    plan.verify(session.workspace)
    meter = session.meter(PHASE, total=sum(plan.range(name).keys for name in ranges))
    stamped_at = plan.stamped_at or plan.created_at
    with session.digester(meter.total) as digester, session.source_at_once(plan.listing_id, stamped_at) as opened:
        is_rewritten = in_place.is_rewritten(session, plan.plan_id)

        def work(name: str) -> Manifest:
            if is_rewritten:
                raise in_place.refuse_export(name)
            return retried(session, meter, partial(_export_range, session, opened, plan, meter, digester, name))

        again = None if is_rewritten else partial(_rejected_later, session, plan)
        reports = in_ranges(
            session,
            plan,
            ranges,
            PHASE,
            meter,
            work,
            basis=lambda _: plan.listing,
            again=again,
            workers=pacing.workers(session),
        )
    return SnapshotReport(plan.plan_id, reports, session.conclude(meter, plan.plan_id).seconds)


def _rejected_later(session: Session, plan: Plan, name: str) -> bool:
    """Whether something of the range was set aside when it was staged, which may have been mended at the source."""
    entry = session.ledger.last("transform", plan_id=plan.plan_id, unit=name)
    return entry is not None and bool(entry.outputs["rejects"])


def in_ranges(
    session: Session,
    plan: Plan,
    ranges: Sequence[str],
    phase: str,
    meter: Meter,
    work: Callable[[str], Manifest],
    basis: Callable[[str], str] = lambda _: "",
    again: Callable[[str], bool] | None = lambda _: False,
    workers: int | None = None,
) -> tuple[RangeReport, ...]:
    """Make a snapshot of each range in parallel, recording each in the ledger, and pass over those that are finished.

    A finished range is done again if `again` says so, or if it had rejects: its source may have been mended since. None is
    if there is no `again`.
    """
    reports: dict[str, RangeReport] = {}
    resumable = is_open(session.ledger, plan.plan_id)

    def one(name: str) -> None:
        made_from = basis(name)
        entry = session.ledger.last(phase, plan_id=plan.plan_id, unit=name, basis=made_from) if resumable else None
        if entry is not None and (again is None or not (entry.outputs["rejects"] or again(name))):
            reports[name] = RangeReport(**{**entry.outputs, "resumed": True})
            meter.add(sum(reports[name].records.values()), reports[name].bytes)
            return
        manifest = work(name)
        reports[name] = report = range_report(manifest)
        session.ledger.record(Entry(phase, plan.plan_id, name, made_from, outputs=asdict(report)))

    session.in_parallel(one, ranges, workers=workers)
    return tuple(reports[name] for name in ranges)


def range_report(manifest: Manifest) -> RangeReport:
    return RangeReport(
        range=manifest.range,
        snapshot_id=manifest.snapshot_id,
        records={str(kind): manifest.summary(kind).records for kind in Kind if manifest.summary(kind).records},
        bytes=manifest.document_bytes,
        rejects=manifest.rejects,
        vanished=manifest.vanished,
        losses=losses.lost(manifest.fates),
    )


def exported(session: Session, plan: Plan, range_: str) -> SnapshotReader | None:
    """The newest exported snapshot of a range, or None if it has not been exported."""
    entry = session.ledger.last(PHASE, plan_id=plan.plan_id, unit=range_, basis=plan.listing)
    return SnapshotReader(session.workspace, entry.outputs["snapshot_id"]) if entry else None


def _export_range(
    session: Session,
    opened: Callable[[], AbstractContextManager[Reader]],
    plan: Plan,
    meter: Meter,
    digester: Digester,
    name: str,
) -> Manifest:
    with (
        opened() as source,
        plan.span(session.workspace, name) as span,
        SnapshotWriter(session.workspace, stage="exported", plan_id=plan.plan_id, range_=name) as writer,
        meter.provisional() as count,
    ):
        listed = Listed(span) if isinstance(source, Store) else None
        held = span.key_set() if plan.lists_some else None

        def keep(found: Reject) -> None:
            writer.reject(found)
            if listed is not None:
                listed.meet_reject(found)

        belonging = None if held is None else Belonging([span], held, keep)
        reject = belonging or keep
        states, asked = 0, pacing.span_in_portions(session, span)
        for kind in source.kinds:
            with Behind(partial(writer.write, kind)) as sink:
                paced = pacing.paced(session, source.read(kind, asked, reject))
                rows = pacing.portion(session, GATHER_ROWS)
                for read in ahead(gathered(paced, rows, GATHER_BYTES)):
                    session.require_going()
                    batch = read if held is None else held_by(held, read)
                    if listed is not None:
                        listed.meet(batch)
                    for usable in digested_or_rejected(kind, batch, reject, source, digester):
                        sink.put(usable)
                        states += usable.num_rows if kind is Kind.STATE else 0
                    count(batch.num_rows, batch.nbytes)
        if belonging is not None:
            belonging.settle()
        if listed is not None:
            return writer.seal(vanished=listed.vanished)
        # Where every key is a state, what is neither a state nor a reject was gone when it was read.
        vanished = max(0, len(span) - states - writer.rejects) if source.kinds == (Kind.STATE,) else 0
        return writer.seal(vanished=vanished)


def digested_or_rejected(
    kind: Kind,
    batch: pa.RecordBatch,
    on_reject: OnReject,
    source: Reader | Store | None = None,
    digester: Digester = digest_values,
) -> Iterator[pa.RecordBatch]:
    """The digested batch of usable rows; others are given another form if the source knows one, or rejected."""
    usable, unusable = digested(kind, batch, digester)
    if usable.num_rows:
        yield usable
    if not unusable:
        return
    salvage = getattr(source, "salvage", None)
    rows, data = [], []
    for row, traits in unusable:
        document = batch.column("data")[row].as_py()
        other = salvage(document) if salvage is not None else None
        if other is None:
            on_reject(unusable_reject(kind, batch, row, traits))
        else:
            rows.append(row)
            data.append(other)
    if rows:
        index = batch.schema.get_field_index("data")
        again = batch.take(pa.array(rows, pa.int64())).set_column(
            index, batch.schema.field(index), pa.array(data, pa.binary())
        )
        yield from digested_or_rejected(kind, again, on_reject)


def unusable_reject(kind: Kind, batch: pa.RecordBatch, row: int, traits: int, phase: str = PHASE) -> Reject:
    """A row whose document has traits that no record may have, as a reject."""
    reason, detail = next(text for trait, text in _REASONS.items() if traits & trait)
    return rejected(kind, batch, row, phase, reason, detail)


_REASONS: Final = {
    Trait.INVALID: ("undecodable", "The document is not JSON in UTF-8."),
    Trait.TOO_DEEP: ("too_deep", "The document is nested deeper than 254 levels, so it could not be verified."),
    Trait.NOT_OBJECT: ("not_an_object", "The document is JSON, but not an object."),
}
assert UNUSABLE == Trait.INVALID | Trait.TOO_DEEP | Trait.NOT_OBJECT  # noqa: S101 - every unusable trait has a reason
