"""The steps of automatic upgrades, one a file, named after the versions that they lie between.

The reference tells nothing of what its versions change in the data. What each step does is a convention of this project,
said in its docstring; none changes a document. The version marker is written after the last step of a chain, by `store`.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from agui_pipelines.upgrade.work import Step


def step(version: str, to: str) -> Step:
    """The step between two versions."""
    name = f"v{version}_to_{to}".replace(".", "_")
    return cast("Step", import_module(f"{__name__}.{name}"))
