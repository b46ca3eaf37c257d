"""Which of what a reader rejects belongs to the keys that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from agui_pipelines.keyspace import Span, listed, owned_by, owners
from agui_pipelines.ports import OnReject
from agui_pipelines.records import Reject

UNLISTED: Final = "unlisted"
"""Reason by which a body is rejected that no sorted set names."""
_LOOKED_UP: Final = 1000
"""Names that are looked up in a catalogue at a time."""


@dataclass(slots=True)
class Belonging:
    """Passes on what a reader rejects of some spans, if it belongs to their keys; to `held`, if those are known already.

    Bodies that no sorted set names are told with the span that has no lower bound, whichever it is whose they are: those
    are looked up in the catalogue, many at a time, the last of them by `settle`.
    """

    spans: Sequence[Span]
    held: frozenset[bytes]
    take: OnReject
    _elsewhere: list[Reject] = field(default_factory=list)

    def __call__(self, reject: Reject) -> None:
        if owned_by(self.held, reject.id):
            self.take(reject)
        elif reject.reason == UNLISTED:
            self._elsewhere.append(replace(reject, raw=None))
            if len(self._elsewhere) == _LOOKED_UP:
                self.settle()

    def settle(self) -> None:
        first = next((span for span in self.spans if span.lower is None), None)
        waiting, self._elsewhere = self._elsewhere, []
        if first is None or not waiting:
            return
        known = listed(first.catalogue, (owner for reject in waiting for owner in owners(reject.id)))
        for reject in waiting:
            if owned_by(known, reject.id):
                self.take(reject)
