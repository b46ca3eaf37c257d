"""What would become of sampled records in the target: what it would not take, what would fall together, what would be lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.losses import MEANING
from agui_pipelines.phases.profile import NAMED, Found
from agui_pipelines.phases.transform import Trial
from agui_pipelines.ports import Store
from agui_pipelines.records import SOURCE_ID, Kind, Reject, id_columns

_IDS: Final = 100_000
"""Ids of states that are kept, to see which of them fall together and which the target holds."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Records that would be rejected for one reason, with what is wrong with the first of them."""

    found: Found
    detail: str

    def to_dict(self) -> dict[str, Any]:
        return {**self.found.to_dict(), "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Outlook:
    """What was found on trial."""

    refused: dict[str, Refused]
    """By reason."""
    collisions: dict[str, list[str]]
    """The first hundred ids that several source ids would have, with these."""
    collision_count: int
    shared: list[tuple[str, str]]
    """Pairs of records of which the target could keep only one, although their ids differ; the first hundred."""
    losses: dict[str, Found]
    """Records that would lose something that carries meaning, by property."""
    ids: tuple[str, ...]
    """Of the states as the target would have them."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "refused": {reason: refused.to_dict() for reason, refused in self.refused.items()},
            "collisions": self.collisions,
            "collision_count": self.collision_count,
            "shared_places": [list(pair) for pair in self.shared],
            "losses": {name: found.to_dict() for name, found in self.losses.items()},
        }


@dataclass(slots=True)
class Prospector:
    """Takes digested batches; `result` tells what was found."""

    tried: Trial
    target: Store
    carried: tuple[str, ...]
    """Properties of states that documents carry where the target has no place for them."""
    _refused: dict[str, Refused] = field(default_factory=dict)
    _sources: dict[str, str] = field(default_factory=dict)
    _collisions: dict[str, list[str]] = field(default_factory=dict)
    _collision_count: int = 0
    _slots: dict[tuple[Kind, str], str] = field(default_factory=dict)
    _shared: list[tuple[str, str]] = field(default_factory=list)
    _losses: dict[str, Found] = field(default_factory=dict)

    def add(self, kind: Kind, batch: pa.RecordBatch) -> None:
        kept, lost = self.tried(kind, batch, self.reject)
        self._lose(kind, kept, lost)
        if kind is Kind.STATE:
            for id_, source in zip(
                kept.column("state_id").to_pylist(), kept.column(SOURCE_ID).to_pylist(), strict=True
            ):
                self._meet(id_, source)
        self._share(kind, kept)

    def reject(self, reject: Reject) -> None:
        """A record that would not go on."""
        self._refused.setdefault(reject.reason, Refused(Found(), reject.detail)).found.add([reject.name])

    def shorten(self, ids: Sequence[str], versions: Sequence[int], limit: int) -> None:
        """States of the source with so many versions each, of which no more than `limit` are to be moved."""
        # An assessment that runs out of time tells the lengths of the first ids only.
        beyond = [id_ for id_, count in zip(ids, versions, strict=False) if count > limit]
        if beyond:
            self._losses.setdefault("history", Found()).add(beyond)

    def result(self) -> Outlook:
        return Outlook(
            self._refused,
            self._collisions,
            self._collision_count,
            self._shared,
            self._losses,
            tuple(self._sources),
        )

    def _lose(self, kind: Kind, kept: pa.RecordBatch, lost: Mapping[str, pa.BooleanArray]) -> None:
        for name, mask in lost.items():
            if name in MEANING and not (kind is Kind.STATE and name in self.carried):
                rows = pc.indices_nonzero(mask).to_pylist()
                ids = kept.column(SOURCE_ID)
                self._losses.setdefault(name, Found()).add(ids[row].as_py() for row in rows)

    def _meet(self, id_: str, source: str) -> None:
        if len(self._sources) >= _IDS and id_ not in self._sources:
            return
        other = self._sources.setdefault(id_, source)
        if other != source:
            self._collision_count += 1
            if len(self._collisions) < NAMED or id_ in self._collisions:
                sources = self._collisions.setdefault(id_, [other])
                if source not in sources and len(sources) < NAMED:
                    sources.append(source)

    def _share(self, kind: Kind, kept: pa.RecordBatch) -> None:
        slots = self.target.slots(kind, kept)
        if slots is None:
            return
        columns = [kept.column(name).to_pylist() for name in id_columns(kind)]
        for slot, *ids in zip(slots.to_pylist(), *columns, strict=True):
            if len(self._slots) >= _IDS:
                return
            name = "/".join(ids)
            other = self._slots.setdefault((kind, slot), name)
            if other != name and len(self._shared) < NAMED:
                self._shared.append((other, name))
