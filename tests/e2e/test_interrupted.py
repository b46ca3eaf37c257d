"""A run that is interrupted or terminated, in whatever phase, leaves nothing running and is taken up again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import dagster as dg
import psutil
import psycopg
import pytest

from agui_pipelines import spec
from agui_pipelines.cli.home import open_instance
from agui_pipelines.phases.session import Session

STATES = 6_000  # enough for worker processes to be started

LINGERING = """
import sys, time
from pathlib import Path
from agui_pipelines.cli.app import main
from agui_pipelines.expectations import worker
from agui_pipelines.progress import Meter

phase, marker = sys.argv.pop(1), Path(sys.argv.pop(1))
add, ask, warm = Meter.add, worker._ask, worker.warm

def lingering_add(self, records, bytes_=0):
    add(self, records, bytes_)
    if self.phase == phase:
        marker.touch()
        time.sleep(0.3)

def lingering_ask(*request):
    if phase == "expect":
        marker.touch()
        time.sleep(0.3)
    return ask(*request)

def lingering_warm():
    warm()
    if phase == "start":
        marker.touch()
        time.sleep(10)

Meter.add, worker._ask, worker.warm = lingering_add, lingering_ask, lingering_warm
main()
"""
"""The command line, which says when it is in a phase, and is slow there."""


@pytest.fixture
def linger(tmp_path):
    """Begins a command in a process of its own; returns it as soon as it is in a phase."""
    begun = []

    def begin(phase, *arguments):
        marker = tmp_path / "there"
        process = subprocess.Popen(
            [sys.executable, "-c", LINGERING, phase, marker, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        begun.append(process)
        deadline = time.monotonic() + 120
        while not marker.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"never got to {phase}"
            time.sleep(0.01)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def filled(legacy):
    legacy.mset({f"session:{i:06}": json.dumps({"number": i}) for i in range(STATES)})


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


def connections(url):
    """How many others are connected to a PostgreSQL database."""
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return connection.execute(query).fetchone()[0]


def finished(file):
    """What the ledger has as finished: phase, range and snapshot."""
    entries = Session.open(spec.load(file)).ledger.entries()
    return {(e.phase, e.unit, e.outputs["snapshot_id"]) for e in entries if "snapshot_id" in e.outputs}


PHASES = [
    ("start", signal.SIGTERM, ()),
    ("plan", signal.SIGINT, pytest.mark.long),
    ("plan", signal.SIGTERM, pytest.mark.long),
    ("export", signal.SIGTERM, pytest.mark.long),
    ("export", signal.SIGHUP, pytest.mark.long),
    ("transform", signal.SIGINT, pytest.mark.long),
    ("transform", signal.SIGTERM, pytest.mark.long),
    ("expect", signal.SIGINT, pytest.mark.long),
    ("expect", signal.SIGTERM, pytest.mark.long),
    ("import", signal.SIGINT, pytest.mark.long),
    ("import", signal.SIGTERM, pytest.mark.long),
    ("validate", signal.SIGINT, pytest.mark.long),
    ("validate", signal.SIGTERM, pytest.mark.long),
]


@pytest.mark.parametrize(
    ("phase", "number"),
    [pytest.param(phase, number, marks=marks, id=f"{number.name} in {phase}") for phase, number, marks in PHASES],
)
def test_a_run_that_is_ended_in_a_phase_is_resumed(
    linger, command, filled, text, written, documents, postgres_url, dagster_home, phase, number
):
    text["transforms"] = [{"strip_prefix": {"prefix": "session:"}}, {"set_fields": {"moved": True}}]
    file = written({**text, "ranges": 4})
    process = linger(phase, "run", file)
    workers = children(process)

    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "run the same command again to resume" in err
    assert "Traceback" not in err + out
    _, running = psutil.wait_procs(workers, timeout=10)
    assert running == []
    assert connections(postgres_url) == 0
    before = finished(file)
    resumed = command("run", file, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["migrated_states"] == STATES + 30
    assert documents() is not None
    assert before <= finished(file)
    with open_instance(dagster_home) as instance:
        runs = instance.get_runs(dg.RunsFilter(tags={"agui/migration": "moved"}))
    assert dg.DagsterRunStatus.STARTED not in {run.status for run in runs}
