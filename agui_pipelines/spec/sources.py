"""How foreign systems are configured; an AG-UI store is a source too, and configured as in `stores`."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr

from agui_pipelines.spec.stores import FileConfig, PostgresConfig, RedisConfig, RedisOptions, Storage


class RedisKeysConfig(Storage):
    """Any Redis: every key that matches is a state."""

    type: Literal["redis_keys"]
    connection_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    match: str = "*"
    redis_cluster: bool = False
    """Whether `connection_url` names a node of a cluster, all of which is to be read."""
    redis_options: RedisOptions = RedisOptions()


ForeignConfig = RedisKeysConfig
SourceConfig = RedisConfig | PostgresConfig | FileConfig | ForeignConfig
