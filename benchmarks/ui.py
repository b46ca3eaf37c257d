"""What a run from the UI takes besides the same run of the command line: the daemon's queue, and a process of its own.

    pip install -e '.[bench]' && python benchmarks/ui.py

An embedded Redis holds 20,000 states of about 1 KB. Each round migrates them into a fresh database with `agui-migrate run`, and
into another one with the job `migrate` of a running UI, launched through GraphQL as the launchpad does, from the click to the
success that it shows. Both in turn, as rates of a shared machine drift within minutes. The medians, their difference and their
ratio are printed as a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis
import yaml

from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis
from agui_pipelines.embedded.workload import fill

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.e2e.operated import COMMAND, Ui, operated

GOAL = 15.0
ALL = ("00", "15")


def migration(folder: Path, name: str, source: str, postgres: str) -> Path:
    """A migration into a database of its own."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    text = {
        "name": name,
        "source": {"type": "redis_keys", "connection_url": source, "match": "session:*"},
        "target": {"type": "postgresql", "connection_url": urlunsplit(urlsplit(postgres)._replace(path=f"/{name}"))},
        "accept_losses": ["expiry", "duplicate_keys"],
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(text))
    return file


def by_command(file: Path, home: Path) -> float:
    began = time.perf_counter()
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    subprocess.run([COMMAND, "run", file, "--json"], env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def by_ui(ui: Ui, file: Path) -> float:
    config = {"resources": {"migration": {"config": {"migration_file": str(file)}}}}
    began = time.perf_counter()
    ui.succeeded(ui.launch("migrate", ALL, config), seconds=600)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--states", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    seconds: dict[str, list[float]] = {"command line": [], "UI": []}
    with EmbeddedRedis() as source, EmbeddedPostgres() as target, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with redis.Redis.from_url(source.url) as client:
            fill(client, asked.states)
        with operated(migration(folder, "shown", source.url, target.url), folder / "home") as ui:
            for number in range(asked.rounds):
                file = migration(folder, f"command_{number}", source.url, target.url)
                seconds["command line"].append(by_command(file, folder / "home"))
                seconds["UI"].append(by_ui(ui, migration(folder, f"ui_{number}", source.url, target.url)))
                print("  ".join(f"{name} {took[-1]:.1f} s" for name, took in seconds.items()), flush=True)
    command, ui_ = (statistics.median(took) for took in seconds.values())
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, {asked.states:,} states, {asked.rounds} rounds\n")
    print("| | seconds |\n|---|---:|")
    for name, took in seconds.items():
        print(f"| {name} | {statistics.median(took):.1f} |")
    met = "met" if ui_ - command <= GOAL else "NOT met"
    print(
        f"\nUI - command line: {ui_ - command:.1f} s (at most {GOAL:.0f}: {met}); UI / command line: {ui_ / command:.2f}"
    )


if __name__ == "__main__":
    main()
