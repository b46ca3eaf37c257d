"""Peak resident memory of a migration, Redis to PostgreSQL, at two sizes: it must not grow with the number of states.

    python benchmarks/memory.py            # 200,000 and 1,000,000 states

Each size is migrated and validated in a process of its own, whose peak is read from the operating system; the servers are
other processes and do not count.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import redis
from compare import Bench

from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis
from agui_pipelines.embedded.workload import fill
from agui_pipelines.phases.plan import current
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.validate import require_passed, validate


def measured(redis_url: str, postgres_url: str, states: int) -> None:
    """Run in the child: migrate, validate, print the peak."""
    bench = Bench(redis_url, postgres_url, states)
    with tempfile.TemporaryDirectory() as folder:
        bench.pipeline(postgres_url, Path(folder))
        session = Session.open(bench.migration(postgres_url, Path(folder)))
        require_passed(validate(session, current(session)))
    print(json.dumps({"states": states, "peak_mib": peak_mib()}))


def peak_mib() -> float:
    """Peak resident memory of this process. Linux hands ``ru_maxrss`` on from the process that started it; VmHWM is our own."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=2, default=[200_000, 1_000_000])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measured(options.child[0], options.child[1], int(options.child[2]))
        return
    peaks = []
    for states in options.sizes:
        with EmbeddedRedis() as source, EmbeddedPostgres() as target:
            with redis.Redis.from_url(source.url) as client:
                fill(client, states, text_bytes=750)
            database = Bench(source.url, target.url, states).fresh_database("bench")
            child = [sys.executable, __file__, "--child", source.url, database, str(states)]
            result = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)
        peaks.append(result["peak_mib"])
        print(f"{states:>9,} states: peak {result['peak_mib']:,.0f} MiB", flush=True)
    print(f"ratio {peaks[1] / peaks[0]:.2f} (at most 1.3)")


if __name__ == "__main__":
    main()
