"""Interleaved comparison, Redis to PostgreSQL or another route: this pipeline against what people would do instead.

    pip install -e '.[bench]' && python benchmarks/compare.py

Every contender moves the same states from the same embedded Redis into a fresh database of the same embedded PostgreSQL
(default settings, fsync on). A round runs each contender once, in turn, as rates of a shared machine drift within minutes;
medians over the rounds and ratios of them are printed as a Markdown table.

* ``pipeline``: plan, export with digests, Parquet staging, transform, import; the engine without Dagster around it
* ``unstaged``: the same readers, digests and writers on the same threads, without Parquet between them
* ``handwritten``: the loop everybody writes: GET, json.loads, INSERT … ON CONFLICT, commit every 1000
* ``dlt``: dlt's default merge into one table with a JSON column
* ``command``: the whole ``agui-migrate run``: start-up, plan, staging, expectations, import, full validation

``--route`` chooses another route, between AG-UI stores (see ``routes.py``), with the contenders ``pipeline`` and
``handwritten``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import dlt
import pandas  # noqa: F401, ICN001 - Arrow imports it on first use, which no contender shall pay for within a round
import psycopg
import redis
import routes

from agui_pipelines import spec
from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis
from agui_pipelines.embedded.workload import PREFIX, fill
from agui_pipelines.phases.export import GATHER_BYTES, GATHER_ROWS, digested_or_rejected, export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import transform
from agui_pipelines.records import Kind, gathered
from agui_pipelines.staging.flow import ahead

FLOORS = {"handwritten": 8.0, "dlt": 6.0, "unstaged": 0.65}


@dataclass
class Bench:
    """One pair of servers, filled once."""

    redis_url: str
    postgres_url: str
    states: int
    home: Path = Path()
    """The Dagster home of the contender ``command``; kept from round to round, as users keep theirs."""
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def fresh_database(self, name: str) -> str:
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")
            connection.execute("CHECKPOINT")
        return urlunsplit(urlsplit(self.postgres_url)._replace(path=f"/{name}"))

    def migration(self, target: str, folder: Path) -> spec.Migration:
        return spec.parse(migration_text(self.redis_url, target), folder=folder)

    def time(self, name: str, work: Callable[[str, Path], None]) -> None:
        target = self.fresh_database("bench")
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            work(target, Path(folder))
            elapsed = time.perf_counter() - started
        self.require_complete(target, name)
        self.seconds.setdefault(name, []).append(elapsed)
        print(f"  {name:<12} {elapsed:7.1f} s  {self.states / elapsed:9,.0f} states/s", flush=True)

    def require_complete(self, target: str, name: str) -> None:
        table = "bench.states" if name == "dlt" else "ag_states"
        with psycopg.connect(target) as connection:
            (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)
        if count != self.states:
            raise SystemExit(f"{name} moved {count:,} of {self.states:,} states")

    def pipeline(self, target: str, folder: Path) -> None:
        session = Session.open(self.migration(target, folder))
        made = plan(session)
        ranges = [r.name for r in made.ranges]
        export(session, made, ranges)
        transform(session, made, ranges)
        import_(session, made, ranges)

    def unstaged(self, target: str, folder: Path) -> None:
        session = Session.open(self.migration(target, folder))
        made = plan(session)
        with session.target() as store:
            store.prepare()

        def move(name: str) -> None:
            with session.source() as source, session.target() as store, made.span(session.workspace, name) as span:
                for batch in ahead(gathered(source.read(Kind.STATE, span, print), GATHER_ROWS, GATHER_BYTES)):
                    for usable in digested_or_rejected(Kind.STATE, batch, print, source, digester):
                        for start in range(0, usable.num_rows, session.migration.batch_size):
                            store.write(Kind.STATE, usable.slice(start, session.migration.batch_size))

        with session.digester(made.keys) as digester:
            session.in_parallel(move, [r.name for r in made.ranges])

    def handwritten(self, target: str, folder: Path) -> None:  # noqa: ARG002 - every contender is called alike
        source = redis.Redis.from_url(self.redis_url)
        with psycopg.connect(target) as connection:
            connection.execute("CREATE TABLE ag_states (state_id varchar(255) PRIMARY KEY, data jsonb NOT NULL)")
            for number, key in enumerate(source.scan_iter(f"{PREFIX}*", count=1000), 1):
                value = source.get(key)
                try:
                    document = json.loads(value)
                except ValueError:
                    document = None
                if not isinstance(document, dict):
                    document = {"value": value.decode(), "type": "string"}
                connection.execute(
                    "INSERT INTO ag_states (state_id, data) VALUES (%s, %s) "
                    "ON CONFLICT (state_id) DO UPDATE SET data = EXCLUDED.data",
                    (key.decode(), json.dumps(document)),
                )
                if number % 1000 == 0:
                    connection.commit()

    def dlt(self, target: str, folder: Path) -> None:
        source = redis.Redis.from_url(self.redis_url)

        def read() -> Iterator[list[dict[str, object]]]:
            keys: list[bytes] = []
            for key in source.scan_iter(f"{PREFIX}*", count=1000):
                keys.append(key)
                if len(keys) == 1000:
                    yield rows(keys)
                    keys = []
            if keys:
                yield rows(keys)

        def rows(keys: list[bytes]) -> list[dict[str, object]]:
            return [
                {"state_id": key.decode(), "data": value_of(value)}
                for key, value in zip(keys, source.mget(keys), strict=True)
            ]

        def value_of(value: bytes) -> object:
            try:
                # dlt fails on integers over 64 bits: here they lose their digits, as they would in a user's work-around
                document = json.loads(value, parse_int=lambda token: int(token) if len(token) < 19 else float(token))
            except ValueError:
                document = None
            return document if isinstance(document, dict) else {"value": value.decode(), "type": "string"}

        resource = dlt.resource(
            read,
            name="states",
            primary_key="state_id",
            write_disposition="merge",
            columns={"data": {"data_type": "json"}},
        )
        pipeline = dlt.pipeline(
            "bench",
            # dlt insists on a password; the server does not ask for it
            destination=dlt.destinations.postgres(credentials=target.replace("postgres@", "postgres:unused@")),
            dataset_name="bench",
            pipelines_dir=str(folder),
            progress=None,
        )
        pipeline.run(resource)

    def command(self, target: str, folder: Path) -> None:
        file = folder / "migration.json"
        file.write_text(json.dumps(migration_text(self.redis_url, target)))
        subprocess.run(
            [Path(sys.executable).parent / "agui-migrate", "run", file, "--json"],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DAGSTER_HOME": str(self.home)},
        )


def table(seconds_of: dict[str, list[float]], states: int, floors: dict[str, float]) -> str:
    median = {name: statistics.median(times) for name, times in seconds_of.items()}
    lines = ["| contender | median s | states/s | pipeline is | floor |", "|---|---:|---:|---:|---:|"]
    for name, seconds in median.items():
        ratio = f"{seconds / median['pipeline']:.2f} ×" if "pipeline" in median else ""
        floor = f"{floors[name]:g} ×" if name in floors else ""
        lines.append(f"| {name} | {seconds:.1f} | {states / seconds:,.0f} | {ratio} | {floor} |")
    if {"command", "handwritten"} <= median.keys():
        lines.append("")
        lines.append(
            f"whole command against handwritten: {median['handwritten'] / median['command']:.2f} × (floor 3 ×)"
        )
    return "\n".join(lines)


def migration_text(source: str, target: str) -> dict[str, object]:
    return {
        "name": "bench",
        "source": {"type": "redis_keys", "connection_url": source, "match": f"{PREFIX}*"},
        "target": {"type": "postgresql", "connection_url": target},
        "accept_losses": ["expiry", "duplicate_keys"],
        "workspace": "workspace",
    }


ROUTE = "redis-postgresql"
CONTENDERS = ("pipeline", "unstaged", "handwritten", "dlt", "command")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text-bytes", type=int, default=750, help="sets the size of a state; 750 gives about 1 KB")
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="run only these contenders")
    parser.add_argument("--route", choices=[ROUTE, *routes.FLOORS], default=ROUTE)
    options = parser.parse_args()
    chosen: list[str] = options.only or list(CONTENDERS if options.route == ROUTE else routes.CONTENDERS)
    if options.route == ROUTE:
        result = compare_from_legacy(options, chosen)
    elif not set(chosen) <= set(routes.CONTENDERS):
        parser.error(f"the route {options.route} has the contenders {', '.join(routes.CONTENDERS)}")
    else:
        result = compare_stores(options, chosen)
    print(
        f"\n{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n"
    )
    print(result)


def compare_from_legacy(options: argparse.Namespace, chosen: list[str]) -> str:
    with EmbeddedRedis() as source, EmbeddedPostgres() as target, tempfile.TemporaryDirectory() as home:
        shutil.copy(Path(__file__).parents[1] / "dagster.yaml", home)
        with redis.Redis.from_url(source.url) as client:
            filled = fill(client, options.states, text_bytes=options.text_bytes)
        print(f"{options.states:,} states of {filled / options.states:,.0f} bytes on average")
        bench = Bench(source.url, target.url, options.states, Path(home))
        for number in range(1, options.rounds + 1):
            print(f"round {number}", flush=True)
            for name in chosen:
                bench.time(name, getattr(bench, name))
    return table(bench.seconds, bench.states, FLOORS)


def compare_stores(options: argparse.Namespace, chosen: list[str]) -> str:
    with routes.RouteBench(options.route, options.states) as bench:
        filled = bench.fill(options.text_bytes)
        print(f"{options.route}: {options.states:,} states of {filled / options.states:,.0f} bytes on average")
        for number in range(1, options.rounds + 1):
            print(f"round {number}", flush=True)
            for name in chosen:
                bench.time(name)
    return table(bench.seconds, bench.states, routes.FLOORS[options.route])


if __name__ == "__main__":
    main()
