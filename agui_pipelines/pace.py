"""How fast, and for how long, something may look at a place that others are using."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
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


BURST_SECONDS: Final = 0.25
"""For how long a bucket fills while nobody takes anything out of it. With portions that take a tenth of a second, no ten
seconds hold more than 3.5 % above their rate, and a delay of that length is made up for."""
PORTION_SECONDS: Final = 0.1
_OWED: Final = 1e-6
"""States that are not waited for, as a clock may not be able to tell so short a time."""


@dataclass(slots=True)
class TokenBucket:
    """Lets states through at a rate, over all threads that ask. Without a rate it lets through everything at once.

    Who takes more than is in it goes on at once, and whoever comes next waits until that is paid for. So within any span of
    `t` seconds at most ``rate * (t + BURST_SECONDS)`` states and one portion go through.
    """

    clock: Callable[[], float] = time.monotonic
    _rate: float | None = None
    _tokens: float = 0.0
    _at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def rate(self) -> float | None:
        """States per second; None for as many as there are."""
        return self._rate

    def set_rate(self, rate: float | None) -> None:
        """From now on; what was taken in advance takes no longer to be paid for than at the rate before."""
        with self._lock:
            self._refill()
            owed = min(self._tokens, 0.0)
            self._tokens = owed * min(1.0, rate / self._rate) if rate and self._rate else owed
            self._rate = rate

    def portion(self) -> int:
        """How many states to take at once, at most."""
        return sys.maxsize if self._rate is None else max(1, int(self._rate * PORTION_SECONDS))

    def take(self, states: int) -> float:
        """Take so many and return 0, or nothing, and return the seconds after which to ask again."""
        with self._lock:
            self._refill()
            if self._rate is None:
                return 0.0
            if self._tokens < -_OWED:
                return -self._tokens / self._rate
            self._tokens -= states
            return 0.0

    def _refill(self) -> None:
        now = self.clock()
        if self._rate is not None:
            self._tokens = min(self._tokens + (now - self._at) * self._rate, self._rate * BURST_SECONDS)
        self._at = now
