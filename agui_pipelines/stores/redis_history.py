"""Reading the versions or snapshots of many states from a Redis, batch by batch and never a whole history at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import hiredis
import pyarrow as pa

from agui_pipelines.drivers.redis import Burst, RedisWire, framed, glob_escaped
from agui_pipelines.drivers.redis_strings import BATCH_KEYS, StringReader, Strings, is_utf8
from agui_pipelines.ports import BATCH_BYTES, OnReject
from agui_pipelines.records import SCHEMAS, Kind, Reject
from agui_pipelines.stores.redis_layout import RECORD_ID, Layout, Owned, id_in, key_bytes, parts_of

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
        yield from self._bodies(self._owned(state_ids))

    def named(self, some: list[Owned]) -> Iterator[pa.RecordBatch]:
        """Bare batches of some records, whether or not their states list them."""
        yield from self._bodies(some[first : first + BATCH_KEYS] for first in range(0, len(some), BATCH_KEYS))

    def _bodies(self, some: Iterable[list[Owned]]) -> Iterator[pa.RecordBatch]:
        reader: StringReader[Owned] = StringReader(
            self.wire, lambda owned: framed(self.layout.bodies(self.kind, owned)), expiries=False, max_bytes=BATCH_BYTES
        )
        for found in reader.read(some):
            self._reject_unreachable(found)
            columns = self._columns(found)
            if columns["state_id"]:
                yield pa.RecordBatch.from_pydict(columns, schema=SCHEMAS[self.kind])

    def reject_unlisted(self) -> None:
        """Reject the bodies that no sorted set names, whosever they are.

        Every key of a body is looked up in the sorted sets that may name it, a page of keys at a time.
        """
        head = self.layout.body_head(self.kind)
        reader: StringReader[bytes] = StringReader(
            self.wire, partial(framed, head=head), expiries=False, max_bytes=BATCH_BYTES
        )
        rejected: set[bytes] = set()  # a key may come twice while the server rebuilds its table
        for page in self.wire.scan(glob_escaped(head) + b"*"):
            doubtful = [rest for rest in self._unlisted([key[len(head) :] for key in page]) if rest not in rejected]
            for found in reader.read([doubtful]) if doubtful else ():
                bodies: dict[bytes, bytes | None] = dict(zip(found.tags, found.values, strict=True))
                bodies |= dict.fromkeys(rest for rest, _ in found.others)
                for rest in self._unlisted(list(bodies)):  # once more, as whoever saves a record sets the body first
                    rejected.add(rest)
                    detail = f"No sorted set names this {self.kind}, so it belongs to no state."
                    self.on_reject(
                        Reject(self.kind, self._name(rest, bodies[rest]), bodies[rest], "export", "unlisted", detail)
                    )

    def _name(self, rest: bytes, body: bytes | None) -> bytes:
        """The name of a record by the key of its body. Where that can be cut in several ways, the body tells its own id."""
        try:
            end = b":" + key_bytes(id_in(self.kind, body or b""))
        except ValueError:
            end = b""
        if len(end) > 1 and rest.endswith(end):
            return rest[: -len(end)] + b"/" + end[1:]
        return rest.replace(b":", b"/") if rest.count(b":") == 1 else rest

    def _unlisted(self, rests: list[bytes]) -> list[bytes]:
        """Those keys of bodies (without what all of them begin with) that are named by none of the sorted sets that may."""
        burst = Burst()
        asked: list[bytes] = []
        for rest in rests:
            for state_id, record_id in _ways_to_cut(rest):
                burst.add(b"ZSCORE", self.layout.index(self.kind, state_id), record_id)
                asked.append(rest)
        listed: set[bytes] = set()
        for rest, score in zip(asked, self.wire.receive(self.wire.send(burst)), strict=True):
            if isinstance(score, hiredis.ReplyError):
                if not str(score).startswith("WRONGTYPE"):
                    raise self.wire.failure(score)
            elif score is not None:
                listed.add(rest)
        return [rest for rest in rests if rest not in listed]

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
        for ids in state_ids:
            some = ids if self._any_history(ids) else []
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

    def _any_history(self, state_ids: list[bytes]) -> bool:
        """Whether any of the states has a sorted set, by one command: in many a store none has."""
        return bool(self.wire.call(b"EXISTS", *(self.layout.index(self.kind, state_id) for state_id in state_ids)))

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


def _ways_to_cut(rest: bytes) -> Iterator[Owned]:
    """The pairs of ids that give a key; where no id holds ``:`` there is one."""
    at = rest.find(b":")
    while at >= 0:
        yield rest[:at], rest[at + 1 :]
        at = rest.find(b":", at + 1)


def _wrong_id(id_: str) -> tuple[str, str]:
    if not id_:
        return "undecodable", "The body has no ID."
    return "id_mismatch", f"The body calls itself {id_!r}."
