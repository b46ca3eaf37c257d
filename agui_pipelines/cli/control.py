"""``control``: have a run that goes on pause, resume, end, or go at another rate."""

from __future__ import annotations

from pathlib import Path

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.cli.status import told
from agui_pipelines.errors import UsageError
from agui_pipelines.phases import control as controls
from agui_pipelines.staging import Workspace


def control(words: list[str], *, json: bool) -> None:
    """`words`: the command, after the migration file, or the name of the migration in the default file."""
    if len(words) not in (1, 2):
        raise UsageError(
            "Give one command, after the migration file or the name of the migration.",
            remedy="For example: agui-migrate control migration.yaml rate=500",
        )
    outline = _outline(words[0] if len(words) > 1 else None)
    found = controls.command(Workspace(outline.workspace_url, outline.name), outline.name, words[-1])
    runs = [run.to_dict() for run in found]
    if json:
        output.print_json({"migration": outline.name, "command": words[-1], "going": runs})
        return
    for run in runs:
        output.say(told(outline.name, run))


def _outline(name: str | None) -> spec.Outline:
    """Of a file, or, if there is none of that name, of the default one if it is the migration of that name."""
    if name is None or Path(name).expanduser().exists():
        return spec.outline(name)
    default = spec.default_file()
    if default.exists() and (found := spec.outline()).name == name:
        return found
    raise UsageError(
        f"There is no migration file '{name}', and {default} is of no migration of that name.",
        remedy="Name the migration file that the run was started with.",
    )
