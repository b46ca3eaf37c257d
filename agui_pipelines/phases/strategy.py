"""Strategy: how to carry a migration out, with the reasons, from what is known of volume, updates and availability.

* ``big_bang``: writers stop, everything is moved and proven, writers start on the target
* ``rolling``: key range after key range, each with its writers stopped for as long as its own part takes
* ``blue_green``: everything is moved while the source goes on, what has changed since is moved after it, then writers switch

Pure: nothing here measures or connects. What is not known is None, and says so among the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from agui_pipelines.phases.timeline import Seconds
from agui_pipelines.spec import Strategy, StrategyType
from agui_pipelines.units import amount, duration

MONTH: Final = 30 * 24 * 3600.0
SHORT: Final = 15 * 60.0
"""Seconds for which writers are assumed to be able to wait where no availability is required."""
LARGE_BYTES: Final = 100 * 10**9
"""From here on, a volume that nobody has timed is not moved at once (the guide's limit)."""
SWITCH: Final = 60.0
"""Seconds that stopping and starting writers is assumed to take."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a source, and asked of the migration."""

    keys: int
    bytes: int | None = None
    updates: float | None = None
    """Keys that change in a second."""
    availability: float | None = None
    """Percent of the time in which writers must be able to write."""
    ranges: int = 1


@dataclass(frozen=True, slots=True)
class Recommendation:
    """See the module. The window is for how long writers stand still at a time, None if that is not known."""

    recommended: StrategyType
    reasons: tuple[str, ...]
    asked: StrategyType | None
    window: Seconds | None
    window_meaning: str
    allowed: float | None
    """Seconds in a month in which writers may stand still."""
    undoing: Seconds | None
    """To put the target back, should that be necessary."""

    @property
    def chosen(self) -> StrategyType:
        return self.asked or self.recommended

    def to_dict(self) -> dict[str, Any]:
        return {
            "recommended": self.recommended,
            "asked": self.asked,
            "reasons": list(self.reasons),
            "maintenance_window": {
                "of": self.chosen,
                "measured": self.window is not None,
                "seconds": self.window.rounded() if self.window else None,
                "meaning": self.window_meaning,
                "undoing_seconds": self.undoing.rounded() if self.undoing else None,
                "allowed_seconds_a_month": None if self.allowed is None else round(self.allowed),
            },
        }


def recommend(
    facts: Facts, total: Seconds | None, *, asked: Strategy | None = None, undoing: Seconds | None = None
) -> Recommendation:
    """`total`: what the whole run takes, None if it was not measured; `undoing`: likewise, putting the target back."""
    allowed = None if facts.availability is None else (1 - facts.availability / 100) * MONTH
    recommended, reasons = _recommended(facts, total, allowed)
    kind = asked.type if asked else recommended
    if asked and asked.type != recommended:
        reasons.append(f"The migration file asks for {asked.type}: the window below is of that.")
    window, meaning = _window(kind, facts, total, asked.rate if asked else None)
    return Recommendation(recommended, tuple(reasons), asked.type if asked else None, window, meaning, allowed, undoing)


def _recommended(facts: Facts, total: Seconds | None, allowed: float | None) -> tuple[StrategyType, list[str]]:
    reasons = [_volume(facts), _updates(facts)]
    limit = SHORT if allowed is None else allowed
    reasons.append(
        f"No availability is required, so {duration(SHORT)} of standstill are taken to be bearable."
        if allowed is None
        else f"An availability of {facts.availability:g} % leaves {duration(allowed)} of standstill a month."
    )
    if facts.updates == 0:
        return "big_bang", [*reasons, "Nothing changes in the source, so that no write can be missed."]
    if total is None:
        large = facts.bytes is None or facts.bytes > LARGE_BYTES
        reasons.append("The timeline was not measured, so it is not known for how long writers would have to wait.")
        return ("blue_green" if large else "big_bang"), reasons
    whole = total.high + SWITCH
    if whole <= limit:
        return "big_bang", [*reasons, f"The whole run takes {duration(whole)} at most, and fits into that."]
    reasons.append(f"The whole run may take {duration(whole)}, which does not.")
    part = total.high / max(1, facts.ranges) + SWITCH
    if facts.updates is not None and facts.updates * total.high < facts.keys / 100 and part <= limit:
        return "rolling", [*reasons, f"Few keys change meanwhile, and each key range takes {duration(part)} only."]
    return "blue_green", [
        *reasons,
        "So the bulk is moved while writers go on, and only what has changed needs them to wait.",
    ]


def _volume(facts: Facts) -> str:
    size = "of an unknown size" if facts.bytes is None else f"with {amount(facts.bytes)} of documents"
    return f"The source has {facts.keys:,} keys {size}."


def _updates(facts: Facts) -> str:
    if facts.updates is None:
        return "How often they change is not known."
    return f"About {facts.updates:,.1f} of them change in a second."


def _window(kind: StrategyType, facts: Facts, total: Seconds | None, rate: float | None) -> tuple[Seconds | None, str]:
    switch = Seconds(0.0, SWITCH, SWITCH)
    if kind == "big_bang":
        return (total + switch if total else None), "writers stand still for the whole run"
    if kind == "rolling":
        count = max(1, facts.ranges)
        meaning = f"writers of one key range of {count} stand still at a time"
        if total is None:
            return None, meaning
        slowest = facts.keys / count / rate if rate else 0.0
        each = Seconds(*(max(seconds / count, slowest) for seconds in (total.low, total.expected, total.high)))
        return each + switch, meaning
    meaning = "writers stand still while what has changed during the run is moved and proven"
    if total is None or facts.updates is None:
        return None, meaning + "; how much that is, is not known"
    shares = [min(1.0, facts.updates * s / max(1, facts.keys)) * s for s in (total.low, total.expected, total.high)]
    return Seconds(*shares) + switch, meaning
