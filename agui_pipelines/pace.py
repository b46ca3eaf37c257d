"""How fast, and for how long, something may look at a place that others are using."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Final

_TURN: Final = 0.5
"""Seconds that are slept at once, so that an interruption is seen soon."""


@dataclass(slots=True)
class Pace:
    """Called with the number of records that were just looked at; waits as long as the rate asks for.

    `rate`: records per second, None for as many as there are. `seconds`: after that there is to be no more, None for no limit.
    """

    rate: float | None = None
    seconds: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    records: int = 0
    _began: float = field(default_factory=time.monotonic)

    def __call__(self, records: int) -> bool:
        """Whether there may be more."""
        self.records += records
        while self.rate is not None and not self.stop.is_set():
            ahead = self.records / self.rate - (time.monotonic() - self._began)
            if ahead <= 0 or self.left == 0:
                break
            self.stop.wait(min(ahead, _TURN))
        return self.left != 0 and not self.stop.is_set()

    @property
    def left(self) -> float | None:
        """Seconds that are left, None for as many as it takes."""
        return None if self.seconds is None else max(0.0, self._began + self.seconds - time.monotonic())
