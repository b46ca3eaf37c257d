"""`agui-migrate cutover`, and what `status` says of it."""

from __future__ import annotations

import json

import pytest
import redis

from agui_pipelines.phases import cutover as cutovers
from agui_pipelines.phases import proof, sync, validate
from tests.e2e.conftest import migrated


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without Great Expectations, which takes longer than all the rest."""
    for module in (proof, sync, validate):
        for name in {"expect_exported", "expect_staged", "expect_loaded"} & vars(module).keys():
            monkeypatch.setattr(module, name, lambda *_: ())
    monkeypatch.setattr(cutovers, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("agui_pipelines.expectations.worker.warm", lambda: None)


@pytest.fixture
def file(written, text, fresh_redis):
    """A migration between two AG-UI stores on Redis, with hooks that write down what they were told."""
    url = text["source"]["connection_url"]
    hooks = {name: {"command": ["sh", "-c", f"echo {name} $AGUI_SIDE >> log"]} for name in ("stop", "start", "switch")}
    ends = {
        "source": {"type": "redis", "connection_url": url},
        "target": {"type": "redis", "connection_url": fresh_redis()},
    }
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        for i in range(5):
            client.set(f"ag-ui:state:state:{i}", json.dumps({"number": i}))
    file = written({**text, **ends, "transforms": [], "hooks": hooks})
    migrated(file)
    return file


def test_there_and_back_on_the_command_line(command, file):
    assert command("status", file, "--json").json["cutover"] is None
    rehearsed = command("cutover", file, "--rehearse")
    assert rehearsed.code == 0
    assert "Rehearsed the cutover of moved: the source is still live" in rehearsed.out
    assert "Window, expected" in rehearsed.out

    there = command("cutover", file, "--max-window", "10m", "--json")
    assert there.code == 0
    assert (there.json["outcome"], there.json["live"]) == ("done", "target")
    assert [step["step"] for step in there.json["steps"] if step["forecast"] is not None]
    assert [line.split()[0] for line in there.err.splitlines() if line.startswith(("ready", "switch", "go_live"))]
    state = command("status", file, "--json").json
    assert state["live"] == "target"
    assert state["state"] == "cut over: the target is live"
    again = command("cutover", file)
    assert again.code == 3
    assert "cutover --back" in again.error
    ran = command("sync", file)
    assert ran.code == 3
    assert "live since its cutover" in ran.error

    back = command("cutover", file, "--back")
    assert back.code == 0
    assert "Cut over moved: the source is live" in back.out
    assert (file.parent / "log").read_text().splitlines() == [
        "stop source",
        "switch target",
        "stop target",
        "switch source",
    ]
    report = next(file.parent.glob(".agui/moved/reports/cutover-*-cutover.md")).read_text()
    assert "| verify | done |" in report


def test_what_makes_no_sense_is_told(command, file):
    said = command("cutover", file, "--max-window", "soon")
    assert said.code == 2
    assert "'soon' is not a duration" in said.error

    said = command("cutover", file, "--back")
    assert said.code == 3
    assert "nothing to return from" in said.error
