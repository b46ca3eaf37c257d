"""How a long phase tells how far it is, without knowing who listens (a terminal, Dagster, nobody)."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a phase is: records done, of how many (None while unknown), document bytes, seconds since it began."""

    phase: str
    done: int
    total: int | None
    bytes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0


class Listener(Protocol):
    def __call__(self, progress: Progress, /) -> None: ...


def silent(progress: Progress, /) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class Meter:
    """Counts one phase's progress, from several threads, and tells the listener at most every `interval` seconds."""

    phase: str
    listener: Listener
    total: int | None = None
    interval: float = 0.2
    done: int = 0
    bytes: int = 0
    _started: float = field(default_factory=time.monotonic)
    _told: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, records: int, bytes_: int = 0) -> None:
        with self._lock:
            self.done += records
            self.bytes += bytes_
            now = time.monotonic()
            if now - self._told < self.interval:
                return
            self._told = now
            progress = self.now()
        self.listener(progress)

    def now(self) -> Progress:
        return Progress(self.phase, self.done, self.total, self.bytes, self.seconds)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def finish(self) -> Progress:
        """Tell the listener the final figures. What was done is now known to be all."""
        if self.total is None:
            self.total = self.done
        progress = self.now()
        self.listener(progress)
        return progress
