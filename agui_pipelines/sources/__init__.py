"""Foreign systems that states are read from: one a file. AG-UI stores are sources too; those live in `stores`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

from agui_pipelines.ports import Reader, Scanner
from agui_pipelines.spec import ForeignConfig

_MODULES: Final = {
    "postgresql_rows": "postgresql_rows",
    "langgraph": "langgraph",
    "redis_keys": "redis_keys",
    "jsonl": "jsonl",
    "csv": "csv",
    "parquet": "parquet",
    "sqlite": "sqlite",
    "sqlalchemy": "sqlalchemy",
    "custom": "custom",
}
"""The module of each ``type``; it is imported when it is needed, as its driver may not be installed."""


def open_source(config: ForeignConfig, folder: Path) -> Reader | Scanner:
    """What reads or scans a foreign source; connects on first use. `folder` is where relative paths count from.

    Every module of this package has ``open_(config, folder)``.
    """
    module = import_module(f"{__name__}.{_MODULES[config.type]}")
    source: Reader | Scanner = module.open_(config, folder)
    return source
