"""How foreign systems are configured; an AG-UI store is a source too, and configured as in `stores`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator

from agui_pipelines.spec.langgraph import LangGraphConfig
from agui_pipelines.spec.postgresql_rows import PostgresRowsConfig
from agui_pipelines.spec.rows import QueriedRowsConfig, RowsConfig, TypedRowsConfig
from agui_pipelines.spec.section import Section
from agui_pipelines.spec.stores import FileConfig, PostgresConfig, RedisConfig, RedisOptions, Storage


class RedisKeysConfig(Storage):
    """Any Redis: every key that matches is a state."""

    type: Literal["redis_keys"]
    connection_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    match: str = "*"
    redis_cluster: bool = False
    """Whether `connection_url` names a node of a cluster, all of which is to be read."""
    redis_options: RedisOptions = RedisOptions()


class JsonLinesConfig(RowsConfig):
    """Files of JSON Lines: every line is a state. Without ``data`` and ``columns`` the whole line is its document."""

    type: Literal["jsonl"]
    path: str = Field(min_length=1)
    """A file, or a glob (``**`` goes through folders); files may be gzipped."""


class CsvConfig(TypedRowsConfig):
    """CSV files: every row is a state, its values are texts unless `types` says otherwise."""

    type: Literal["csv"]
    path: str = Field(min_length=1)
    delimiter: str = Field(",", min_length=1, max_length=1)
    quote: str = Field('"', min_length=1, max_length=1)
    encoding: str = "utf-8-sig"
    """As Python names it; the default is UTF-8 with or without a byte order mark."""
    header: bool | tuple[str, ...] = True
    """Whether the first row names the columns, or their names; columns without a name are called ``1``, ``2``, …"""

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        try:
            b" ".decode(encoding, "replace")  # of nothing, Python would not even ask for the encoding
        except LookupError:
            raise ValueError(f"there is no encoding '{encoding}'") from None
        return encoding


class ParquetConfig(RowsConfig):
    """Parquet files: every row is a state."""

    type: Literal["parquet"]
    path: str = Field(min_length=1)


class SqliteConfig(QueriedRowsConfig):
    """A table or query of an SQLite database, which is opened for reading only: every row is a state."""

    type: Literal["sqlite"]
    path: str = Field(min_length=1)


class SqlAlchemyConfig(QueriedRowsConfig):
    """A table or query of any database that SQLAlchemy has a dialect for: every row is a state."""

    type: Literal["sqlalchemy"]
    connection_url: SecretStr
    schema_: str | None = Field(None, alias="schema")


class CustomConfig(Section):
    """A reader of the user's own, and what makes states of its records; see `sources.custom`."""

    type: Literal["custom"]
    reader: str = Field(min_length=1)
    """``module:attribute``, or the name of an entry point in ``agui_pipelines.readers``."""
    transformer: str | None = Field(None, min_length=1)
    """Likewise, in ``agui_pipelines.transformers``; without one, a record's data must be the document."""
    options: dict[str, Any] = Field({}, repr=False)
    """What the reader is called with."""
    transformer_options: dict[str, Any] = Field({}, repr=False)


FileRowsConfig = JsonLinesConfig | CsvConfig | ParquetConfig
ForeignConfig = (
    RedisKeysConfig
    | PostgresRowsConfig
    | JsonLinesConfig
    | CsvConfig
    | ParquetConfig
    | SqliteConfig
    | SqlAlchemyConfig
    | LangGraphConfig
    | CustomConfig
)
SourceConfig = RedisConfig | PostgresConfig | FileConfig | ForeignConfig
