"""Looking at a source as it is now, and telling what is not as a cursor has it. Nothing is parsed, staged or written.

A document that has not changed is known by the digest of its bytes, so that looking costs little more than reading. Each key
range is compared by itself: what is held in memory is the ids of one range for each worker, and no documents.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from xxhash import xxh3_128_digest, xxh3_128_intdigest

from agui_pipelines.digests import WIDTH, documents_in
from agui_pipelines.keyspace import CATALOGUE, MAX_RANGES, KeyRange, Span, cut, same_bounds, write_catalogue
from agui_pipelines.phases.comparison import EXPIRY_MILLISECONDS
from agui_pipelines.phases.cursor import Cursor
from agui_pipelines.phases.observation import LIST_LIMIT, Names
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.seen import History, state_digests
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Glance, Glancing, OnReject, Reader, Sorting
from agui_pipelines.progress import Meter
from agui_pipelines.records import Kind, gathered

RANGE_KEYS: Final = 25_000
"""Ids of a key range, about: what a worker holds of them takes some ten megabytes."""

_GATHER_ROWS: Final = 500
_GATHER_BYTES: Final = 4 * 1024 * 1024
_MODULUS: Final = 1 << (8 * WIDTH)

Opened = Callable[[], AbstractContextManager[Reader]]


@dataclass(slots=True)
class Ids:
    """Ids of one finding, collected by several threads: on disk, and of the first the names."""

    file: Path
    count: int = 0
    _names: list[bytes] = field(default_factory=list)
    _writer: pq.ParquetWriter | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, ids: Iterable[bytes]) -> None:
        found = list(ids)
        if not found:
            return
        with self._lock:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self.file, CATALOGUE, compression="zstd")
            self._writer.write_batch(
                pa.RecordBatch.from_arrays([pa.array(found, pa.binary()), pa.repeat(1, len(found))], schema=CATALOGUE)
            )
            self.count += len(found)
            self._names = sorted([*self._names, *found])[:LIST_LIMIT]

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Batches of `keyspace.CATALOGUE`, once it is closed."""
        if self.count:
            yield from pq.ParquetFile(self.file).iter_batches()

    @property
    def names(self) -> Names:
        return Names(tuple(id_.decode("utf-8", "backslashreplace") for id_ in self._names), self.count)


@dataclass(slots=True)
class Findings:
    """What a look at a source found. Its files are gone when the block that made it ends."""

    changed: Ids
    gone: Ids
    """Known to the cursor and no longer there, whether or not their time was over."""
    expired: int = 0
    """Of these, how many are rightly gone."""
    bared: int = 0
    """Ids whose state is gone before its time, and of which versions or snapshots are left; they are among the changed."""
    checked: int = 0
    """Ids that are there."""
    seen: int = 0
    """The sum of what tells each id with all that is under it from others."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, *, expired: int = 0, bared: int = 0, checked: int = 0, seen: int = 0) -> None:
        with self._lock:
            self.expired += expired
            self.bared += bared
            self.checked += checked
            self.seen = (self.seen + seen) % _MODULUS


@contextmanager
def findings() -> Iterator[Findings]:
    """Findings, with a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="agui-look-") as folder:
        found = Findings(Ids(Path(folder) / "changed.parquet"), Ids(Path(folder) / "gone.parquet"))
        try:
            yield found
        finally:
            found.changed.close()
            found.gone.close()


def look_at_all(
    session: Session,
    opened: Opened,
    meter: Meter,
    found: Findings,
    *,
    cursor: Cursor | None = None,
    now: int | None = None,
    lasting_until: int | None = None,
) -> None:
    """Look at everything that a source holds, from several threads, and compare it with a cursor if there is one.

    `now`: the time by the source's clock, by which what is gone may have expired. `lasting_until`: see
    `changes.fingerprint_of_source`; only if there is no cursor.
    """
    with tempfile.TemporaryDirectory(prefix="agui-keys-") as folder:
        listed = retried(session, meter, partial(_Listed.of, opened, Path(folder)))
        look = partial(_look, session, opened, listed, meter, found, cursor, now, lasting_until)
        pieces = listed.pieces(session.migration.parallelism)
        session.in_parallel(lambda piece: retried(session, meter, partial(look, *piece)), pieces)
    found.changed.close()
    found.gone.close()


@dataclass(frozen=True, slots=True)
class _Listed:
    """The catalogue of a source's ids, and one of those that have versions or snapshots, where the source tells them apart."""

    ids: Path
    owners: Path

    @classmethod
    def of(cls, opened: Opened, folder: Path) -> _Listed:
        ids = folder / "ids.parquet"
        with opened() as source, ids.open("wb") as file:
            if not isinstance(source, Sorting):
                write_catalogue(source.keys(), file)
                return cls(ids, owners=ids)
            owners = Ids(folder / "unsorted.parquet")

            def listed() -> Iterator[pa.RecordBatch]:
                for kind, batch in source.keys_by_kind():
                    if kind is not Kind.STATE:
                        owners.add(batch.column("key").to_pylist())
                    yield batch

            try:
                write_catalogue(listed(), file)
            finally:
                owners.close()
        of_owners = folder / "owners.parquet"
        with of_owners.open("wb") as file:
            write_catalogue(owners.batches(), file)
        return cls(ids, of_owners)

    def pieces(self, at_least: int) -> list[tuple[KeyRange, KeyRange]]:
        """Key ranges of small size, each with its rows of either catalogue."""
        with self.ids.open("rb") as ids, self.owners.open("rb") as owners:
            keys = pq.ParquetFile(ids).metadata.num_rows
            cuts = cut(ids, min(MAX_RANGES, keys // RANGE_KEYS + at_least))
            return list(zip(cuts, same_bounds(owners, cuts), strict=True))


def _look(
    session: Session,
    opened: Opened,
    listed: _Listed,
    meter: Meter,
    found: Findings,
    cursor: Cursor | None,
    now: int | None,
    lasting_until: int | None,
    key_range: KeyRange,
    of_owners: KeyRange,
) -> None:
    known = _Known.of(session, cursor, key_range)
    if not (key_range.keys or known.states or known.histories or key_range.lower is None):
        return
    there = _There()
    with opened() as source, meter.provisional() as count:
        states = Span(key_range, pq.ParquetFile(listed.ids))
        # What belongs to no id at all is told with the range that has no lower bound. Looking for it may take a scan of the
        # whole place, and of histories nothing is kept of it.
        bounded = replace(of_owners, lower=of_owners.lower or b"")
        histories = Span(bounded, pq.ParquetFile(listed.owners)).in_memory()
        exact = bool(getattr(source, "exact_expiries", True))
        for glance in _glances(source, states, there.history.reject):
            session.require_going()
            if cursor is None:
                there.states_seen(glance, lasting_until, exact=exact)
            else:
                there.changed += known.differing(glance)
            there.states += len(glance)
            count(len(glance), glance.size)
        for kind in source.kinds:
            if kind is not Kind.STATE:
                for batch, raw in _with_digests(source.read(kind, histories, there.history.reject)):
                    session.require_going()
                    there.history.add(kind, batch, raw)
                    count(0, batch.nbytes)
    if cursor is None:
        found.take(checked=there.states, seen=there.total())
        return
    changed, gone, bared = known.rest(there.history.digests())
    expired, expired_bare = (
        sum(1 for id_ in ids if now is not None and known.expiries.get(id_, now + 1) <= now) for ids in (gone, bared)
    )
    found.take(expired=expired, bared=len(bared) - expired_bare, checked=key_range.keys)
    found.changed.add({*there.changed, *changed})
    found.gone.add(gone)


def _glances(source: Reader, states: Span, on_reject: OnReject) -> Iterator[Glance]:
    if isinstance(source, Glancing):
        yield from source.glances(states, on_reject)
        return
    for batch, raw in _with_digests(source.read(Kind.STATE, states, on_reject)):
        ids = batch.column("state_id").cast(pa.binary()).to_pylist()
        expiries = batch.column("expires_at").cast(pa.int64()).to_pylist()
        yield Glance(ids, state_digests(batch, raw), expiries, batch.nbytes)


def _with_digests(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, list[bytes]]]:
    """Records, with the raw digests of their documents."""
    for batch in gathered(batches, _GATHER_ROWS, _GATHER_BYTES):
        yield batch, [xxh3_128_digest(document) for document in documents_in(batch.column("data"))]


@dataclass(slots=True)
class _There:
    """What was met in one key range."""

    history: History = field(default_factory=History)
    changed: list[bytes] = field(default_factory=list)
    states: int = 0
    _sum: int = 0

    def states_seen(self, glance: Glance, lasting_until: int | None, *, exact: bool) -> None:
        for id_, digest, expires_at in zip(glance.ids, glance.digests, glance.expiries, strict=True):
            if expires_at is not None and lasting_until is not None and expires_at < lasting_until:
                continue
            moment = b"" if expires_at is None or not exact else b"%d" % expires_at
            self._sum += xxh3_128_intdigest(b"%b|%b|%b" % (digest, moment, id_))

    def total(self) -> int:
        histories = (xxh3_128_intdigest(b"%b/%b" % (total, id_)) for id_, total in self.history.digests().items())
        return (self._sum + sum(histories)) % _MODULUS


@dataclass(slots=True)
class _Known:
    """What a cursor has of one key range. What is met is taken out."""

    states: dict[bytes, bytes] = field(default_factory=dict)
    histories: dict[bytes, bytes] = field(default_factory=dict)
    expiries: dict[bytes, int] = field(default_factory=dict)
    met: set[bytes] = field(default_factory=set)
    """Ids that have a history and whose state was met."""

    @classmethod
    def of(cls, session: Session, cursor: Cursor | None, key_range: KeyRange) -> _Known:
        known = cls()
        for whole in cursor.sources(session, key_range) if cursor is not None else ():
            batch = whole.filter(_within(whole.column("source_id"), key_range))
            for name, into in (
                ("state", known.states),
                ("history", known.histories),
                ("expires_at", known.expiries),
            ):
                column = batch.column(name)
                some = batch if not column.null_count else batch.filter(column.is_valid())
                into.update(zip(some.column("source_id").to_pylist(), some.column(name).to_pylist(), strict=True))
        return known

    def differing(self, glance: Glance) -> list[bytes]:
        """The ids of states that are new, or not as they were."""
        ids, pop = glance.ids, self.states.pop
        changed = [id_ for id_, digest in zip(ids, glance.digests, strict=True) if pop(id_, None) != digest]
        if self.histories:
            self.met.update(id_ for id_ in ids if id_ in self.histories)
        known = map(self.expiries.get, ids)
        changed += [
            id_
            for id_, before, now in zip(ids, known, glance.expiries, strict=True)
            if before != now and is_other_moment(before, now)
        ]
        return changed

    def rest(self, histories: dict[bytes, bytes]) -> tuple[set[bytes], list[bytes], list[bytes]]:
        """Once all was met: ids whose histories are other than they were, or whose state is gone; those of which nothing is
        left; and those of the first whose state alone is gone.
        """
        changed = {id_ for id_, total in histories.items() if self.histories.get(id_) != total}
        gone: list[bytes] = []
        bared: list[bytes] = []
        for id_ in self.states:  # those that were not met
            (bared if id_ in histories else gone).append(id_)
        changed.update(bared)
        for id_ in self.histories.keys() - histories.keys() - self.states.keys():
            if id_ in self.met:
                changed.add(id_)
            else:
                gone.append(id_)
        return changed, gone, bared


def is_other_moment(one: int | None, other: int | None) -> bool:
    """Whether two expiries are not one."""
    if one is None or other is None:
        return one is not other
    return abs(one - other) > EXPIRY_MILLISECONDS


def _within(ids: pa.Array, key_range: KeyRange) -> pa.Array:
    inside = pc.is_valid(ids)
    if key_range.lower is not None:
        inside = pc.and_(inside, pc.greater_equal(ids, pa.scalar(key_range.lower, pa.binary())))
    if key_range.upper is not None:
        inside = pc.and_(inside, pc.less(ids, pa.scalar(key_range.upper, pa.binary())))
    return inside
