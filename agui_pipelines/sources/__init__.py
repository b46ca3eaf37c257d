"""Foreign systems that states are read from: one a file. AG-UI stores are sources too; those live in `stores`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

from agui_pipelines.ports import Reader, Scanner, Store
from agui_pipelines.spec import ForeignConfig, RedisKeysConfig

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


def no_way_back(config: ForeignConfig) -> str:
    """Why nothing can be written back to a foreign source, for people; empty if it can (see `open_write_back`)."""
    if not isinstance(config, RedisKeysConfig):
        return "it is no AG-UI store, and is only read"
    return "nothing is written back to a Redis Cluster" if config.redis_cluster else ""


def open_write_back(config: RedisKeysConfig, folder: Path) -> Store:
    """A foreign source as a store, for the ways back alone: it is no target that a migration file can name.

    Connects on first use. Raises `RefusedError` where there is no way back; see `no_way_back`.
    """
    from agui_pipelines.sources.redis_keys_target import open_target  # noqa: PLC0415 - as with every source's module

    return open_target(config, folder)
