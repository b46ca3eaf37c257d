"""What a step of an upgrade is given to work with, and the pieces that several steps are made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from agui_pipelines.errors import RefusedError, named
from agui_pipelines.phases.backup import Backup
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import End, Session
from agui_pipelines.ports import BATCH_BYTES, Settling
from agui_pipelines.records import SCHEMAS, Kind
from agui_pipelines.staging import SnapshotReader
from agui_pipelines.upgrade.survey import NEW, OLD, Survey, opened

Counts = Mapping[str, int]
"""What a step changes, by what it is called; nothing is left out, be it 0."""


@dataclass(frozen=True, slots=True)
class Work:
    """A store while it is upgraded: its lock is held, and what it held before lies in a backup."""

    session: Session
    of: End
    backup: Backup


class Step(Protocol):
    """A module of `steps`."""

    SUMMARY: str
    """What the step does, in half a sentence."""

    @staticmethod
    def check(found: Survey) -> None:
        """Raise `RefusedError` if the store does not fit the format of the version that the step begins with."""
        ...

    @staticmethod
    def pending(found: Survey) -> Counts:
        """What `apply` would change."""
        ...

    @staticmethod
    def apply(work: Work) -> Counts:
        """Do it; what was changed. Idempotent, and finished by another call if it was killed."""
        ...


def require_format_1(found: Survey) -> None:
    """No state is of data format 2.0."""
    _refuse(found, NEW, "1.x")


def require_format_2(found: Survey) -> None:
    """No state is of data format 1.0."""
    _refuse(found, OLD, "2.x")


def create_missing(work: Work) -> int:
    """Tables, indexes and folders that the store lacks; how many were made."""
    with opened(work.session, work.of) as store:
        lacking = len(store.lacking())
        if lacking:
            store.prepare()
        return lacking


def settle(work: Work) -> Counts:
    """Put every record where it belongs, and let it say whose it is; how many were changed, by kind.

    Whose a record is was found out when the backup was made, before anything was changed. Histories go first: as long as a
    version does not say whose it is, the states beside it may tell.
    """
    done = dict.fromkeys(Kind, 0)
    with opened(work.session, work.of) as store:
        if isinstance(store, Settling):
            for kind in (Kind.VERSION, Kind.SNAPSHOT, Kind.STATE):
                done[kind] = _settled(work, kind)
    return {_settled_name(kind): count for kind, count in done.items()}


def to_settle(found: Survey) -> Counts:
    """What `settle` would change."""
    return {_settled_name(kind): found.unsettled[str(kind)] for kind in Kind}


def _settled_name(kind: Kind) -> str:
    return f"{kind}s settled"


def _settled(work: Work, kind: Kind) -> int:
    session = work.session
    snapshots = [SnapshotReader(session.workspace, id_) for id_ in work.backup.snapshots.values()]
    meter = session.meter("settle", total=sum(s.manifest.summary(kind).records for s in snapshots))
    count, lock = 0, threading.Lock()

    def one(snapshot: SnapshotReader) -> None:
        nonlocal count
        with opened(session, work.of) as store:
            assert isinstance(store, Settling)  # noqa: S101 - the same store as above
            settling: Callable[..., int] = store.settle
            for segment in snapshot.segments(kind):
                for batch in snapshot.portions(segment, session.migration.batch_size, BATCH_BYTES):
                    session.require_going()
                    changed = retried(session, meter, partial(settling, kind, batch.select(SCHEMAS[kind].names)))
                    meter.add(batch.num_rows, batch.nbytes)
                    with lock:
                        count += changed
            store.flush()

    session.in_parallel(one, snapshots)
    meter.finish()
    return count


def _refuse(found: Survey, format_: str, version: str) -> None:
    if count := found.formats[format_]:
        raise RefusedError(
            f"{count:,} states of {found.place} are of data format {format_}: {named(found.examples[format_])}.",
            why=f"No store of version {version} holds such documents. Nothing was changed.",
            remedy="Say what the store is with --from VERSION, or migrate those documents first.",
            ids=list(found.examples[format_]),
        )
