"""The moment until which a cutover must be through, and a session whose work ends when it comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from agui_pipelines.errors import WindowExceededError
from agui_pipelines.phases.session import Session
from agui_pipelines.spec import Hook
from agui_pipelines.units import duration

Clock = Callable[[], datetime]
"""What time it is, with its time zone."""


@dataclass
class Deadline:
    """Of one cutover; there is none until it is set."""

    clock: Clock
    at: datetime | None = None
    of: str = ""
    """What set it, for people."""

    def begin(self, began: datetime, longest: float | None, ends: datetime | None) -> None:
        """Count from a moment: at most `longest` seconds, and not beyond the end of the maintenance window."""
        self.at, self.of = None, ""
        if longest is not None:
            self.at, self.of = began + timedelta(seconds=longest), f"--max-window {duration(longest)}"
        if ends is not None and (self.at is None or ends < self.at):
            self.at, self.of = ends, "the end of the maintenance window"

    @property
    def passed(self) -> bool:
        return self.at is not None and self.clock() >= self.at

    def require(self) -> None:
        """Raises `WindowExceededError` once the moment has come."""
        if self.passed and self.at is not None:
            raise WindowExceededError(
                f"The cutover was to be through by {self.at.isoformat(timespec='seconds')} ({self.of}), and was not.",
                why="Applications are stopped meanwhile.",
                remedy="Look at the report for what took how long; allow more, or let a sync run until shortly before.",
            )

    def shortened(self, hook: Hook) -> Hook:
        """The hook with a time limit that ends no later."""
        if self.at is None:
            return hook
        left = max(0.0, (self.at - self.clock()).total_seconds())
        return hook.model_copy(update={"timeout": min(hook.timeout, left)})

    def watching(self, session: Session) -> Session:
        """The session, whose parallel work ends with `WindowExceededError` once the moment has come."""

        def beat() -> None:
            session.heartbeat()
            self.require()

        return replace(session, heartbeat=beat)
