"""Where the parts of an AG-UI store lie among the keys of a Redis, and what its version and snapshot bodies hold.

The layout is that of store-format.md, section 3. Ids may hold ``:``, so the key of a body cannot be split; bodies are
reached through the members of the sorted set of their state. Ids are bytes here, as the keys are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agui_pipelines.ports import Snapshot, Version
from agui_pipelines.records import Kind
from agui_pipelines.stores.bodies import (
    ZERO_TIME,
    SnapshotParts,
    VersionParts,
    snapshot_body,
    snapshot_parts,
    unix_seconds,
    version_body,
    version_parts,
)

MAX_VALUE_BYTES: Final = 512 * 1024 * 1024
"""The largest string that a Redis holds (``proto-max-bulk-len``)."""

Owned = tuple[bytes, bytes]
"""A state id and the id of one of its versions or snapshots."""

RECORD_ID: Final = {Kind.VERSION: "version_id", Kind.SNAPSHOT: "snapshot_id"}
"""The column that, beside ``state_id``, names a record."""

_INDEX: Final = {Kind.VERSION: b"versions:", Kind.SNAPSHOT: b"snapshots:"}
_BODY: Final = {Kind.VERSION: b"version:", Kind.SNAPSHOT: b"snapshot:"}


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of the store with this prefix."""

    prefix: bytes

    @property
    def families(self) -> tuple[bytes, bytes, bytes]:
        """What keys begin with that are followed by nothing but a state id."""
        return self.state_head, self.prefix + b"versions:", self.prefix + b"snapshots:"

    @property
    def records(self) -> tuple[bytes, bytes, bytes]:
        """What the keys of states, versions and snapshots themselves begin with."""
        return self.state_head, self.prefix + b"version:", self.prefix + b"snapshot:"

    @property
    def lock(self) -> bytes:
        """The key that says who writes here. Nothing of the store begins with ``meta:``."""
        return self.prefix + b"meta:lock"

    @property
    def version(self) -> bytes:
        """The key of the version marker."""
        return self.prefix + b"meta:version"

    @property
    def applied(self) -> bytes:
        """The key of what is recorded of schema migrations."""
        return self.prefix + b"meta:schema"

    @property
    def live(self) -> bytes:
        """The key of the control record."""
        return self.prefix + b"meta:live"

    def state(self, state_id: bytes) -> bytes:
        return self.state_head + state_id

    def states(self, state_ids: list[bytes]) -> list[bytes]:
        head = self.state_head
        return [head + state_id for state_id in state_ids]

    @property
    def state_head(self) -> bytes:
        """What the keys of all states begin with."""
        return self.prefix + b"state:"

    def index(self, kind: Kind, state_id: bytes) -> bytes:
        """The sorted set of the ids of a state's versions or snapshots."""
        return self.prefix + _INDEX[kind] + state_id

    def body_head(self, kind: Kind) -> bytes:
        """What the keys of all bodies begin with."""
        return self.prefix + _BODY[kind]

    def body(self, kind: Kind, owned: Owned) -> bytes:
        return b"%b%b%b:%b" % (self.prefix, _BODY[kind], *owned)

    def bodies(self, kind: Kind, owned: list[Owned]) -> list[bytes]:
        head = self.prefix + _BODY[kind]
        return [b"%b%b:%b" % (head, state_id, record_id) for state_id, record_id in owned]


def key_bytes(id_: str) -> bytes:
    """An id as it stands in a key. Ids that `key_text` made of other bytes come out as those bytes."""
    return id_.encode("utf-8", "surrogateescape")


def owned(kind: Kind, row: Mapping[str, Any]) -> Owned:
    """The ids of a row of versions or snapshots."""
    return key_bytes(row["state_id"]), key_bytes(row[RECORD_ID[kind]])


def key_text(id_: bytes) -> str:
    """An id from a key as text, whatever bytes it holds."""
    return id_.decode("utf-8", "surrogateescape")


def score(timestamp: str) -> int:
    """Unix seconds of a version or snapshot. What is no RFC 3339 time sorts as the zero time, before all others."""
    try:
        return unix_seconds(timestamp)
    except ValueError:
        return unix_seconds(ZERO_TIME)


def parts_of(kind: Kind, body: bytes) -> VersionParts | SnapshotParts:
    """Cut a body. Raises ValueError."""
    return version_parts(body) if kind is Kind.VERSION else snapshot_parts(body)


def id_in(kind: Kind, body: bytes) -> str:
    """The id that a body gives itself. Raises ValueError."""
    return str(getattr(parts_of(kind, body), RECORD_ID[kind]))


def body_of(kind: Kind, row: Mapping[str, Any]) -> bytes:
    """The body of a row with the columns of `records.VERSION` or `records.SNAPSHOT`."""
    id_, timestamp, data, metadata, extra = (
        row[c] for c in (RECORD_ID[kind], "timestamp", "data", "metadata", "extra")
    )
    if kind is Kind.VERSION:
        return version_body(id_, timestamp, data, row["delta"], metadata, row["parent_id"], extra)
    return snapshot_body(id_, timestamp, data, row["version_id"], metadata, extra)


def row_of(record: Version | Snapshot) -> dict[str, Any]:
    """A record as a row."""
    return {name: getattr(record, name) for name in type(record).__slots__}


def version_of(state_id: str, body: bytes) -> Version:
    """Raises ValueError."""
    parts = version_parts(body)
    return Version(state_id=state_id, **{name: getattr(parts, name) for name in VersionParts.__slots__})


def snapshot_of(state_id: str, body: bytes) -> Snapshot:
    """Raises ValueError."""
    parts = snapshot_parts(body)
    return Snapshot(state_id=state_id, **{name: getattr(parts, name) for name in SnapshotParts.__slots__})
