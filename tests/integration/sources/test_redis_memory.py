"""What a very large key costs: reading it stays within 512 MiB, whatever its type, with the server beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from agui_pipelines.embedded import EmbeddedRedis

MEMBERS = 1_000_000
STRING_BYTES = 100_000_000
LIMIT_KIB = 512 * 1024

READING = """
import json, sys
from contextlib import closing
from io import BytesIO
import pyarrow.parquet as pq
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.records import Kind
from agui_pipelines.sources.redis_keys import RedisKeysSource
from agui_pipelines.spec import RedisKeysConfig

config = RedisKeysConfig(type="redis_keys", connection_url=sys.argv[1])
rejects, sizes = [], []
with closing(RedisKeysSource(config)) as source:
    file = BytesIO()
    write_catalogue(source.keys(), file)
    for batch in source.read(Kind.STATE, Span(cut(file, 1)[0], pq.ParquetFile(file)), rejects.append):
        sizes += [len(value.as_buffer()) for value in batch.column("data")]
        del batch
# Not by getrusage, which counts what the parent had when it forked.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"rejects": len(rejects), "size": sum(sizes), "peak": int(status["VmHWM"].split()[0])}))
"""


def fill_zset(client: redis.Redis) -> int:
    return _filled(client, lambda pipe, some: pipe.zadd("k", {f"member:{i:08}": i * 1.1 for i in some}))


def fill_hash(client: redis.Redis) -> int:
    return _filled(client, lambda pipe, some: pipe.hset("k", mapping={f"field:{i:08}": i for i in some}))


def fill_set(client: redis.Redis) -> int:
    return _filled(client, lambda pipe, some: pipe.sadd("k", *(f"member:{i:08}" for i in some)))


def fill_list(client: redis.Redis) -> int:
    return _filled(client, lambda pipe, some: pipe.rpush("k", *(f"element:{i:08}" for i in some)))


def fill_object(client: redis.Redis) -> int:
    client.set("k", b'{"a":"' + b"x" * STRING_BYTES + b'"}')
    return STRING_BYTES


def fill_text(client: redis.Redis) -> int:
    client.set("k", b"x" * STRING_BYTES)
    return STRING_BYTES


def _filled(client: redis.Redis, add: Callable[[redis.client.Pipeline, range], object]) -> int:
    for start in range(0, MEMBERS, 1000):
        pipe = client.pipeline(transaction=False)
        add(pipe, range(start, start + 1000))
        pipe.execute()
    return MEMBERS * len('"member:00000000"')


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("fill", [fill_zset, fill_hash, fill_set, fill_list, fill_object, fill_text])
def test_one_very_large_key_is_read_within_512_mib(fill: Callable[[redis.Redis], int], tmp_path: Path) -> None:
    program = tmp_path / "reading.py"  # not by -c, as DuckDB draws progress bars for those who seem to be at a prompt
    program.write_text(READING)
    with EmbeddedRedis() as server:
        with redis.Redis(port=server.port) as client:
            least = fill(client)
        result = subprocess.run([sys.executable, program, server.url], check=True, capture_output=True, text=True)
    measured = json.loads(result.stdout)
    assert measured["rejects"] == 0
    assert measured["size"] >= least
    assert measured["peak"] <= LIMIT_KIB
