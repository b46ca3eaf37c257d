from __future__ import annotations

import os
import re
import resource
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agui_pipelines.errors import StagingError
from agui_pipelines.staging import Workspace
from agui_pipelines.staging.workspace import new_id


@pytest.fixture(params=["path", "file URL", "memory URL"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    urls = {
        "path": str(tmp_path / "ws"),
        "file URL": f"file://{tmp_path}/ws",
        "memory URL": f"memory://{uuid.uuid4().hex}",
    }
    return Workspace(urls[request.param], "m")


@pytest.fixture(params=["path", "file URL"])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path / "ws") if request.param == "path" else f"file://{tmp_path}/ws", "m")


@pytest.fixture
def open_umask() -> Iterator[None]:
    previous = os.umask(0)
    yield
    os.umask(previous)


def all_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_written_is_read_and_listed(workspace: Workspace) -> None:
    assert not workspace.exists
    workspace.write("reports/b.json", b"2")
    workspace.write("reports/a.json", b"")
    workspace.write("reports/deep/c", b"\x00\xff")
    assert workspace.exists
    assert workspace.read("reports/b.json") == b"2"
    assert workspace.read("reports/a.json") == b""
    assert workspace.read("reports/deep/c") == b"\x00\xff"
    assert workspace.names("reports") == ["a.json", "b.json", "deep"]
    assert workspace.size("reports/deep/c") == 2
    assert workspace.has("reports/a.json")
    assert not workspace.has("reports/z.json")
    with workspace.reading("reports/b.json") as file:
        assert file.read() == b"2"


def test_a_folder_that_does_not_exist_has_no_names(workspace: Workspace) -> None:
    assert workspace.names("ledger") == []


def test_what_is_missing_is_a_staging_error_that_names_it(workspace: Workspace) -> None:
    workspace.write("a", b"")
    with pytest.raises(StagingError, match="reports/none is missing"):
        workspace.read("reports/none")
    with pytest.raises(StagingError, match="reports/none is missing"):
        workspace.size("reports/none")
    with pytest.raises(StagingError, match="reports/none is missing"), workspace.reading("reports/none"):
        pass


def test_writing_again_replaces_the_content(workspace: Workspace) -> None:
    workspace.write("a", b"a longer content")
    workspace.write("a", b"short")
    assert workspace.read("a") == b"short"


def test_an_exclusive_write_refuses_to_replace_a_file(workspace: Workspace) -> None:
    workspace.write("ledger/a", b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        workspace.write("ledger/a", b"second", exclusive=True)
    assert workspace.read("ledger/a") == b"first"
    assert workspace.names("ledger") == ["a"]


class Interruption(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("boom"),
        KeyboardInterrupt(),
        Interruption(),
        InterruptedError("another range failed"),
        FileNotFoundError(2, "No such file or directory"),
        ConnectionResetError("the source went away"),
        TimeoutError(),
        PermissionError(13, "Permission denied"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_block_raises_passes_unchanged_and_leaves_no_file(workspace: Workspace, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, workspace.writing("folder/name") as file:
        file.write(b"half of ")
        raise error
    assert caught.value is error
    assert not workspace.has("folder/name")
    assert workspace.names("folder") == []


def test_what_a_reading_block_raises_passes_unchanged(workspace: Workspace) -> None:
    workspace.write("a", b"x")
    with pytest.raises(FileNotFoundError) as caught, workspace.reading("a"):
        raise FileNotFoundError("of somebody else")
    assert str(caught.value) == "of somebody else"


def test_a_failed_replacement_keeps_the_previous_content(local: Workspace) -> None:
    local.write("a", b"previous")
    with pytest.raises(ValueError), local.writing("a") as file:
        file.write(b"new")
        file.flush()
        raise ValueError
    assert local.read("a") == b"previous"


def test_a_file_appears_under_its_name_only_when_it_is_complete(local: Workspace, tmp_path: Path) -> None:
    with local.writing("folder/name") as file:
        file.write(b"content")
        file.flush()
        assert not local.has("folder/name")
        assert local.names("folder") == []
    assert local.read("folder/name") == b"content"
    assert all_files(tmp_path) == ["ws/m/folder/name"]


def test_a_failed_block_leaves_no_file_aside(local: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ValueError), local.writing("folder/name"):
        raise ValueError
    local.write("a", b"", exclusive=True)
    with pytest.raises(FileExistsError):
        local.write("a", b"", exclusive=True)
    assert all_files(tmp_path) == ["ws/m/a"]


@pytest.mark.usefixtures("open_umask")
def test_folders_are_0700_and_files_0600_whatever_the_umask(local: Workspace, tmp_path: Path) -> None:
    local.write("a/b/c", b"")
    local.write("a/d", b"", exclusive=True)
    local.write("a/d", b"again")
    modes = {str(p.relative_to(tmp_path)): p.stat().st_mode & 0o7777 for p in tmp_path.rglob("*")}
    assert modes == {
        "ws": 0o700,
        "ws/m": 0o700,
        "ws/m/a": 0o700,
        "ws/m/a/b": 0o700,
        "ws/m/a/b/c": 0o600,
        "ws/m/a/d": 0o600,
    }


def test_a_folder_that_exists_keeps_its_permissions(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Workspace(str(tmp_path), "m").write("a", b"")
    assert tmp_path.stat().st_mode & 0o7777 == 0o755


def test_a_full_disk_is_a_staging_error_and_leaves_no_file(local: Workspace, tmp_path: Path) -> None:
    local.write("ledger/before", b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StagingError, match="Make room"), local.writing("ledger/big") as file:
            for _ in range(100):
                file.write(b"x" * 4096)
        with pytest.raises(StagingError, match="Make room"):
            local.write("ledger/big", b"x" * 5000)  # found only when the file is flushed
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all_files(tmp_path) == ["ws/m/ledger/before"]


def test_a_file_where_a_folder_should_be_is_a_staging_error(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "ledger").write_text("in the way")
    workspace = Workspace(str(tmp_path), "m")
    for attempt in (
        lambda: workspace.write("ledger/a", b""),
        lambda: workspace.write("ledger/a", b"", exclusive=True),
        lambda: workspace.read("ledger/a"),
        lambda: workspace.names("ledger"),
    ):
        with pytest.raises(StagingError, match="Not a directory"):
            attempt()


def test_a_file_in_place_of_the_workspace_is_a_staging_error(tmp_path: Path) -> None:
    (tmp_path / "ws").write_text("in the way")
    with pytest.raises(StagingError, match="Not a directory"):
        Workspace(str(tmp_path / "ws"), "m").write("ledger/a", b"")


def test_the_migrations_of_one_workspace_are_apart(tmp_path: Path) -> None:
    Workspace(str(tmp_path), "one").write("a", b"1")
    other = Workspace(str(tmp_path), "two")
    assert not other.exists
    assert not other.has("a")


def test_ids_are_different_and_sort_by_time() -> None:
    ids = [new_id("plan") for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(re.fullmatch(r"plan-\d{8}T\d{6}-[0-9a-f]{6}", id_) for id_ in ids)
    assert sorted(id_[:20] for id_ in ids) == [id_[:20] for id_ in ids]
