"""How a table or query of PostgreSQL is configured as a source."""

from __future__ import annotations

from typing import Any

import pytest

from agui_pipelines import spec
from agui_pipelines.errors import SpecError
from agui_pipelines.spec import PostgresRowsConfig

SOURCE = {"type": "postgresql_rows", "connection_url": "postgresql://h/d", "table": "t", "id_column": "id"}


def parsed(**keys: Any) -> PostgresRowsConfig:
    source = {key: value for key, value in {**SOURCE, **keys}.items() if value is not None}
    found = spec.parse({"name": "m", "source": source, "target": {"type": "file"}}).source
    assert isinstance(found, PostgresRowsConfig)
    return found


def test_the_defaults() -> None:
    found = parsed()
    assert (found.id_column, found.id_separator, found.migration_metadata) == (("id",), ":", True)
    assert found.schema_ is found.data is found.columns is found.where is found.query is None


def test_an_id_can_have_several_columns() -> None:
    assert parsed(id_column=["b", "a"], id_separator="::").id_column == ("b", "a")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"table": None}, "source: give either 'table' or 'query'"),
        ({"query": "SELECT 1"}, "source: give either 'table' or 'query'"),
        ({"table": None, "query": "SELECT 1", "where": "true"}, "source: 'where' belongs to a 'table'"),
        ({"table": None, "query": " ; "}, "source: 'query' is empty"),
        ({"where": ""}, "source: 'where' is empty"),
        ({"data": "d", "columns": ["a"]}, "source: give either 'data'"),
        ({"columns": []}, "source.columns"),
        ({"columns": ["a", "b", "a"]}, "source.columns: names the column 'a' twice"),
        ({"id_column": []}, "source.id_column"),
        ({"id_column": None}, "source.id_column: this key is required"),
        ({"id_column": ["a", "a"]}, "source.id_column: names the column 'a' twice"),
        ({"id_separator": ""}, "source.id_separator: must be made of characters"),
        ({"id_separator": "%"}, "source.id_separator: must be made of characters"),
        ({"id_separator": "-A-"}, "source.id_separator: must be made of characters"),
        ({"id_separator": "2"}, "source.id_separator: must be made of characters"),
        ({"colums": ["a"]}, "did you mean 'columns'"),
        ({"connection_url": None}, "source.connection_url: this key is required"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parsed(**keys)
    assert message in str(caught.value)


def test_it_is_no_target() -> None:
    with pytest.raises(SpecError, match="unknown type 'postgresql_rows'"):
        spec.parse({"name": "m", "source": SOURCE, "target": SOURCE})
