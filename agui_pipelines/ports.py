"""The seams: what a source, a store and a transform must offer to the phases.

Batches are Arrow record batches of the schemas in `records`, at most `BATCH_BYTES` of documents each (a single larger
document travels alone). Readers and stores are used by one thread at a time; a phase that works in parallel opens one
for each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import pyarrow as pa

from agui_pipelines.keyspace import Span
from agui_pipelines.owner import Owner
from agui_pipelines.pace import Pace
from agui_pipelines.records import Kind, Reject
from agui_pipelines.sameness import Sameness
from agui_pipelines.sizes import Sizes

BATCH_BYTES: Final = 8 * 1024 * 1024
"""Documents per batch, so that what is in flight is bounded by bytes and not only by count."""

OnReject = Callable[[Reject], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader reads or a store writes, precise enough to tell whether two of them are one place.

    `server` identifies the server or file system itself (Redis run id, PostgreSQL system identifier), not the address by
    which it was reached; `container` what lies within it (database number, schema, real path); `prefix` the literal
    beginning that all keys of the place share, where it has one.
    """

    kind: str
    server: str
    container: str
    prefix: str = ""

    def overlaps(self, other: Place) -> bool:
        """Whether something written to one of the places could be seen in the other."""
        if (self.kind, self.server) != (other.kind, other.server):
            return False
        if self.kind == "file":
            ours, theirs = Path(self.container), Path(other.container)
            return ours.is_relative_to(theirs) or theirs.is_relative_to(ours)
        if self.container != other.container:
            return False
        return self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix)


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did: records that are new, changed, and already there just like that."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.inserted + other.inserted, self.updated + other.updated, self.unchanged + other.unchanged)

    @property
    def total(self) -> int:
        return self.inserted + self.updated + self.unchanged


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of records that were to be removed if they still are what they were."""

    removed: int = 0
    changed: int = 0
    """Left, as something else is there now."""
    gone: int = 0
    """There was nothing any more."""

    @classmethod
    def of(cls, rows: int, found: Sameness) -> Removal:
        """Of so many rows, when all of which the same was `found` are removed."""
        return cls(len(found.same), found.there - len(found.same), rows - found.there)

    def __add__(self, other: Removal) -> Removal:
        return Removal(self.removed + other.removed, self.changed + other.changed, self.gone + other.gone)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row of a batch that a store cannot hold: `reason` is a stable code, `detail` a sentence."""

    row: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store says of itself; None where it cannot tell cheaply."""

    states: int
    versions: int
    snapshots: int
    bytes: int | None = None
    server: str = ""
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Activity:
    """What a place has counted of its use until one moment."""

    at: float
    """The moment, on the monotonic clock, in seconds."""
    reads: int | None
    writes: int | None
    """None where the two cannot be told apart, or are not told to us."""
    seconds: float | None
    """For how long it has been counting; None if it does not say."""
    of: str
    """What it counts, for people: ``commands of the whole server``."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a place says of itself cheaply. What it does not say is None, and `unmeasured` says why, by name."""

    system: str
    version: str = ""
    states: int | None = None
    versions: int | None = None
    snapshots: int | None = None
    estimated: tuple[str, ...] = ()
    """Which of the counts are estimates."""
    bytes: int | None = None
    bytes_of: str = ""
    """What these are the bytes of, for people: ``tables with their indexes``."""
    sizes: Sizes | None = None
    """Of all documents, where that is cheap."""
    largest: tuple[tuple[str, int], ...] = ()
    """The largest documents in bytes, as far as they can be found without reading all, where `sizes` is None."""
    details: dict[str, str] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Privilege:
    """Something that an import, or taking it back, has to be allowed to do, and what came of trying it."""

    action: str
    """For people: ``insert into ag_states``."""
    denied: str = ""
    """What the server said; empty if it was allowed."""
    needed: bool = True
    """Whether an import needs it; if not, only taking one back does."""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    """Whether a place can take what is to be written, as far as it tells. None where it does not."""

    system: str
    version: str = ""
    too_old: str = ""
    """Why this version cannot be used; empty if it can."""
    privileges: tuple[Privilege, ...] = ()
    """Empty if nothing was tried."""
    memory_limit: int | None = None
    """Bytes; 0 for none of its own."""
    memory_used: int | None = None
    memory_of_machine: int | None = None
    eviction: str = ""
    """By what policy it throws out keys when the limit is reached; empty where it never does."""
    disk_free: int | None = None
    files_free: int | None = None
    record_overhead: int = 0
    """Bytes that a record takes besides its document, about."""
    block: int = 1
    """Bytes that what a record takes is rounded up to."""
    unmeasured: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a state, its parts as JSON text; see `records.VERSION`."""

    version_id: str
    state_id: str
    timestamp: str
    data: bytes
    delta: bytes | None = None
    metadata: bytes | None = None
    parent_id: str = ""
    extra: bytes | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot of a state, its parts as JSON text; see `records.SNAPSHOT`."""

    snapshot_id: str
    state_id: str
    timestamp: str
    data: bytes
    version_id: str = ""
    metadata: bytes | None = None
    extra: bytes | None = None


@runtime_checkable
class Reader(Protocol):
    """Something states can be read from: every source and every store."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of record that can be read here."""
        ...

    def place(self) -> Place:
        """Where this is. Connects."""
        ...

    def describe(self) -> str:
        """Where this is, for people: never holds a secret. Does not connect."""
        ...

    def ping(self) -> str:
        """Connect and return the server's name and version; raises `ConnectionFailedError`."""
        ...

    def exists(self) -> bool:
        """Whether there is anything to read from (a folder, tables), be it empty. Connects."""
        ...

    def keys(self) -> Iterator[pa.RecordBatch]:
        """All keys (batches of `keyspace.CATALOGUE`), in any order, possibly with repetitions.

        For a store: every state id that has a state, a version or a snapshot.
        """
        ...

    def read(self, kind: Kind, span: Span, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        """Bare batches of all records of `kind` that belong to the span's keys.

        A key that vanished since the catalogue was made is passed over. What cannot become a record goes to `on_reject`.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class Scanner(Protocol):
    """A source that can only be read from one end to the other: a file, a query's result, a user's own reader.

    It is read once, when the plan is made, and what it yields is spooled to the workspace, sorted by id; the phases then
    read the spool as they read any `Reader`. Ids that it yields twice are rejected by name.
    """

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of record that can be read here."""
        ...

    def place(self) -> Place: ...
    def describe(self) -> str:
        """Where this is, for people: never holds a secret. Does not connect."""
        ...

    def ping(self) -> str: ...
    def exists(self) -> bool: ...
    def scan(self, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        """Bare batches of all records, in any order. What cannot become a record goes to `on_reject`."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Consistent(Protocol):
    """A reader that can show several readers of its place what it held at one moment, whatever is written meanwhile.

    The moment lasts as long as its holder: who goes on in another process reads the rest as it is then, and what was
    moved from one key range to another in between may be read twice or not at all.
    """

    def held_view(self) -> AbstractContextManager[str]:
        """Hold what is there now until the block ends, and name it for others to join. Connects."""
        ...

    def join_view(self, view: str) -> None:
        """Read from now on what a view shows that another reader of the same place holds. Does not connect."""
        ...


@runtime_checkable
class Sorting(Protocol):
    """A reader that can tell what kinds of record there are of a key, where `read` would have to look for them at each key."""

    def keys_by_kind(self) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        """What `Reader.keys` tells, each key with a kind of which there is something."""
        ...


@dataclass(frozen=True, slots=True)
class Glance:
    """States by what tells each from others; the lists are of one length."""

    ids: list[bytes]
    digests: list[bytes]
    """xxh3_128 of their documents as they are kept, with the times of creation and update where these are kept beside."""
    expiries: list[int | None]
    """Milliseconds since the epoch."""
    size: int
    """Bytes that were read for it."""

    def __len__(self) -> int:
        return len(self.ids)


@runtime_checkable
class Glancing(Protocol):
    """A reader that tells what its states are by without handing them on, and quicker than by reading them."""

    def glances(self, span: Span, on_reject: OnReject) -> Iterator[Glance]:
        """What `Reader.read` of states would tell, at most `BATCH_BYTES` of documents at a time."""
        ...


@runtime_checkable
class Clocked(Protocol):
    """A reader of a place where records expire by a clock of its own, which need not go as ours does."""

    def now(self) -> int:
        """What that clock says: milliseconds since the epoch. Connects."""
        ...


@runtime_checkable
class Watermarked(Protocol):
    """A reader of a place that numbers its transactions, and knows which of them wrote a record last."""

    def horizon(self) -> int | None:
        """A number so that every transaction before it has ended by now, and what it wrote can be read; None if there is none.

        It only grows, however long the place lives: where it is lower than it was, the place was put back to an earlier state.
        Connects.
        """
        ...

    def written_since(self, horizon: int) -> Iterator[pa.RecordBatch]:
        """The keys (batches of `keyspace.CATALOGUE`) of all records that transactions from `horizon` on have written.

        Possibly with repetitions, and with others.
        """
        ...


@runtime_checkable
class Settling(Protocol):
    """A store in which a record may lie where its format no longer puts it, or without saying whose it is."""

    def unsettled(self, kind: Kind, batch: pa.RecordBatch) -> int:
        """How many records of a bare batch `settle` would change."""
        ...

    def settle(self, kind: Kind, batch: pa.RecordBatch) -> int:
        """Put the records of a batch where they belong, each in one step; how many were changed.

        The batch says whose the records are; nothing of what they hold is changed, and none that is gone comes back.
        Idempotent.
        """
        ...


@runtime_checkable
class Forming(Protocol):
    """A store that keeps some documents in a form of its own, equal in meaning and not by digest."""

    def formed(self, kind: Kind, document: bytes) -> bytes:
        """What will be read of a document once it was written. Does not connect, and may be called by several threads at once.

        Raises `UnstorableRecordError` for one that can have no such form.
        """
        ...


@runtime_checkable
class Stamping(Protocol):
    """A reader that writes into documents when they were migrated."""

    def stamp(self, moment: datetime) -> None:
        """Take this moment for it, so that every key range says the same."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A reader that can say what its place holds, and show some of it, without disturbing who else uses it.

    Each method takes a `Pace`, tells it of what it looks at, and ends early when that says so. Like every reader, it connects
    when it is used.
    """

    def measure(self, pace: Pace) -> Measurement:
        """What is there. What a server denies is named in the result; counts that were cut short are estimates."""
        ...

    def activity(self) -> Activity | None:
        """What has been counted of its use until now; None where nothing is counted, or it is not told to us."""
        ...

    def sampled(self, states: int, pace: Pace, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        """Bare batches of about so many states from all over the key space, and of the histories of some of them."""
        ...

    def history_lengths(self, ids: Sequence[str], pace: Pace) -> dict[Kind, list[int]]:
        """How many versions and snapshots each of some states has; nothing where that takes longer than `pace` has."""
        ...

    @property
    def asked(self) -> int:
        """Commands, statements or files opened so far."""
        ...


@runtime_checkable
class Examined(Protocol):
    """A store that can be looked at before it is written to."""

    def examine(self, *, trying: bool) -> Examination:
        """Whether it can take what is to be written. Connects.

        With `trying`, privileges are tried by writing something of no meaning, which is gone again when it returns or raises.
        """
        ...

    def holding(self, ids: Sequence[str]) -> list[str]:
        """Which of some ids have a state here."""
        ...


class Lease(Protocol):
    """The lock of a store, held for a time. Used by one thread at a time, and no longer than the store is open."""

    def renew(self) -> None:
        """Hold it for its whole time again. Raises `LockLostError` if it expired or was taken over."""
        ...

    def release(self) -> None:
        """Give it back, if it is still ours. Idempotent."""
        ...


class Transaction(Protocol):
    """Single-record writes that become visible together, when the `with` block ends without an error."""

    def set_state(self, state_id: str, document: bytes) -> None: ...
    def delete_state(self, state_id: str) -> None: ...
    def save_version(self, version: Version) -> None: ...
    def save_snapshot(self, snapshot: Snapshot) -> None: ...


@runtime_checkable
class Store(Reader, Clocked, Protocol):
    """An AG-UI store: the reading side, batch writing for migrations, and the single-record operations of the reference.

    Those have all `kinds` of record. A foreign system that is written back to (see `sources.open_write_back`) may have fewer:
    records of the others are lost to it.

    Documents are JSON text. Every method raises `ConnectionFailedError` or `StoreError`, never a driver's exception.
    """

    def check(self) -> None:
        """Connect and see that states could be written; changes nothing. Raises `StoreError` if, say, the schema is missing."""
        ...

    def prepare(self) -> None:
        """Create what writing needs (tables, directories) where it is missing."""
        ...

    def lacking(self) -> tuple[str, ...]:
        """What `prepare` would create, by name. Connects."""
        ...

    def version(self) -> str | None:
        """The version marker as it stands there, without blanks around it; None if there is none.

        See store-format.md, section 6. What it means is not looked at. Connects.
        """
        ...

    def set_version(self, version: str | None) -> None:
        """Write the version marker, durably, or remove it. No record is touched."""
        ...

    def applied(self) -> bytes | None:
        """What was recorded of the user's own schema migrations, as JSON text; None if nothing was. Connects."""
        ...

    def set_applied(self, record: bytes | None) -> None:
        """Record it, durably, or remove it. No record is touched."""
        ...

    def live(self) -> bytes | None:
        """The control record: what a cutover left here of which store applications use, as JSON text. Connects.

        Its members: ``live`` (``this`` or ``other``), ``since`` (RFC 3339), ``migration`` and ``plan``. None if no cutover ever
        came by.
        """
        ...

    def set_live(self, record: bytes | None) -> None:
        """Leave it, durably, or remove it. No record is touched."""
        ...

    def lock(self, owner: Owner, seconds: float) -> Lease:
        """Become the one that writes here, for so long unless it is renewed. Raises `LockedError` if somebody else is.

        The lock of an owner that is gone or has let it expire is taken over. It keeps off nobody but those who ask for it.
        A store that is only to hold the lock needs nothing prepared, and what is released leaves nothing behind.
        """
        ...

    def require_unlocked(self) -> None:
        """Raises `LockedError` where `lock` would, for now. Takes nothing, so that it is in nobody's way."""
        ...

    def fence(self, token: str) -> None:
        """From now on, change anything here only while the lock is held by the owner with this token.

        That is checked together with each change, so that none is made after somebody took the lock over: what would be
        raises `LockLostError`. Reading goes on as ever. Does not connect.
        """
        ...

    def refusals(self, kind: Kind, batch: pa.RecordBatch) -> list[Refusal]:
        """The rows of a *digested* batch that this store can never hold, with a refusal for each reason.

        The batch may lack ``data``, ``delta`` and ``metadata``, which then stay on disk; ``size`` stands for ``data``. Does
        not connect.
        """
        ...

    def slots(self, kind: Kind, batch: pa.RecordBatch) -> pa.StringArray | None:
        """What tells the rows of a batch (of which only the ids are needed) apart in this store, if that is less than ids.

        Two records with one slot cannot both be kept, wherever they come from. None if ids that differ suffice.
        """
        ...

    def losses(self, kind: Kind, batch: pa.RecordBatch) -> dict[str, pa.BooleanArray]:
        """Which rows of a batch carry a property that this store has no place for, by property (see `losses`).

        Only properties that some row loses are named. What only a digested batch tells is left out for a bare one.
        """
        ...

    def times(self, batch: pa.RecordBatch) -> dict[str, pa.Int64Array]:
        """When states (bare or digested) were made and changed, as far as this store keeps it, by column.

        Two numbers are equal if the store cannot tell the times apart; null where there is none, or none that it can keep.
        Columns for which it has no place are left out. Does not connect, and may be called by several threads at once.
        """
        ...

    def write(self, kind: Kind, batch: pa.RecordBatch) -> Written:
        """Upsert a batch (bare or digested; at most one row an id), atomically where the backend can. Idempotent."""
        ...

    def remove(self, kind: Kind, batch: pa.RecordBatch) -> int:
        """Remove the records that a batch names (of which only the ids are needed); how many of them were there.

        A state's history stays, unless it is named itself. Idempotent, and atomic where the backend can.
        """
        ...

    def remove_unchanged(self, kind: Kind, batch: pa.RecordBatch) -> Removal:
        """Remove the records of a *digested* batch that still are what it says, by value, a state by its expiry too.

        Whether they are is looked at in the same step in which they are removed, where the backend can: nothing that somebody
        writes meanwhile is removed. A state's history stays, unless it is named itself.
        """
        ...

    def flush(self) -> None:
        """Return when everything written and removed so far is as durable as this backend makes it."""
        ...

    def get_state(self, state_id: str) -> bytes | None: ...
    def set_state(self, state_id: str, document: bytes) -> None: ...
    def delete_state(self, state_id: str) -> bool:
        """Delete the state (not its history, as the reference); whether there was one."""
        ...

    def list_states(self) -> Iterator[str]: ...
    def get_version(self, state_id: str, version_id: str) -> Version | None: ...
    def save_version(self, version: Version) -> None: ...
    def get_version_history(self, state_id: str, limit: int = 0) -> Sequence[Version]:
        """Newest first; `limit` 0 means all."""
        ...

    def get_snapshot(self, state_id: str, snapshot_id: str) -> Snapshot | None: ...
    def save_snapshot(self, snapshot: Snapshot) -> None: ...
    def list_snapshots(self, state_id: str) -> Sequence[Snapshot]:
        """Newest first."""
        ...

    def transaction(self) -> AbstractContextManager[Transaction]: ...
    def stats(self) -> StoreStats: ...


class Transform(Protocol):
    """One step between exported and staged records; takes and returns bare batches.

    A batch may carry further columns beside those of its kind, which go with their rows (see `records.with_source`).
    """

    identity: bool
    """Whether this step changes nothing at all, so that segments can be referenced instead of copied."""
    fingerprint: str
    """Changes when the step would give another result: a range staged with another fingerprint is staged again."""

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch: ...
