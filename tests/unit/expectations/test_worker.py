"""Great Expectations in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import psutil
import pytest

from agui_pipelines.errors import SpecError, StagingError
from agui_pipelines.expectations.runner import run_suite
from agui_pipelines.expectations.worker import run_suite_apart, warm

FRAME = pd.DataFrame(
    {"state_id": ["a", "twice", "twice"], "id_length": [1, 5, 5], "size": [2, 2, 2], "json_valid": [True, True, False]}
)


@pytest.fixture
def worker() -> psutil.Process:
    warm()
    (found,) = [child for child in psutil.Process().children() if f"{warm.__module__}" in child.cmdline()]
    return found


def test_a_suite_finds_the_same_in_the_worker_as_here() -> None:
    assert run_suite_apart("staged", FRAME) == run_suite("staged", FRAME)


def test_warming_twice_starts_one_worker(worker: psutil.Process) -> None:
    warm()
    again = [child.pid for child in psutil.Process().children() if f"{warm.__module__}" in child.cmdline()]
    assert again == [worker.pid]


def test_what_is_no_suite_is_refused_as_it_is_here(tmp_path: Path, worker: psutil.Process) -> None:
    with pytest.raises(SpecError, match=r"none\.json cannot be read"):
        run_suite_apart("mine", FRAME, path=tmp_path / "none.json")
    assert run_suite_apart("staged", FRAME).rows == len(FRAME)
    assert worker.is_running()


def test_a_worker_that_dies_is_told_and_another_takes_its_place(worker: psutil.Process) -> None:
    worker.kill()
    worker.wait()
    with pytest.raises(StagingError, match="ended unexpectedly"):
        run_suite_apart("staged", FRAME)
    assert run_suite_apart("staged", FRAME).rows == len(FRAME)


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
