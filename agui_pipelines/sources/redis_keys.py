"""Any Redis as a source: every key that matches a pattern is a state, its key the state's id.

What a key of each type becomes is told in `redis_documents`; `redis_restore` turns it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from agui_pipelines.drivers.redis import RedisWire, framed, glob_prefix
from agui_pipelines.drivers.redis_cluster import RedisCluster, moved_for_good
from agui_pipelines.drivers.redis_gauge import RedisGauge, first_keys
from agui_pipelines.drivers.redis_strings import BATCH_KEYS, StringReader, Strings, is_utf8, state_batch
from agui_pipelines.errors import SlotMovedError
from agui_pipelines.keyspace import CATALOGUE, Span, span_of
from agui_pipelines.pace import Pace
from agui_pipelines.ports import BATCH_BYTES, Activity, Measurement, OnReject, Place
from agui_pipelines.records import Kind, Reject
from agui_pipelines.sources.redis_collections import READABLE, CollectionReader
from agui_pipelines.sources.redis_documents import begins_unlike_ours, is_taken, string_document
from agui_pipelines.spec import RedisKeysConfig

LOCK_KEY: Final = b"agui-migrate:lock"
"""Who writes back to a database holds this key of it, which is no state whatever ``match`` says; see `redis_keys_target`."""

_WHITE_SPACE: Final = b" \t\r\n"
_ROUNDS: Final = 10
"""How often a key is looked at again whose type changed while it was read."""


class RedisKeysSource:
    """The keys that match ``match``, a glob as Redis understands it; connects when it is first used.

    A string that begins like a JSON object is passed on as it is; any other value becomes a document.
    """

    def __init__(self, config: RedisKeysConfig) -> None:
        self._cluster = RedisCluster(config) if config.redis_cluster else None
        self._wire = RedisWire(config, clustered=config.redis_cluster)
        self._match = config.match

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.STATE,)

    def place(self) -> Place:
        """The server is known by its run id, or by its address if it does not tell."""
        server = self._cluster.identity if self._cluster else self._wire.server.run_id or self._wire.address
        return Place("redis", server, str(self._wire.database), glob_prefix(self._match))

    def describe(self) -> str:
        return f"{self._wire.url}{' (cluster)' if self._cluster else ''}, keys that match {self._match}"

    def ping(self) -> str:
        server = self._wire.server
        self._wire.call(b"PING")
        if self._cluster:
            self._cluster.ping()
        return f"{server.name} {server.version}".strip()

    def close(self) -> None:
        self._wire.close()
        if self._cluster:
            self._cluster.close()

    def exists(self) -> bool:
        """A Redis that answers has every key space there is."""
        self.ping()
        return True

    def now(self) -> int:
        return (self._cluster or self._wire).now()

    @property
    def exact_expiries(self) -> bool:
        """Whether each look at a key tells the same expiry, to the millisecond. Connects."""
        wires = self._cluster.primaries() if self._cluster else [self._wire]
        return all(wire.expiry_command == b"PEXPIRETIME" for wire in wires)

    def keys(self) -> Iterator[pa.RecordBatch]:
        for found in (self._cluster or self._wire).scan(self._pattern):
            page = [key for key in found if key != LOCK_KEY] if LOCK_KEY in found else found
            if page:
                columns = [pa.array(page, pa.binary()), pa.repeat(1, len(page))]
                yield pa.RecordBatch.from_arrays(columns, schema=CATALOGUE)

    def read(self, kind: Kind, span: Span, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        """States, if `kind` is that. Keys of types that are not known here are rejected by name."""
        if kind is not Kind.STATE:
            return
        if self._cluster is None:
            yield from _Reading(self._wire, on_reject).read(span.keys(BATCH_KEYS))
            return
        for keys in span.keys(BATCH_KEYS * self._cluster.size):
            yield from _read_cluster(self._cluster, keys, on_reject)

    def measure(self, pace: Pace) -> Measurement:
        """Counts by SCAN, with the sizes of all strings by STRLEN, as long as `pace` lets us."""
        gauge = self._gauge()
        counted = gauge.counted(self._pattern, [b""], pace)
        server, strings = gauge.wires[0].server, counted.sizes
        return Measurement(
            system=f"{server.name} Cluster" if self._cluster else server.name,
            version=server.version,
            states=counted.keys[0],
            estimated=("states",) if counted.estimated else (),
            sizes=strings if strings is not None and strings.count == counted.keys[0] else None,
            largest=() if strings is None else tuple(strings.largest),
            **gauge.of_server(states=counted.keys[0]),
        )

    def activity(self) -> Activity | None:
        return self._gauge().activity()

    def sampled(self, states: int, pace: Pace, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        for keys in first_keys((self._cluster or self._wire).scan(self._pattern), states, pace):
            for batch in self.read(Kind.STATE, span_of(keys), on_reject):
                yield Kind.STATE, batch

    def history_lengths(self, ids: Sequence[str], pace: Pace) -> dict[Kind, list[int]]:  # noqa: ARG002 - there are none
        return {}

    @property
    def asked(self) -> int:
        return sum(wire.asked for wire in (self._cluster.primaries() if self._cluster else [self._wire]))

    def salvage(self, document: bytes) -> bytes | None:
        """Another form of a value that turned out not to be a JSON object: a document that holds it as text."""
        return string_document(document)

    @property
    def _pattern(self) -> bytes:
        return self._match.encode("utf-8", "surrogateescape")

    def _gauge(self) -> RedisGauge:
        return RedisGauge(self._cluster.primaries() if self._cluster else [self._wire])


def _read_cluster(cluster: RedisCluster, keys: list[bytes], on_reject: OnReject) -> Iterator[pa.RecordBatch]:
    """Keys from the nodes that own them; those of slots that move meanwhile are asked for again, the others are not."""
    left = dict.fromkeys(keys)
    for attempt in range(cluster.attempts):
        try:
            for wire, part in cluster.parted(list(left)):
                done = _Done(left, on_reject)
                for batch in _Reading(wire, done.reject).read([part]):
                    yield batch
                    done.read(batch)
        except SlotMovedError as error:
            if attempt + 1 == cluster.attempts:
                raise moved_for_good(error) from error
            cluster.refresh(attempt)
        else:
            return


@dataclass(frozen=True, slots=True)
class _Done:
    """Strikes off what was read or rejected."""

    left: dict[bytes, None]
    on_reject: OnReject

    def read(self, batch: pa.RecordBatch) -> None:
        for key in batch.column("state_id").cast(pa.binary()).to_pylist():
            self.left.pop(key, None)

    def reject(self, reject: Reject) -> None:
        self.left.pop(reject.id, None)
        self.on_reject(reject)


class _Reading:
    """Reads keys of any type over one connection."""

    def __init__(self, wire: RedisWire, on_reject: OnReject) -> None:
        self._wire = wire
        self._on_reject = on_reject
        self._strings: StringReader[bytes] = StringReader(wire, framed, expiries=True, max_bytes=BATCH_BYTES)
        self._collections: CollectionReader | None = None

    def read(self, batches: Iterable[list[bytes]], rounds: int = _ROUNDS) -> Iterator[pa.RecordBatch]:
        for found in self._strings.read(batches):
            others = found.others
            batch = self._states(_documents(found))
            del found
            if batch.num_rows:
                yield batch
            del batch  # or a large document would still be held while the next one arrives
            if others:
                yield from self._read_others(others, rounds)

    def _read_others(self, others: list[tuple[bytes, str]], rounds: int) -> Iterator[pa.RecordBatch]:
        """Keys that are no strings. Those that changed their type since it was asked for are looked at again."""
        known = []
        for key, type_ in others:
            if type_ not in READABLE:
                self._reject(
                    key, None, "unsupported_type", f"The key holds a {type_}, which has no form as a document."
                )
            elif not rounds:
                self._reject(key, None, "keeps_changing", "The type of the key changed each time that it was read.")
            else:
                known.append((key, type_))
        if not known:
            return
        if self._collections is None:
            self._collections = CollectionReader(self._wire, max_bytes=BATCH_BYTES, reject=self._reject)
        changed: list[bytes] = []
        for found in self._collections.read(known, changed.append):
            batch = self._states(found)
            del found
            if batch.num_rows:
                yield batch
            del batch
        if changed:
            yield from self.read([changed], rounds - 1)

    def _states(self, found: Strings[bytes]) -> pa.RecordBatch:
        return state_batch(found, self._reject_key)

    def _reject_key(self, key: bytes, raw: bytes) -> None:
        self._reject(key, raw, "id_not_utf8", "The key is not UTF-8 text.")

    def _reject(self, key: bytes, raw: bytes | None, reason: str, detail: str) -> None:
        self._on_reject(Reject(Kind.STATE, key, raw, "export", reason, detail))


def _documents(found: Strings[bytes]) -> Strings[bytes]:
    """The strings with documents for values."""
    values = found.values
    for i in [i for i, whole in enumerate(map(begins_unlike_ours, values)) if whole is None]:
        # What has no usable key is rejected later, and with the value as it is.
        if is_utf8(found.tags[i]):
            values[i] = _document(values[i])  # in its place, as a large value is not to be held any longer
    return found


def _document(value: bytes) -> bytes:
    """A JSON object as it is, anything else as text. What only begins like an object is found out when it is parsed."""
    if not value.lstrip(_WHITE_SPACE).startswith(b"{"):
        return string_document(value)
    return string_document(value) if is_taken(value) else value


def open_(config: RedisKeysConfig, folder: Path) -> RedisKeysSource:
    return RedisKeysSource(config.model_copy(update={"redis_options": config.redis_options.anchored(folder)}))
