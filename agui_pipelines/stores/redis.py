"""An AG-UI store on Redis or Valkey."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeVar

import hiredis
import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.digests import documents_in
from agui_pipelines.drivers.redis import Burst, RedisWire, framed, glob_escaped
from agui_pipelines.drivers.redis_deleting import remove_unchanged
from agui_pipelines.drivers.redis_gauge import RedisGauge
from agui_pipelines.drivers.redis_lock import Fence, RedisLease, lock, require_free
from agui_pipelines.drivers.redis_strings import BATCH_KEYS, StringReader, Strings, glance, state_batch
from agui_pipelines.errors import StoreError
from agui_pipelines.keyspace import CATALOGUE, Span, span_of
from agui_pipelines.losses import named as losing
from agui_pipelines.owner import Owner
from agui_pipelines.pace import Pace
from agui_pipelines.ports import (
    BATCH_BYTES,
    Activity,
    Examination,
    Glance,
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
from agui_pipelines.records import SCHEMAS, Kind, Reject, id_columns
from agui_pipelines.sameness import Sameness, sameness
from agui_pipelines.spec import RedisConfig
from agui_pipelines.stores import redis_measuring
from agui_pipelines.stores.bodies import ZERO_TIME, nanoseconds
from agui_pipelines.stores.redis_history import HistoryReader
from agui_pipelines.stores.redis_layout import (
    MAX_VALUE_BYTES,
    RECORD_ID,
    Layout,
    Owned,
    key_bytes,
    key_text,
    owned,
    snapshot_of,
    version_of,
)
from agui_pipelines.stores.redis_writing import (
    Buffered,
    Rows,
    put,
    put_history,
    require_own_keys,
    saving,
    take,
    take_history,
    taking,
)

R = TypeVar("R", Version, Snapshot)
S = TypeVar("S", bound=Sized)

_LONGEST: Final = 2**31 - 1
"""Bytes that a value of Arrow can have: its slices need an end."""


class RedisStore:
    """The store whose keys begin with ``redis_options.key_prefix``; connects when it is first used.

    Bodies that no sorted set names are rejected by `read`, with the range that has no lower bound. The single-record
    operations take and give ids that are not UTF-8 with their bytes as lone surrogates.
    """

    def __init__(self, config: RedisConfig) -> None:
        self._wire = RedisWire(config)
        self._prefix = config.redis_options.key_prefix
        self._layout = Layout(key_bytes(self._prefix))
        self._fence = Fence(self._wire, self._layout.lock, self.describe())

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.STATE, Kind.VERSION, Kind.SNAPSHOT)

    def place(self) -> Place:
        """The server is known by its run id, or by its address if it does not tell."""
        return Place("redis", self._wire.server.run_id or self._wire.address, str(self._wire.database), self._prefix)

    def describe(self) -> str:
        return f"{self._wire.url}, keys {self._prefix}*"

    def ping(self) -> str:
        server = self._wire.server
        self._wire.call(b"PING")
        return f"{server.name} {server.version}".strip()

    def close(self) -> None:
        self._wire.close()

    def exists(self) -> bool:
        """A Redis that answers has every key space there is."""
        self.ping()
        return True

    def now(self) -> int:
        return self._wire.now()

    @property
    def exact_expiries(self) -> bool:
        """Whether each look at a key tells the same expiry, to the millisecond. Connects."""
        return self._wire.expiry_command == b"PEXPIRETIME"

    def keys(self) -> Iterator[pa.RecordBatch]:
        yield from (batch for _, batch in self.keys_by_kind())

    def keys_by_kind(self) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        for page in self._wire.scan(glob_escaped(self._layout.prefix) + b"*"):
            keys = pa.array(page, pa.binary())
            for kind, family in zip(self.kinds, self._layout.families, strict=True):
                ids = pc.binary_slice(keys.filter(pc.starts_with(keys, family)), len(family), _LONGEST)
                if len(ids):
                    yield kind, pa.RecordBatch.from_arrays([ids, pa.repeat(1, len(ids))], schema=CATALOGUE)
                if len(ids) == len(keys):  # in many a store there are only states
                    break

    def read(self, kind: Kind, span: Span, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        if kind is Kind.STATE:
            return self._states(state_batch, span, on_reject)
        return self._read_history(HistoryReader(self._wire, self._layout, kind, on_reject), span)

    @staticmethod
    def _read_history(reader: HistoryReader, span: Span) -> Iterator[pa.RecordBatch]:
        if span.lower is None:
            reader.reject_unlisted()
        yield from reader.read(span.keys(BATCH_KEYS))

    def glances(self, span: Span, on_reject: OnReject) -> Iterator[Glance]:
        return self._states(glance, span, on_reject)

    def _states(
        self, made: Callable[[Strings[bytes], Callable[[bytes, bytes], None]], S], span: Span, on_reject: OnReject
    ) -> Iterator[S]:
        """What `made` makes of the states, and of a function for those whose id is no text."""

        def reject(id_: bytes, raw: bytes | None, reason: str, detail: str) -> None:
            on_reject(Reject(Kind.STATE, id_, raw, "export", reason, detail))

        reader: StringReader[bytes] = StringReader(
            self._wire, partial(framed, head=self._layout.state_head), expiries=True, max_bytes=BATCH_BYTES
        )
        for found in reader.read(span.keys(BATCH_KEYS)):
            for id_, type_ in found.others:
                reject(id_, None, "wrong_type", f"The key of the state holds a {type_}, not a string.")
            some = made(found, lambda id_, raw: reject(id_, raw, "id_not_utf8", "The id is not UTF-8 text."))
            if len(some):
                yield some
            del found, some  # or a large document would still be held while the next one arrives

    def check(self) -> None:
        """Connect and try the permissions on a key that does not exist. Raises `StoreError`."""
        server = self._wire.server
        if server.role == "replica":
            raise StoreError(
                f"Redis at {self._wire.address} is a replica.",
                why="What is written to a replica is lost when it next resynchronises, if it is taken at all.",
                remedy="Name its primary in connection_url.",
            )
        if server.compatible and server.compatible < redis_measuring.OLDEST:
            raise StoreError(
                f"Redis at {self._wire.address} is version {server.version}.",
                why="Versions before 6.2 cannot set an expiry together with the value.",
                remedy="Upgrade it.",
            )
        absent = self._layout.state(uuid.uuid4().hex.encode())
        burst = Burst()
        burst.add(b"EXISTS", absent)
        burst.add(b"MGET", absent)
        burst.add(b"DEL", absent)
        burst.add(b"SET", absent, b"", b"XX")
        burst.add(b"ZADD", absent, b"XX", 0, b"")
        for command in (
            (b"WATCH", absent),
            (b"MULTI",),
            (b"PEXPIRE", absent, 1),
            (b"EXEC",),
            (b"PTTL", self._layout.lock),
        ):
            burst.add(*command)
        self._wire.run(burst)
        self._require_permission(b"MSET", absent, b"")

    def _require_permission(self, *command: bytes) -> None:
        """Ask whether we may run a command that cannot be tried without doing it. Not every user may ask."""
        user, *_ = self._wire.receive(self._wire.send(Burst.of((b"ACL", b"WHOAMI"))))
        if isinstance(user, hiredis.ReplyError):
            return
        answer, *_ = self._wire.receive(self._wire.send(Burst.of((b"ACL", b"DRYRUN", user, *command))))
        if isinstance(answer, bytes) and answer != b"OK":
            raise self._wire.failure(hiredis.ReplyError(f"NOPERM {answer.decode('utf-8', 'replace')}"))

    def prepare(self) -> None:
        """Redis needs nothing prepared."""

    def lacking(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def version(self) -> str | None:
        found: bytes | None = self._wire.call(b"GET", self._layout.version)
        return None if found is None else found.decode("utf-8", "backslashreplace").strip()

    def set_version(self, version: str | None) -> None:
        self._set_mark(self._layout.version, None if version is None else version.encode())

    def applied(self) -> bytes | None:
        found: bytes | None = self._wire.call(b"GET", self._layout.applied)
        return found

    def set_applied(self, record: bytes | None) -> None:
        self._set_mark(self._layout.applied, record)

    def live(self) -> bytes | None:
        found: bytes | None = self._wire.call(b"GET", self._layout.live)
        return found

    def set_live(self, record: bytes | None) -> None:
        self._set_mark(self._layout.live, record)

    def lock(self, owner: Owner, seconds: float) -> RedisLease:
        """A key beside those of the store; its expiry counts by the server's clock."""
        return lock(self._wire, self._layout.lock, owner, seconds, self.describe())

    def require_unlocked(self) -> None:
        require_free(self._wire, self._layout.lock, self.describe())

    def fence(self, token: str) -> None:
        self._fence.token = token

    def refusals(self, kind: Kind, batch: pa.RecordBatch) -> list[Refusal]:
        """Documents that are too large, and ids that share a key, as ``a`` and ``b:c`` do with ``a:b`` and ``c``."""
        too_large = pc.indices_nonzero(pc.greater(batch.column("size"), MAX_VALUE_BYTES)).to_pylist()
        refusals = [Refusal(row, "document_too_large", "Redis holds strings up to 512 MiB.") for row in too_large]
        if kind is not Kind.STATE:
            refusals += _sharing_keys(batch, RECORD_ID[kind])
        return refusals

    def slots(self, kind: Kind, batch: pa.RecordBatch) -> pa.StringArray | None:
        """The key of a body joins both ids by ``:``."""
        if kind is Kind.STATE:
            return None
        return pc.binary_join_element_wise(batch.column("state_id"), batch.column(RECORD_ID[kind]), ":")

    def losses(self, kind: Kind, batch: pa.RecordBatch) -> dict[str, pa.BooleanArray]:
        """Redis keeps no ``timestamps`` beside a state's document."""
        if kind is not Kind.STATE:
            return {}
        return losing(
            {"timestamps": pc.or_(batch.column("created_at").is_valid(), batch.column("updated_at").is_valid())}
        )

    def times(self, batch: pa.RecordBatch) -> dict[str, pa.Int64Array]:  # noqa: ARG002 - whatever they are
        """None."""
        return {}

    def write(self, kind: Kind, batch: pa.RecordBatch) -> Written:
        """Upsert a batch; atomic for each key, and the rows of a batch do not become visible together.

        A state without expiry loses the one that its key had. What is unchanged is written all the same, so that a key
        that somebody changed meanwhile ends up as the batch has it. Where the server has no PEXPIRETIME (before Redis 7),
        rows with an expiry may count as updated although nothing changed.
        """
        if not batch.num_rows:
            return Written()
        if kind is Kind.STATE:
            ids = batch.column("state_id").cast(pa.binary()).to_pylist()
            expiries = batch.column("expires_at").cast(pa.int64()).to_pylist()
            return put(
                self._wire, self._fence, Rows(self._layout.states(ids), documents_in(batch.column("data")), expiries)
            )
        return put_history(self._wire, self._fence, self._layout, kind, batch.select(SCHEMAS[kind].names).to_pylist())

    def remove(self, kind: Kind, batch: pa.RecordBatch) -> int:
        """Of versions and snapshots the body and the member of the sorted set, together."""
        if kind is Kind.STATE:
            ids = batch.column("state_id").cast(pa.binary()).to_pylist()
            return take(self._fence, self._layout.states(ids))
        rows = batch.select(id_columns(kind)).to_pylist()
        return take_history(self._wire, self._fence, self._layout, kind, [owned(kind, row) for row in rows])

    def remove_unchanged(self, kind: Kind, batch: pa.RecordBatch) -> Removal:
        """Watches the keys of the documents or bodies while it reads them."""

        def keys(some: pa.RecordBatch) -> list[bytes]:
            rows = some.select(id_columns(kind)).to_pylist()
            if kind is Kind.STATE:
                return self._layout.states([key_bytes(row["state_id"]) for row in rows])
            return self._layout.bodies(kind, [owned(kind, row) for row in rows])

        def look(some: pa.RecordBatch) -> Sameness:
            unreadable: list[Reject] = []
            if kind is Kind.STATE:
                ids = some.column("state_id").cast(pa.binary()).to_pylist()
                read = self._states(state_batch, span_of(ids), unreadable.append)
            else:
                history = HistoryReader(self._wire, self._layout, kind, unreadable.append)
                read = history.named([owned(kind, row) for row in some.select(id_columns(kind)).to_pylist()])
            found = sameness(kind, some, read)
            return Sameness(found.same, found.there + len(unreadable))

        def deleting(some: pa.RecordBatch) -> Burst:
            if kind is Kind.STATE:
                return Burst.of((b"DEL", *keys(some)))
            rows = [owned(kind, row) for row in some.select(id_columns(kind)).to_pylist()]
            return taking(self._layout, kind, rows)

        return remove_unchanged(self._wire, self._fence, batch, keys=keys, look=look, deleting=deleting)

    def flush(self) -> None:
        """Nothing is held back here. How durable a write is when the server has answered is its persistence policy."""

    def get_state(self, state_id: str) -> bytes | None:
        document: bytes | None = self._wire.call(b"GET", self._layout.state(key_bytes(state_id)))
        return document

    def set_state(self, state_id: str, document: bytes) -> None:
        """As in the reference, an expiry that the state had is removed."""
        self._fence.run(Burst.of((b"SET", self._layout.state(key_bytes(state_id)), document)))

    def delete_state(self, state_id: str) -> bool:
        [deleted] = self._fence.run(Burst.of((b"DEL", self._layout.state(key_bytes(state_id)))))
        return bool(deleted)

    def list_states(self) -> Iterator[str]:
        """In no order. While the server grows or shrinks its table of keys, an id may come twice."""
        head = self._layout.state(b"")
        for page in self._wire.scan(glob_escaped(head) + b"*"):
            yield from (key_text(key[len(head) :]) for key in page)

    def get_version(self, state_id: str, version_id: str) -> Version | None:
        return self._get(Kind.VERSION, state_id, version_id, version_of)

    def save_version(self, version: Version) -> None:
        self._save(version)

    def get_version_history(self, state_id: str, limit: int = 0) -> Sequence[Version]:
        found = self._history(Kind.VERSION, state_id, limit, version_of)
        return found[:limit] if limit > 0 else found

    def get_snapshot(self, state_id: str, snapshot_id: str) -> Snapshot | None:
        return self._get(Kind.SNAPSHOT, state_id, snapshot_id, snapshot_of)

    def save_snapshot(self, snapshot: Snapshot) -> None:
        self._save(snapshot)

    def list_snapshots(self, state_id: str) -> Sequence[Snapshot]:
        return self._history(Kind.SNAPSHOT, state_id, 0, snapshot_of)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Writes that are sent together as MULTI … EXEC at the end."""
        commands = Burst()
        buffered = Buffered(self._layout, commands)
        yield buffered
        if not commands.replies:
            return
        require_own_keys(self._wire, self._layout, buffered.records)
        self._fence.transaction(lambda: [commands])

    def stats(self) -> StoreStats:
        """Counts all keys of the store, which takes a second per few hundred thousand."""
        counts = [0, 0, 0]
        for page in self._wire.scan(glob_escaped(self._layout.prefix) + b"*"):
            for i, family in enumerate(self._layout.records):
                counts[i] += sum(key.startswith(family) for key in page)
        states, versions, snapshots = counts
        return StoreStats(states, versions, snapshots, server=self.ping())

    def measure(self, pace: Pace) -> Measurement:
        """Counts by SCAN, with the sizes of all documents by STRLEN, as long as `pace` lets us."""
        return redis_measuring.measured(self._wire, self._layout, pace)

    def activity(self) -> Activity | None:
        return RedisGauge([self._wire]).activity()

    def sampled(self, states: int, pace: Pace, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        return redis_measuring.sampled(self, self._wire, self._layout, states, pace, on_reject)

    def history_lengths(self, ids: Sequence[str], pace: Pace) -> dict[Kind, list[int]]:
        return redis_measuring.history_lengths(self._wire, self._layout, ids, pace)

    @property
    def asked(self) -> int:
        return self._wire.asked

    def examine(self, *, trying: bool) -> Examination:
        return redis_measuring.examined(self._wire, self._layout, trying=trying)

    def holding(self, ids: Sequence[str]) -> list[str]:
        return redis_measuring.holding(self._wire, self._layout, ids)

    def _set_mark(self, key: bytes, content: bytes | None) -> None:
        self._fence.run(Burst.of((b"DEL", key) if content is None else (b"SET", key, content)))

    def _save(self, record: Version | Snapshot) -> None:
        require_own_keys(self._wire, self._layout, [record])
        self._fence.run(saving(self._layout, record))

    def _get(self, kind: Kind, state_id: str, id_: str, record_of: Callable[[str, bytes], R]) -> R | None:
        owned = key_bytes(state_id), key_bytes(id_)
        body = self._wire.call(b"GET", self._layout.body(kind, owned))
        if body is None:
            return None
        return self._decoded(kind, owned, body, record_of)

    def _history(self, kind: Kind, state_id: str, limit: int, record_of: Callable[[str, bytes], R]) -> list[R]:
        """The newest records, newest first: at least `limit` of them, if there are so many and `limit` is not 0.

        Scores are whole seconds, so all of the last second are read. Records without a body are passed over.
        """
        index = self._layout.index(kind, key_bytes(state_id))
        lowest = b"-inf"
        if limit > 0:
            newest = self._wire.call(b"ZREVRANGE", index, 0, limit - 1, b"WITHSCORES")
            lowest = newest[-1] if len(newest) == 2 * limit else lowest
        ids = self._wire.call(b"ZREVRANGEBYSCORE", index, b"+inf", lowest)
        reader: StringReader[Owned] = StringReader(
            self._wire, lambda owned: framed(self._layout.bodies(kind, owned)), expiries=False, max_bytes=BATCH_BYTES
        )
        owned = [(key_bytes(state_id), id_) for id_ in ids]
        batches = (owned[i : i + BATCH_KEYS] for i in range(0, len(owned), BATCH_KEYS))
        records = (
            self._decoded(kind, ids, body, record_of)
            for found in reader.read(batches)
            for ids, body in zip(found.tags, found.values, strict=True)
        )
        return sorted((record for record in records if record is not None), key=_moment, reverse=True)

    def _decoded(self, kind: Kind, owned: Owned, body: bytes, record_of: Callable[[str, bytes], R]) -> R | None:
        """The record in a body, or None if it is that of another state, whose key happens to be the same."""
        state_id, id_ = map(key_text, owned)
        try:
            record = record_of(state_id, body)
        except ValueError as error:
            raise StoreError(
                f"The {kind} {id_!r} of the state {state_id!r} cannot be read: {error}.",
                why="Its body is not what the format says.",
                remedy=f"Repair or delete the key {key_text(self._layout.body(kind, owned))!r}.",
            ) from error
        return record if getattr(record, RECORD_ID[kind]) == id_ else None


def _moment(record: Version | Snapshot) -> int:
    try:
        return nanoseconds(record.timestamp)
    except ValueError:
        return nanoseconds(ZERO_TIME)


def _sharing_keys(batch: pa.RecordBatch, id_column: str) -> list[Refusal]:
    ids = batch.column(id_column)
    # Two pairs of ids that give one key differ in where they are cut, so at least one of the second ids holds a colon.
    if not pc.any(pc.match_substring(ids, ":")).as_py():
        return []
    seen: set[str] = set()
    refusals = []
    for row, (state_id, id_) in enumerate(zip(batch.column("state_id").to_pylist(), ids.to_pylist(), strict=True)):
        key = f"{state_id}:{id_}"
        if key in seen:
            refusals.append(
                Refusal(row, "shared_key", "Another record has the same key, as the ids are joined by ':'.")
            )
        seen.add(key)
    return refusals
