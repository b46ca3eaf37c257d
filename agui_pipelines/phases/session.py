"""One migration opened for work: its file, workspace and ledger, its two ends, and who listens to its progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar

from agui_pipelines.digests import DigestPool, digest_values
from agui_pipelines.errors import AbortedError, StoppedError, UsageError
from agui_pipelines.ledger import Entry, Ledger
from agui_pipelines.phases import control, holding
from agui_pipelines.ports import Consistent, Reader, Stamping, Store
from agui_pipelines.progress import Listener, Meter, Progress, silent
from agui_pipelines.records import Digester
from agui_pipelines.sources import no_way_back, open_source, open_write_back
from agui_pipelines.sources.spooled import Spooled
from agui_pipelines.spec import ForeignConfig, Migration, RedisKeysConfig, TargetConfig
from agui_pipelines.staging import Workspace
from agui_pipelines.stores import open_store

T = TypeVar("T")

End = Literal["source", "target"]

WORTH_WORKERS: Final = 5_000
"""Documents from which on starting worker processes pays."""


def _nothing() -> None:
    """No heartbeat is wanted."""


@dataclass(frozen=True, slots=True)
class StandsFor:
    """What a rehearsal on a sample takes from the migration that it stands for."""

    workspace: Workspace
    """Where a source that can only be scanned has been spooled."""
    spool_id: str
    keys: int
    """How many keys the migration has, which decides how it works."""


@dataclass(frozen=True)
class Session:
    """What every phase works with."""

    migration: Migration
    workspace: Workspace
    ledger: Ledger
    listener: Listener = silent
    heartbeat: Callable[[], None] = _nothing
    """Called about twice a second, in the calling thread, while workers work."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when the run is to end; workers look at it between batches."""
    run_id: str = ""
    """The Dagster run that the work is part of, if it is part of one."""
    stands_for: StandsFor | None = None
    steered_by: Workspace | None = None
    """Where what it does is controlled from, if not in its own workspace: a way back is a part of what it leads back from."""

    @property
    def steered_in(self) -> Workspace:
        """The workspace in which people control what it does; see `control`."""
        return self.steered_by or self.workspace

    @classmethod
    def open(
        cls,
        migration: Migration,
        listener: Listener = silent,
        heartbeat: Callable[[], None] = _nothing,
        run_id: str = "",
    ) -> Session:
        workspace = Workspace(migration.workspace_url, migration.name)
        return cls(migration, workspace, Ledger(workspace), listener, heartbeat, run_id=run_id)

    @contextmanager
    def source(self, spool_id: str = "") -> Iterator[Reader]:
        """The source, on a connection of its own; one that can only be scanned, as the spool `spool_id` (see `Plan`)."""
        config, folder = self.migration.source, self.migration.folder
        source = open_source(config, folder) if isinstance(config, ForeignConfig) else open_store(config, folder)
        with closing(source):
            if isinstance(source, Reader):
                yield source
            elif self.stands_for is not None:
                yield Spooled(source, self.stands_for.workspace, self.stands_for.spool_id)
            else:
                yield Spooled(source, self.workspace, spool_id)

    @contextmanager
    def source_store(self) -> Iterator[Store]:
        """The source as a store. Raises `UsageError` if it is neither an AG-UI store nor written back to."""
        with closing(_opened(self._source_config, self.migration.folder)) as store:
            holding.fence(store, str(self.workspace))
            yield store

    @contextmanager
    def source_at_once(self, spool_id: str, planned_at: str) -> Iterator[Callable[[], AbstractContextManager[Reader]]]:
        """What opens the source for each of several workers, all of which read it as it is now, if it can tell that.

        `planned_at` (RFC 3339) is what the source's documents name as the moment of their migration, where they name one:
        the plan's, so that key ranges which are read later, or again, name the same.
        """

        @contextmanager
        def opened() -> Iterator[Reader]:
            with self.source(spool_id) as reader:
                if view is not None and isinstance(reader, Consistent):
                    reader.join_view(view)
                if planned_at and isinstance(reader, Stamping):
                    reader.stamp(datetime.fromisoformat(planned_at))
                yield reader

        with (
            self.source(spool_id) as holder,
            holder.held_view() if isinstance(holder, Consistent) else nullcontext() as view,
        ):
            yield opened

    @contextmanager
    def target(self) -> Iterator[Store]:
        """The target, on a connection of its own; within `exclusive`, changed only as long as its lock is ours."""
        with closing(_opened(self.migration.target, self.migration.folder)) as store:
            holding.fence(store, str(self.workspace))
            yield store

    @contextmanager
    def exclusive(self, of: End = "target") -> Iterator[None]:
        """Be the only one who writes to an end (of which the source must be a store) until the block ends.

        May be nested, and spans the sessions of this migration in this process. Raises `LockedError` if another migration, or
        another process, writes there.
        """
        config = self.migration.target if of == "target" else self._source_config
        opened = partial(_opened, config, self.migration.folder)
        with (
            holding.held(opened, self.migration.name, str(self.workspace)),
            control.going(self.steered_in, self.migration),
        ):
            yield

    def token(self, store: Store) -> str:
        """What names the lock of a store for as long as it is held without a break; empty if it is not."""
        return holding.token(store, str(self.workspace))

    def require_unlocked(self) -> None:
        """Raises `LockedError` if somebody writes to the target, for which nobody is kept off."""
        with self.target() as target:
            target.require_unlocked()

    def meter(self, phase: str, total: int | None = None) -> Meter:
        return Meter(phase, self.listener, total)

    @contextmanager
    def digester(self, records: int | None) -> Iterator[Digester]:
        """What digests about so many documents: this process for a few, worker processes for more."""
        stands_for = self.stands_for.keys if self.stands_for else 0
        if records is not None and max(records, stands_for) < WORTH_WORKERS:
            yield digest_values
            return
        with DigestPool(self.migration.parallelism) as pool:
            yield pool

    def conclude(self, meter: Meter, plan_id: str) -> Progress:
        """Tell the listener a phase's final figures, and keep its time in the ledger."""
        progress = meter.finish()
        outputs = {
            "records": progress.done,
            "seconds": round(progress.seconds, 3),
            "records_per_second": round(progress.rate),
        }
        self.ledger.record(Entry("timing", plan_id, meter.phase, outputs=outputs))
        return progress

    def in_parallel(self, work: Callable[[T], object], items: Iterable[T], *, workers: int | None = None) -> None:
        """Run `work` for each item on `parallelism` threads, or on so many `workers`, in order of the items.

        The first error stops the others at their next batch and is raised when all have ended; so does an interruption of
        the calling thread. No thread outlives the call.
        """
        with (
            control.going(self.steered_in, self.migration),
            ThreadPoolExecutor(workers or self.migration.parallelism, thread_name_prefix="agui") as pool,
        ):
            futures = [pool.submit(work, item) for item in items]
            try:
                pending = set(futures)
                # Waiting with a time limit keeps the main thread open to signals.
                while pending:
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    self.heartbeat()
            except BaseException:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def require_going(self) -> None:
        """Called by workers between batches. Waits while the run is paused; see `control`.

        Raises `StoppedError` once another worker failed or the run was interrupted, `LockLostError` once a lock of `exclusive`
        was lost, `AbortedError` once somebody ended the run by a command.
        """
        self._require_not_stopped()
        try:
            control.obey(self.steered_in, self._require_not_stopped, self.stop, self._tell)
        except AbortedError:
            self.ledger.record(Entry(control.ABORTED, "", outputs={"run_id": self.run_id}))
            raise

    def _tell(self, note: str) -> None:
        self.meter("control").tell(note)

    def _require_not_stopped(self) -> None:
        holding.require_held(str(self.workspace))
        if self.stop.is_set():
            raise StoppedError("This key range was stopped because another one failed or the run was interrupted.")

    @property
    def _source_config(self) -> TargetConfig | RedisKeysConfig:
        config = self.migration.source
        if not isinstance(config, ForeignConfig):
            return config
        if isinstance(config, RedisKeysConfig) and not no_way_back(config):
            return config
        raise UsageError(
            f"The source is of the type {config.type}: {no_way_back(config)}.",
            why="Only an AG-UI store, or what is written back to, can be put back as it was.",
            remedy="Use that system's own backup.",
        )


def _opened(config: TargetConfig | RedisKeysConfig, folder: Path) -> Store:
    return open_write_back(config, folder) if isinstance(config, RedisKeysConfig) else open_store(config, folder)
