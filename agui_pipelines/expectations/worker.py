"""Suites run in a worker process, which this module is when it is run as a script.

Great Expectations takes ten seconds of one core to import on a small machine, and a few hundred megabytes. A worker that is
started with the command (`warm`) imports it while the command itself imports Dagster, connects and exports. Each process
has at most one. A request is the suites as a line of JSON and the frame as an Arrow stream; the answer is a line of JSON.
Nothing that could be executed is exchanged.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from agui_pipelines import processes
from agui_pipelines.errors import StagingError

if TYPE_CHECKING:
    import pyarrow as pa

    from agui_pipelines.expectations.runner import SuiteReport
    from agui_pipelines.expectations.suites import Frame, Suite

_lock = threading.Lock()
_worker: subprocess.Popen[bytes] | None = None
_started = 0.0


def warm() -> None:
    """Start the worker, so that it is ready when a suite is to be run."""
    with _lock:
        _running()


def age() -> float:
    """Seconds since the worker was started; 0 if there is none."""
    return time.monotonic() - _started if _worker is not None else 0.0


def run_suites_apart(suites: Sequence[Suite], frame: Frame, table: pa.Table) -> list[SuiteReport]:
    """What `runner.run_suite` gives for each suite, in the worker. Raises `StagingError` if the worker died."""
    with _lock:
        try:
            answer = _ask(_running(), suites, frame, table)
        except BaseException as error:
            _end()  # an answer that was not read would be given to the next one who asks
            if not isinstance(error, OSError):
                raise
            raise StagingError(
                "The worker process that runs the expectation suites ended unexpectedly.",
                why="Without its answer the migration cannot go on.",
                remedy="Look whether the system ran out of memory, then run the same command again: it resumes.",
            ) from error
    if "broke" in answer:
        names = ", ".join(suite.name for suite in suites)
        raise RuntimeError(f"The suites {names} broke in their worker process:\n{answer['broke']}")
    from agui_pipelines.expectations.runner import SuiteReport  # noqa: PLC0415 - as in `_ask`

    return [SuiteReport.of(values) for values in answer["reports"]]


def _running() -> subprocess.Popen[bytes]:
    global _worker, _started  # noqa: PLW0603 - one for the process, as the import that it saves would be
    if _worker is None:
        _started = time.monotonic()
        _worker = processes.start(__name__)
        atexit.register(_end)
    return _worker


def _end() -> None:
    global _worker  # noqa: PLW0603 - see above
    if _worker is not None:
        processes.end(_worker)
        _worker = None
        atexit.unregister(_end)


def _ask(worker: subprocess.Popen[bytes], suites: Sequence[Suite], frame: Frame, table: pa.Table) -> dict[str, Any]:
    """Raises `OSError` if the worker is gone."""
    import pyarrow as pa  # noqa: PLC0415 - who only starts the worker does not wait for it

    if worker.stdin is None or worker.stdout is None:
        raise OSError("the worker has no pipes")
    request = {"frame": frame, "suites": [asdict(suite) for suite in suites]}
    worker.stdin.write(json.dumps(request).encode() + b"\n")
    with pa.ipc.new_stream(pa.PythonFile(worker.stdin, mode="w"), table.schema) as stream:
        stream.write_table(table)
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line.endswith(b"\n"):
        raise OSError("the worker ended early")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """A worker's life: run suites until the input ends."""
    import pyarrow as pa  # noqa: PLC0415 - what the starting process is spared

    from agui_pipelines.expectations import runner  # noqa: PLC0415 - likewise
    from agui_pipelines.expectations.suites import Frame, Stage, Suite  # noqa: PLC0415

    runner.warm()
    while line := requests.readline():
        request = json.loads(line)
        table = pa.ipc.open_stream(pa.PythonFile(requests, mode="r")).read_all()
        suites = [Suite(Stage(s["stage"]), s["name"], s["values"]) for s in request["suites"]]
        try:
            found = [runner.run_suite(suite, Frame(request["frame"]), table) for suite in suites]
            answer = json.dumps({"reports": [asdict(report) for report in found]})
        except Exception:  # noqa: BLE001 - a mistake of ours or of the library, to be seen where the suites were asked for
            answer = json.dumps({"broke": traceback.format_exc()})
        answers.write(answer.encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    processes.ignore_interrupts()
    # Whatever a library prints must not get between our answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers, processes.until_left():
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        _serve(sys.stdin.buffer, answers)
