"""Estimate: how long a run of so many keys will take, from rounds of a rehearsal on two sizes of samples.

Each phase takes a part that does not depend on the number of keys (connections, worker processes, a batch or segment for
each key range) and a part for each key. Both follow from the rounds of the two sizes. The first round, which is small, was
also the first in its process: what it took beyond those parts is done once in a run too, and is added once.

The range covers what the rounds of one size differed by, and `DRIFT`, by which rates of a shared machine change within an
hour. Nothing here measures or connects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from agui_pipelines.phases.timeline import Seconds

DRIFT: Final = 0.2
"""Share by which an estimate may be off in either direction, even if all rounds agreed."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one phase took in one round."""

    keys: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds that a phase takes once, in each run, and for each key."""

    once: float
    fixed: float
    per_key: Seconds

    def of(self, keys: int) -> Seconds:
        """For so many keys."""
        fixed = self.once + self.fixed
        return Seconds(
            (self.fixed + self.per_key.low * keys) * (1 - DRIFT),
            fixed + self.per_key.expected * keys,
            (fixed + self.per_key.high * keys) * (1 + DRIFT),
        )

    def overlapping(self, ready: float, elapsed: float) -> Parts:
        """Where what is done once is to wait for something that takes `ready` seconds, `elapsed` of which pass meanwhile."""
        return replace(self, once=min(self.once, max(0.0, ready - elapsed)))


def parts(first: Taken, rounds: Sequence[Taken]) -> Parts:
    """The parts of a phase. `rounds` are those after the `first`, of one size or of two."""
    small, large = min(r.keys for r in rounds), max(r.keys for r in rounds)
    of_small = [r.seconds for r in rounds if r.keys == small]
    of_large = [r.seconds for r in rounds if r.keys == large]
    more = large - small
    if more:
        per_key = Seconds(
            max(0.0, (min(of_large) - max(of_small)) / more),
            max(0.0, (fmean(of_large) - fmean(of_small)) / more),
            max(0.0, (max(of_large) - min(of_small)) / more),
        )
    else:  # which part is which cannot be told: all of it may be that of the keys
        per_key = Seconds(min(of_small) / small, fmean(of_small) / small, max(of_small) / small)
    fixed = max(0.0, fmean(of_small) - per_key.expected * small)
    once = max(0.0, first.seconds - fixed - per_key.expected * first.keys)
    return Parts(once, fixed, per_key)
