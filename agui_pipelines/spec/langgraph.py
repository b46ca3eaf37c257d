"""How the checkpoints of a LangGraph application are configured as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, model_validator

from agui_pipelines.spec.stores import PostgresOptions, Storage

_OF_POSTGRESQL: Final = {"database": "database", "schema_": "schema", "postgresql_options": "postgresql_options"}


class LangGraphConfig(Storage):
    """The checkpoints of a LangGraph application: in PostgreSQL (``connection_url``) or in a file of SQLite (``path``)."""

    type: Literal["langgraph"]
    connection_url: SecretStr | None = None
    database: str | None = None
    schema_: str = Field("public", alias="schema")
    postgresql_options: PostgresOptions = PostgresOptions()
    path: Path | None = None

    @model_validator(mode="after")
    def _in_one_place(self) -> Self:
        if (self.connection_url is None) == (self.path is None):
            raise ValueError("name either 'connection_url' (of PostgreSQL) or 'path' (of a file of SQLite)")
        for field, key in _OF_POSTGRESQL.items():
            if self.path is not None and field in self.model_fields_set:
                raise ValueError(f"the key '{key}' belongs to PostgreSQL, but 'path' names a file of SQLite")
        return self
