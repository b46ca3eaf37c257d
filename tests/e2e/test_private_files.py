"""What a migration keeps can be read by its owner only, whatever the umask."""

from __future__ import annotations

import os
import stat

import pytest

from agui_pipelines.cli.home import dagster_home


@pytest.fixture(params=[0o000, pytest.param(0o022, marks=pytest.mark.long)], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder):
    """The permissions of a folder and of all that lies below it, by whether it is a folder."""
    found = {True: set(), False: set()}
    for path in (folder, *folder.rglob("*")):
        found[path.is_dir()].add(stat.S_IMODE(path.stat().st_mode))
    return found


def test_everything_in_the_workspace_is_private(command, written, text, legacy, tmp_path, umask):
    legacy.set("session:broken", b"\xff")
    workspace = tmp_path / "deep" / "work"
    file = written({**text, "workspace": str(workspace), "limits": {"max_rejects": 5}})

    assert command("run", file).code == 0
    assert command("backup", "create", file).code == 0

    assert {path.name for path in workspace.rglob("*") if path.is_dir()} >= {
        "ledger",
        "snapshots",
        "reports",
        "catalogues",
    }
    assert modes(workspace.parent) == {True: {0o700}, False: {0o600}}


def test_a_home_for_dagster_in_the_workspace_is_private(tmp_path, monkeypatch, umask):
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.setattr(os, "access", lambda *_: False)  # an installation, or a checkout that is not ours to write to

    home = dagster_home(str(tmp_path / "deep" / "work"))

    assert home == tmp_path / "deep" / "work" / "dagster"
    assert modes(tmp_path / "deep") == {True: {0o700}, False: {0o600}}
