"""Reading the versions or snapshots of many states from a Redis, batch by batch and never a whole history at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import hiredis
import pyarrow as pa

from agui_pipelines.drivers.redis import Burst, RedisWire
from agui_pipelines.drivers.redis_strings import BATCH_KEYS, StringReader, Strings, is_utf8
from agui_pipelines.ports import BATCH_BYTES, OnReject
from agui_pipelines.records import SCHEMAS, Kind, Reject
from agui_pipelines.stores.redis_layout import RECORD_ID, Layout, Owned, parts_of

_FIRST_PAGE: Final = 200
"""Members that are asked for of each of a batch of states; most have fewer."""
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class HistoryReader:
    """Reads versions or snapshots. What cannot become a record goes to `on_reject`, named ``state id/record id``."""

    wire: RedisWire
    layout: Layout
    kind: Kind
    on_reject: OnReject

    def read(self, state_ids: Iterable[list[bytes]]) -> Iterator[pa.RecordBatch]:
        """Bare batches of all records that belong to the states. Raises what `RedisWire` raises."""
        reader: StringReader[Owned] = StringReader(
            self.wire, lambda owned: self.layout.bodies(self.kind, owned), expiries=False, max_bytes=BATCH_BYTES
        )
        for found in reader.read(self._owned(state_ids)):
            self._reject_unreachable(found)
            columns = self._columns(found)
            if columns["state_id"]:
                yield pa.RecordBatch.from_pydict(columns, schema=SCHEMAS[self.kind])

    def _owned(self, state_ids: Iterable[list[bytes]]) -> Iterator[list[Owned]]:
        """All members of the states' sorted sets, in lists of at most `BATCH_KEYS`."""
        waiting: list[Owned] = []
        for page in self._pages(state_ids):
            waiting += page
            while len(waiting) >= BATCH_KEYS:
                yield waiting[:BATCH_KEYS]
                waiting = waiting[BATCH_KEYS:]
        if waiting:
            yield waiting

    def _pages(self, state_ids: Iterable[list[bytes]]) -> Iterator[list[Owned]]:
        for some in state_ids:
            burst = Burst()
            for state_id in some:
                burst.add(b"ZRANGE", self.layout.index(self.kind, state_id), 0, _FIRST_PAGE - 1)
            for state_id, members in zip(some, self.wire.receive(self.wire.send(burst)), strict=True):
                if isinstance(members, hiredis.ReplyError):
                    self._reject_index(state_id, members)
                    continue
                yield [(state_id, member) for member in members]
                if len(members) == _FIRST_PAGE:
                    yield from self._more(state_id, members)

    def _more(self, state_id: bytes, page: list[bytes]) -> Iterator[list[Owned]]:
        """What follows a page. Members that come or go meanwhile shift the ranks, so each page is tied to the last."""
        index = self.layout.index(self.kind, state_id)
        while page:
            burst = Burst()
            for member in page:
                burst.add(b"ZRANK", index, member)
            start = max((rank + 1 for rank in self.wire.run(burst) if rank is not None), default=0)
            page = self.wire.call(b"ZRANGE", index, start, start + _PAGE - 1)
            yield [(state_id, member) for member in page]

    def _columns(self, found: Strings[Owned]) -> dict[str, list[Any]]:
        names = SCHEMAS[self.kind].names
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for owned, body in zip(found.tags, found.values, strict=True):
            if not (is_utf8(owned[0]) and is_utf8(owned[1])):
                self._reject(owned, body, "id_not_utf8", "The id is not UTF-8 text.")
                continue
            try:
                parts = parts_of(self.kind, body)
            except ValueError as error:
                self._reject(owned, body, "undecodable", f"The body is not a {self.kind} record: {error}.")
                continue
            id_ = getattr(parts, RECORD_ID[self.kind])
            if id_ != owned[1].decode():
                self._reject(owned, body, *_wrong_id(id_))
                continue
            columns["state_id"].append(owned[0].decode())
            for name in names[1:]:
                columns[name].append(getattr(parts, name))
        return columns

    def _reject_unreachable(self, found: Strings[Owned]) -> None:
        for owned, type_ in found.others:
            self._reject(owned, None, "wrong_type", f"The key of the body holds a {type_}, not a string.")
        if not found.gone:
            return
        burst = Burst()
        for state_id, record_id in found.gone:
            burst.add(b"ZSCORE", self.layout.index(self.kind, state_id), record_id)
        for owned, place in zip(found.gone, self.wire.run(burst), strict=True):
            if place is not None:  # otherwise it was deleted as a whole since its id was read
                self._reject(owned, None, "missing_body", "The sorted set names it, but its body does not exist.")

    def _reject_index(self, state_id: bytes, reply: hiredis.ReplyError) -> None:
        if not str(reply).startswith("WRONGTYPE"):
            raise self.wire.failure(reply)
        key = self.layout.index(self.kind, state_id).decode("utf-8", "backslashreplace")
        detail = f"The key {key}, which should list the {self.kind}s of the state, is not a sorted set."
        self.on_reject(Reject(self.kind, state_id, None, "export", "wrong_type", detail))

    def _reject(self, owned: Owned, body: bytes | None, reason: str, detail: str) -> None:
        self.on_reject(Reject(self.kind, b"/".join(owned), body, "export", reason, detail))


def _wrong_id(id_: str) -> tuple[str, str]:
    if not id_:
        return "undecodable", "The body has no ID."
    return "id_mismatch", f"The body calls itself {id_!r}."
