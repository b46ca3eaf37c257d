"""``ui``: the Dagster UI on the runs that the command line makes too."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.cli.home import dagster_home
from agui_pipelines.errors import MigrationError


def serve(file: str | None, *, host: str, port: int) -> NoReturn:
    """Become ``dagster dev`` in the Dagster home. Raises `MigrationError` if that cannot be."""
    path = spec.default_file(file).resolve()
    workspace = spec.outline(path).workspace_url if file or path.exists() else str(Path.cwd() / spec.DEFAULT_WORKSPACE)
    home = dagster_home(workspace)
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    if path.exists():
        environment[spec.FILE_VARIABLE] = str(path)
    output.note(f"Dagster UI: http://{host}:{port} (Ctrl-C stops it)")
    command = [sys.executable, "-m", "dagster", "dev", "-m", "agui_pipelines.definitions", "-h", host, "-p", str(port)]
    # The home is the working folder, as the folders in dagster.yaml count from there. This process becomes Dagster, so that
    # whatever ends it, ends Dagster.
    os.chdir(home)
    try:
        os.execve(sys.executable, command, environment)  # noqa: S606 - our own arguments
    except OSError as error:
        raise MigrationError(f"Dagster cannot be started: {error.strerror}.") from error
