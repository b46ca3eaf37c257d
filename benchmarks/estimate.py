"""How near a plan's estimate comes to the run: ``agui-migrate plan``, then ``agui-migrate run``, Redis to PostgreSQL.

    python benchmarks/estimate.py                  # 200,000 states of about 1 KB

Prints what the plan said beside what the run took, phase by phase, and the ratio for the whole command, which should lie within
30 %. Both commands are processes of their own, and the run's time is taken from outside.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from compare import Bench, migration_text

from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis
from agui_pipelines.embedded.workload import fill
from agui_pipelines.phases.markdown import markdown

WITHIN = 0.3


def command(name: str, file: Path, home: Path) -> tuple[dict[str, Any], float]:
    """What a command printed as JSON, and how long it took."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", "from agui_pipelines.cli.app import main; main()", name, file, "--json"],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "DAGSTER_HOME": str(home)},
    )
    return json.loads(done.stdout), time.perf_counter() - began


def table(planned: dict[str, Any], result: dict[str, Any], took: float) -> str:
    total = planned["timeline"]["total"]
    lines = ["| phase | planned s | range | took s | ratio |", "|---|---:|---:|---:|---:|"]
    rows = [*result["timeline"]["phases"], {"phase": "the whole command", **total, "actual": took}]
    for row in rows:
        if row["expected"] is None or row["actual"] is None:
            continue
        ratio = f"{row['actual'] / row['expected']:.2f}" if row["expected"] else ""
        lines.append(
            f"| {row['phase']} | {row['expected']:.1f} | {row['low']:.1f} to {row['high']:.1f} | {row['actual']:.1f} "
            f"| {ratio} |"
        )
    ratio = took / total["expected"]
    verdict = "within" if abs(ratio - 1) <= WITHIN else "NOT within"
    return "\n".join([*lines, "", f"took {ratio:.2f} of what was planned: {verdict} {WITHIN:.0%}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--text-bytes", type=int, default=750, help="sets the size of a state; 750 gives about 1 KB")
    parser.add_argument("--show", action="store_true", help="print the plan's document too")
    options = parser.parse_args()
    with EmbeddedRedis() as source, EmbeddedPostgres() as target, tempfile.TemporaryDirectory() as home:
        shutil.copy(Path(__file__).parents[1] / "dagster.yaml", home)
        with redis.Redis.from_url(source.url) as client:
            filled = fill(client, options.states, text_bytes=options.text_bytes)
        print(f"{options.states:,} states of {filled / options.states:,.0f} bytes on average", flush=True)
        bench = Bench(source.url, target.url, options.states, Path(home))
        for number in range(1, options.rounds + 1):
            database = bench.fresh_database("bench")
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "migration.json"
                file.write_text(json.dumps(migration_text(source.url, database)))
                planned, planning = command("plan", file, Path(home))
                result, took = command("run", file, Path(home))
            bench.require_complete(database, "command")
            if options.show:
                print(f"\n{markdown(planned)}")
            print(f"\nround {number}: planned in {planning:.1f} s\n\n{table(planned, result, took)}", flush=True)
    print(
        f"\n{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
