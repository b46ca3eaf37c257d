"""How foreign systems are configured; an AG-UI store is a source too, and configured as in `stores`."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr

from agui_pipelines.spec.langgraph import LangGraphConfig
from agui_pipelines.spec.stores import FileConfig, PostgresConfig, RedisConfig, RedisOptions, Storage


class RedisKeysConfig(Storage):
    """Any Redis: every string key that matches is a state."""

    type: Literal["redis_keys"]
    connection_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    match: str = "*"
    redis_options: RedisOptions = RedisOptions()


ForeignConfig = RedisKeysConfig | LangGraphConfig
SourceConfig = RedisConfig | PostgresConfig | FileConfig | ForeignConfig
