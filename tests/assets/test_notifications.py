"""Runs of Dagster, and with them those of the command line, tell of each phase."""

from __future__ import annotations

import json

import pytest

from agui_pipelines.phases.notify import settle


@pytest.fixture
def told(tmp_path):
    """What a command was told so far, and the notification that names it."""
    file = tmp_path / "told"
    file.touch()

    def events():
        assert settle() == []
        return [json.loads(line) for line in file.read_text().splitlines()]

    # One write of less than a pipe holds, so that no two lines mix.
    events.notification = {"command": ["/bin/sh", "-c", f'printf "%s\\n" "$(cat)" >> {file}'], "timeout": "60s"}
    return events


def test_each_phase_of_a_run_is_told_from_its_begin_to_its_end(launcher, told):
    launcher.but(notifications=[told.notification]).run()

    events = told()
    phases = [
        "assess",
        "plan",
        "export",
        "expect_exported",
        "transform",
        "expect_staged",
        "backup",
        "import",
        "validate",
    ]
    assert sorted(each["phase"] for each in events if each["event"] == "start") == sorted(phases)
    assert {each["event"] for each in events} == {"start", "finish"}
    for phase in phases:
        assert [each["event"] for each in events if each["phase"] == phase] == ["start", "finish"]
    [imported] = [each for each in events if (each["phase"], each["event"]) == ("import", "finish")]
    assert (imported["records"], bool(imported["run_id"])) == (100, True)


def test_the_phase_that_fails_is_told_with_its_reason(launcher, told):
    run = launcher.but(
        notifications=[told.notification], target={"type": "redis", "connection_url": "redis://127.0.0.1:1/0"}
    )

    assert not run.run(check=False).success

    failure = told()[-1]
    assert (failure["event"], failure["migration"]) == ("failure", "launched")
    assert failure["message"]
