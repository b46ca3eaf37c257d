"""Reading what a store really holds: all of it, or what it holds under some ids; digested, in parallel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from agui_pipelines.keyspace import KeyRange, Span, held_by, single_spans
from agui_pipelines.phases.belonging import UNLISTED, Belonging
from agui_pipelines.phases.export import GATHER_BYTES, GATHER_ROWS, digested_or_rejected
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Reader, Store
from agui_pipelines.progress import Meter
from agui_pipelines.records import Kind, Reject, gathered
from agui_pipelines.staging.flow import ahead

LIST_LIMIT: Final = 1000
"""Ids named in each list of a report; their full number stands beside it."""

_TOGETHER: Final = 100
"""Single ids that are read on one connection."""
_HELD_NAMES: Final = 100_000
_UNPAIRED: Final = ("missing_body", UNLISTED)

OpenedStore = Callable[[], AbstractContextManager[Store]]
OpenedReader = Callable[[], AbstractContextManager[Reader]]
Spans = Callable[[], AbstractContextManager[Sequence[Span]]]
"""Opens spans that are read one after the other on one connection."""
Take = Callable[[Kind, pa.RecordBatch], None]


@dataclass(frozen=True, slots=True)
class Names:
    """Ids of one finding: the first `LIST_LIMIT` in order, and how many there are in all."""

    ids: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Within:
    """Some ids of a store: what opens their catalogue, and its key ranges."""

    reading: Callable[[], AbstractContextManager[IO[bytes]]]
    ranges: Sequence[KeyRange]
    sparse: bool = False
    """Whether they are few of the ids that lie between them; see `Span.sparse`."""

    def spans(self, *, empty: bool = False) -> list[Spans]:
        """One for each range; for those without keys only if `empty`."""
        return [partial(self._opened, key_range) for key_range in self.ranges if key_range.keys or empty]

    @contextmanager
    def _opened(self, key_range: KeyRange) -> Iterator[Sequence[Span]]:
        with self.reading() as file:
            yield [Span(key_range, pq.ParquetFile(file), sparse=self.sparse)]


def spans_of_ids(ids: Sequence[bytes]) -> list[Spans]:
    """Spans of so few ids that each of them is asked for."""

    @contextmanager
    def opened(some: Sequence[bytes]) -> Iterator[Sequence[Span]]:
        yield single_spans(some)

    return [partial(opened, ids[first : first + _TOGETHER]) for first in range(0, len(ids), _TOGETHER)]


def observe(
    session: Session,
    opened: OpenedReader | OpenedStore,
    spans: Sequence[Spans],
    meter: Meter,
    taking: Callable[[], AbstractContextManager[Take]],
    unreadable: Unreadable,
    *,
    keys: int,
    only: bool,
) -> None:
    """Hand every record of the spans, digested, to what `taking` opens, from several threads, each opening it anew.

    Spans of which reading failed for a reason that may pass are read again; what was handed over before is to be forgotten
    when what `taking` has opened is left with an error.

    `keys` is about how many there are. With `only`, nothing but what belongs to the spans' own keys is handed over; a
    store may read whatever lies between their bounds.
    """

    def one(open_spans: Spans) -> None:
        found = Unreadable()
        with opened() as store, open_spans() as some, taking() as take, meter.provisional() as count:
            held = frozenset(key for span in some for key in span.key_set()) if only else None
            reject = found.add if held is None else Belonging(some, held, found.add)
            for kind in store.kinds:
                read = (batch for span in some for batch in store.read(kind, span, reject))
                for batch in ahead(gathered(read, GATHER_ROWS, GATHER_BYTES)):
                    session.require_going()
                    wanted = batch if held is None else held_by(held, batch)
                    for usable in digested_or_rejected(kind, wanted, reject, store, digester):
                        take(kind, usable)
                    count(wanted.num_rows, wanted.nbytes)
            if isinstance(reject, Belonging):
                reject.settle()
        unreadable.include(found)

    with session.digester(keys) as digester:
        session.in_parallel(lambda some: retried(session, meter, partial(one, some)), spans)


def clock(session: Session, opened: OpenedStore, meter: Meter) -> int:
    """What time it is for a store, by the clock by which what it holds expires; see `ports.Clocked`."""
    with opened() as store:
        return retried(session, meter, store.now)


@dataclass(slots=True)
class Unreadable:
    """Counts what a store holds that is no valid record, and names the first of it."""

    count: int = 0
    unpaired: int = 0
    """Of these, members of a sorted set without a body, and bodies that no sorted set names."""
    named: list[tuple[Kind, bytes]] = field(default_factory=list)
    """Kind and id of the first `_HELD_NAMES`, as `Reject.id` has it."""
    _names: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, reject: Reject) -> None:
        with self._lock:
            self.count += 1
            self.unpaired += reject.reason in _UNPAIRED
            if len(self._names) < LIST_LIMIT:
                self._names.append(f"{reject.kind} {reject.name}: {reject.detail}")
            if len(self.named) < _HELD_NAMES:
                self.named.append((reject.kind, reject.id))

    def include(self, other: Unreadable) -> None:
        with self._lock:
            self.count += other.count
            self.unpaired += other.unpaired
            self.named += other.named[: _HELD_NAMES - len(self.named)]
            self._names += other._names[: LIST_LIMIT - len(self._names)]

    @property
    def ids(self) -> tuple[str, ...]:
        """The first `LIST_LIMIT` of them by name, and what is wrong with each."""
        return tuple(sorted(self._names))
