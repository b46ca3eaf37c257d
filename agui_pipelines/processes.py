"""Worker processes of our own: a module run as a script, spoken to through its standard input and output.

Such a worker ends when its input does, so it cannot outlive the process that started it, however that one ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_LOADED: Final = time.monotonic()
_STARTED: Final = 19
"""Field of ``/proc/self/stat`` after the name: clock ticks from the machine's start to that of the process."""


def age() -> float:
    """Seconds since this process was started; where that is not told, since it loaded this module."""
    try:
        fields = Path("/proc/self/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_STARTED]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - _LOADED


def start(module: str) -> subprocess.Popen[bytes]:
    """Run a module in a new interpreter that finds the same packages. Raises `OSError` if no process can be started."""
    path = os.pathsep.join(str(Path(entry or ".").absolute()) for entry in sys.path)
    return subprocess.Popen(  # noqa: S603 - a module of ours
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )


def end(worker: subprocess.Popen[bytes]) -> None:
    """End a worker and wait until it is gone; one that is in the middle of something is not waited for."""
    worker.kill()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    worker.wait()


@contextmanager
def until_left() -> Iterator[None]:
    """What a worker does until whoever started it is gone. What it has not told them by then, nobody is told."""
    try:
        yield
    except OSError:  # the input has ended within a request, or nobody reads the answer
        os._exit(0)  # otherwise what is still buffered would be written once more, and that told as an error


def ignore_interrupts() -> None:
    """Called by a worker: a Ctrl-C is for the process that started it, which then ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
