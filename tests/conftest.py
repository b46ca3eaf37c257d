"""Real servers for the tests: from wheels (see `agui_pipelines.embedded`), or those that the environment names.

``AGUI_TEST_REDIS_URL`` and ``AGUI_TEST_POSTGRES_URL`` point the suite at stock servers instead. Their databases 0 to 15
are flushed, and databases named ``agui_test_*`` are made and dropped: never point them at a server that matters.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis

from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis

_numbers = itertools.count()

# A suite that is started in the background inherits that Ctrl-C is ignored, and with it every process it wants to interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

COUNTED = "random fault runs"
"""Name of the property by which a test says what became of a random run; see `integration/faults`."""

MEASURED = "measured"
"""Name of the property in which a test says what it has measured, which no test of the default suite asserts."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [each for name in ("passed", "failed") for each in terminalreporter.stats.get(name, [])]
    counts = Counter(what for report in reports for name, what in report.user_properties if name == COUNTED)
    if counts:
        terminalreporter.write_line(f"{COUNTED}: {', '.join(f'{n} {what}' for what, n in sorted(counts.items()))}")
    for what in (what for report in reports for name, what in report.user_properties if name == MEASURED):
        terminalreporter.write_line(f"{MEASURED}: {what}")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """URL of a Redis-compatible server, without a database number."""
    if url := os.environ.get("AGUI_TEST_REDIS_URL"):
        yield urlunsplit(urlsplit(url)._replace(path=""))
        return
    with EmbeddedRedis() as server:
        yield urlunsplit(urlsplit(server.url)._replace(path=""))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server on which databases may be created."""
    if url := os.environ.get("AGUI_TEST_POSTGRES_URL"):
        yield url
        return
    with EmbeddedPostgres(settings={"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}) as server:
        yield server.url


@pytest.fixture
def fresh_redis(redis_server: str) -> Iterator[Callable[[], str]]:
    """Call it for the URL of an empty Redis database; each call within a test gives another one."""
    used: list[str] = []
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 4 * worker if os.environ.get("AGUI_TEST_REDIS_URL") else 0  # which all workers share, four at most

    def make() -> str:
        url = f"{redis_server}/{first + len(used)}"
        used.append(url)
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return url

    yield make
    for url in used:
        with redis.Redis.from_url(url) as client:
            client.flushdb()


@pytest.fixture
def fresh_postgres(postgres_server: str) -> Iterator[Callable[[], str]]:
    """Call it for the URL of an empty PostgreSQL database."""
    made: list[str] = []

    def make() -> str:
        name = f"agui_test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        made.append(name)
        return urlunsplit(urlsplit(postgres_server)._replace(path=f"/{name}"))

    yield make
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_url(fresh_redis: Callable[[], str]) -> str:
    return fresh_redis()


@pytest.fixture
def postgres_url(fresh_postgres: Callable[[], str]) -> str:
    return fresh_postgres()


@pytest.fixture
def config(
    fresh_redis: Callable[[], str], fresh_postgres: Callable[[], str], tmp_path: Path
) -> Callable[[str, str], dict[str, Any]]:
    """Makes the configuration of an empty store of a kind."""

    def make(kind: str, name: str) -> dict[str, Any]:
        if kind == "file":
            return {"type": "file", "file_options": {"base_dir": str(tmp_path / name), "durable": False}}
        url = fresh_redis() if kind == "redis" else fresh_postgres()
        return {"type": kind, "connection_url": url}

    return make
