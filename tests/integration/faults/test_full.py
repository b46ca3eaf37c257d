"""Disks and memories that are full: an error that says so, nothing lost, and the next run goes on once there is room."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
from contextlib import contextmanager

import pytest
import redis

from agui_pipelines.embedded import EmbeddedRedis
from tests.e2e.conftest import CHECKOUT, COMMAND, Said
from tests.integration.faults.conftest import run
from tests.integration.faults.places import as_values, fill, held

CHANCE = random.Random(20250718)
CONTENT = {
    ("state", f"user-{number:05}"): {"number": number, "text": CHANCE.randbytes(20_000).hex()} for number in range(200)
}
"""Eight megabytes, of which half remains when it is compressed."""
VALUES = as_values(CONTENT)


@contextmanager
def tiny_disk(folder, size):
    """A file system of so many bytes; what makes it larger."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield lambda more: subprocess.run(["mount", "-o", f"remount,size={more}", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_workspace_that_is_full_is_an_error_and_the_run_goes_on_once_there_is_room(
    place, between, written, agui_migrate, tmp_path
):
    source, target = place("redis_keys", "source"), place("redis", "target")
    fill(source, CONTENT)
    with tiny_disk(tmp_path / "disk", 3_000_000) as enlarge:
        workspace = str(tmp_path / "disk" / "agui")
        refused = agui_migrate("run", written(between(source, target, workspace=workspace)))
        assert (refused.code, "workspace_disk" in refused.error) == (3, True)
        move = between(source, target, workspace=workspace, assessment={"accept": ["workspace_disk"]})

        said = agui_migrate("run", written(move))  # whose end frees the disk

        assert said.code == 1
        assert "No space left on device" in said.error
        assert "resumes" in said.error
        assert held(target) == {}
        assert held(source) == VALUES

        enlarge(100_000_000)
        again = run(move)
        assert again.code == 0, again.error
        assert held(target) == VALUES


def test_a_file_store_that_is_full_is_an_error_and_the_run_goes_on_once_there_is_room(place, between, tmp_path):
    source, target = place("redis_keys", "source"), place("file", "disk/target")
    fill(source, CONTENT)
    with tiny_disk(tmp_path / "disk", 3_000_000) as enlarge:
        move = between(source, target)

        told = run(move)

        assert told.code == 1
        assert "No space left on device" in told.error.message
        assert held(target).items() <= VALUES.items()  # what is there is whole
        assert held(source) == VALUES

        enlarge(100_000_000)
        again = run(move)
        assert again.code == 0, again.error
        assert held(target) == VALUES


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        (700_000, "File too large"),
        pytest.param(100_000, "Dagster cannot keep its record of the run in ", marks=pytest.mark.long),
    ],
    ids=["of the workspace", "of Dagster"],
)
def test_a_limit_on_the_size_of_files_is_an_error(place, between, written, tmp_path, size, sentence):
    source, target = place("redis_keys", "source"), place("redis", "target")
    fill(source, CONTENT)
    move = between(source, target)
    file = written(move)
    shutil.copyfile(CHECKOUT / "dagster.yaml", tmp_path / "dagster.yaml")  # what Dagster keeps of other runs is larger
    process = subprocess.run(
        [COMMAND, "run", file],
        cwd="/",
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    said = Said(process.returncode, process.stdout, process.stderr)

    assert said.code == 1
    assert sentence in said.error
    assert held(target) == {}
    again = run(move)
    assert again.code == 0, again.error
    assert held(target) == VALUES


def test_a_redis_that_is_full_is_an_error_and_the_run_goes_on_once_there_is_room(place, between, written, command):
    source = place("redis_keys", "source")
    fill(source, CONTENT)
    with EmbeddedRedis(settings={"maxmemory": "6mb", "maxmemory-policy": "noeviction"}) as server:
        target = {"type": "redis", "connection_url": server.url}
        refused = command("run", written(between(source, target)))
        assert (refused.code, "target_memory" in refused.error) == (3, True)
        assert held(target) == {}
        move = between(source, target, assessment={"accept": ["target_memory"]})

        said = command("run", written(move))

        assert said.code == 1
        assert "OOM" in said.error
        assert "Raise maxmemory or free memory, then resume." in said.error
        assert "Trying again" not in said.err
        assert held(target).items() <= VALUES.items()
        assert held(source) == VALUES

        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", 0)
        again = run(move)
        assert again.code == 0, again.error
        assert held(target) == VALUES
