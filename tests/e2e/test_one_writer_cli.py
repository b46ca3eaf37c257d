"""Two `agui-migrate run` into one target: the second is refused, until the first has ended, however it did."""

from __future__ import annotations

import json
import signal
import time

import pytest

from agui_pipelines.owner import Owner
from tests.partitions import LOADED_RANGES

WAITING = """
import time
from pathlib import Path

def wait(state_id, document):
    here = Path(__file__).parent
    here.joinpath("waits").touch()
    while not here.joinpath("go").exists():
        time.sleep(0.05)
    return document
"""


@pytest.fixture
def text(tmp_path):
    """A migration that waits in its transform for a file ``go``."""
    (tmp_path / "shapes_waiting.py").write_text(WAITING)
    (tmp_path / "states.jsonl").write_text('{"id": "a", "n": 1}\n{"id": "b", "n": 2}\n')
    return {
        "name": "first",
        "ranges": LOADED_RANGES,
        "source": {"type": "jsonl", "path": "states.jsonl", "id": "id"},
        "target": {"type": "file", "file_options": {"base_dir": str(tmp_path / "store"), "durable": False}},
        "transforms": [{"python": "shapes_waiting:wait"}],
        "accept_losses": ["expiry", "timestamps"],
    }


@pytest.fixture
def running(start, written, text, tmp_path):
    """A run in a process of its own that has begun, and waits."""
    process = start("run", written(text), "--json")
    until = time.monotonic() + 120
    while not (tmp_path / "waits").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    return process


@pytest.fixture
def second(written, text):
    """The file of another migration into the same target."""
    return lambda: written({**text, "name": "second"})


def test_a_second_run_is_refused_and_runs_once_the_first_was_killed(running, command, second, tmp_path):
    said = command("run", second(), "--json")

    assert said.code == 3
    assert f"The migration 'first' (process {running.pid} on {Owner.here('x').host}, since " in said.error
    assert "that is for " in said.error
    assert said.json["failure"]["error"] == "LockedError"
    assert said.json["failure"]["owner"]["process"] == running.pid
    assert not (tmp_path / ".agui" / "second" / "snapshots").exists()

    running.kill()
    running.wait()
    (tmp_path / "go").touch()

    said = command("run", second(), "--json")

    assert said.code == 0, said.err
    assert said.json["migrated_states"] == 2
    assert not (tmp_path / "store" / ".agui-lock").exists()


@pytest.mark.long  # an interrupted run, and one that was killed, are in the default suite
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_releases_the_lock(running, number, tmp_path):
    lock = tmp_path / "store" / ".agui-lock"
    assert json.loads(json.loads(lock.read_bytes())["owner"])["migration"] == "first"

    running.send_signal(number)
    (tmp_path / "go").touch()
    running.communicate(timeout=120)

    assert running.returncode == 130
    assert not lock.exists()
    assert not (tmp_path / "store").exists()
