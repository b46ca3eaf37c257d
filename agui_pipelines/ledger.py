"""The durable record of what each phase of a migration has finished.

One JSON file an entry under ``ledger/`` of the migration's workspace, named by time so that the names' order is the order
of events. An entry is written after the work that it stands for is durable, never before; a phase looks here for what
it need not do again. Nothing is ever changed or removed.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson

from agui_pipelines.errors import StagingError


class Files(Protocol):
    """What the ledger needs of the workspace."""

    def write(self, name: str, content: bytes, *, exclusive: bool = False) -> None: ...
    def read(self, name: str) -> bytes: ...
    def names(self, folder: str) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished piece of work.

    `unit` says which part of the phase (a key range, or a segment within one; empty for the whole), `basis` what it was
    made from: the same unit on another basis is not finished.
    """

    phase: str
    plan_id: str
    unit: str = ""
    basis: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    at: str = ""
    """When it was recorded, RFC 3339, UTC."""


class Ledger:
    """Entries in the order in which they were recorded; safe to use from several threads."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._last = 0

    def record(self, entry: Entry) -> Entry:
        """Make an entry durable and return it with its time."""
        stamped = Entry(**{**asdict(entry), "at": datetime.now(UTC).isoformat(timespec="milliseconds")})
        with self._lock:
            self._refresh()
            while True:
                # Never before an entry that is already there, even if the clock went backwards.
                self._last = max(time.time_ns(), self._last + 1)
                name = f"{self._last:020}-{entry.phase}{'-' + entry.unit.replace('/', '_') if entry.unit else ''}.json"
                try:
                    self._files.write(f"ledger/{name}", orjson.dumps(asdict(stamped)), exclusive=True)
                except FileExistsError:
                    continue
                self._entries[name] = stamped
                return stamped

    def entries(
        self, *, phase: str | None = None, plan_id: str | None = None, since: tuple[str, ...] = ()
    ) -> list[Entry]:
        """Entries of a phase and plan (or all), oldest first; those before the newest entry of the phases `since` left out."""
        with self._lock:
            self._refresh()
            ordered = [self._entries[name] for name in sorted(self._entries)]
        first = max((i for i, e in enumerate(ordered, 1) if e.phase in since), default=0)
        return [
            e
            for e in ordered[first:]
            if (phase is None or e.phase == phase) and (plan_id is None or e.plan_id == plan_id)
        ]

    def last(
        self,
        phase: str,
        *,
        plan_id: str | None = None,
        unit: str | None = None,
        basis: str | None = None,
        since: tuple[str, ...] = (),
    ) -> Entry | None:
        """The newest entry that fits, or None."""
        for entry in reversed(self.entries(phase=phase, plan_id=plan_id, since=since)):
            if (unit is None or entry.unit == unit) and (basis is None or entry.basis == basis):
                return entry
        return None

    def _refresh(self) -> None:
        for name in self._files.names("ledger"):
            if name in self._entries or not name.endswith(".json"):
                continue
            try:
                recorded = int(name.split("-", 1)[0])
                self._entries[name] = Entry(**orjson.loads(self._files.read(f"ledger/{name}")))
            except (ValueError, TypeError) as error:
                raise StagingError(
                    f"The ledger entry {name} is damaged: {error}.",
                    why="Without it, what has been done is not known.",
                    remedy="Restore the file, or move the workspace away and start over.",
                ) from error
            self._last = max(self._last, recorded)
