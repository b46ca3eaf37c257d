"""How fast a sync finds that nothing has changed in a Redis: the whole round, against the plainest loop that could tell.

    pip install -e '.[bench]' && python benchmarks/sync.py

An embedded Redis holds states of about 1 KB, of which some expire; a migration moves them into another of its databases,
and each round then syncs once more (``sync``) and runs a loop once (``loop``: SCAN, MGET 500, PEXPIRETIME, xxh3 of values,
compared with a dict), in turn, as rates of a shared machine drift within minutes. Medians and their ratio are printed as a
Markdown table. The loop reads in one process over one connection, and knows what it compares with from memory.

``--source redis`` syncs from an AG-UI store, where versions and snapshots have to be looked for as well.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import hiredis
import pandas  # noqa: F401, ICN001 - Arrow imports it on first use, which no round shall pay for
import redis
from xxhash import xxh3_128_digest

from agui_pipelines import losses, spec
from agui_pipelines.drivers.redis import Burst, RedisWire
from agui_pipelines.embedded import EmbeddedRedis
from agui_pipelines.embedded.workload import legacy_states
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.sync import sync
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import validate

GOAL = 100_000
PREFIX = "ag-ui:state:state:"


def fill(url: str, states: int) -> None:
    with redis.Redis.from_url(url) as client:
        pipeline = client.pipeline(transaction=False)
        for number, state in enumerate(legacy_states(states, text_bytes=700), 1):
            # A store holds objects only.
            value = state.value if state.value.startswith("{") else '{"value": 1}'
            pipeline.set(PREFIX + state.key, value, ex=100_000 if state.ttl else None)
            if number % 5_000 == 0:
                pipeline.execute()
        pipeline.execute()


def migration(kind: str, url: str, folder: Path) -> spec.Migration:
    source = {"type": kind, "connection_url": url}
    if kind == "redis_keys":
        source["match"] = PREFIX + "*"
    target = {"type": "redis", "connection_url": urlunsplit(urlsplit(url)._replace(path="/1"))}
    text = {"name": "sync", "source": source, "target": target, "accept_losses": list(losses.MEANING)}
    return spec.parse(text | {"limits": {"max_rejects": 1_000_000}}, folder=folder)


def moved(of: spec.Migration) -> None:
    session = Session.open(of)
    made = plan(session)
    ranges = [r.name for r in made.ranges]
    for phase in (export, transform, import_):
        phase(session, made, ranges)
    if not validate(session, made).passed:
        raise SystemExit("the migration did not pass")


def loop(of: spec.Migration, known: dict[bytes, tuple[bytes, int]]) -> int:
    """Compare everything with `known`, which is filled by it if it is empty; how many keys differ."""
    wire = RedisWire(of.source)
    differ, filling = 0, not known
    for page in wire.scan(PREFIX.encode() + b"*"):
        for start in range(0, len(page), 500):
            keys = page[start : start + 500]
            burst = Burst()
            burst.add(b"MGET", *keys)
            burst.add_each(b"PEXPIRETIME", keys)
            values, *expiries = wire.run(burst)
            for key, value, expiry in zip(keys, values, expiries, strict=True):
                found = xxh3_128_digest(value), expiry
                if filling:
                    known[key] = found
                else:
                    differ += known.get(key) != found
    wire.close()
    return differ


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--states", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source", choices=("redis_keys", "redis"), default="redis")
    asked = parser.parse_args()
    seconds: dict[str, list[float]] = {"sync": [], "loop": []}
    with EmbeddedRedis() as server, tempfile.TemporaryDirectory() as folder:
        fill(server.url, asked.states)
        of = migration(asked.source, server.url, Path(folder))
        began = time.perf_counter()
        moved(of)
        print(f"{asked.states:,} states moved in {time.perf_counter() - began:.0f} s", flush=True)
        known: dict[bytes, tuple[bytes, int]] = {}
        loop(of, known)
        sync(Session.open(of))  # which makes the cursor
        for _ in range(asked.rounds):
            began = time.perf_counter()
            report = sync(Session.open(of))
            seconds["sync"].append(time.perf_counter() - began)
            if report.changed or report.checked != asked.states:
                raise SystemExit(f"{report.changed:,} of {report.checked:,} states seemed to have changed")
            began = time.perf_counter()
            if loop(of, known):
                raise SystemExit("the loop saw changes")
            seconds["loop"].append(time.perf_counter() - began)
            print("  ".join(f"{name} {asked.states / took[-1]:9,.0f}/s" for name, took in seconds.items()), flush=True)
    rates = {name: asked.states / statistics.median(took) for name, took in seconds.items()}
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, hiredis {hiredis.__version__}, {asked.states:,} states\n")
    print("| | unchanged states per second |\n|---|---:|")
    for name, rate in rates.items():
        print(f"| `{name}` | {rate:,.0f} |")
    ratio = rates["sync"] / rates["loop"]
    print(f"\nsync / loop: {ratio:.2f}; goal {GOAL:,}/s: {'met' if rates['sync'] >= GOAL else 'NOT met'}")


if __name__ == "__main__":
    main()
