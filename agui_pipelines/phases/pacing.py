"""Pacing: what `strategy` asks of a run. A rolling one moves key range by key range, and states no faster than its rate.

The rate holds for what is read of the source and for what is written to the target, each by itself, over all threads of
this process. A state counts where it is read or written, and again where its versions or snapshots are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.errors import RefusedError
from agui_pipelines.keyspace import Span
from agui_pipelines.pace import TokenBucket
from agui_pipelines.phases import control
from agui_pipelines.phases.session import Session
from agui_pipelines.spec import Migration

_TURN: Final = 0.5
"""Seconds that are slept at once, so that a pause or another rate is seen soon."""


def require_carried_out(migration: Migration) -> None:
    """Raises `RefusedError` for a strategy that no run carries out yet."""
    if migration.strategy is not None and migration.strategy.type == "blue_green":
        raise RefusedError(
            "strategy: blue_green cannot be carried out by a run yet.",
            why="So far it is what a plan recommends and reckons with. Its parts are there: run, sync and cutover.",
            remedy="Leave strategy out, or ask for big_bang or rolling, and bring later changes over with agui-migrate sync.",
        )


def workers(session: Session) -> int | None:
    """How many key ranges are worked on at a time; None for as many as the migration file allows."""
    strategy = session.migration.strategy
    return 1 if strategy is not None and strategy.type == "rolling" and session.stands_for is None else None


def portion(session: Session, most: int) -> int:
    """How many records are handed on at once: `most`, or fewer."""
    bucket = _bucket(session)
    return most if bucket is None else min(most, bucket.portion())


def span_in_portions(session: Session, span: Span) -> Span:
    """A span whose keys come in lists no longer than a portion, so that a reader asks for no more at once."""
    bucket = _bucket(session)
    return span if bucket is None else _Portioned(span.range, span.catalogue, span.sparse, bucket=bucket)


def paced(session: Session, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, or portions of them, each once it may go through; nothing is taken from `batches` meanwhile.

    Raises as `Session.require_going`.
    """
    bucket = _bucket(session)
    for batch in batches:
        first = 0
        while first < batch.num_rows:
            session.require_going()
            some = batch.slice(first) if bucket is None else _let_through(session, bucket, batch.slice(first))
            yield some
            first += some.num_rows


def _let_through(session: Session, bucket: TokenBucket, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The next portion of a batch, once it may go through: by the rate at that moment, which may be another than before."""
    while True:
        some = batch.slice(0, min(bucket.portion(), batch.num_rows))
        seconds = bucket.take(pc.count_distinct(some.column("state_id")).as_py())
        if not seconds:
            return some
        session.stop.wait(min(seconds, _TURN))
        session.require_going()


def _bucket(session: Session) -> TokenBucket | None:
    """None for what is not held back."""
    return None if workers(session) is None else control.bucket(session.steered_in)


@dataclass(frozen=True, slots=True)
class _Portioned(Span):
    bucket: TokenBucket = field(kw_only=True)

    def keys(self, size: int) -> Iterator[list[bytes]]:
        for keys in Span.keys(self, size):
            first = 0
            while first < len(keys):
                end = first + min(self.bucket.portion(), len(keys))
                yield keys[first:end]
                first = end
