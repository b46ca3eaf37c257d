"""Connections that break, stall or are held up, and servers that go away: the run goes on, or says why it cannot."""

from __future__ import annotations

import random
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis
from agui_pipelines.errors import InterruptedConnectionError, StoreBusyError, UnreachableError
from tests.integration.faults.conftest import run, through
from tests.integration.faults.places import as_values, fill, held, made_up
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


@pytest.mark.parametrize("when", [0.3, 0.8])
@pytest.mark.parametrize("do", [*BREAKS, "delay"])
@pytest.mark.parametrize("kind", ["redis", "postgresql"])
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


@pytest.mark.parametrize("do", [*BREAKS, "delay"])
@pytest.mark.parametrize("kind", ["redis", "redis_keys", "postgresql"])
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
