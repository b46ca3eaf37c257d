"""``ui``: the Dagster UI on the runs that the command line makes too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.cli.home import dagster_home
from agui_pipelines.errors import MigrationError


def serve(file: str | None, *, host: str, port: int) -> None:
    """Run ``dagster dev`` in the Dagster home until it ends."""
    path = spec.default_file(file).resolve()
    workspace = spec.outline(path).workspace_url if file or path.exists() else str(Path.cwd() / spec.DEFAULT_WORKSPACE)
    home = dagster_home(workspace)
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    if path.exists():
        environment[spec.FILE_VARIABLE] = str(path)
    output.note(f"Dagster UI: http://{host}:{port} (Ctrl-C stops it)")
    command = [sys.executable, "-m", "dagster", "dev", "-m", "agui_pipelines.definitions", "-h", host, "-p", str(port)]
    # The home is the working folder, as the folders in dagster.yaml count from there.
    finished = subprocess.run(command, cwd=home, env=environment, check=False)  # noqa: S603 - our own arguments
    if finished.returncode not in (0, -2, 130):
        raise MigrationError(f"Dagster ended with code {finished.returncode}.", remedy="Its own messages stand above.")
