"""Runs migrations in processes of their own, each a fork of one that has loaded the engine, which takes seconds.

A *point* says where a run kills itself, as `kill -9` would:

- ``before`` or ``after`` a file whose name fits a pattern appears in the workspace,
- when so many ``batches`` are known to be written,
- when so many files were settled by an upgrade, or when the version was just ``marked``, or that
  schema migrations are being ``applying``,
- in the write with a number, when ``half`` of it is in the target's hands, all of it was ``sent`` and no answer is read,
  or it is ``written`` and nothing knows of it yet.

`Forker` starts this module as a script.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas  # noqa: F401, ICN001 - which Arrow would load in each run
import psycopg

import agui_pipelines.sources.redis_keys  # noqa: F401 - likewise, the engine
from agui_pipelines import spec
from agui_pipelines.drivers.redis import RedisWire
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.rehearse import rehearse
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.sync import sync
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import validate
from agui_pipelines.progress import Meter
from agui_pipelines.staging import Workspace
from agui_pipelines.stores.file import FileStore
from agui_pipelines.stores.file_changes import Changes
from agui_pipelines.stores.postgresql import PostgresStore
from agui_pipelines.stores.redis import RedisStore
from agui_pipelines.upgrade.schema import Schema
from agui_pipelines.upgrade.store import upgrade


class Forker:
    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.forker"],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._told = []
        self._await("0 loaded")

    def start(self, move, point="", what="migrate"):
        """Begin a run; returns the id of its process."""
        assert self._process.stdin is not None
        asked = {"text": move.text, "folder": str(move.folder), "point": point, "what": what}
        self._process.stdin.write(json.dumps(asked) + "\n")
        pid = int(self._await("0 forked ").split()[-1])
        self._await(f"{pid} began")
        return pid

    def end(self, pid):
        """Wait for the end of a run; returns its exit code, negative if it was killed."""
        return int(self._await(f"{pid} ended ").split()[-1])

    def killed_at_random(self, move, chance, least):
        """Run again and again, each killed a moment later than the one before, until one is validated; yields exit codes.

        `least` (seconds) is the shortest of the steps by which the moments come later; the longest is 0.2.
        """
        for attempt in range(30):
            if move.session().ledger.entries(phase="validate"):
                return
            pid = self.start(move)
            time.sleep(chance.uniform(least, 0.2) * attempt)
            with contextlib.suppress(ProcessLookupError):  # it came to its end before us
                os.kill(pid, signal.SIGKILL)
            yield self.end(pid)

    def close(self):
        self._process.communicate(timeout=10)

    def _await(self, beginning):
        assert self._process.stdout is not None
        while True:
            for line in self._told:
                if line.startswith(beginning):
                    self._told.remove(line)
                    return line
            line = self._process.stdout.readline()
            assert line, f"the forker ended, and never told {beginning!r}"
            self._told.append(line.rstrip("\n"))


def tell(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_a_file(when, pattern):
    writing = Workspace.writing

    @contextlib.contextmanager
    def deadly_writing(self, name, **options):
        with writing(self, name, **options) as file:
            yield file
            if when == "before" and fnmatch.fnmatch(name, pattern):
                die()
        if when == "after" and fnmatch.fnmatch(name, pattern):
            die()

    Workspace.writing = deadly_writing


def die_after_batches(number):
    add, batches = Meter.add, 0

    def deadly_add(self, records, bytes_=0):
        nonlocal batches
        add(self, records, bytes_)
        batches += self.phase == "import"
        if batches == number:
            die()

    Meter.add = deadly_add


doomed: Any = threading.local()
"""``now`` is when the write that this thread is in is to kill the process."""


def die_in_a_write(when, number):
    numbers = itertools.count(1)

    def deadly(write):
        def deadly_write(self, kind, batch):
            doomed.now = when if next(numbers) == number else ""
            written = write(self, kind, batch)
            if doomed.now:
                assert when == "written", f"this write has no moment at which it is {when}"
                die()
            return written

        return deadly_write

    for store in (FileStore, RedisStore, PostgresStore):
        store.write = deadly(store.write)
    doom_files()
    doom_redis()
    doom_postgres()


def this_moment(*moments):
    return getattr(doomed, "now", "") in moments


def doom_files():
    commit, make, made = Changes.commit, Changes._make, itertools.count(1)

    def deadly_commit(self):
        if this_moment("sent"):
            die()
        commit(self)

    def deadly_make(self, path, change):
        make(self, path, change)
        if this_moment("half") and next(made) == 5:
            die()

    Changes.commit, Changes._make = deadly_commit, deadly_make


def doom_redis():
    transmit = RedisWire._transmit

    def deadly_transmit(self, sock, data):
        writes = b"\r\nMSET\r\n" in bytes(data[:30]) or b"\r\nZADD\r\n" in bytes(data[:30])
        if writes and this_moment("half"):
            transmit(self, sock, data[: len(data) // 2])
            die()
        transmit(self, sock, data)
        if writes and this_moment("sent"):
            die()

    RedisWire._transmit = deadly_transmit


def doom_postgres():
    def deadly(leave, send):
        def deadly_exit(self, *error):
            connection = getattr(self, "connection", None)
            if connection is not None and this_moment("half"):
                die()
            if connection is not None and this_moment("sent"):
                send(connection.pgconn)
                while connection.pgconn.flush():
                    time.sleep(0.001)
                die()
            return leave(self, *error)

        return deadly_exit

    psycopg.Copy.__exit__ = deadly(psycopg.Copy.__exit__, lambda wire: wire.put_copy_end())
    psycopg.Transaction.__exit__ = deadly(psycopg.Transaction.__exit__, lambda wire: wire.send_query(b"COMMIT"))


def die_when_settled(number):
    """Of a file that is given its state's id and moved, each counts."""
    replace, rename, made = os.replace, os.rename, itertools.count(1)

    def deadly(change):
        def deadly_change(one, other, **options):
            change(one, other, **options)
            if isinstance(other, bytes) and other.endswith((b".json", b".backup")) and next(made) == number:
                die()

        return deadly_change

    os.replace, os.rename = deadly(replace), deadly(rename)


def die_when_marked(name):
    def deadly(mark):
        def deadly_mark(self, content):
            mark(self, content)
            die()

        return deadly_mark

    for store in (FileStore, RedisStore, PostgresStore):
        setattr(store, name, deadly(getattr(store, name)))


def arm(point):
    when, _, what = point.partition(" ")
    if when == "settling":
        die_when_settled(int(what))
        return
    if when in ("marked", "applying"):
        die_when_marked("set_version" if when == "marked" else "set_applied")
        return
    if when in ("before", "after"):
        die_at_a_file(when, what)
    elif when == "batches":
        die_after_batches(int(what))
    elif when:
        die_in_a_write(when, int(what))


OTHERS = {
    "upgrade": upgrade,
    "schema": lambda session: Schema(session).up(),
    "sync": sync,
    "rehearse": lambda session: rehearse(session, plan(session), large=40),
}
"""What can be run besides a migration."""


def run(text, folder, point, what):
    arm(point)
    session = Session.open(spec.parse(text, folder=Path(folder)))
    tell(os.getpid(), "began")
    if other := OTHERS.get(what):
        other(session)
        sys.exit(0)
    made = plan(session)
    names = [r.name for r in made.ranges]
    for phase in (export, transform, import_):
        phase(session, made, names)
    sys.exit(0 if validate(session, made).passed else 1)


def serve():
    running = set()
    while True:
        if select.select([0], [], [], 0.01)[0]:
            line = sys.stdin.readline()
            if not line:
                break
            if not (child := os.fork()):
                run(**json.loads(line))
            running.add(child)
            tell(0, "forked", child)
        for child in list(running):
            if (ended := os.waitpid(child, os.WNOHANG))[0]:
                running.remove(child)
                tell(child, "ended", os.waitstatus_to_exitcode(ended[1]))


if __name__ == "__main__":
    # Each run would start Great Expectations anew, which takes longer than all the rest; whoever resumes it runs the suites.
    vars(sys.modules[validate.__module__])["expect_loaded"] = lambda *_: ()
    for name in ("expect_exported", "expect_staged"):
        vars(sys.modules[sync.__module__])[name] = lambda *_: ()
    tell(0, "loaded")
    serve()
