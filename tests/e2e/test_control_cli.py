"""A rolling run, in a process of its own, does what `agui-migrate control` says."""

from __future__ import annotations

import time

import pytest

from agui_pipelines import spec
from agui_pipelines.phases import control
from agui_pipelines.phases.session import Session


@pytest.mark.long
def test_a_run_is_paused_sped_up_and_ended_and_taken_up_again(start, command, written, text, documents):
    file = written({**text, "strategy": {"type": "rolling", "rate": 0.5}})
    session = Session.open(spec.load(file))
    process = start("run", file)
    deadline = time.monotonic() + 120
    while not session.ledger.entries(phase="plan"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)

    paused = command("control", file, "pause", "--json")
    assert paused.json["going"][0]["paused"] is True
    while not control.runs(session.workspace)[0].seen:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    status = command("status", file, "--json").json["going"][0]
    assert (status["paused"], status["rate"], status["process"]) == (True, 0.5, process.pid)

    assert "at 1 states a second" in command("control", file, "rate=1").out
    assert "goes on" in command("control", file, "resume").out
    assert command("control", file, "abort").code == 0
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "ended by agui-migrate control abort" in err
    assert "Traceback" not in err

    assert command("control", file, "resume").code == 3
    file = written({**text, "strategy": {"type": "rolling", "rate": 1000}})
    again = command("run", file, "--json")
    assert again.code == 0, again.err
    assert "had been made before" in again.err or "Resumed" in again.err
    assert len(documents()) == 30


def test_a_command_that_makes_no_sense_is_told(command, written, text):
    file = written(text)

    assert "is no command" in command("control", file, "halt").error
    assert "Give one command" in command("control", file, "pause", "now").error
    assert "There is no migration file 'elsewhere'" in command("control", "elsewhere", "pause").error
    refused = command("control", file, "pause")
    assert (refused.code, "No run of 'moved' goes on" in refused.error) == (3, True)
