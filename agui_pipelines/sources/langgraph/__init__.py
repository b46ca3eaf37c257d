"""LangGraph as a source: the checkpoints that its PostgreSQL and SQLite savers have written. Needs neither of them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from agui_pipelines.errors import SpecError
from agui_pipelines.ports import Scanner
from agui_pipelines.spec import LangGraphConfig, PostgresConfig


def open_(config: LangGraphConfig, folder: Path) -> Scanner:
    """Does not connect. Raises `SpecError` if what decodes the values is not installed."""
    if find_spec("msgpack") is None:
        raise SpecError(
            "A source of type langgraph needs the package msgpack, which is not installed.",
            why="It is what checkpoints are encoded in.",
            remedy="Install it with `pip install 'agui-pipelines[langgraph]'`.",
        )
    from agui_pipelines.sources.langgraph.source import LangGraphSource  # noqa: PLC0415 - see above

    if config.path is not None:
        from agui_pipelines.sources.langgraph.sqlite import SqliteCheckpoints  # noqa: PLC0415 - one of two

        return LangGraphSource(SqliteCheckpoints(folder / config.path.expanduser(), config.read_timeout))
    from agui_pipelines.sources.langgraph.postgresql import PostgresCheckpoints  # noqa: PLC0415 - needs a driver

    same = {name: getattr(config, name) for name in PostgresConfig.model_fields}
    return LangGraphSource(PostgresCheckpoints(PostgresConfig.model_construct(**{**same, "type": "postgresql"})))
