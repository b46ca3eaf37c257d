"""Suites run in a worker process, which this module is when it is run as a script.

Great Expectations takes ten seconds of one core to import on a small machine, and a few hundred megabytes. A worker that is
started with the command (`warm`) imports it while the command itself imports Dagster, connects and exports. Each process
has at most one; requests and answers are pickles, which only this program's own two processes exchange.
"""

from __future__ import annotations

import atexit
import os
import pickle
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from agui_pipelines import processes
from agui_pipelines.errors import MigrationError, StagingError

if TYPE_CHECKING:
    import pandas as pd

    from agui_pipelines.expectations.runner import SuiteReport

_lock = threading.Lock()
_worker: subprocess.Popen[bytes] | None = None


def warm() -> None:
    """Start the worker, so that it is ready when a suite is to be run."""
    with _lock:
        _running()


def run_suite_apart(name: str, frame: pd.DataFrame, *, path: Path | None = None) -> SuiteReport:
    """What `runner.run_suite` does, in the worker. Raises what it raises, or `StagingError` if the worker died."""
    with _lock:
        worker = _running()
        try:
            report = _ask(worker, (name, frame, path))
        except BaseException as error:
            _end()  # an answer that was not read would be given to the next one who asks
            if not isinstance(error, OSError | EOFError | pickle.PickleError):
                raise
            raise StagingError(
                "The worker process that runs the expectation suites ended unexpectedly.",
                why="Without its answer nothing may be imported.",
                remedy="Look whether the system ran out of memory, then run the same command again: it resumes.",
            ) from error
    if isinstance(report, BaseException):
        raise report
    return report


def _running() -> subprocess.Popen[bytes]:
    global _worker  # noqa: PLW0603 - one for the process, as the import that it saves would be
    if _worker is None:
        _worker = processes.start(__name__)
        atexit.register(_end)
    return _worker


def _end() -> None:
    global _worker  # noqa: PLW0603 - see above
    if _worker is not None:
        processes.end(_worker)
        _worker = None
        atexit.unregister(_end)


def _ask(worker: subprocess.Popen[bytes], request: object) -> SuiteReport | BaseException:
    if worker.stdin is None or worker.stdout is None:
        raise OSError("the worker has no pipes")
    pickle.dump(request, worker.stdin, protocol=pickle.HIGHEST_PROTOCOL)
    worker.stdin.flush()
    answer: SuiteReport | BaseException = pickle.load(worker.stdout)  # noqa: S301 - our own process
    return answer


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """A worker's life: run suites until the input ends."""
    from agui_pipelines.expectations import runner  # noqa: PLC0415 - what the starting process is spared

    runner.warm()
    while True:
        try:
            name, frame, path = pickle.load(requests)  # noqa: S301 - our own process
        except EOFError:
            return
        answer: SuiteReport | Exception
        try:
            answer = runner.run_suite(name, frame, path=path)
        except MigrationError as error:
            answer = error
        except Exception:  # noqa: BLE001 - a mistake of ours or of the library, to be seen where the suite was asked for
            answer = RuntimeError(f"The suite {name} broke in its worker process:\n{traceback.format_exc()}")
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    processes.ignore_interrupts()
    # Whatever a library prints must not get between our answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers, suppress(OSError):
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        _serve(sys.stdin.buffer, answers)
