"""How foreign systems are configured; an AG-UI store is a source too, and configured as in `stores`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from agui_pipelines.spec.stores import FileConfig, PostgresConfig, PostgresOptions, RedisConfig, RedisOptions, Storage


class RedisKeysConfig(Storage):
    """Any Redis: every string key that matches is a state."""

    type: Literal["redis_keys"]
    connection_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    match: str = "*"
    redis_options: RedisOptions = RedisOptions()


class LangGraphConfig(Storage):
    """The checkpoints of a LangGraph application: in PostgreSQL (``connection_url``) or in a file of SQLite (``path``)."""

    type: Literal["langgraph"]
    connection_url: SecretStr | None = None
    database: str | None = None
    schema_: str = Field("public", alias="schema")
    postgresql_options: PostgresOptions = PostgresOptions()
    path: Path | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.connection_url is None) == (self.path is None):
            raise ValueError("name either 'connection_url' (of PostgreSQL) or 'path' (of a file of SQLite)")
        if (
            foreign := sorted({"database", "schema_", "postgresql_options"} & self.model_fields_set)
            if self.path
            else []
        ):
            raise ValueError(
                f"the key '{foreign[0].rstrip('_')}' belongs to PostgreSQL, and 'path' names a file of SQLite"
            )
        return self


ForeignConfig = RedisKeysConfig | LangGraphConfig
SourceConfig = RedisConfig | PostgresConfig | FileConfig | ForeignConfig
