"""Configuration of the source ``postgresql_rows``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from agui_pipelines.spec.stores import PostgresOptions, Storage


def _as_list(value: Any) -> Any:
    """One name may stand for a list of it."""
    return (value,) if isinstance(value, str) else value


class PostgresRowsConfig(Storage):
    """Any table or query of a PostgreSQL database: every row is a state."""

    type: Literal["postgresql_rows"]
    connection_url: SecretStr
    database: str | None = None
    schema_: str | None = Field(None, alias="schema")
    """Where the table is (``public`` unless given), or where a query looks for tables whose schema it does not name."""
    postgresql_options: PostgresOptions = PostgresOptions()
    table: str | None = Field(None, min_length=1)
    where: str | None = None
    """An SQL condition that the rows of the table must meet."""
    query: str | None = None
    """An SQL query instead of a table."""
    id_column: Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(min_length=1)]
    """The column whose text is the state's id, or several, whose texts are joined."""
    id_separator: str = ":"
    """What several parts of an id are joined by. Within a part its characters, and ``%``, are percent-encoded."""
    data: str | None = Field(None, min_length=1)
    """The column that holds the document: json, jsonb or text."""
    columns: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The columns that the document is made of, if there is no `data`; all but those of the id unless given."""
    created_column: str | None = None
    updated_column: str | None = None
    migration_metadata: bool = True
    """Whether documents gain ``_migration: {original_created_at, original_updated_at, migrated_at}``."""

    @field_validator("id_separator")
    @classmethod
    def _never_part_of_its_own_encoding(cls, separator: str) -> str:
        if not separator or any(c in {"%", "\x00"} or c.isalnum() for c in separator):
            raise ValueError("must be made of characters that are neither letters nor digits nor '%', and not be empty")
        return separator

    @field_validator("id_column", "columns")
    @classmethod
    def _each_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = sorted({name for name in names or () if (names or ()).count(name) > 1})
        if twice:
            raise ValueError(f"names the column '{twice[0]}' twice")
        return names

    @model_validator(mode="after")
    def _one_choice_each(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("give either 'table' or 'query'")
        if self.query is not None and self.where is not None:
            raise ValueError("'where' belongs to a 'table'; put the condition into the 'query'")
        if self.data is not None and self.columns is not None:
            raise ValueError("give either 'data', the column that holds the document, or 'columns' to make it of")
        for name in ("where", "query"):
            text = getattr(self, name)
            if text is not None and not text.strip().strip(";"):
                raise ValueError(f"'{name}' is empty")
        return self
