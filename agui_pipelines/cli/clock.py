"""How long the command has been running, the start of its interpreter included."""

from __future__ import annotations

import time

from agui_pipelines import processes

_began = time.monotonic()


def start(*, own_process: bool) -> None:
    """A command begins. One with a process of its own began when that did."""
    global _began  # noqa: PLW0603 - there is one command at a time
    _began = time.monotonic() - (processes.age() if own_process else 0.0)


def elapsed() -> float:
    """Seconds."""
    return time.monotonic() - _began
