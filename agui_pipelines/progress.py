"""How a long phase tells how far it is, without knowing who listens (a terminal, Dagster, nobody)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a phase is: records done, of how many (None while unknown), document bytes, seconds since it began."""

    phase: str
    done: int
    total: int | None
    bytes: int
    seconds: float
    note: str = ""
    """A sentence for people that belongs to this moment, such as that a connection broke; usually there is none."""

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

    @contextmanager
    def provisional(self) -> Iterator[Callable[[int, int], None]]:
        """What counts as `add` does, until the block ends with an error: then all that it has counted is taken back."""
        counted = [0, 0]

        def add(records: int, bytes_: int) -> None:
            counted[0] += records
            counted[1] += bytes_
            self.add(records, bytes_)

        try:
            yield add
        except BaseException:
            self.add(-counted[0], -counted[1])
            raise

    def tell(self, note: str) -> None:
        """Tell the listener a sentence at once."""
        self.listener(replace(self.now(), note=note))

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
