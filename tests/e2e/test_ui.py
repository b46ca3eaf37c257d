"""`agui-migrate ui` opens Dagster on the project's definitions, and leaves nothing running."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
import yaml

from agui_pipelines.definitions import defs
from tests.e2e.operated import Ui, awaited

QUERY = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
    jobs { name } assetNodes { assetKey { path } } assetGroups { groupName } } } } }"""


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

    ui = Ui(free_port)
    awaited(ui.repository, 90)
    [shown] = ui.ask(QUERY)["repositoriesOrError"]["nodes"]

    running = psutil.Process(process.pid).children(recursive=True)
    end(process)
    out, err = process.communicate(timeout=30)
    assert {job["name"] for job in shown["jobs"]} >= {"migrate", "dry_run", "validate"}
    assert {node["assetKey"]["path"][0] for node in shown["assetNodes"]} >= {"exported_snapshot", "validation_report"}
    groups = {each.group_name for each in defs.resolve_all_asset_specs()}
    assert {group["groupName"] for group in shown["assetGroups"]} == groups
    assert process.returncode in (0, 130, -signal.SIGTERM)
    assert f"http://127.0.0.1:{free_port}" in err
    _, left = psutil.wait_procs(running, timeout=20)
    assert left == []
    assert "Traceback" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["migration.yaml"]
