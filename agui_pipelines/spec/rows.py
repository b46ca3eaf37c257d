"""How rows become states: which columns or fields are the id, the document and the times. Shared by sources of rows."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from agui_pipelines.spec.section import Section


def _as_tuple(value: Any) -> Any:
    """One name may stand for a list of it."""
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple), Field(min_length=1)]
"""One name or several."""

ColumnType = Literal["integer", "number", "boolean", "json"]


class RowsConfig(Section):
    """The keys that all sources of rows have in common."""

    id: Names
    """The column or field whose text is the state's id, or several, whose texts are joined."""
    id_separator: str = ":"
    """What several parts of an id are joined by. Within a part its characters, and ``%``, are percent-encoded."""
    data: str | None = Field(None, min_length=1)
    """The column or field that holds the document."""
    columns: Names | None = None
    """The columns or fields that the document is made of, if there is no `data`; all but those of the id unless given."""
    created: str | None = Field(None, min_length=1)
    updated: str | None = Field(None, min_length=1)
    expires: str | None = Field(None, min_length=1)
    """Where the times are: RFC 3339 (UTC where there is no offset) or seconds since 1970."""

    @field_validator("id_separator")
    @classmethod
    def _never_part_of_its_own_encoding(cls, separator: str) -> str:
        if not separator or any(c in "%\0" or c.isalnum() for c in separator):
            raise ValueError("must be made of characters that are neither letters nor digits nor '%', and not be empty")
        return separator

    @field_validator("id", "columns")
    @classmethod
    def _each_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = sorted({name for name in names or () if (names or ()).count(name) > 1})
        if twice:
            raise ValueError(f"names '{twice[0]}' twice")
        return names

    @model_validator(mode="after")
    def _one_kind_of_document(self) -> Self:
        if self.data is not None and self.columns is not None:
            raise ValueError("give either 'data', which holds the document, or 'columns' to make it of")
        return self

    @property
    def named(self) -> tuple[str, ...]:
        """All columns or fields that the configuration names, so that one that is missing is told at once."""
        times = (self.created, self.updated, self.expires)
        return tuple(dict.fromkeys([*self.id, *filter(None, [self.data, *times]), *(self.columns or ())]))


class TypedRowsConfig(RowsConfig):
    """Rows of a source whose own types may say less than is known."""

    types: dict[str, ColumnType] = Field(default_factory=dict)
    """What the text, or in a database the stored value, of a column really is."""


class QueriedRowsConfig(TypedRowsConfig):
    """Rows of a database."""

    table: str | None = Field(None, min_length=1)
    query: str | None = None
    """An SQL query instead of a table."""

    @model_validator(mode="after")
    def _table_or_query(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("give either 'table' or 'query'")
        if self.query is not None and not self.query.strip().strip(";"):
            raise ValueError("'query' is empty")
        return self
