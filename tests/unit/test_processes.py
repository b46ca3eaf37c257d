"""Worker processes whose starter is gone."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pyarrow as pa
import pytest


def left(module: str, request: bytes) -> tuple[int, bytes]:
    """How a worker ends that is asked something by somebody who does not wait for the answer, and what it says of it."""
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert worker.stdin
    assert worker.stdout
    assert worker.stderr
    worker.stdout.close()
    worker.stdin.write(request)
    worker.stdin.close()
    said = worker.stderr.read()
    worker.stderr.close()
    return worker.wait(120), said


def test_a_digest_worker_ends_without_a_word():
    document = b'{"a": 1}'
    request = struct.pack("<IQ", 1, len(document)) + struct.pack("<ii", 0, len(document)) + document
    assert left("agui_pipelines.digests", request) == (0, b"")


@pytest.mark.long
def test_a_worker_of_expectations_ends_without_a_word():
    request = json.dumps({"frame": "states", "suites": []}).encode() + b"\n"
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("state_id", pa.string())])) as stream:
        stream.write_table(pa.table({"state_id": ["a"]}))
    assert left("agui_pipelines.expectations.worker", request + sink.getvalue().to_pybytes()) == (0, b"")
