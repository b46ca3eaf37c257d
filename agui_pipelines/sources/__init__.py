"""Foreign systems that states are read from: one a file. AG-UI stores are sources too; those live in `stores`."""

from __future__ import annotations

from agui_pipelines.ports import Reader
from agui_pipelines.spec import RedisKeysConfig


def open_source(config: RedisKeysConfig) -> Reader:
    """The reader for a foreign source; connects on first use."""
    from agui_pipelines.sources.redis_keys import RedisKeysSource  # noqa: PLC0415 - drivers are loaded when needed

    return RedisKeysSource(config)
