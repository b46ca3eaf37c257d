"""What assets get handed: one migration, ready to be worked on. Nothing but plain engine objects leaves this module.

In the UI the resource is configured by the name of a migration file. The command line passes a `MigrationRun` of its
own, which also listens to the progress.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import dagster as dg
from pydantic import Field

from agui_pipelines import spec
from agui_pipelines.errors import LockLostError, MigrationError, RefusedError, UsageError
from agui_pipelines.keyspace import range_names
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.notify import notified
from agui_pipelines.phases.pacing import require_carried_out
from agui_pipelines.phases.plan import Plan, current
from agui_pipelines.phases.preflight import Run
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.standing import LOCK_LOST, standing
from agui_pipelines.phases.timeline import Seconds
from agui_pipelines.progress import Listener, Progress, silent
from agui_pipelines.run_tags import tag_own_process

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext

MIGRATE: Final = "migrate"
"""The job that runs the whole migration."""
DRY_RUN: Final = "dry_run"
"""The job that does all of it but write."""
PLAN: Final = "assess_and_plan"
"""The job that makes a plan with its document."""
GRAPH: Final = "__ASSET_JOB"
"""What Dagster calls the runs that are started in its graph of assets, and their backfills."""
REPORTS_ON: Final = "agui/reports_on"
"""Tag of a step that is no asset: the asset on which its progress is shown."""

RANGED: Final = frozenset({"exported_snapshot", "staged_snapshot", "target_backup", "target_states"})
"""The assets that are made key range by key range."""
_RANGE_TAGS: Final = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_ONE_RANGE_TAG: Final = "dagster/partition"

_WHOLE: Final = (MIGRATE, DRY_RUN)
"""Jobs that plan the migration, and so have to do with all key ranges."""
_WITHOUT_DRY_RUN: Final = (PLAN, "sync", "rollback", "validate", "verify_sample")
"""Jobs that cannot be carried out as a dry run."""

PHASES: Final = {
    "source_assessment": "assess",
    "migration_plan": "plan",
    "exported_snapshot": "export",
    "staged_snapshot": "transform",
    "target_backup": "backup",
    "target_states": "import",
    "import_preview": "preview",
    "validation_report": "validate",
    "target_rollback": "rollback",
}
"""The phases that steps carry out, where they are not called the same."""

OBSERVE_SECONDS: Final = 5.0
"""Each observation costs the event log about 10 ms, so there is one every few seconds and never one a batch."""


@dataclass(frozen=True)
class MigrationRun:
    """One migration within one Dagster run."""

    migration: spec.Migration
    dry_run: bool = False
    fresh: bool = False
    sample: int = 0
    """Ids that a validation compares, chosen at random by `seed`; all unless given."""
    seed: int | None = None
    propose: bool = False
    """Whether the plan is to have a document."""
    rehearse: bool = True
    """Whether the document's timeline is to be measured."""
    whole_of: tuple[str, str] | None = None
    """The first and the last of the chosen key ranges, if the run has to do with all of them."""
    start_up: Seconds | None = None
    """What a run takes before its first phase and around its steps, if whoever started this one knows it."""
    listener: Listener = silent

    def cut_into(self, ranges: int) -> MigrationRun:
        """The same, with as many key ranges as there are partitions, which are fixed when the code location is loaded."""
        names = range_names(ranges)
        if self.whole_of is not None and self.whole_of != (names[0], names[-1]):
            with reported():
                raise _not_whole(self.whole_of, names)
        return replace(self, migration=self.migration.model_copy(update={"ranges": ranges}))

    @property
    def purpose(self) -> Run:
        return "dry_run" if self.dry_run else "migrate"

    @contextmanager
    def session(self, context: Context) -> Iterator[Session]:
        """Open the migration for one phase; what goes wrong on purpose becomes a `Failure`."""
        with reported():
            observer = _Observer(context, self.listener)
            session = Session.open(self.migration, observer.hear, observer.emit, context.run.run_id)
            try:
                with notified(session, _phase(context)):
                    yield session
            except LockLostError:
                # Somebody else may have written since, so that what was imported is no longer there for sure.
                if begun := standing(session.ledger).begun:
                    session.ledger.record(Entry(LOCK_LOST, begun.plan_id, outputs={"run_id": session.run_id}))
                raise
            finally:
                observer.warn()

    @contextmanager
    def planned(self, context: Context) -> Iterator[tuple[Session, Plan]]:
        """Like `session`, with the newest plan of the run's purpose."""
        with self.session(context) as session:
            yield session, current(session, self.purpose)


@dataclass(frozen=True)
class _Refused(MigrationRun):
    """What the steps of a run get whose migration cannot be worked on: the first of them says why.

    An error of the resource itself is shown as one of Dagster's, with a traceback, and what it says stands below.
    """

    migration: spec.Migration = field(init=False, repr=False)
    """There is none."""
    failure: dg.Failure = field(kw_only=True)

    def cut_into(self, ranges: int) -> MigrationRun:  # noqa: ARG002 - nothing is
        return self

    @contextmanager
    def session(self, context: Context) -> Iterator[Session]:  # noqa: ARG002 - it is not so far
        raise self.failure
        yield


class MigrationFile(dg.ConfigurableResource[MigrationRun]):
    """Which migration a run works on, and how."""

    migration_file: str = Field(
        default="", description="Empty for AGUI_MIGRATION, or migration.yaml in Dagster's folder."
    )
    fresh: bool = Field(default=False, description="Start over instead of resuming what an interrupted run has left.")
    dry_run: bool = Field(default=False, description="Write nothing to the target, and delete nothing.")
    rehearse: bool = Field(
        default=True,
        description="Of assess_and_plan: measure the timeline on samples, in a scratch place beside the target.",
    )

    def create_resource(self, context: dg.InitResourceContext) -> MigrationRun:
        with reported():
            if self.dry_run and _job(context) in _WITHOUT_DRY_RUN:
                raise UsageError(
                    f"The job {_job(context)} has no dry run.",
                    why="It would do all that it does.",
                    remedy="Launch it with dry_run: false, or launch the job dry_run.",
                )
            return MigrationRun(
                spec.load(self.migration_file or None),
                # What a launchpad opens with is the resource's own default, which is none of this job.
                dry_run=self.dry_run or _job(context) == DRY_RUN,
                fresh=self.fresh,
                propose=_job(context) == PLAN,
                rehearse=self.rehearse,
                whole_of=_ranges(context) if _job(context) in _WHOLE else None,
            )

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[MigrationRun, None, None]:
        """A run that is to import writes alone from its first step on, so that a second one is refused at once.

        So does a rehearsal, which would measure what another one writes.
        All its steps run in one process, in which Dagster makes the resource once.
        """
        with ExitStack() as stack:
            try:
                run = self._ready(context, stack)
            except dg.Failure as failure:
                run = _Refused(failure=failure)
            yield run

    def _ready(self, context: dg.InitResourceContext, stack: ExitStack) -> MigrationRun:
        """What is handed out, with the lock of its target on the stack if it is to write alone. Raises `Failure`."""
        with reported():
            _require_ranges(context)
        run = self.create_resource(context)
        if context.run is not None and context.instance is not None:
            tag_own_process(context.instance, context.run, run.migration.name)
        if _writes_alone(context) and not run.dry_run:
            with reported():
                if _job(context) == MIGRATE:
                    require_carried_out(run.migration)
                stack.enter_context(Session.open(run.migration).exclusive())
        return run


def require_confirmed(migration: spec.Migration, confirm: str) -> None:
    """Raises `RefusedError` unless somebody has typed the migration's name."""
    if confirm != migration.name:
        raise RefusedError(
            f"confirm is {confirm!r}, and the migration's name is {migration.name!r}.",
            why="What this job does concerns applications, so it is not to happen by a slip.",
            remedy="Type the name into confirm, or have it rehearsed first (rehearse: true).",
        )


def _phase(context: Context) -> str:
    """What a step does, as people and the ledger call it."""
    name = context.op_def.name
    return PHASES.get(name, name)


def _writes_alone(context: dg.InitResourceContext) -> bool:
    return _job(context) in (MIGRATE, PLAN) or (_job(context) == GRAPH and _makes(context, {"target_states"}))


def _makes(context: dg.InitResourceContext, assets: AbstractSet[str]) -> bool:
    """Whether a run makes one of these assets, of which its job has some. One that only checks makes none."""
    run = context.run
    if run is None:
        return False
    if not run.asset_selection:
        return not run.asset_check_selection
    return not assets.isdisjoint(key.to_user_string() for key in run.asset_selection)


def _ranges(context: dg.InitResourceContext) -> tuple[str, str] | None:
    """The first and the last of the key ranges that were chosen for a run; None if none were."""
    tags = context.run.tags if context.run is not None else {}
    if _ONE_RANGE_TAG in tags:
        return tags[_ONE_RANGE_TAG], tags[_ONE_RANGE_TAG]
    first, last = (tags.get(name) for name in _RANGE_TAGS)
    return (first, last) if first is not None and last is not None else None


def _require_ranges(context: dg.InitResourceContext) -> None:
    """Raises `UsageError` if a run is to make what is made key range by key range, and none was chosen.

    Dagster itself would tell so only when it comes to the first of them.
    """
    if _job(context) in (*_WHOLE, GRAPH) and _makes(context, RANGED) and _ranges(context) is None:
        raise UsageError(
            "No key ranges were chosen.",
            why="What is exported and imported is made key range by key range.",
            remedy="Choose all key ranges.",
        )


def _not_whole(chosen: tuple[str, str], all_: Sequence[str]) -> UsageError:
    first, last = chosen
    return UsageError(
        f"Of the key ranges {all_[0]} to {all_[-1]}, only {first if first == last else f'{first} to {last}'} "
        f"{'was' if first == last else 'were'} chosen.",
        why="This job would plan the migration anew and hold the target to all of it, of which the rest would be missing.",
        remedy="Choose all key ranges. To move some by themselves, materialize exported_snapshot to target_states in the "
        "graph of assets, or run agui-migrate run --range.",
    )


def _job(context: dg.InitResourceContext) -> str:
    return context.run.job_name if context.run is not None else ""


@contextmanager
def reported() -> Iterator[None]:
    """Turn a `MigrationError` into a Dagster `Failure`, retried only if trying again can help."""
    try:
        yield
    except MigrationError as error:
        cause = type(error.__cause__).__name__ if isinstance(error.__cause__, MigrationError) else ""
        metadata = {"error": type(error).__name__, "cause": cause, "why": error.why, "remedy": error.remedy}
        raise dg.Failure(
            description=str(error),
            metadata={**{name: value for name, value in metadata.items() if value}, **error.data.get("figures", {})},
            allow_retries=error.transient,
        ) from error


def _reported_on(context: Context) -> dg.AssetKey | None:
    """The asset on which the progress of a step is shown; None for a check, which ends soon."""
    if isinstance(context, dg.AssetExecutionContext):
        return dg.AssetKey(context.asset_key.path)
    name = context.op_def.tags.get(REPORTS_ON)
    return dg.AssetKey(name) if name is not None else None


class _Observer:
    """Passes progress on, and emits it as asset observations, and notes as warnings, from the step's own thread."""

    def __init__(self, context: Context, listener: Listener) -> None:
        self._context = context
        self._listener: Callable[[Progress], None] = listener
        self._latest: Progress | None = None
        self._notes: deque[str] = deque()
        self._next = time.monotonic() + OBSERVE_SECONDS

    def hear(self, progress: Progress) -> None:
        self._latest = progress
        if progress.note:
            self._notes.append(progress.note)
        self._listener(progress)

    def warn(self) -> None:
        while self._notes:
            self._context.log.warning(self._notes.popleft())

    def emit(self) -> None:
        self.warn()
        latest = self._latest
        if latest is None or time.monotonic() < self._next or (asset := _reported_on(self._context)) is None:
            return
        self._next = time.monotonic() + OBSERVE_SECONDS
        metadata = {"records": latest.done, "bytes": latest.bytes, "records_per_second": round(latest.rate)}
        if latest.total is not None:
            metadata["records_total"] = latest.total
        self._context.log_event(dg.AssetObservation(asset_key=asset, metadata=metadata))  # type: ignore[union-attr] # a check has none
