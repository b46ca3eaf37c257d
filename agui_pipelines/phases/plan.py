"""Plan: list the source's keys, sort them on disk, and cut them into ranges of equal weight.

A plan is immutable. It is *open* until a validation (or, for a dry run, a preview) has been recorded for it; a run that
finds an open plan of the same purpose and of an unchanged migration file resumes it.

Keys come and go between planning and running. So as long as nothing has been exported under an open plan, the source's keys
are listed again when it is taken up: another *listing* of the same plan, with a catalogue and ranges of its own. What was
exported belongs to one listing, and is never taken for another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from agui_pipelines import losses
from agui_pipelines.errors import RefusedError, SamePlaceError, StagingError, StoreError
from agui_pipelines.expectations.suites import Stage, suites
from agui_pipelines.keyspace import KeyRange, Span, cut, ranges_as_text, ranges_of_text, write_catalogue
from agui_pipelines.ledger import Entry, Ledger
from agui_pipelines.phases import in_place
from agui_pipelines.phases.marks import require_whole
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.timeline import document_name
from agui_pipelines.ports import Reader, Store
from agui_pipelines.sources.spooled import Spooled
from agui_pipelines.staging.spool import remove_spool, spools
from agui_pipelines.staging.workspace import Workspace, new_id
from agui_pipelines.state_manager import StateManager
from agui_pipelines.transforms import chain

PHASE: Final = "plan"
_CLOSING: Final = ("validate", "preview", "sync")

Purpose = Literal["migrate", "dry_run", "verify"]
"""What is planned: a migration, a trial that writes nothing, or a proof that both ends are equal already."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is going to move."""

    plan_id: str
    purpose: Purpose | Literal["sync"]
    fingerprint: str
    """Of the migration file; see `Migration.fingerprint`."""
    source: str
    target: str
    source_server: str
    target_server: str
    context_id: str
    """The migration's context in the sense of `StateManager.create_context`."""
    keys: int
    ranges: tuple[KeyRange, ...]
    route: dict[str, str] = field(default_factory=dict)
    """What becomes of each property that a record may have on this route; see `losses.route`."""
    catalogue_checksum: str = ""
    """xxh3_128 of the catalogue's file, 32 hex digits; empty for a plan of a version that did not make one."""
    listing: str = ""
    """Which listing of the source's keys this is; empty for the first one of the plan."""
    created_at: str = ""
    """When this listing was made, RFC 3339."""
    stamped_at: str = ""
    """What the source's documents name as the moment of their migration, where they name one; empty for `created_at`."""
    source_identity: str = ""
    """Which server the source was, by its own word (`Place.server`); empty for one that has none."""
    resumed: bool = False
    """Whether this listing was made by an earlier run, so that what has been done under it is not done again."""

    @property
    def listing_id(self) -> str:
        """Names the listing's catalogue, and the spool of a source that can only be scanned."""
        return self.listing or self.plan_id

    @property
    def catalogue(self) -> str:
        return f"catalogues/{self.listing_id}.parquet"

    @property
    def lists_some(self) -> bool:
        """Whether its catalogue lists some of the source's keys only, and nothing else is to be read."""
        return self.purpose == "sync"

    def range(self, name: str) -> KeyRange:
        """Raises `RefusedError` if the plan has no such range."""
        for key_range in self.ranges:
            if key_range.name == name:
                return key_range
        raise RefusedError(
            f"The plan {self.plan_id} has no key range '{name}': it has {len(self.ranges)}.",
            remedy="Make a new plan, or start the ranges that it has.",
        )

    def verify(self, workspace: Workspace) -> None:
        """Read the catalogue and compare its checksum. Raises `StagingError` if it is missing or damaged."""
        if self.catalogue_checksum not in ("", workspace.checksum(self.catalogue)):
            raise StagingError(
                f"The catalogue of the plan {self.plan_id} is damaged: its checksum is another one.",
                why="It lists the keys that are read.",
                remedy="Restore the file, or start over with --fresh.",
            )

    @contextmanager
    def span(self, workspace: Workspace, name: str) -> Iterator[Span]:
        """One range with its keys. Use it in one thread."""
        with workspace.reading(self.catalogue) as file:
            yield Span(self.range(name), pq.ParquetFile(file), sparse=self.lists_some)


def plan(session: Session, *, purpose: Purpose = "migrate", fresh: bool = False, stamped_at: str = "") -> Plan:
    """Resume the open plan, or make a new one. `fresh` always makes a new one, which `stamped_at` is for.

    An open plan under which nothing has been exported gets another listing, unless its source is known not to have changed.
    Raises `SpecError` for a transform or an expectation suite that cannot be used, `ConnectionFailedError` or `StoreError` if
    either end is not usable, `SamePlaceError` if both are one place.
    """
    with session.source() as source, session.target() as target:
        source_server, target_server = require_usable(session, source, target)
        existing = None if fresh else _resumable(session, purpose)
        if existing and not _of_these(existing, source, target):
            existing = None
        begun = existing is not None and is_begun(session.ledger, existing.plan_id)
        if (
            existing
            and _still_serves(session, source, existing)
            and (begun or _is_as_listed(session, source, existing))
        ):
            return existing
        if session.migration.in_place:
            in_place.require_not_begun(session)
        if begun:  # what was exported of a spool that serves no longer belongs to no other
            existing = None
        plan_id = existing.plan_id if existing else new_id("plan")
        listing = new_id("listing") if existing else ""
        keys, ranges = _catalogue(session, source, plan_id, listing or plan_id)
        manager = StateManager(target)
        context_id = manager.create_context("migration", {"migration": True, "source": session.migration.source.type})
        made = Plan(
            plan_id=plan_id,
            purpose=purpose,
            fingerprint=session.migration.fingerprint,
            source=source.describe(),
            target=target.describe(),
            source_server=source_server,
            source_identity=source.place().server,
            target_server=target_server,
            context_id=context_id,
            keys=keys,
            ranges=tuple(ranges),
            route=route_of(session, target),
            catalogue_checksum=session.workspace.checksum(f"catalogues/{listing or plan_id}.parquet"),
            listing=listing,
            stamped_at=stamped_at,
        )
    recorded = plan_of(session.ledger.record(Entry(PHASE, plan_id, outputs=outputs_of(made))))
    _remove_old_spools(session)
    return recorded


def require_usable(session: Session, source: Reader, target: Store) -> tuple[str, str]:
    """See that the migration file and both ends can be used at all; names and versions of the two servers. Raises as `plan`."""
    migration = session.migration
    chain(migration.transforms, migration.folder)  # what is wrong is told before anything is read
    for stage in Stage:
        suites(stage, migration.expectations, migration.folder)
    servers = source.ping(), target.ping()
    target.check()
    _require_source(source)
    require_other_place(session, source, target)
    require_whole(session, source, target)
    return servers


def resumable(session: Session, purpose: Purpose = "migrate") -> Plan | None:
    """The open plan of a purpose that `plan` would resume, as far as that is told without connecting."""
    return _resumable(session, purpose)


def current(session: Session, purpose: Purpose = "migrate") -> Plan:
    """The newest plan of a purpose. Raises `StagingError` if there is none or the migration file has changed since."""
    entry = _newest(session, purpose)
    if entry is None:
        raise StagingError(
            f"Nothing has been planned for '{session.migration.name}' yet.",
            why="Key ranges exist only once the source's keys have been listed.",
            remedy="Run the migration, or materialize 'migration_plan' first.",
        )
    newest = plan_of(entry)
    with session.source() as source, session.target() as target:  # neither connects to be described
        unchanged = newest.fingerprint == session.migration.fingerprint and _of_these(newest, source, target)
    if not unchanged:
        raise StagingError(
            f"The migration file, or a variable in it, has changed since the plan {newest.plan_id} was made.",
            why="What was exported by that plan may not be what the file now asks for.",
            remedy="Run the whole migration again, which makes a new plan.",
        )
    return newest


def is_open(ledger: Ledger, plan_id: str) -> bool:
    """Whether nothing has concluded the plan yet, so that what is finished need not be done again."""
    return all(ledger.last(phase, plan_id=plan_id) is None for phase in _CLOSING)


def is_begun(ledger: Ledger, plan_id: str) -> bool:
    """Whether something has been exported under a plan, so that its keys are what they are."""
    return ledger.last("export", plan_id=plan_id) is not None


def open_plan(session: Session, purpose: Purpose = "migrate") -> Plan | None:
    """The plan that `plan` would take up, as far as that can be told without connecting; None if it would make a new one."""
    found = _resumable(session, purpose)
    if found is None:
        return None
    with session.source() as source, session.target() as target:
        return found if _of_these(found, source, target) else None


def _is_as_listed(session: Session, source: Reader, found: Plan) -> bool:
    """Whether the source need not be listed again, although nothing has been exported yet.

    One that can only be scanned has been read as a whole for it. If that was by a run that ended early, it is not done again;
    a plan that was made for its document may be carried out long after.
    """
    if lists_again_only_if_changed(source):
        return True
    return isinstance(source, Spooled) and not session.workspace.has(document_name(found.plan_id))


def lists_again_only_if_changed(source: Reader) -> bool:
    """Whether a source can tell, by a fingerprint, that it is what was scanned, so that it need not be scanned again."""
    return isinstance(source, Spooled) and source.tells_changes


def _resumable(session: Session, purpose: Purpose) -> Plan | None:
    entry = _newest(session, purpose)
    if entry is None or not is_open(session.ledger, entry.plan_id):
        return None
    found = plan_of(entry, resumed=True)
    same = (
        found.fingerprint == session.migration.fingerprint
        and len(found.ranges) == session.migration.ranges
        and session.workspace.has(found.catalogue)
    )
    return found if same else None


def _of_these(found: Plan, source: Reader, target: Store) -> bool:
    """The file may name its ends by variables, which may have changed while the text has not."""
    return found.source == source.describe() and found.target == target.describe()


def _still_serves(session: Session, source: Reader, found: Plan) -> bool:
    return not isinstance(source, Spooled) or source.serves(found.listing_id, session.migration.limits.max_rejects)


def _newest(session: Session, purpose: Purpose) -> Entry | None:
    entries = session.ledger.entries(phase=PHASE)
    return next((entry for entry in reversed(entries) if entry.outputs["purpose"] == purpose), None)


def _catalogue(session: Session, source: Reader, plan_id: str, listing_id: str) -> tuple[int, Sequence[KeyRange]]:
    """A source that can only be scanned is spooled first, and that is what takes the time."""
    meter = session.meter(PHASE)
    if isinstance(source, Spooled):
        source.fill(listing_id, meter.add)

    name = f"catalogues/{listing_id}.parquet"

    def listed() -> None:
        with meter.provisional() as count, session.workspace.writing(name) as file:
            write_catalogue(counted(count), file)

    def counted(count: Callable[[int, int], None]) -> Iterator[pa.RecordBatch]:
        for batch in source.keys():  # noqa: SIM118 - a reader is no dict
            count(0 if isinstance(source, Spooled) else batch.num_rows, 0)
            yield batch

    retried(session, meter, listed)
    with session.workspace.reading(name) as file:
        ranges = cut(file, session.migration.ranges)
    session.conclude(meter, plan_id)
    return sum(r.keys for r in ranges), ranges


def listing_id(entry: Entry) -> str:
    """Of a plan's ledger entry, what `Plan.listing_id` says."""
    return str(entry.outputs.get("listing") or entry.plan_id)


def route_of(session: Session, target: Store) -> dict[str, str]:
    """What becomes of each property that a record may have; see `Plan.route`."""
    verdicts = losses.route(target.losses, session.migration.carried)
    return verdicts | ({"history": "lost"} if session.migration.history_limit else {})


def _remove_old_spools(session: Session) -> None:
    """Of each purpose, the newest plan keeps its spool. One that no plan names may be about to get its plan: for a day."""
    planned = {listing_id(entry) for entry in session.ledger.entries(phase=PHASE)}
    kept = {listing_id(entry) for purpose in get_args(Purpose) if (entry := _newest(session, purpose))}
    yesterday = f"{datetime.now(UTC) - timedelta(days=1):%Y%m%dT%H%M%S}"
    for spool_id in spools(session.workspace):
        if spool_id not in kept and (spool_id in planned or spool_id.partition("-")[2] < yesterday):
            remove_spool(session.workspace, spool_id)


def _require_source(source: Reader) -> None:
    if not source.exists():
        raise StoreError(
            f"There is no store to read from at {source.describe()}.",
            why="Migrating nothing would look like a success.",
            remedy="Look at the source's folder or schema in the migration file.",
        )


def require_other_place(session: Session, source: Reader, target: Store) -> None:
    """Raises `SamePlaceError`, and for a migration in place if they are two."""
    if session.migration.in_place:
        in_place.require_one_place(source, target)
    elif source.place().overlaps(target.place()):
        raise SamePlaceError(
            f"Source and target are the same place: {target.describe()}.",
            why="What is written would be read again, and the source would be overwritten.",
            remedy="Give the target another prefix, database, schema or folder; or, to change an AG-UI store where it is, set "
            "in_place: true.",
        )


def outputs_of(made: Plan) -> dict[str, Any]:
    """A plan as the ledger has it."""
    return asdict(made) | {"ranges": ranges_as_text(made.ranges)}


def plan_of(entry: Entry, *, resumed: bool = False) -> Plan:
    """The inverse of `outputs_of`."""
    values = entry.outputs | {"ranges": ranges_of_text(entry.outputs["ranges"])}
    return Plan(**{**values, "created_at": entry.at, "resumed": resumed})
