"""Connections that break, stall or are held up, and servers that go away: the run goes on, or says why it cannot."""

from __future__ import annotations

import random
import re
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from agui_pipelines.drivers.redis import RedisWire
from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis
from agui_pipelines.errors import ConnectionFailedError, StoreBusyError, UnreachableError
from agui_pipelines.phases import retry
from tests.cases import chiefly, thinned
from tests.integration.faults.conftest import run, through
from tests.integration.faults.places import TABLES, as_values, fill, held, made_up
from tests.integration.faults.proxy import Fault

STATES = 300
CONTENT = made_up(random.Random(20250714), STATES)
VALUES = as_values(CONTENT)
ONLY_STATES = {key: value for key, value in CONTENT.items() if key[0] == "state"}
SIZE = sum(len(str(value)) for value in CONTENT.values())

BREAKS = ["drop", "reset", "away"]
OTHER = {"redis": "postgresql", "postgresql": "redis", "redis_keys": "postgresql"}


def require_whole(source, target, content=VALUES):
    assert held(target) == content
    assert held(source) == content


@pytest.mark.parametrize(("kind", "do", "when"), thinned(["redis", "postgresql"], [*BREAKS, "delay"], [0.3, 0.8]))
def test_a_target_whose_connection_breaks_while_it_is_written_gets_everything_once(
    place, between, proxied, kind, do, when
):
    source, target = place(OTHER[kind], "source"), place(kind, "target")
    fill(source, CONTENT)
    proxy = proxied(target["connection_url"], Fault(do, "up", 20_000 + int(when * SIZE), count=2))

    told = run(between(source, through(target, proxy), parallelism=2))

    assert told.code == 0, told.error
    assert proxy.struck
    assert bool(told.notes) == (do != "delay")
    assert told.imported.written.total == len(CONTENT)
    require_whole(source, target)


@pytest.mark.parametrize(("kind", "do"), thinned(["redis", "redis_keys", "postgresql"], [*BREAKS, "delay"]))
def test_a_source_whose_replies_are_cut_is_read_again_and_nothing_counted_twice(place, between, proxied, kind, do):
    content = ONLY_STATES if kind == "redis_keys" else CONTENT
    source, target = place(kind, "source"), place(OTHER[kind], "target")
    fill(source, content)
    size = sum(len(str(value)) for value in content.values())
    proxy = proxied(source["connection_url"], Fault(do, "down", 15_000 + size // 2, count=1))

    told = run(between(through(source, proxy), target))

    assert proxy.struck
    if kind == "postgresql" and do == "away":
        # It ends the connection, too, that holds the moment which all key ranges are read at.
        assert "does not know the moment" in told.error.message
        told = run(between(through(source, proxy), target))
    assert told.code == 0, told.error
    assert told.imported.records == len(content)
    assert {k: c.total for k, c in told.validation.kinds.items()} == {
        kind: sum(key[0] == kind for key in content) for kind in told.validation.kinds
    }
    require_whole(source, target, as_values(content))


def test_a_redis_that_says_nothing_any_more_is_asked_again(place, between, proxied):
    source, target = place("redis", "source"), place("redis", "target")
    fill(source, CONTENT)
    proxies = [proxied(end["connection_url"], Fault("silence", "down", 5_000)) for end in (source, target)]
    ends = [
        through(end, proxy) | {"read_timeout": "300ms"} for end, proxy in zip((source, target), proxies, strict=True)
    ]

    told = run(between(*ends))

    assert told.code == 0, told.error
    assert all("no answer within 0.3 s" in note for note in told.notes)
    assert len(told.notes) == 2
    require_whole(source, target)


@pytest.mark.parametrize("kind", chiefly("postgresql", ["redis", "postgresql"]))
def test_a_target_that_stays_away_is_an_error_and_the_next_run_goes_on_from_there(place, between, proxied, kind):
    source, target = place(OTHER[kind], "source"), place(kind, "target")
    fill(source, CONTENT)
    proxy = proxied(target["connection_url"], Fault("away", "up", 20_000 + SIZE // 2, count=10**9))
    move = between(source, through(target, proxy), limits={"retries": 3})

    told = run(move)

    assert isinstance(told.error, ConnectionFailedError)
    assert told.code == 1
    assert "could not be put back" in told.rollback_error.message
    assert [note[-10:] for note in told.notes][:3] == [" (1 of 3).", " (2 of 3).", " (3 of 3)."]
    assert held(source) == VALUES
    proxy.heal()
    again = run(move)
    assert again.code == 0, again.error
    require_whole(source, target)


def in_its_sleep(url, function):
    """Has PostgreSQL end, or cancel, a statement that it is in the middle of."""
    with psycopg.connect(url, autocommit=True) as connection:
        query = f"SELECT {function}(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        while not connection.execute(query).fetchall():
            time.sleep(0.01)


@pytest.mark.parametrize("function", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_batch_whose_backend_is_killed_or_cancelled_is_sent_again(place, between, function):
    source, target = place("redis", "source"), place("postgresql", "target")
    fill(source, CONTENT)
    url = target["connection_url"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES)
        connection.execute(
            "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NEW; END';"
            "CREATE TRIGGER sleep BEFORE INSERT ON ag_states FOR EACH ROW WHEN (NEW.state_id = 'user-00042')"
            " EXECUTE FUNCTION sleep()"
        )
    killer = threading.Thread(target=in_its_sleep, args=(url, function))
    killer.start()

    told = run(between(source, target))

    killer.join()
    assert told.code == 0, told.error
    assert len(told.notes) == 1
    assert told.imported.written.total == len(CONTENT)
    require_whole(source, target)


@pytest.fixture
def locked(place, between):
    """A migration into tables of which another session locks one before the import; that session."""
    source, target = place("redis", "source"), place("postgresql", "target")
    fill(source, CONTENT)
    options = {"postgresql_options": {"statement_timeout": "100ms"}}
    with psycopg.connect(target["connection_url"]) as session:
        session.execute(TABLES)
        session.commit()
        lock = {"import": lambda: session.execute("LOCK TABLE ag_states IN ACCESS EXCLUSIVE MODE")}
        yield between(source, target | options, limits={"retries": 2}), session, lock, source, target


def test_a_lock_that_is_released_is_waited_for(locked):
    move, session, lock, source, target = locked

    told = run(move, before=lock, on_note=lambda _: session.rollback())

    assert told.code == 0, told.error
    assert "lock timeout" in told.notes[0]
    require_whole(source, target)


def test_a_lock_that_is_not_released_is_an_error_that_says_so(locked):
    move, session, lock, source, target = locked

    told = run(move, before=lock)

    assert isinstance(told.error, StoreBusyError)
    assert "holds a lock" in told.error.why
    assert told.code == 1
    assert len(told.notes) == 2
    session.rollback()
    assert held(target) == {}
    assert run(move).code == 0
    require_whole(source, target)


def test_the_victim_of_a_deadlock_tries_again(place, between):
    source, target = place("redis", "source"), place("postgresql", "target")
    fill(source, ONLY_STATES)
    fill(target, {key: {"older": True} for key in ONLY_STATES})
    ids = sorted(key[1] for key in ONLY_STATES)

    def update(session, state_id):
        session.execute("UPDATE ag_states SET data = '{}' WHERE state_id = %s", (state_id,))

    with psycopg.connect(target["connection_url"]) as other, psycopg.connect(target["connection_url"]) as watcher:
        watcher.autocommit = True
        database = watcher.info.dbname
        watcher.execute(f"ALTER DATABASE {database} SET deadlock_timeout = '2s'")  # so the migration will look last …
        other.execute("SET deadlock_timeout = '1min'")  # … and the other one never
        update(other, ids[30])

        def cross():
            waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            while watcher.execute(waiting).fetchone() is None:
                time.sleep(0.01)
            update(other, ids[0])
            other.rollback()

        with ThreadPoolExecutor(1) as pool:
            crossing = pool.submit(cross)
            told = run(between(source, target, ranges=1))
            crossing.result()

    assert told.code == 0, told.error
    assert "deadlock detected" in told.notes[0]
    require_whole(source, target, as_values(ONLY_STATES))


@pytest.fixture
def restartable():
    """Starts a server that keeps its data when it is stopped."""
    folder = Path(tempfile.mkdtemp(prefix="agui-faults-"))
    folder.chmod(0o755)  # a server does not run as root, and must reach its data
    servers = []

    def start(kind):
        durable = {"appendonly": "yes", "appendfsync": "always"}
        server = (
            EmbeddedPostgres(directory=folder / "data")
            if kind == "postgresql"
            else EmbeddedRedis(settings=durable, directory=folder / "data")
        )
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()
    shutil.rmtree(folder)


@pytest.mark.parametrize(("kind", "end"), thinned(["redis", "postgresql"], ["source", "target"]))
def test_a_server_that_is_started_again_in_the_middle_is_waited_for(
    place, between, proxied, restartable, monkeypatch, kind, end
):
    monkeypatch.setattr(retry, "LONGEST_WAIT", 1.0)
    server = restartable(kind)
    ends = {name: place(OTHER[kind], name) for name in ("source", "target")} | {
        end: {"type": kind, "connection_url": server.url}
    }
    fill(ends["source"], CONTENT)
    reached, stopped = threading.Event(), threading.Event()
    direction = "down" if end == "source" else "up"
    fault = Fault("call", direction, 20_000 + SIZE // 3, call=lambda: (reached.set(), stopped.wait(60)))
    proxy = proxied(server.url, fault)
    move = between(*(through(c, proxy) if name == end else c for name, c in ends.items()), limits={"retries": 60})

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, move)
        assert reached.wait(60)
        server.stop()
        stopped.set()
        server.start()
        proxy.move_to(server.url)
        told = running.result()

    ends[end] = {**ends[end], "connection_url": server.url}
    if (kind, end) == ("postgresql", "source"):
        assert "does not know the moment" in told.error.message
        told = run(move)
    assert told.code == 0, told.error
    require_whole(ends["source"], ends["target"])


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_a_redis_whose_first_words_are_cut_is_said_to_be_out_of_reach(place, between, proxied, part):
    """Once, the half that had come was told to the user as if it were the server's refusal."""
    source, target = place("redis_keys", "source"), place("file", "target")
    fill(source, ONLY_STATES)
    proxy = proxied(source["connection_url"])
    move = between(through(source, proxy), target)
    with closing(RedisWire(move.session().migration.source)) as wire:
        assert wire.server.name
    proxy.add(Fault("drop", "down", proxy.passed["down"] + int(part * proxy.passed["down"])))

    told = run(move)

    assert isinstance(told.error, UnreachableError)
    assert "does not answer as a Redis does" in told.error.message
    assert "redis_version" not in str(told.error)
    assert run(move).code == 0


@pytest.mark.parametrize(("refused", "code"), [(0, 0), (10**9, 1)])
def test_the_command_tells_that_it_tries_again_and_what_came_of_it(
    place, between, proxied, written, command, refused, code
):
    source, target = place("redis_keys", "source"), place("redis", "target")
    fill(source, ONLY_STATES)
    size = sum(len(str(value)) for value in ONLY_STATES.values())
    proxy = proxied(target["connection_url"], Fault("away", "up", 20_000 + size // 2, count=refused))
    move = between(source, through(target, proxy), limits={"retries": 2})

    said = command("run", written(move))

    assert said.code == code, said.err
    assert re.search(r"^\w+: .* Trying again in \d+\.\d s \(1 of 2\)\.$", said.err, re.MULTILINE), said.err
    assert ("Error: " in said.err) == (code != 0)
    assert "Traceback" not in said.err
    if code:
        proxy.heal()
        again = run(move)
        assert again.code == 0, again.error
    require_whole(source, target, as_values(ONLY_STATES))
