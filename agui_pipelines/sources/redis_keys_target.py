"""The keys that a ``redis_keys`` source matches, as something that can be written to: the way back of a migration.

A migration file cannot name it as its target. It is opened where what was written on the new side since a cutover is brought
back to the old one, and where what a migration has moved away from there is archived, deleted or restored.

A state's id is the key, its document says what the key holds (see `redis_documents`). There is a place for states alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.drivers.redis import Burst, RedisWire, glob_prefix, glob_regex
from agui_pipelines.drivers.redis_deleting import remove_unchanged
from agui_pipelines.drivers.redis_lock import Fence, RedisLease, lock, require_free
from agui_pipelines.drivers.redis_strings import BATCH_KEYS
from agui_pipelines.errors import RefusedError, StoreError, UnstorableRecordError
from agui_pipelines.keyspace import Span, span_of
from agui_pipelines.losses import named as losing
from agui_pipelines.owner import Owner
from agui_pipelines.pace import Pace
from agui_pipelines.ports import (
    Activity,
    Measurement,
    OnReject,
    Place,
    Refusal,
    Removal,
    Snapshot,
    StoreStats,
    Transaction,
    Version,
    Written,
)
from agui_pipelines.records import Kind, Reject
from agui_pipelines.sameness import Sameness, sameness
from agui_pipelines.sources.redis_documents import Content, content, formed
from agui_pipelines.sources.redis_keys import LOCK_KEY, RedisKeysSource
from agui_pipelines.sources.redis_restore import made_by
from agui_pipelines.spec import RedisKeysConfig

OLDEST: Final = (6, 2)
"""Redis before it cannot set an expiry together with the value."""
MAX_STRING_BYTES: Final = 512 * 1024 * 1024
"""``proto-max-bulk-len``"""

_PIECE_BYTES: Final = 1024 * 1024
"""Documents that are written together, which keeps other clients of the server waiting for some milliseconds."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A key with what it is to hold, and until when in milliseconds since the epoch."""

    key: bytes
    content: Content
    expiry: int | None


class RedisKeysTarget:
    """See the module, and `ports.Store`; connects when it is first used.

    Nothing beside the keys that match is ever changed, but for `LOCK_KEY`. Marks of an AG-UI store have no place here.
    """

    def __init__(self, config: RedisKeysConfig) -> None:
        if config.redis_cluster:
            raise RefusedError(
                "The source is a Redis Cluster, to which nothing is written back.",
                why="What belongs together could not be written together there.",
                remedy="Use the cluster's own tools.",
            )
        self._source = RedisKeysSource(config)
        self._wire = RedisWire(config)
        self._prefix = glob_prefix(config.match).encode("utf-8", "surrogateescape")
        self._matches = glob_regex(config.match.encode("utf-8", "surrogateescape")).fullmatch
        self._match = config.match
        self._fence = Fence(self._wire, LOCK_KEY, self.describe())

    # Reading is the source's.

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return self._source.kinds

    def place(self) -> Place:
        return self._source.place()

    def describe(self) -> str:
        return self._source.describe()

    def ping(self) -> str:
        return self._source.ping()

    def exists(self) -> bool:
        return self._source.exists()

    def now(self) -> int:
        return self._source.now()

    def keys(self) -> Iterator[pa.RecordBatch]:
        return self._source.keys()

    def read(self, kind: Kind, span: Span, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        return self._source.read(kind, span, on_reject)

    def salvage(self, document: bytes) -> bytes | None:
        return self._source.salvage(document)

    def measure(self, pace: Pace) -> Measurement:
        return self._source.measure(pace)

    def activity(self) -> Activity | None:
        return self._source.activity()

    def sampled(self, states: int, pace: Pace, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        return self._source.sampled(states, pace, on_reject)

    def history_lengths(self, ids: Sequence[str], pace: Pace) -> dict[Kind, list[int]]:
        return self._source.history_lengths(ids, pace)

    @property
    def asked(self) -> int:
        return self._source.asked + self._wire.asked

    def close(self) -> None:
        self._source.close()
        self._wire.close()

    # What is needed before writing.

    def check(self) -> None:
        """Connect and try the permissions on a key that does not exist. Raises `StoreError`."""
        server = self._wire.server
        if server.role == "replica":
            raise StoreError(
                f"Redis at {self._wire.address} is a replica.",
                why="What is written to a replica is lost when it next resynchronises, if it is taken at all.",
                remedy="Name its primary in connection_url.",
            )
        if server.compatible and server.compatible < OLDEST:
            raise StoreError(
                f"Redis at {self._wire.address} is version {server.version}.",
                why="Versions before 6.2 cannot set an expiry together with the value.",
                remedy="Upgrade it.",
            )
        absent = self._prefix + b"agui-migrate:absent"
        self._wire.run(
            Burst.of(
                (b"WATCH", LOCK_KEY, absent),
                (b"EXISTS", absent),
                (b"MULTI",),
                (b"DEL", absent),
                (b"SET", absent, b"", b"XX"),
                (b"PEXPIREAT", absent, 1),
                (b"EXEC",),
                (b"PTTL", LOCK_KEY),
            )
        )

    def prepare(self) -> None:
        """Redis needs nothing prepared."""

    def lacking(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def version(self) -> str | None:
        """None: a system that is not AG-UI's is not marked as if it were."""
        return None

    def set_version(self, version: str | None) -> None:
        """Raises `StoreError`, unless there is to be none."""
        self._unmarked(version)

    def applied(self) -> bytes | None:
        """None."""
        return None

    def set_applied(self, record: bytes | None) -> None:
        """Raises `StoreError`, unless there is to be none."""
        self._unmarked(record)

    def _unmarked(self, mark: object) -> None:
        if mark is not None:
            raise StoreError(
                f"{self.describe()} is no AG-UI store, and is not marked like one.",
                why="Whoever uses these keys would find one that is none of theirs.",
            )

    def live(self) -> bytes | None:
        """None."""
        return None

    def set_live(self, record: bytes | None) -> None:
        """Raises `StoreError`, unless there is to be none."""
        self._unmarked(record)

    def lock(self, owner: Owner, seconds: float) -> RedisLease:
        """A key of the database; its expiry counts by the server's clock."""
        return lock(self._wire, LOCK_KEY, owner, seconds, self.describe())

    def require_unlocked(self) -> None:
        require_free(self._wire, LOCK_KEY, self.describe())

    def fence(self, token: str) -> None:
        self._fence.token = token

    def refusals(self, kind: Kind, batch: pa.RecordBatch) -> list[Refusal]:
        """Ids that do not match, as what is written to their keys would not be read again."""
        if kind is not Kind.STATE:
            return []
        detail = f"The key is none of those that match {self._match}."
        return [Refusal(row, "not_matched", detail) for row, key in enumerate(_keys(batch)) if not self._is_ours(key)]

    def slots(self, kind: Kind, batch: pa.RecordBatch) -> pa.StringArray | None:  # noqa: ARG002 - whichever they are
        """None: every id is a key of its own."""
        return None

    def losses(self, kind: Kind, batch: pa.RecordBatch) -> dict[str, pa.BooleanArray]:
        """There is a place for states and their expiry alone."""
        if kind is not Kind.STATE:
            every = pa.repeat(pa.scalar(value=True), batch.num_rows)
            return losing({"history" if kind is Kind.VERSION else "snapshots": every})
        return losing(
            {"timestamps": pc.or_(batch.column("created_at").is_valid(), batch.column("updated_at").is_valid())}
        )

    def formed(self, kind: Kind, document: bytes) -> bytes:
        """A set, say, is read in another order than that in which somebody has listed its members."""
        try:
            return formed(document) if kind is Kind.STATE else document
        except ValueError as error:
            raise UnstorableRecordError(
                f"The document names a type of Redis, and has not its form: {error}.",
                why="It cannot be told what the key is to hold.",
                remedy="Mend the document.",
            ) from error

    def times(self, batch: pa.RecordBatch) -> dict[str, pa.Int64Array]:  # noqa: ARG002 - whatever they are
        """None."""
        return {}

    # Writing.

    def write(self, kind: Kind, batch: pa.RecordBatch) -> Written:
        """Upsert states, each key together with its type and expiry; about a megabyte becomes visible together.

        A key that holds something of another type is replaced. What is unchanged is written all the same. Raises
        `UnstorableRecordError` for a document that names a type and has not its form, and for an id that does not match, when
        some rows may have been written; to write those again does no harm.
        """
        if kind is not Kind.STATE:
            _without_place(kind)
        written = Written()
        for piece in _pieces(self._rows(batch)):
            written += self._put(piece)
        return written

    def remove(self, kind: Kind, batch: pa.RecordBatch) -> int:
        """Of versions and snapshots there are none. Keys that do not match are left."""
        if kind is not Kind.STATE:
            return 0
        keys = [key for key in _keys(batch) if self._is_ours(key)]
        burst = Burst()
        for first in range(0, len(keys), BATCH_KEYS):
            burst.add(b"DEL", *keys[first : first + BATCH_KEYS])
        return sum(self._fence.run(burst)) if keys else 0

    def remove_unchanged(self, kind: Kind, batch: pa.RecordBatch) -> Removal:
        """Keys are watched by one connection and read by another, as to read a large one takes transactions of its own."""
        if kind is not Kind.STATE:
            return Removal(gone=batch.num_rows)

        def look(some: pa.RecordBatch) -> Sameness:
            unreadable: list[Reject] = []
            read = self._source.read(kind, span_of(_keys(some)), unreadable.append)
            found = sameness(kind, some, read, self._source.salvage)
            return Sameness(found.same, found.there + len(unreadable))

        ours = batch.filter(pa.array([self._is_ours(key) for key in _keys(batch)], pa.bool_()))
        done = remove_unchanged(
            self._wire, self._fence, ours, keys=_keys, look=look, deleting=lambda some: Burst.of((b"DEL", *_keys(some)))
        )
        return done + Removal(changed=batch.num_rows - ours.num_rows)

    def flush(self) -> None:
        """Nothing is held back here. How durable a write is when the server has answered is its persistence policy."""

    def get_state(self, state_id: str) -> bytes | None:
        """The document of what the key holds. Raises `UnstorableRecordError` if it has none."""
        rejects: list[Reject] = []
        for batch in self._source.read(Kind.STATE, span_of([_key(state_id)]), rejects.append):
            for found in batch.column("data"):
                return bytes(found.as_py())
        if rejects:
            raise UnstorableRecordError(rejects[0].detail)
        return None

    def set_state(self, state_id: str, document: bytes) -> None:
        """An expiry that the key had is removed."""
        self._fence.transaction(lambda: [_burst([self._row(_key(state_id), document, None)])])

    def delete_state(self, state_id: str) -> bool:
        self._require_ours(key := _key(state_id))
        [deleted] = self._fence.run(Burst.of((b"DEL", key)))
        return bool(deleted)

    def list_states(self) -> Iterator[str]:
        """In no order. While the server grows or shrinks its table of keys, an id may come twice."""
        for batch in self.keys():
            yield from (key.decode("utf-8", "surrogateescape") for key in batch.column("key").to_pylist())

    def get_version(self, state_id: str, version_id: str) -> Version | None:  # noqa: ARG002 - there are none
        return None

    def save_version(self, version: Version) -> None:  # noqa: ARG002 - whatever it is
        """Raises `UnstorableRecordError`."""
        _without_place(Kind.VERSION)

    def get_version_history(self, state_id: str, limit: int = 0) -> Sequence[Version]:  # noqa: ARG002 - there is none
        return []

    def get_snapshot(self, state_id: str, snapshot_id: str) -> Snapshot | None:  # noqa: ARG002 - there are none
        return None

    def save_snapshot(self, snapshot: Snapshot) -> None:  # noqa: ARG002 - whatever it is
        """Raises `UnstorableRecordError`."""
        _without_place(Kind.SNAPSHOT)

    def list_snapshots(self, state_id: str) -> Sequence[Snapshot]:  # noqa: ARG002 - there are none
        return []

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Writes that are sent together as MULTI … EXEC at the end."""
        buffered = _Buffered(self)
        yield buffered
        if buffered.commands.replies:
            self._fence.transaction(lambda: [buffered.commands])

    def stats(self) -> StoreStats:
        """Counts all keys that match, which takes a second per few hundred thousand."""
        return StoreStats(sum(batch.num_rows for batch in self.keys()), 0, 0, server=self.ping())

    def _rows(self, batch: pa.RecordBatch) -> Iterator[tuple[_Row, int]]:
        """Each row with the size of its document."""
        keys = batch.column("state_id").cast(pa.binary())
        documents = batch.column("data")
        expiries = batch.column("expires_at").cast(pa.int64())
        for i in range(batch.num_rows):
            document = documents[i].as_py()
            yield self._row(keys[i].as_py(), document, expiries[i].as_py()), len(document)

    def _row(self, key: bytes, document: bytes, expiry: int | None) -> _Row:
        self._require_ours(key)
        try:
            found = content(document)
        except ValueError as error:
            raise UnstorableRecordError(
                f"The document of {key.decode('utf-8', 'backslashreplace')!r} names a type of Redis, and has not its form: "
                f"{error}.",
                why="It cannot be told what the key is to hold.",
                remedy="Mend the document.",
            ) from error
        if found.type == "string" and len(found.value) > MAX_STRING_BYTES:
            raise UnstorableRecordError(
                f"The document of {key.decode('utf-8', 'backslashreplace')!r} has {len(found.value):,} bytes.",
                why="Redis holds strings up to 512 MiB.",
            )
        return _Row(key, found, expiry)

    def _put(self, rows: list[_Row]) -> Written:
        written = self._counted(rows)
        self._fence.transaction(lambda: [_burst(rows)])
        return written

    def _counted(self, rows: list[_Row]) -> Written:
        """What writing is going to change. Only this count depends on what is there."""
        by_key = {row.key: row for row in rows}
        now = self._source.now()
        passed = {row.key for row in rows if row.expiry is not None and row.expiry <= now}
        before: set[bytes] = set()
        unchanged = 0
        for batch in self._source.read(Kind.STATE, span_of(by_key), lambda reject: before.add(reject.id)):
            keys, expiries = (batch.column(name) for name in ("state_id", "expires_at"))
            for i, key in enumerate(keys.cast(pa.binary()).to_pylist()):
                before.add(key)
                row = by_key[key]
                same = expiries[i].cast(pa.int64()).as_py() == row.expiry and key not in passed
                unchanged += same and _same(content(batch.column("data")[i].as_py()), row.content)
        inserted = len(by_key.keys() - before - passed)
        return Written(inserted, len(before) - unchanged, unchanged + len(passed - before))

    def _is_ours(self, key: bytes) -> bool:
        return self._matches(key) is not None and key != LOCK_KEY

    def _require_ours(self, key: bytes) -> None:
        if not self._is_ours(key):
            raise UnstorableRecordError(
                f"The key {key.decode('utf-8', 'backslashreplace')!r} is none of those that match {self._match}.",
                why="What is written there would not be read again, and may be somebody else's.",
                remedy="Leave it out, or change its id by a transform.",
            )


@dataclass(frozen=True, slots=True)
class _Buffered:
    """Collects the commands of a transaction."""

    target: RedisKeysTarget
    commands: Burst = field(default_factory=Burst)

    def set_state(self, state_id: str, document: bytes) -> None:
        self.commands.extend(_burst([self.target._row(_key(state_id), document, None)]))  # noqa: SLF001 - of this module

    def delete_state(self, state_id: str) -> None:
        self.target._require_ours(key := _key(state_id))  # noqa: SLF001 - of this module
        self.commands.add(b"DEL", key)

    def save_version(self, version: Version) -> None:  # noqa: ARG002 - whatever it is
        _without_place(Kind.VERSION)

    def save_snapshot(self, snapshot: Snapshot) -> None:  # noqa: ARG002 - whatever it is
        _without_place(Kind.SNAPSHOT)


def _without_place(kind: Kind) -> NoReturn:
    raise UnstorableRecordError(
        f"The keys of a Redis have no place for a {kind}.",
        why="Whoever reads them knows of states alone.",
        remedy="Accept the loss of history and snapshots, or keep to the new side.",
    )


def _pieces(rows: Iterable[tuple[_Row, int]]) -> Iterator[list[_Row]]:
    piece: list[_Row] = []
    total = 0
    for row, size in rows:
        if piece and (total + size > _PIECE_BYTES or len(piece) == BATCH_KEYS):
            yield piece
            piece, total = [], 0
        piece.append(row)
        total += size
    if piece:
        yield piece


def _burst(rows: list[_Row]) -> Burst:
    return Burst.of(*(command for row in rows for command in made_by(row.key, row.content, row.expiry)))


def _same(one: Content, other: Content) -> bool:
    """Whether both stand for the same; the fields of a hash and the members of a set have no order."""
    return _ordered(one) == _ordered(other)


def _ordered(found: Content) -> tuple[object, ...]:
    value = sorted(found.value) if found.type in ("hash", "set") else found.value
    return found.type, value, sorted(found.field_expiries), found.head


def _keys(batch: pa.RecordBatch) -> list[bytes]:
    keys: list[bytes] = batch.column("state_id").cast(pa.binary()).to_pylist()
    return keys


def _key(state_id: str) -> bytes:
    return state_id.encode("utf-8", "surrogateescape")


def open_target(config: RedisKeysConfig, folder: Path) -> RedisKeysTarget:
    """What writes back to the keys of a source. Raises `RefusedError` for a cluster."""
    return RedisKeysTarget(config.model_copy(update={"redis_options": config.redis_options.anchored(folder)}))
