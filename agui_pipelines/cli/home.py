"""Where Dagster keeps its runs: the project's folder inside a checkout, else a folder inside the workspace."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from agui_pipelines.errors import StagingError
from agui_pipelines.staging.workspace import make_private

if TYPE_CHECKING:
    from dagster import DagsterInstance

CONFIG = "dagster.yaml"


def dagster_home(workspace_url: str) -> Path:
    """``DAGSTER_HOME`` if it is set, else the checkout that this code runs from, else ``<workspace>/dagster``."""
    if configured := os.environ.get("DAGSTER_HOME"):
        return Path(configured).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / CONFIG).is_file() and os.access(checkout, os.W_OK):
        return checkout
    local = Path.home() / ".agui" if "://" in workspace_url else Path(workspace_url)
    home = local.resolve() / "dagster"
    make_private(home)
    if not (home / CONFIG).exists():
        shutil.copyfile(_shipped_config(checkout), home / CONFIG)
        (home / CONFIG).chmod(0o600)
    return home


def open_instance(home: Path) -> DagsterInstance:
    """The persisted instance of a home, its relative folders counted from the home wherever the command was started."""
    from dagster import DagsterInstance  # noqa: PLC0415 - costs seconds
    from dagster._core.instance.ref import InstanceRef  # noqa: PLC0415 - the only way to give overrides

    os.environ["DAGSTER_HOME"] = str(home)
    make_private(home)  # DAGSTER_HOME may name a folder that nobody has made yet
    with (home / ".agui-migrate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two first runs at once would both create the tables of Dagster's SQLite
        instance = DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=_absolute(home)))
        instance.get_runs_count()
        return instance


@contextmanager
def storage_told_of(home: Path) -> Iterator[None]:
    """Raises `StagingError` where Dagster can no longer write down what happens in a run."""
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415 - Dagster's; users need it only for sources of that type

    try:
        yield
    except OperationalError as error:
        raise StagingError(
            f"Dagster cannot keep its record of the run in {home}: {error.orig}.",
            why="A run that leaves no record is not carried on.",
            remedy="Make room there, or see that Dagster's storage answers; then run the same command again: it resumes.",
        ) from error


def _absolute(home: Path) -> dict[str, Any]:
    """The parts of ``dagster.yaml`` that hold a relative ``base_dir``, with an absolute one."""
    config = yaml.safe_load((home / CONFIG).read_text("utf-8")) if (home / CONFIG).exists() else {}
    overrides: dict[str, Any] = {}
    for key, section in (config or {}).items():
        changed = _with_absolute_folders(section, home)
        if changed != section:
            overrides[key] = changed
    return overrides


def _with_absolute_folders(value: Any, home: Path) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        key: str(home / item) if key == "base_dir" and isinstance(item, str) else _with_absolute_folders(item, home)
        for key, item in value.items()
    }


def _shipped_config(checkout: Path) -> Path:
    """``dagster.yaml`` as it lies in the wheel, or in a checkout that cannot be written to."""
    shipped = Path(str(files("agui_pipelines"))) / CONFIG
    return shipped if shipped.exists() else checkout / CONFIG
