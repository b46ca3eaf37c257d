"""To which state a version or snapshot file belongs.

Files of our own say so (``StateID``); those of the reference do not, and its history returns every version of a shard.
Each file is given to a state by the first of these rules that tells (store-format.md, section 2):

1. its member ``StateID``, else ``Metadata.state_id``;
2. its shard has one state only, and nothing in it tells of another one that was deleted;
3. the chain of ``ParentID`` (of a snapshot: its ``Version``) connects it to versions whose state is known;
4. its ``State`` equals exactly one head document of the shard; what its chain connects to it goes with it.

The rules look at one folder at a time, as the reference keeps everything of a state in folders of the same name. What
no rule tells, or what they tell in two ways, is kept and reported by name: to give a history to the wrong state would be
worse than to ask. So a chain that is connected to two states belongs to neither; and as every history may begin with the
same document, above all with ``{}``, an older version tells by its content only if no other chain holds the like.

Memory: while a folder is looked at, about 500 bytes for each of its files; afterwards some 40 bytes for each history
file of the store and 250 for each state that has any. A million files so take 60 to 300 MB.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import orjson

from agui_pipelines import documents
from agui_pipelines.canonical import digest
from agui_pipelines.records import Kind
from agui_pipelines.stores.bodies import (
    SnapshotParts,
    VersionParts,
    nanoseconds,
    snapshot_parts,
    split_state_id,
    version_parts,
)
from agui_pipelines.stores.file_content import UnreadableError, read
from agui_pipelines.stores.file_layout import SUFFIX, Layout, as_text

Parts = VersionParts | SnapshotParts

HISTORY: Final = (Kind.VERSION, Kind.SNAPSHOT)
_NAMES: Final = b"/"
"""Between the names of a state's files; no name can hold it."""
_EMPTY: Final = digest(b"{}").canonical


class Odd(NamedTuple):
    """A history file that cannot become a record of any state."""

    kind: Kind
    key: bytes
    path: bytes
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class FolderHistory:
    """Whose the history files of one folder are."""

    owned: Mapping[Kind, Mapping[bytes, bytes]]
    odd: tuple[Odd, ...]

    def keys(self, kind: Kind, state: bytes) -> list[bytes]:
        """The ids of the versions or snapshots of a state, as their file names have them."""
        names = self.owned[kind].get(state)
        return [] if names is None else names.split(_NAMES)

    @property
    def files(self) -> int:
        """How many were read to tell it."""
        return len(self.odd) + sum(names.count(_NAMES) + 1 for kind in self.owned.values() for names in kind.values())

    def owners(self, kind: Kind) -> dict[bytes, bytes]:
        """The states of all versions or snapshots that have one, by the ids of these."""
        return {key: state for state, names in self.owned[kind].items() for key in names.split(_NAMES)}


class Record(NamedTuple):
    """A history file that could be read: its parts without our ``StateID``, and the state it names itself, if any."""

    parts: Parts
    state_id: str | None
    says_itself: bool
    """Whether that state is named by its ``StateID``, and not by its metadata."""


def read_record(layout: Layout, kind: Kind, path: bytes, key: bytes) -> Record | None:
    """Read a history file; None if it has vanished. Raises `UnreadableError` if it is no record of that id."""
    content = read(path, layout.base)
    if content is None:
        return None
    try:
        record = _parsed(kind, content.data)
    except (ValueError, ArithmeticError, RecursionError) as error:  # the latter two: a number or depth beyond reading
        detail = f"{os.fsdecode(path)} is no {kind} record: {error}."
        raise UnreadableError("undecodable", detail, content.data) from error
    id_ = record_id(record.parts)
    if id_.encode() != key:
        detail = f"{os.fsdecode(path)} holds the {kind} {id_!r}: its name and its content disagree."
        raise UnreadableError("id_mismatch", detail, content.data)
    return record


def record_id(parts: Parts) -> str:
    return parts.version_id if isinstance(parts, VersionParts) else parts.snapshot_id


def _parsed(kind: Kind, body: bytes) -> Record:
    parts = version_parts(body) if kind is Kind.VERSION else snapshot_parts(body)
    state_id, extra = split_state_id(parts.extra)
    if state_id is None:
        return Record(parts, _from_metadata(parts.metadata), says_itself=False)
    return Record(replace(parts, extra=extra), state_id, says_itself=True)


def _from_metadata(metadata: bytes | None) -> str | None:
    if metadata is None or b"state_id" not in metadata or not metadata.lstrip().startswith(b"{"):
        return None
    raw = documents.members(metadata).get("state_id", b"")
    return str(orjson.loads(raw)) if raw.startswith(b'"') else None


@dataclass(slots=True)
class _Loose:
    """A history file that does not say whose it is."""

    kind: Kind
    key: bytes
    id: str
    link: str
    """The version that it follows or was made of; empty if none."""
    instant: int
    canonical: bytes


@dataclass(slots=True)
class _Attribution:
    """The files of one folder while they are being given to their states."""

    layout: Layout
    folder: bytes
    owned: dict[Kind, defaultdict[bytes, list[bytes]]] = field(
        default_factory=lambda: {kind: defaultdict(list) for kind in HISTORY}
    )
    odd: list[Odd] = field(default_factory=list)
    loose: list[_Loose] = field(default_factory=list)
    owner_of: dict[str, bytes] = field(default_factory=dict)
    """The states of versions, by version id."""
    parents: list[tuple[str, bytes]] = field(default_factory=list)
    """Version ids that attributed versions name as their parents, and the state."""

    def run(self) -> FolderHistory:
        for kind in HISTORY:
            self._sort_out(kind)
        if self.loose:
            self._attribute()
        owned = {kind: {state: _NAMES.join(keys) for state, keys in self.owned[kind].items()} for kind in HISTORY}
        return FolderHistory(owned, tuple(self.odd))

    def _sort_out(self, kind: Kind) -> None:
        """Rule 1; what it does not tell goes to `loose`."""
        for entry in self.layout.entries(kind, self.folder):
            key = entry.name[: -len(SUFFIX)]
            try:
                record = read_record(self.layout, kind, entry.path, key)
            except UnreadableError as error:
                self.odd.append(Odd(kind, key, entry.path, error.reason, error.detail))
                continue
            if record is None:
                continue
            parts = record.parts
            link = parts.parent_id if isinstance(parts, VersionParts) else parts.version_id
            if record.state_id is None:
                canonical = digest(parts.data).canonical
                self.loose.append(_Loose(kind, key, record_id(parts), link, instant(parts.timestamp), canonical))
                continue
            state = record.state_id.encode()
            self.owned[kind][state].append(key)
            if link and kind is Kind.VERSION:
                self.parents.append((link, state))

    def _attribute(self) -> None:
        heads = list(self.layout.keys(Kind.STATE, self.folder))
        named = {state for kind in HISTORY for state in self.owned[kind]}
        known = named.union(self.layout.backed_up(self.folder))  # a backup outlives the state that was deleted
        if len(heads) == 1 and known <= set(heads):
            for item in self.loose:
                self.owned[item.kind][heads[0]].append(item.key)
            return
        for state, keys in self.owned[Kind.VERSION].items():
            self.owner_of.update((key.decode(), state) for key in keys)
        snapshots = [item for item in self.loose if item.kind is Kind.SNAPSHOT]
        chains = self._without_connected(_chains([item for item in self.loose if item.kind is Kind.VERSION]))
        by_document = self._by_document(heads) if chains or snapshots else {}
        self._compare_with_heads(chains, by_document)
        for item in snapshots:
            self._settle_snapshot(item, by_document)

    def _without_connected(self, chains: list[list[_Loose]]) -> list[list[_Loose]]:
        """Rule 3, from both ends: parents of attributed versions, and children of attributed ones. The rest is returned."""
        claims: defaultdict[str, set[bytes]] = defaultdict(set)
        for parent, state in self.parents:
            claims[parent].add(state)
        unconnected = []
        for chain in chains:
            states = {self.owner_of[item.link] for item in chain if item.link in self.owner_of}
            states = states.union(*(claims[item.id] for item in chain if item.id in claims))
            if not states:
                unconnected.append(chain)
            elif len(states) == 1:
                self._give(chain, *states)
            else:
                names = " and ".join(repr(as_text(state)) for state in sorted(states))
                for item in chain:
                    self._unattributed(item, f"The chain of parents connects it to the states {names}.")
        return unconnected

    def _give(self, chain: Iterable[_Loose], state: bytes) -> None:
        for item in chain:
            self.owner_of[item.id] = state
            self.owned[Kind.VERSION][state].append(item.key)

    def _compare_with_heads(self, chains: list[list[_Loose]], states: Mapping[bytes, bytes]) -> None:
        """Rule 4: by the newest version of a chain, else by the newest whose content no other chain holds."""
        occurring = Counter(canonical for chain in chains for canonical in {item.canonical for item in chain})
        common = {_EMPTY, *(canonical for canonical, count in occurring.items() if count > 1)}
        for chain in chains:
            newest = _newest(chain)
            older = [item for item in chain if item is not newest and item.canonical not in common]
            told = (states.get(item.canonical) for item in (newest, *sorted(older, key=_age, reverse=True)))
            state = next((state for state in told if state is not None), None)
            if state is not None:
                self._give(chain, state)
                continue
            for item in chain:
                self._unattributed(item)

    def _settle_snapshot(self, item: _Loose, states: Mapping[bytes, bytes]) -> None:
        state = self.owner_of.get(item.link, states.get(item.canonical))
        if state is None:
            self._unattributed(item)
        else:
            self.owned[Kind.SNAPSHOT][state].append(item.key)

    def _by_document(self, heads: Iterable[bytes]) -> dict[bytes, bytes]:
        """States by the canonical digest of their documents, where no other state of the folder has the same."""
        states: dict[bytes, bytes] = {}
        repeated: set[bytes] = set()
        for head in heads:
            canonical = self._head_digest(head)
            if canonical in states:
                repeated.add(canonical)
            elif canonical:
                states[canonical] = head
        return {canonical: state for canonical, state in states.items() if canonical not in repeated}

    def _head_digest(self, head: bytes) -> bytes:
        try:
            content = read(self.layout.path(Kind.STATE, self.folder, head), self.layout.base)
        except UnreadableError:
            return b""
        return digest(content.data).canonical if content else b""

    def _unattributed(self, item: _Loose, why: str = "") -> None:
        path = self.layout.path(item.kind, self.folder, item.key)
        detail = f"Nothing tells to which state the {item.kind} file {os.fsdecode(path)} belongs."
        self.odd.append(Odd(item.kind, item.key, path, "unattributed", f"{detail} {why}".rstrip()))


def attribute(layout: Layout, folder: bytes) -> FolderHistory:
    """Read all history files of a folder and tell whose they are."""
    return _Attribution(layout, folder).run()


def _chains(versions: list[_Loose]) -> list[list[_Loose]]:
    """The versions in groups, each of which the links between parents and children hold together."""
    left = {item.id: item for item in versions}
    children: defaultdict[str, list[str]] = defaultdict(list)
    for item in versions:
        if item.link:
            children[item.link].append(item.id)
    chains = []
    for item in versions:
        chain: list[_Loose] = []
        pending = [item.id]
        while pending:
            found = left.pop(pending.pop(), None)
            if found is not None:
                chain.append(found)
                pending += [found.link, *children.get(found.id, ())]
        if chain:
            chains.append(chain)
    return chains


def _newest(chain: list[_Loose]) -> _Loose:
    """The version that no other has for its parent; of several such branches (or of a circle) the youngest."""
    parents = {item.link for item in chain}
    return max([item for item in chain if item.id not in parents] or chain, key=_age)


def _age(item: _Loose) -> tuple[int, str]:
    return item.instant, item.id


def instant(timestamp: str) -> int:
    """Nanoseconds since the epoch for sorting; what is no time counts as older than all."""
    try:
        return nanoseconds(timestamp)
    except ValueError:
        return -(1 << 100)
