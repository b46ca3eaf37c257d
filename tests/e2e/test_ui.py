"""`agui-migrate ui` opens Dagster on the project's definitions, and leaves nothing running."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request

import psutil
import pytest
import yaml

QUERY = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
    jobs { name } assetNodes { assetKey { path } } assetGroups { groupName } } } } }"""


def asked(port, query, seconds):
    """The answer of the UI's own interface, as soon as it answers with a loaded code location."""
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", data=body, headers={"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                nodes = json.load(answer)["data"]["repositoriesOrError"]["nodes"]
                if nodes:
                    return nodes[0]
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.2)
    raise AssertionError("the UI never answered")


def ctrl_c(process):
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of the foreground's processes


def terminate(process):
    process.terminate()


@pytest.mark.long  # Dagster starts five processes
@pytest.mark.parametrize("end", [ctrl_c, terminate])
def test_the_ui_shows_the_project_and_all_of_it_ends_with_the_command(start, free_port, tmp_path, end):
    file = tmp_path / "migration.yaml"
    store = {"type": "file", "file_options": {"base_dir": "store"}}
    file.write_text(yaml.safe_dump({"name": "shown", "source": {"type": "redis_keys"}, "target": store}))
    process = start("ui", file, "--port", free_port, cwd=tmp_path)

    shown = asked(free_port, QUERY, seconds=90)

    running = psutil.Process(process.pid).children(recursive=True)
    end(process)
    out, err = process.communicate(timeout=30)
    assert {job["name"] for job in shown["jobs"]} >= {"migrate", "dry_run", "validate"}
    assert {node["assetKey"]["path"][0] for node in shown["assetNodes"]} >= {"exported_snapshot", "validation_report"}
    assert {group["groupName"] for group in shown["assetGroups"]} == {"prepare", "move", "prove"}
    assert process.returncode in (0, 130, -signal.SIGTERM)
    assert f"http://127.0.0.1:{free_port}" in err
    _, left = psutil.wait_procs(running, timeout=20)
    assert left == []
    assert "Traceback" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["migration.yaml"]
