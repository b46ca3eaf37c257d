"""Import: write staged snapshots to the target, range by range, each batch idempotent, each recorded once it is durable.

Ranges and segments are recorded in the ledger. How far a range is within a segment stands in a file of its own,
``progress/<snapshot id>.json``, which is replaced after every batch and removed with the range's entry: a run that was
killed does one batch of each range that was worked on again, at most.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Final

import orjson
from xxhash import xxh3_128

from agui_pipelines.errors import LockLostError, RefusedError, StagingError
from agui_pipelines.ledger import Entry, Ledger
from agui_pipelines.phases import in_place, pacing
from agui_pipelines.phases.admission import require_importable
from agui_pipelines.phases.backup import Backup, ensure, key_ranges, of_plan
from agui_pipelines.phases.cursor import require_newest
from agui_pipelines.phases.expect import require_expected
from agui_pipelines.phases.export import exported
from agui_pipelines.phases.plan import Plan, is_open
from agui_pipelines.phases.readiness import require_ready
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import BEGUN, LOCK_LOST, is_half_written, not_voided, voids
from agui_pipelines.phases.transform import staged, staged_ranges
from agui_pipelines.ports import BATCH_BYTES, Store, Written
from agui_pipelines.progress import Meter
from agui_pipelines.records import Kind
from agui_pipelines.staging import Segment, SnapshotReader

PHASE: Final = "import"

_SEGMENT_PHASE: Final = "import_segment"
_ADMITTED: Final = "admitted"


@dataclass(frozen=True, slots=True)
class RangeImport:
    """What an import did in one key range.

    Where a connection broke, what had been committed unheard counts as unchanged, since it was there when it was sent again.
    """

    range: str
    snapshot_id: str
    records: int
    bytes: int
    inserted: int
    updated: int
    unchanged: int
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did in several key ranges."""

    plan_id: str
    ranges: tuple[RangeImport, ...]
    seconds: float

    @property
    def written(self) -> Written:
        return Written(*(sum(getattr(r, name) for r in self.ranges) for name in ("inserted", "updated", "unchanged")))

    @property
    def records(self) -> int:
        return sum(r.records for r in self.ranges)

    @property
    def bytes(self) -> int:
        return sum(r.bytes for r in self.ranges)

    @property
    def rate(self) -> float:
        """Records per second, of what was not resumed."""
        done = sum(r.records for r in self.ranges if not r.resumed)
        return done / self.seconds if self.seconds else 0.0


def import_(session: Session, plan: Plan, ranges: Sequence[str]) -> ImportReport:
    """Import the named key ranges, which must have been staged.

    What the target holds under their ids is backed up first, unless `backup.before_import` is false. While the plan is open,
    what was imported is not imported again if all of its key ranges are asked for; some of them are. Raises
    `RejectLimitError`, `LossError`, `CollisionError`, `LockedError` or `BackupError`, and `StagingError` for a damaged segment,
    before anything is written.
    """
    with session.exclusive():
        try:
            return _import(session, plan, ranges)
        except LockLostError:
            session.ledger.record(Entry(LOCK_LOST, plan.plan_id, outputs={"run_id": session.run_id}))
            raise


def _import(session: Session, plan: Plan, ranges: Sequence[str]) -> ImportReport:
    require_newest(session, plan, why="It would take the target back, and bring back what is deleted.")
    if session.migration.in_place and not in_place.is_begun(session, plan.plan_id):
        exported_ranges = [exported(session, plan, each.name) for each in plan.ranges]
        require_ready(session, exported_ranges, staged_ranges(session, plan).values())
    if plan.purpose == "migrate" and len(ranges) < len(plan.ranges) and is_half_written(session.ledger):
        raise RefusedError(
            "A sync was ended while it wrote.",
            why="What it has written of other key ranges would not be known any more.",
            remedy="Sync once more, which finishes it: agui-migrate sync. Or run the whole migration again.",
        )
    back_up(session, plan, ranges)
    snapshots = {name: _require_staged(session, plan, name) for name in ranges}
    for snapshot in snapshots.values():
        snapshot.verify()
    session.ledger.record(Entry(BEGUN, plan.plan_id, outputs={"run_id": session.run_id, "ranges": list(ranges)}))
    meter = session.meter(PHASE, total=sum(s.manifest.records for s in snapshots.values()))
    with session.target() as target:
        retried(session, meter, target.prepare)
    # Who chooses some of them may want what was imported before to be imported again, to mend it.
    resumable = is_open(session.ledger, plan.plan_id) and len(snapshots) == len(plan.ranges)
    reports: dict[str, RangeImport] = {}
    lock = threading.Lock()

    def one(name: str) -> None:
        report = _import_range(session, plan, snapshots[name], meter, resumable=resumable)
        with lock:
            reports[name] = report

    session.in_parallel(one, ranges, workers=pacing.workers(session))
    progress = session.conclude(meter, plan.plan_id)
    return ImportReport(plan.plan_id, tuple(reports[name] for name in ranges), progress.seconds)


def back_up(
    session: Session, plan: Plan, ranges: Sequence[str], others: Iterable[Sequence[bytes]] = ()
) -> list[Backup]:
    """Back up what an import of the named key ranges is going to replace; the backups that are of them.

    `others`: as for `backup.ensure`. The lock of the target must be held until the import has begun, or it is done again.

    Raises what an import raises before anything is written.
    """
    if plan.purpose == "dry_run":
        raise RefusedError(
            f"{plan.plan_id} is the plan of a dry run.",
            why="Nothing of it is to be written.",
            remedy="Run the migration itself, or launch it with dry_run: false, from its plan on.",
        )
    if plan.purpose == "migrate":
        pacing.require_carried_out(session.migration)
    snapshots = [_require_staged(session, plan, name) for name in ranges]
    _require_importable_once(session, plan)
    require_expected(session, plan)
    if session.migration.backup.before_import:
        ensure(session, plan, snapshots, others)
    return [backup for backup in of_plan(session, plan.plan_id) if key_ranges(session, backup).intersection(ranges)]


def _require_importable_once(session: Session, plan: Plan) -> None:
    """Within a Dagster run, which backs up and imports in two steps, the same snapshots are looked at once: they are sorted."""
    readers = list(staged_ranges(session, plan).values())
    migration = session.migration
    decisive = [
        sorted(reader.manifest.snapshot_id for reader in readers),
        sorted(migration.accept_losses),
        migration.limits.max_rejects,
    ]
    basis = xxh3_128(orjson.dumps(decisive)).hexdigest()
    known = session.ledger.last(_ADMITTED, plan_id=plan.plan_id, basis=basis) if session.run_id else None
    if known is not None and known.outputs["run_id"] == session.run_id:
        return
    require_importable(session, readers)
    if session.run_id:
        session.ledger.record(Entry(_ADMITTED, plan.plan_id, basis=basis, outputs={"run_id": session.run_id}))


def imported(session: Session, plan: Plan, snapshot: SnapshotReader) -> Entry | None:
    """The ledger's entry that a staged snapshot has been imported, and not been taken back since; None if there is none."""
    manifest = snapshot.manifest
    unit, basis = manifest.range, manifest.snapshot_id
    return _newest(session.ledger, (PHASE, plan.plan_id, unit, basis))


def pending_ranges(session: Session, plan: Plan) -> list[str]:
    """The key ranges of a plan that are still to be imported (or, of one that only proves, staged) before it is validated."""
    snapshots, proves = staged_ranges(session, plan), plan.purpose == "verify"
    return [
        r.name
        for r in plan.ranges
        if r.name not in snapshots or not (proves or imported(session, plan, snapshots[r.name]))
    ]


def _newest(ledger: Ledger, names: tuple[str, str, str, str]) -> Entry | None:
    """The newest entry of a phase, plan, unit and basis, unless it was voided since."""
    found = not_voided(ledger.entries(), lambda each: (each.phase, each.plan_id, each.unit, each.basis) == names)
    return found[-1] if found else None


def _require_staged(session: Session, plan: Plan, name: str) -> SnapshotReader:
    reader = staged(session, plan, name)
    if reader is None:
        raise StagingError(
            f"The key range {name} has not been staged under the plan {plan.plan_id}.",
            why="There is nothing to import.",
            remedy="Materialize its staged snapshot first.",
        )
    return reader


def _import_range(
    session: Session, plan: Plan, snapshot: SnapshotReader, meter: Meter, *, resumable: bool
) -> RangeImport:
    manifest = snapshot.manifest
    basis = manifest.snapshot_id
    done = imported(session, plan, snapshot) if resumable else None
    if done is not None:
        meter.add(manifest.records, manifest.document_bytes)
        return RangeImport(**{**done.outputs, "resumed": True})
    written = Written()
    with session.target() as target:
        for kind in Kind:
            for segment in snapshot.segments(kind):
                written += _import_segment(session, plan, snapshot, segment, target, meter, resumable=resumable)
    report = RangeImport(
        manifest.range,
        manifest.snapshot_id,
        manifest.records,
        manifest.document_bytes,
        written.inserted,
        written.updated,
        written.unchanged,
    )
    session.ledger.record(Entry(PHASE, plan.plan_id, manifest.range, basis, outputs=asdict(report)))
    session.workspace.remove(_progress_file(snapshot))
    return report


def _import_segment(
    session: Session,
    plan: Plan,
    snapshot: SnapshotReader,
    segment: Segment,
    target: Store,
    meter: Meter,
    *,
    resumable: bool,
) -> Written:
    unit, basis = f"{snapshot.manifest.range}/{segment.path}", snapshot.manifest.snapshot_id
    ledger = session.ledger
    done = _newest(ledger, (_SEGMENT_PHASE, plan.plan_id, unit, basis)) if resumable else None
    if done is not None:
        meter.add(segment.records, segment.document_bytes)
        return Written(**done.outputs)
    begun = _begun(session, plan, snapshot, segment, resumable=resumable)
    records, written = 0, begun.written
    for batch in snapshot.portions(segment, session.migration.batch_size, BATCH_BYTES):
        session.require_going()
        rest = batch.slice(max(0, begun.records - records))  # another batch_size than before may cut anywhere
        records += batch.num_rows
        if rest.num_rows < batch.num_rows:  # they were written before
            meter.add(batch.num_rows - rest.num_rows, batch.nbytes - rest.nbytes)
        for portion in pacing.paced(session, [rest]):
            written += retried(session, meter, partial(target.write, Kind(segment.kind), portion))
            meter.add(portion.num_rows, portion.nbytes)
        if rest.num_rows and records < segment.records:  # otherwise an entry in the ledger follows at once
            target.flush()
            reached = asdict(replace(begun, records=records, written=written))
            session.workspace.write(_progress_file(snapshot), orjson.dumps(reached))
    target.flush()
    if len(snapshot.manifest.segments) > 1:  # otherwise the range's own entry says the same
        ledger.record(Entry(_SEGMENT_PHASE, plan.plan_id, unit, basis, outputs=asdict(written)))
    return written


@dataclass(frozen=True, slots=True)
class _Progress:
    """How many of a segment's first records are durable in the target, and what writing them did."""

    segment: str
    voided: str
    """When it last was that nothing imported before counted any more (see `standing.voids`); empty if it never was."""
    records: int = 0
    written: Written = field(default_factory=Written)


def _progress_file(snapshot: SnapshotReader) -> str:
    return f"progress/{snapshot.manifest.snapshot_id}.json"


def _begun(session: Session, plan: Plan, snapshot: SnapshotReader, segment: Segment, *, resumable: bool) -> _Progress:
    """How far an earlier run came within a segment. Raises `StagingError` if that cannot be read."""
    file, range_ = _progress_file(snapshot), snapshot.manifest.range
    voiding = max((each.at for each in session.ledger.entries() if voids(each, plan.plan_id, range_)), default="")
    nothing = _Progress(segment.path, voiding)
    if not resumable or not session.workspace.has(file):
        return nothing
    try:
        values = orjson.loads(session.workspace.read(file))
        found = _Progress(**{**values, "written": Written(**values["written"])})
    except (ValueError, TypeError, KeyError) as error:
        raise StagingError(
            f"The file {session.workspace.path(file)} is damaged: {error}.",
            why="It says how much of a segment has been imported.",
            remedy="Remove it and run again: what has been imported is compared then, and left as it is.",
        ) from error
    same = (found.segment, found.voided) == (nothing.segment, nothing.voided)
    return found if same else nothing
