"""A second look at what does not match: at the target, before it is called a mismatch, and at a source that is still live."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.errors import MigrationError
from agui_pipelines.keyspace import CATALOGUE, cut, write_catalogue
from agui_pipelines.phases.comparison import Comparison
from agui_pipelines.phases.observation import LIST_LIMIT, Names, Unreadable, Within, clock, observe, spans_of_ids
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Clocked
from agui_pipelines.sources.spooled import Spooled
from agui_pipelines.staging import SnapshotReader

PAUSE_SECONDS: Final = 1.0
"""Between the two looks: longer than a writer needs to finish what it was in the middle of."""

_FEW: Final = 2 * LIST_LIMIT
"""Ids that are asked for one by one; more are read as ranges of ids."""

_CHANGED: Final = "SELECT DISTINCT id FROM joined WHERE status IN ('missing', 'corrupted', 'extra') OR untimely"


@dataclass(frozen=True, slots=True)
class Recheck:
    """What a second look at the target found."""

    records: int = 0
    """Looked at again, as they were missing, corrupted, or had another expiry, creation or update."""
    settled: int = 0
    """Of these, how many were as they should be."""


@dataclass(frozen=True, slots=True)
class SourceChanges:
    """States of which the source holds something else now than it did when it was exported."""

    ids: Names = field(default_factory=Names)
    checked: int = 0
    """States of mismatches that were read again from the source, of which there may be more."""
    unknown: str = ""
    """Why it cannot be told, if it cannot."""


def look_again(session: Session, comparison: Comparison) -> Recheck:
    """Read once more, on new connections and after a pause, all that is under the ids of mismatches; that counts."""
    count = comparison.doubt()
    if not count:
        return Recheck()
    before = comparison.doubts()
    session.stop.wait(PAUSE_SECONDS)
    session.require_going()
    if count <= _FEW:
        ids = [id_ for some in comparison.doubtful_ids() for id_ in some]
        spans = spans_of_ids(ids)
    else:
        catalogue = comparison.folder / "doubtful.parquet"
        with catalogue.open("wb") as file:
            write_catalogue(_as_catalogue(comparison.doubtful_ids()), file)
        with catalogue.open("rb") as file:
            ranges = cut(file, session.migration.ranges)
        spans = Within(partial(_opened, catalogue), ranges).spans()
    meter = session.meter("recheck")
    with session.target() as target:
        there = retried(session, meter, target.exists)
    if there:
        taking = partial(comparison.observing, "again")
        observe(session, session.target, spans, meter, taking, Unreadable(), keys=count, only=True)
    comparison.join_again(clock(session, session.target, meter) if comparison.expiry else None)
    return Recheck(before, before - comparison.doubts())


def changed_at_source(
    session: Session, plan: Plan, comparison: Comparison, staged: Sequence[SnapshotReader]
) -> SourceChanges:
    """Which of the first states with a mismatch have changed at the source since they were exported.

    That does not excuse the target: it is to hold what was staged. What the source holds is compared with what was
    exported, so the transforms have no part in it.
    """
    ids = _mismatching(comparison)
    if not ids:
        return SourceChanges()
    if session.migration.in_place:
        return SourceChanges(unknown="The source is the target itself, which the import has changed.")
    # Where reading it fails, only that is to stop.
    session = replace(session, stop=threading.Event())
    try:
        with session.source_at_once(plan.listing_id, plan.created_at) as opened:
            with opened() as source:
                if isinstance(source, Spooled):
                    return SourceChanges(unknown=f"The source ({source.describe()}) is read once, when a plan is made.")
            named = _source_ids(staged, ids)
            with Comparison(expiry=True) as sources:
                exported = [SnapshotReader(session.workspace, id_) for s in staged for id_ in s.manifest.parents]
                sources.expect(exported, [id_.encode() for id_ in named])
                spans = spans_of_ids([id_.encode() for id_ in named])
                meter = session.meter("recheck_source")
                observe(session, opened, spans, meter, sources.observing, Unreadable(), keys=len(named), only=True)
                with opened() as source:  # a source that has no clock of its own keeps no expiry that could have passed
                    sources.join(source.now() if isinstance(source, Clocked) else None)
                rows = sources.query(_CHANGED)
    except MigrationError as error:
        return SourceChanges(unknown=f"The source could not be read again: {error.message}")
    changed = sorted({named[id_] for (id_,) in rows})
    return SourceChanges(Names(tuple(changed), len(changed)), len(ids))


def _mismatching(comparison: Comparison) -> list[str]:
    rows = comparison.query(
        f"SELECT DISTINCT id FROM joined WHERE status IN ('missing', 'corrupted') ORDER BY id LIMIT {LIST_LIMIT}"  # noqa: S608
    )
    return [id_ for (id_,) in rows]


def _opened(file: Path) -> AbstractContextManager[IO[bytes]]:
    return file.open("rb")


def _as_catalogue(ids: Iterable[list[bytes]]) -> Iterator[pa.RecordBatch]:
    for some in ids:
        yield pa.RecordBatch.from_arrays([pa.array(some, pa.binary()), pa.repeat(1, len(some))], schema=CATALOGUE)


def _source_ids(staged: Sequence[SnapshotReader], ids: Sequence[str]) -> dict[str, str]:
    """The ids of the source that became these, each with what it became."""
    wanted = pa.array(ids, pa.string())
    found: dict[str, str] = {}
    for snapshot in staged:
        for batch in snapshot.origins():
            some = batch.filter(pc.is_in(batch.column("state_id"), wanted))
            found.update(zip(some.column("source_id").to_pylist(), some.column("state_id").to_pylist(), strict=True))
    return found
