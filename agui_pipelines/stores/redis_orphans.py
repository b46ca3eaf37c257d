"""Bodies of versions or snapshots that no sorted set names, and that reading by state therefore never comes to.

Their keys hold two ids joined by ``:``, either of which may hold one too, so for each place where a key can be cut the
sorted set of that state is asked. All of it goes by pages of the key space and costs about what one more listing does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import hiredis

from agui_pipelines.drivers.redis import Burst, RedisWire, glob_escaped
from agui_pipelines.drivers.redis_strings import BATCH_KEYS, StringReader
from agui_pipelines.ports import BATCH_BYTES, OnReject
from agui_pipelines.records import Kind, Reject
from agui_pipelines.stores.redis_layout import Layout


@dataclass(frozen=True, slots=True)
class Orphans:
    """Rejects what no sorted set names, by the end of its key: ``state id:record id``, whichever way that is cut."""

    wire: RedisWire
    layout: Layout
    kind: Kind
    on_reject: OnReject
    _told: set[bytes] = field(default_factory=set)

    def reject_all(self) -> None:
        """Raises what `RedisWire` raises."""
        reader: StringReader[bytes] = StringReader(self.wire, list, expiries=False, max_bytes=BATCH_BYTES)
        for found in reader.read(self._unnamed()):
            for key, type_ in found.others:
                self._reject(key, None, f"No sorted set names it, and its key holds a {type_}, not a string.")
            bodies = dict(zip(found.tags, found.values, strict=True))
            # A store in use writes the body first: it may have been named meanwhile.
            for key in self._without_member(list(bodies)):
                self._reject(key, bodies[key], "No sorted set names it, so nobody can tell whose it is.")

    def _unnamed(self) -> Iterator[list[bytes]]:
        for page in self.wire.scan(glob_escaped(self.layout.body_head(self.kind)) + b"*"):
            for start in range(0, len(page), BATCH_KEYS):
                keys = [key for key in self._without_member(page[start : start + BATCH_KEYS]) if key not in self._told]
                self._told.update(keys)  # a listing may name a key twice
                if keys:
                    yield keys

    def _without_member(self, keys: list[bytes]) -> list[bytes]:
        burst = Burst()
        asked: list[bytes] = []
        for key in keys:
            for state_id, record_id in self._cut(key):
                burst.add(b"ZSCORE", self.layout.index(self.kind, state_id), record_id)
                asked.append(key)
        named = set()
        for key, score in zip(asked, self.wire.receive(self.wire.send(burst)), strict=True):
            if isinstance(score, hiredis.ReplyError):
                if not str(score).startswith("WRONGTYPE"):
                    raise self.wire.failure(score)
            elif score is not None:
                named.add(key)
        return [key for key in keys if key not in named]

    def _cut(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All pairs of ids that give this key."""
        parts = key[len(self.layout.body_head(self.kind)) :].split(b":")
        for i in range(1, len(parts)):
            yield b":".join(parts[:i]), b":".join(parts[i:])

    def _reject(self, key: bytes, raw: bytes | None, detail: str) -> None:
        id_ = key[len(self.layout.body_head(self.kind)) :]
        self.on_reject(Reject(self.kind, id_, raw, "export", "missing_member", detail))
