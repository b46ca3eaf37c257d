"""Documents of a hundred megabytes, and keys with a million members, move and are proven in bounded memory."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import redis

from agui_pipelines.embedded import EmbeddedRedis
from agui_pipelines.records import SCHEMAS, Kind

BYTES = 100_000_000
MEMBERS = 1_000_000
MAX_MIB = 512


def incompressible(size):
    return base64.b64encode(random.Random(1).randbytes(size * 3 // 4))


def text(client):
    client.set("k", b"x" * BYTES)


def document(client):
    client.set("k", b'{"b":1,"a":"%b"}' % incompressible(BYTES))


def escaped(client):
    client.set("k", b'{"a":"%b"}' % (b'line\\n\\u4e2d\\ud83d\\ude00 "quoted\\"'.replace(b' "', b" ") * (BYTES // 36)))


def zset(client):
    for start in range(0, MEMBERS, 1000):
        client.zadd("k", {f"member:{i:08}": i * 1.1 for i in range(start, start + 1000)})


def moved(migration, folder):
    """What `peak` tells of a migration in a process of its own."""
    child = subprocess.run(
        [sys.executable, Path(__file__).with_name("peak.py"), json.dumps(migration), folder],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    found = json.loads(child.stdout)
    print(found)  # noqa: T201 - shown with -rP
    return found


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("destination", ["file", "redis", "postgresql"])
@pytest.mark.parametrize("fill", [text, document, escaped, zset])
def test_one_very_large_key_moves_in_bounded_memory(config, tmp_path, fill, destination):
    with EmbeddedRedis() as server:
        with redis.Redis(port=server.port) as client:
            fill(client)
        source = {"type": "redis_keys", "connection_url": server.url}
        found = moved({"name": "large", "source": source, "target": config(destination, "second")}, tmp_path)
    assert found["passed"]
    assert found["migrated"] == {"state": 1, "version": 0, "snapshot": 0}
    assert found["peak_mib"] <= MAX_MIB


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("origin", "destination"),
    [("file", "redis"), ("redis", "postgresql"), ("postgresql", "file")],
    ids=lambda kind: kind,
)
def test_a_very_large_state_moves_between_stores_in_bounded_memory(config, opened, tmp_path, origin, destination):
    first = config(origin, "first")
    store = opened(first)
    store.prepare()
    row = {"state_id": "large", "data": b'{"b":1,"a":"%b"}' % incompressible(BYTES)}
    store.write(Kind.STATE, pa.RecordBatch.from_pylist([row], schema=SCHEMAS[Kind.STATE]))
    losses = ["timestamps", "sub_microseconds"]
    migration = {"name": "l", "source": first, "target": config(destination, "second"), "accept_losses": losses}

    found = moved(migration, tmp_path)

    assert found["passed"]
    assert found["migrated"] == {"state": 1, "version": 0, "snapshot": 0}
    assert found["peak_mib"] <= MAX_MIB
