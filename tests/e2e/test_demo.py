"""`agui-migrate demo` does the main job on servers of its own, and never leaves one behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

pytestmark = pytest.mark.timeout(180)

STATES = 2000


def words(process):
    """The command line of a process; nothing if it has ended meanwhile."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def servers_of(process):
    """What the demo has started, and the folders that its servers keep their files in; waits until both servers are there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        found = {child: words(child) for child in psutil.Process(process.pid).children(recursive=True)}
        scratch = {word for line in found.values() for word in line if word.startswith("--remove=")}
        serving = sum("postgres:" in " ".join(line) for line in found.values())
        if len(scratch) == 2 and serving >= 3:
            return list(found), [Path(word.removeprefix("--remove=")) for word in scratch]
        time.sleep(0.05)
    raise AssertionError(f"the demo started no servers: {process.communicate()}")


def gone(servers, seconds):
    """Whether all of the servers have ended within so many seconds."""
    _, alive = psutil.wait_procs(servers, timeout=seconds)
    return not alive


@pytest.fixture
def terminal():
    """A terminal to print on, and what was printed there, once whoever printed has ended."""
    controller, printer = pty.openpty()
    fcntl.ioctl(printer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    seen = bytearray()

    def watch():
        with contextlib.suppress(OSError):  # Linux's way to tell that the other side is closed
            while data := os.read(controller, 65536):
                seen.extend(data)

    watcher = threading.Thread(target=watch)
    watcher.start()

    def printed():
        with contextlib.suppress(OSError):
            os.close(printer)
        watcher.join(10)
        return seen.decode()

    yield printer, printed
    printed()
    os.close(controller)


def test_the_demo_migrates_proves_and_stops_its_servers(start, command, tmp_path, terminal):
    printer, printed = terminal
    process = start("demo", "--states", STATES, "--workspace", "demo", cwd=tmp_path, stderr=printer, TERM="xterm")
    servers, scratch = servers_of(process)

    out, _ = process.communicate(timeout=170)

    err = printed()
    assert process.returncode == 0, err
    assert re.search(rf"Migrated and proven equal +{STATES:,}\b", out)
    assert re.search(rf"of these normalised +{STATES // 100}\b", out)
    assert re.search(r"Missing +0\b", out)
    assert re.search(rf"expiry .*: {STATES // 40} lost", out)
    assert "agui-migrate ui" in out
    assert "Traceback" not in out + err
    for phase in ("Plan", "Export", "Check export", "Transform", "Check staged", "Import", "Validate", "Check loaded"):
        assert re.search(rf"{phase} +\S*━+.*{STATES:,} of {STATES:,} .*/s .* left", err), phase
    assert gone(servers, 10)
    assert len(scratch) == 2
    assert not [folder for folder in scratch if folder.exists()]
    file = tmp_path / "demo" / "migration.yaml"
    assert str(file) in out
    assert yaml.safe_load(file.read_text())["name"] == "demo"
    status = command("status", file, "--json")
    assert status.json["state"] == "migrated and proven"
    assert status.json["phases"]["import"]["records"] == STATES
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["Ctrl-C", "kill -9"],
)
def test_a_demo_that_is_stopped_leaves_no_server_behind(start, tmp_path, number, code):
    process = start("demo", "--states", 20_000, "--workspace", tmp_path / "demo")
    servers, scratch = servers_of(process)

    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    assert process.returncode == code, err
    assert gone(servers, 10)
    assert len(scratch) == 2
    assert not [folder for folder in scratch if folder.exists()]
    assert "Traceback" not in out + err
