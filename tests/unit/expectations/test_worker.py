"""Great Expectations in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import psutil
import pyarrow as pa
import pytest

from agui_pipelines.errors import StagingError
from agui_pipelines.expectations.frames import SNAPSHOT_RECORDS
from agui_pipelines.expectations.runner import run_suite
from agui_pipelines.expectations.suites import Frame, Stage, Suite, parse, shipped
from agui_pipelines.expectations.worker import run_suites_apart, warm

ROWS: list[dict[str, Any]] = [
    {"kind": "state", "state_id": "a", "id_length": 1, "size": 2, "json_valid": True},
    {"kind": "state", "state_id": "twice", "id_length": 5, "size": 2, "json_valid": False},
    {"kind": "state", "state_id": "twice", "id_length": 5, "size": 2, "json_valid": True},
]
TABLE = pa.Table.from_pylist(ROWS, SNAPSHOT_RECORDS)
SUITES = [parse(stage, shipped(stage), "") for stage in (Stage.EXPORTED, Stage.STAGED)]


@pytest.fixture
def worker() -> psutil.Process:
    warm()
    (found,) = [child for child in psutil.Process().children() if f"{warm.__module__}" in child.cmdline()]
    return found


def test_a_suite_finds_the_same_in_the_worker_as_here() -> None:
    found = run_suites_apart(SUITES, Frame.RECORDS, TABLE)
    assert found == [run_suite(suite, Frame.RECORDS, TABLE) for suite in SUITES]
    assert [len(report.failed) for report in found] == [2, 2]


def test_warming_twice_starts_one_worker(worker: psutil.Process) -> None:
    warm()
    again = [child.pid for child in psutil.Process().children() if f"{warm.__module__}" in child.cmdline()]
    assert again == [worker.pid]


def test_what_breaks_in_the_worker_is_told_and_the_worker_goes_on(worker: psutil.Process) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)The suites broken broke.*left out an expectation"):
        unheard = {"expectations": [{"type": "unheard", "kwargs": {}}]}
        run_suites_apart([Suite(Stage.STAGED, "broken", unheard)], Frame.RECORDS, TABLE)
    assert run_suites_apart(SUITES, Frame.RECORDS, TABLE)[0].rows == len(ROWS)
    assert worker.is_running()


@pytest.mark.long
def test_a_worker_that_dies_is_told_and_another_takes_its_place(worker: psutil.Process) -> None:
    worker.kill()
    worker.wait()
    with pytest.raises(StagingError, match="ended unexpectedly"):
        run_suites_apart(SUITES, Frame.RECORDS, TABLE)
    assert run_suites_apart(SUITES, Frame.RECORDS, TABLE)[0].rows == len(ROWS)


@pytest.mark.long
def test_the_worker_ends_with_the_process_that_started_it_even_when_that_is_killed() -> None:
    script = """
        import time, psutil
        from agui_pipelines.expectations.worker import warm
        warm()
        print(psutil.Process().children()[0].pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    worker.wait(timeout=60)  # it has to finish importing before it looks at its input
