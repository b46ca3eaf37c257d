"""A state with 100,000 versions moves, and is validated, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from agui_pipelines.records import SCHEMAS, Kind

VERSIONS = 100_000
MAX_MIB = 512
_BATCH = 5_000

ROUTES = [("file", "postgresql"), ("redis", "postgresql"), ("postgresql", "redis"), ("postgresql", "file")]


def fill(store):
    """One state of about a kilobyte, a version for each step of its way, each with a delta, and a few states besides."""
    text = "x" * 900
    store.prepare()
    rows = [{"state_id": id_, "data": b"{}"} for id_ in ("busy", "calm", "idle")]
    store.write(Kind.STATE, pa.RecordBatch.from_pylist(rows, schema=SCHEMAS[Kind.STATE]))
    for first in range(0, VERSIONS, _BATCH):
        rows = [
            {
                "state_id": "busy",
                "version_id": f"{n:032x}",
                "timestamp": f"2025-07-14T{n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}.{n % 1000000:06}Z",
                "data": b'{"n":%d,"text":"%b"}' % (n, text.encode()),
                "delta": b'[{"op":"replace","path":"/n","value":%d}]' % n,
                "metadata": b'{"source":"test"}',
                "parent_id": f"{n - 1:032x}" if n else "",
            }
            for n in range(first, first + _BATCH)
        ]
        store.write(Kind.VERSION, pa.RecordBatch.from_pylist(rows, schema=SCHEMAS[Kind.VERSION]))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("origin", "destination"), ROUTES, ids=lambda kind: kind)
def test_a_state_with_a_hundred_thousand_versions_moves_in_bounded_memory(
    config, opened, tmp_path, origin, destination
):
    first, second = config(origin, "first"), config(destination, "second")
    fill(opened(first))
    text = {"name": "long", "source": first, "target": second, "accept_losses": ["timestamps", "sub_microseconds"]}
    root = Path(__file__).parents[2]

    child = subprocess.run(
        [sys.executable, Path(__file__).with_name("peak.py"), json.dumps(text), tmp_path],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )

    found = json.loads(child.stdout)
    assert found["passed"]
    assert found["migrated"] == {"state": 3, "version": VERSIONS, "snapshot": 0}
    assert found["peak_mib"] <= MAX_MIB
    print(found)  # noqa: T201 - shown with -rP
