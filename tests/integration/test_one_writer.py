"""One writer: what becomes of a lock whose owner runs, is killed, or sleeps too long, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import yaml

from agui_pipelines.errors import LockedError, LockLostError
from agui_pipelines.phases import holding
from agui_pipelines.phases.backup import create, restore
from tests.cases import chiefly

BACKENDS = ["file", "redis", "postgresql"]

WRITER = """
import os, signal, sys
from agui_pipelines import spec
from agui_pipelines.errors import MigrationError
from agui_pipelines.phases import holding
from agui_pipelines.phases.session import Session

holding.LIFETIME = float(sys.argv[2])
session = Session.open(spec.load(sys.argv[1]))

def tell(text):
    print(text, flush=True)

def attempt(write):
    try:
        with session.target() as target:
            write(target)
        tell("written")
    except MigrationError as error:
        tell(type(error).__name__)

def sleep_within_a_transaction(target):
    with target.transaction() as transaction:
        transaction.set_state("second", b"{}")
        tell("sleeps")
        os.kill(os.getpid(), signal.SIGSTOP)

with session.exclusive():
    attempt(lambda target: (target.prepare(), target.set_state("first", b"{}")))
    sys.stdin.readline()
    attempt(sleep_within_a_transaction)
    attempt(lambda target: target.set_state("third", b"{}"))
"""
"""Writes one state, and when it is told, falls asleep while it writes another one, and then tries a third."""


@pytest.fixture
def place(migration, config):
    """A migration into an empty store of a kind."""
    return lambda kind: migration(source={"type": "redis_keys"}, target=config(kind, "target"))


@pytest.fixture
def writer():
    """Starts a writer for a migration; it holds the lock when this returns."""
    begun = []

    def start(move, lifetime):
        file = move.folder / f"{move.text['name']}.yaml"
        file.write_text(yaml.safe_dump(move.text))
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file), str(lifetime)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        assert process.stdout.readline() == "written\n"
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def taken_over(session):
    """Enter the session's `exclusive` as soon as that is possible."""
    until = time.monotonic() + 60
    while True:
        block = session.exclusive()
        try:
            block.__enter__()
        except LockedError:
            assert time.monotonic() < until
            time.sleep(0.2)
        else:
            return block


@pytest.mark.parametrize("kind", chiefly("postgresql", BACKENDS))
def test_who_was_killed_is_followed_at_once(place, writer, kind):
    move = place(kind)
    process = writer(move, 3600)
    session = move.but(name="other").session()
    with pytest.raises(LockedError) as caught, session.exclusive():
        pass
    assert "'story'" in caught.value.message
    assert f"process {process.pid} on" in caught.value.message

    process.kill()
    process.wait()

    with session.exclusive(), session.target() as target:
        target.set_state("mine", b"{}")
        assert sorted(target.list_states()) == ["first", "mine"]


@pytest.mark.parametrize("kind", chiefly("redis", BACKENDS))
def test_who_slept_for_too_long_writes_nothing_more(place, writer, kind):
    move = place(kind)
    process = writer(move, 4)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "sleeps\n"
    session = move.but(name="other").session()

    block = taken_over(session)
    with session.target() as target:
        target.set_state("mine", b"{}")
        process.send_signal(signal.SIGCONT)
        told, _ = process.communicate(timeout=60)

        # PostgreSQL has ended the connection of the transaction that was open, so that nobody need wait for it.
        first = "InterruptedConnectionError" if kind == "postgresql" else "LockLostError"
        assert told.split() == [first, "LockLostError"]
        assert sorted(target.list_states()) == ["first", "mine"]
        target.set_state("still-mine", b"{}")
    block.__exit__(None, None, None)


@contextmanager
def entered_elsewhere(session):
    """`exclusive` in another thread, for as long as the block lasts."""
    begun, ended = threading.Event(), threading.Event()

    def hold():
        with session.exclusive():
            begun.set()
            ended.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    yield
    ended.set()
    thread.join()


@pytest.mark.parametrize("kind", BACKENDS)
def test_the_sessions_of_a_migration_share_a_lock_and_the_last_one_releases_it(place, kind):
    move = place(kind)
    other = move.but(name="other").session()
    with move.session().exclusive():
        with move.session().exclusive(), move.session().target() as target:
            target.prepare()
        with entered_elsewhere(move.session()):
            pass
        with pytest.raises(LockedError), other.exclusive():
            pass
        with move.session().target() as target:
            target.set_state("a", b"{}")
    with other.exclusive():
        pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_ends_the_block_releases_the_lock(place, error):
    move = place("file")

    def fail():
        with move.session().exclusive():
            raise error

    with pytest.raises(error):
        fail()
    with move.but(name="other").session().exclusive():
        pass
    assert not (move.folder / "target").exists()


def test_a_lock_is_renewed_while_it_is_held(place, monkeypatch):
    monkeypatch.setattr(holding, "LIFETIME", 2.0)
    move = place("file")
    with move.session().exclusive():
        time.sleep(3)
        with move.session().target() as target:
            target.set_state("a", b"{}")


def test_what_only_reads_is_told_that_the_lock_was_lost(place, monkeypatch):
    monkeypatch.setattr(holding, "LIFETIME", 0.6)
    move = place("file")
    session = move.session()
    with session.exclusive():
        session.require_going()
        (move.folder / "target" / ".agui-lock").unlink()
        until = time.monotonic() + 30
        with pytest.raises(LockLostError):
            while time.monotonic() < until:
                session.require_going()
                time.sleep(0.05)
    session.require_going()


def test_a_backup_is_not_restored_where_another_migration_writes(place):
    move = place("file")
    session = move.session()
    with session.target() as target:
        target.prepare()
        target.set_state("a", b"{}")
        backup = create(session)
        target.set_state("a", b'{"n":1}')
    with move.but(name="other").session().exclusive(), pytest.raises(LockedError, match="'other'"):
        restore(session, backup)
    restore(session, backup)
    with session.target() as target:
        assert target.get_state("a") == b"{}"
