"""A second look at the few ids that seem to have changed, as an export would read them.

The first look compares bytes. It takes for changed what is exported in another form than it is held in (a value that only
begins like a document), and an id of which something is rejected each time. Where nothing else is new, nothing is to be done.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.keyspace import held_by, span_of
from agui_pipelines.phases.cursor import Cursor
from agui_pipelines.phases.export import digested_or_rejected
from agui_pipelines.phases.looking import Findings, Ids, Opened, is_other_moment
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.seen import History, is_unusable, raw_of, state_digests
from agui_pipelines.phases.session import Session
from agui_pipelines.progress import Meter
from agui_pipelines.records import Kind, Reject

_FEW: Final = 1_000
"""More are read again anyway: that they are all of this kind is not to be expected."""


@dataclass(slots=True)
class _Read:
    """What an export would read of some ids."""

    states: dict[bytes, tuple[bytes, int | None]] = field(default_factory=dict)
    history: History = field(default_factory=History)

    def take(self, kind: Kind, batch: pa.RecordBatch) -> None:
        raw = batch.column("raw_digest").to_pylist()
        if kind is not Kind.STATE:
            self.history.add(kind, batch, raw)
            return
        ids = batch.column("state_id").cast(pa.binary()).to_pylist()
        expiries = batch.column("expires_at").cast(pa.int64()).to_pylist()
        self.states.update(zip(ids, zip(state_digests(batch, raw), expiries, strict=True), strict=True))

    def reject(self, reject: Reject) -> None:
        if reject.kind is Kind.STATE and is_unusable(reject):
            self.states[reject.id] = raw_of(reject), None
        else:
            self.history.reject(reject)


def confirm(session: Session, opened: Opened, cursor: Cursor, meter: Meter, found: Findings) -> None:
    """Leave out of a few changed ids those that an export would read as the cursor has them."""
    if not 0 < found.changed.count <= _FEW:
        return
    ids = sorted({key for batch in found.changed.batches() for key in batch.column("key").to_pylist()})
    read = retried(session, meter, partial(_read, session, opened, ids))
    histories = read.history.digests()
    same: set[bytes] = {id_ for id_ in ids if id_ not in read.states and id_ not in histories}
    wanted = pa.array(ids, pa.binary())
    for batch in cursor.sources(session):
        for row in batch.filter(pc.is_in(batch.column("source_id"), wanted)).to_pylist():
            id_ = row["source_id"]
            same.discard(id_)
            state, expires_at = read.states.get(id_, (None, None))
            if (
                (state, histories.get(id_)) == (row["state"], row["history"])
                and (state or id_ in histories)
                and not is_other_moment(row["expires_at"], expires_at)
            ):
                same.add(id_)
    if same:
        changed = Ids(found.changed.file.with_name("confirmed.parquet"))
        changed.add(id_ for id_ in ids if id_ not in same)
        changed.close()
        found.changed = changed


def _read(session: Session, opened: Opened, ids: list[bytes]) -> _Read:
    read, held, span = _Read(), frozenset(ids), replace(span_of(ids), sparse=True)
    with opened() as source:
        for kind in source.kinds:
            for batch in source.read(kind, span, lambda reject: read.reject(reject) if reject.id in held else None):
                session.require_going()
                for usable in digested_or_rejected(kind, held_by(held, batch), read.reject, source):
                    read.take(kind, usable)
    return read
