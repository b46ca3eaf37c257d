"""Smoke test of the target: write, read, change and remove a record of each kind under an id that nobody else has.

The id is recorded in the ledger before anything is written under it, and once nothing is there any more. So what a test that
was killed has left is known by name, and the next one removes it: nobody has to look through the store for it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.errors import MigrationError, ValidationFailedError
from agui_pipelines.keyspace import held_by, owned_by, single_spans
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Store
from agui_pipelines.records import SCHEMAS, Kind, Reject, digested

PHASE: Final = "smoke"
BEGUN: Final = "smoke_begun"
"""Recorded before something is written under the id that the entry's `unit` names."""
RESERVED: Final = "agui-migrate-smoke-"
"""What these ids begin with; 16 hex digits follow."""

_FIRST: Final = (
    '{"smoke":true,"text":"aä€😀","exact":0.1000000000000000055,"large":18446744073709551617,"list":[null,{}]}'
)
_SECOND: Final = '{"smoke":true,"text":"changed","exact":1.50,"nested":{"b":[1,2,3],"a":""}}'
_TIMESTAMP: Final = "2026-01-02T03:04:05Z"


@dataclass(frozen=True, slots=True)
class SmokeReport:
    """What was tried, and that it held."""

    id: str
    kinds: tuple[str, ...]
    seconds: float
    removed: tuple[str, ...] = ()
    """Ids that an earlier test, which was killed, had left something under."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def smoke(session: Session) -> SmokeReport:
    """Write, read, change, read, remove and look again, each on a connection of its own, under the target's lock.

    Raises `ValidationFailedError` if what is read is not, by value, what was written, and whatever the store raises that
    cannot do one of it. In any case nothing is left behind, unless the store cannot be reached any more; then the next call,
    or `remove_leftovers`, sees to it.
    """
    began = time.monotonic()
    with session.exclusive():
        removed = remove_leftovers(session)
        id_ = RESERVED + secrets.token_hex(8)
        session.ledger.record(Entry(BEGUN, "", id_))
        try:
            kinds = _tried(session, id_)
        except BaseException:
            try:
                _clear(session, id_)
            except MigrationError as error:
                session.meter(PHASE).tell(f"The record '{id_}' may be left in the target: {error.message}")
            raise
        report = SmokeReport(id_, kinds, round(time.monotonic() - began, 3), removed)
        session.ledger.record(Entry(PHASE, "", id_, outputs={"passed": True, **asdict(report)}))
    return report


def remove_leftovers(session: Session) -> tuple[str, ...]:
    """Remove what tests of this migration have left in the target that were killed; under which ids something was."""
    gone = {entry.unit for entry in session.ledger.entries(phase=PHASE)}
    left = [entry.unit for entry in session.ledger.entries(phase=BEGUN) if entry.unit not in gone]
    if not left:
        return ()
    with session.exclusive():
        return tuple(id_ for id_ in left if _clear(session, id_))


def _clear(session: Session, id_: str) -> bool:
    """Remove what is under the id of a test that did not pass; whether there was anything.

    Only once nothing is there any more does the ledger no longer name it. Raises `ValidationFailedError` if something stays.
    """
    was_there = _removed(session, id_)
    for kind in _found(session, id_):
        raise _differs(session, kind, id_, "something still, after it was removed")
    session.ledger.record(Entry(PHASE, "", id_, outputs={"passed": False}))
    return was_there


def _tried(session: Session, id_: str) -> tuple[str, ...]:
    meter = session.meter(PHASE)
    with session.target() as target:
        kinds = target.kinds
    for document in (_FIRST, _SECOND):
        batches = {kind: _batch(kind, id_, document.encode()) for kind in kinds}
        retried(session, meter, partial(_write, session, batches))
        found = retried(session, meter, partial(_found, session, id_))
        for kind, batch in batches.items():
            if (read := found.get(kind)) != _canonical(kind, batch):
                raise _differs(session, kind, id_, "something else" if read else "nothing")
    retried(session, meter, partial(_removed, session, id_))
    for kind in retried(session, meter, partial(_found, session, id_)):
        raise _differs(session, kind, id_, "something still, after it was removed")
    return tuple(map(str, kinds))


def _write(session: Session, batches: Mapping[Kind, pa.RecordBatch]) -> None:
    with session.target() as target:
        for kind, batch in batches.items():
            target.write(kind, batch)
        target.flush()


def _removed(session: Session, id_: str) -> bool:
    """Remove all that is under an id; whether there was anything."""
    with session.target() as target:
        # The state goes last: it is the one that others may list.
        counts = [target.remove(kind, _batch(kind, id_, _FIRST.encode())) for kind in reversed(target.kinds)]
        target.flush()
    return any(counts)


def _found(session: Session, id_: str) -> dict[Kind, list[bytes]]:
    """The canonical digests of what the target holds under an id, by kind; kinds of which there is nothing are left out."""
    key, found = id_.encode(), {}
    with session.target() as target:
        for kind in target.kinds:
            digests = [each for batch in _read(target, kind, key) for each in _canonical(kind, batch)]
            if digests:
                found[kind] = digests
    return found


def _read(target: Store, kind: Kind, key: bytes) -> Iterator[pa.RecordBatch]:
    held = frozenset({key})

    def reject(found: Reject) -> None:
        if owned_by(held, found.id):
            raise ValidationFailedError(f"{found.kind} {found.name}: {found.detail}")

    for span in single_spans([key]):
        for batch in target.read(kind, span, reject):
            yield held_by(held, batch)


def _canonical(kind: Kind, batch: pa.RecordBatch) -> list[bytes]:
    usable, _ = digested(kind, batch)
    digests: list[bytes] = usable.column("canonical").to_pylist()
    return digests


def _batch(kind: Kind, id_: str, document: bytes) -> pa.RecordBatch:
    """One record of the kind, under the id and, of a version or snapshot, with the id as its own."""
    row: dict[str, Any] = dict.fromkeys(SCHEMAS[kind].names)
    row |= {"state_id": id_, "data": document}
    if kind is not Kind.STATE:
        row |= {"version_id": id_, "timestamp": _TIMESTAMP}
    if kind is Kind.VERSION:
        row["parent_id"] = ""
    if kind is Kind.SNAPSHOT:
        row["snapshot_id"] = id_
    return pa.RecordBatch.from_pylist([row], schema=SCHEMAS[kind])


def _differs(session: Session, kind: Kind, id_: str, what: str) -> ValidationFailedError:
    with session.target() as target:
        where = target.describe()
    return ValidationFailedError(
        f"The smoke test failed: the {kind} '{id_}' was written to {where}, and reading it gave {what}.",
        why="Applications that use this store would not get back what they write.",
        remedy="Look at the store and who else writes to or deletes from it, then run the same command again.",
        id=id_,
        kind=str(kind),
    )
