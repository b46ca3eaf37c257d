"""The rows of a table or query as states: found out once, then said in SQL.

Everything is looked at before anything is read, so that a wrong name, a missing privilege or a slip in the operator's SQL
ends a migration before it began. Names reach the server as identifiers, values as literals; only ``where`` and ``query``
are SQL of the operator's own, in brackets, and the protocol used to look at them takes no second statement.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import psycopg
from psycopg import errors, sql

from agui_pipelines.drivers.postgresql import Connection
from agui_pipelines.drivers.postgresql_binary import Form
from agui_pipelines.drivers.postgresql_endpoint import Endpoint
from agui_pipelines.drivers.postgresql_errors import reason_of
from agui_pipelines.drivers.postgresql_reading import value
from agui_pipelines.errors import SpecError, StoreError
from agui_pipelines.sources.postgresql_narrowing import narrowed
from agui_pipelines.sources.postgresql_types import Types, row_as_json
from agui_pipelines.spec import PostgresRowsConfig

MEMBER: Final = "_migration"
ROWS: Final = "r"
"""What the rows are called within a statement."""

_STORE_TABLES: Final = frozenset({"ag_states", "ag_versions", "ag_snapshots"})
_DATABASE: Final = """
SELECT pg_encoding_to_char(d.encoding) IN ('UTF8', 'SQL_ASCII'),
    to_jsonb(d) ->> 'datlocprovider' = 'b'
    OR coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' AND d.datcollate IN ('C', 'POSIX')
FROM pg_database d WHERE d.datname = current_database()
"""
"""Whether ids can be compared as text, and whether the database does so byte by byte anyway."""
_DEFAULT_COLLATION: Final = '"default"'
_OPERATORS_FAULT: Final = ("22", "2F", "38", "39", "42", "44", "54", "0A", "P0")
"""Classes of SQLSTATE that the rows, or the SQL that selects them, are to blame for."""


class Holds(Enum):
    """What a document is read from: the type of the column `data`, or several columns, of which the server makes JSON."""

    COLUMNS = "columns"
    JSONB = "jsonb"
    JSON = "json"
    TEXT = "text"

    @property
    def form(self) -> Form:
        return Form.JSONB if self is Holds.JSONB else Form.TEXT


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows (an item of a FROM list) and the expressions over them."""

    rows: sql.Composable
    holds: Holds
    id: sql.Composable
    """Text; NULL if any part of the id is."""
    label: sql.Composable
    """The same for people, with ``NULL`` written out."""
    key: sql.Composable
    """What sorts like the bytes of the id in UTF-8."""
    is_text_key: bool
    """Whether the key is text, not bytes."""
    type: str
    """The type of the id's column, if it is one."""
    column: sql.Composable
    """The id's first column."""
    document: sql.Composable
    created: sql.Composable
    updated: sql.Composable
    weight: sql.Composable

    def keys(self) -> sql.Composed:
        """Ids and weights, in any order."""
        return sql.SQL("SELECT {}, {} FROM {} WHERE {} IS NOT NULL").format(self.id, self.weight, self.rows, self.id)

    def within(self, lower: bytes | None, upper: bytes | None) -> sql.Composed:
        """Id, document and times of the rows between two bounds, of which the upper one is excluded, sorted."""
        conditions: list[sql.Composable] = [sql.SQL("{} IS NOT NULL").format(self.id)]
        for comparison, bound in ((sql.SQL("{} >= {}"), lower), (sql.SQL("{} < {}"), upper)):
            if bound is not None:
                conditions.append(comparison.format(*self._sides(bound)))
        near = narrowed(self.type, self.column, lower, upper)
        if near is not None:
            conditions.append(near)
        return sql.SQL("SELECT {}, {}, {}, {} FROM {} WHERE {} ORDER BY {}").format(
            self.id, self.document, self.created, self.updated, self.rows, sql.SQL(" AND ").join(conditions), self.key
        )

    def among(self, keys: Sequence[bytes]) -> sql.Composed:
        """Likewise, of the rows whose id is one of some keys; what is no text is no row's."""
        texts = [text for key in keys if "\0" not in (text := key.decode("utf-8", "replace"))]
        return sql.SQL("SELECT {}, {}, {}, {} FROM {} WHERE {} = ANY({}::text[]) ORDER BY {}").format(
            self.id, self.document, self.created, self.updated, self.rows, self.id, sql.Literal(texts), self.key
        )

    def some(self, rows: sql.Composable, count: int) -> sql.Composed:
        """Id, document and times of the first of some rows that have an id, in no order."""
        return sql.SQL("SELECT {}, {}, {}, {} FROM {} WHERE {} IS NOT NULL LIMIT {}").format(
            self.id, self.document, self.created, self.updated, rows, self.id, sql.Literal(count)
        )

    def nameless(self) -> sql.Composed:
        """Label and the whole row, as JSON text, of the rows without an id."""
        row = sql.SQL("row_to_json({}.*)::text").format(sql.Identifier(ROWS))
        return sql.SQL("SELECT {}, {} FROM {} WHERE {} IS NULL").format(self.label, row, self.rows, self.id)

    def _sides(self, bound: bytes) -> tuple[sql.Composable, sql.Composable]:
        # A bound that is no text, from the keys of some other system, can only be compared as bytes.
        if self.is_text_key and b"\0" not in bound:
            try:
                return self.key, sql.Literal(bound.decode())
            except UnicodeDecodeError:
                pass
        return sql.SQL("convert_to({}, 'UTF8')").format(self.id), sql.Literal(bound)


def examined(connection: Connection, config: PostgresRowsConfig, endpoint: Endpoint) -> Selection:
    """Look at the source; the connection is in a transaction. Raises `SpecError` or `StoreError`, saying which key is wrong."""
    rows, columns = _looked_at(connection, config, endpoint)
    types = Types(connection)
    _require(columns, "id_column", *config.id_column)
    holds, document, weighed = _document(config, columns, types)
    parts: list[sql.Composable] = [sql.SQL("({})::text").format(_column(name)) for name in config.id_column]
    if len(parts) > 1:  # their collations may differ, or be of a kind that replace() refuses
        parts = [sql.SQL('({} COLLATE "C")').format(part) for part in parts]
    id_ = _joined(parts, config.id_separator)
    comparable, key = _key(connection, rows, id_)
    return Selection(
        rows=rows,
        holds=holds,
        id=id_,
        label=_joined([sql.SQL("coalesce({}, 'NULL')").format(part) for part in parts], config.id_separator),
        key=key,
        is_text_key=comparable,
        type=types.underlying(columns[config.id_column[0]]).name if len(parts) == 1 else "",
        column=_column(config.id_column[0]),
        document=document,
        created=_moment("created_column", config.created_column, columns, types),
        updated=_moment("updated_column", config.updated_column, columns, types),
        weight=_weight(weighed),
    )


def relation(connection: Connection, config: PostgresRowsConfig) -> int | None:
    """The oid of the table that the rows come from; None for a query."""
    if config.table is None:
        return None
    name = sql.Identifier(config.schema_ or "public", config.table).as_string(connection)
    oid = value(connection, "SELECT to_regclass(%s)::oid", (name,))
    return None if oid is None else int(oid)


def sampled_rows(config: PostgresRowsConfig, sampling: sql.Composable) -> sql.Composable:
    """The rows of a table, of which a sample is taken before the operator's condition is looked at."""
    table = sql.SQL("SELECT * FROM {} {}").format(
        sql.Identifier(config.schema_ or "public", config.table or ""), sampling
    )
    if config.where is not None:
        table = sql.SQL("{} WHERE (\n{}\n)").format(table, sql.SQL(config.where.strip().rstrip(";")))
    return _named_rows(table)


def written_rows(
    config: PostgresRowsConfig, selection: Selection, written: Callable[[sql.Composable], sql.Composable]
) -> sql.Composed:
    """Ids and 1 of the rows of a table of which `written` is true, given the transaction that wrote each."""
    writer = sql.Identifier("agui written by")
    table = sql.SQL("SELECT *, xmin AS {} FROM {}").format(
        writer, sql.Identifier(config.schema_ or "public", config.table or "")
    )
    return sql.SQL("SELECT {}, 1::bigint FROM {} WHERE {} AND {} IS NOT NULL").format(
        selection.id, _named_rows(table), written(writer), selection.id
    )


def reads_store(connection: Connection, selection: Selection) -> str | None:
    """The schema of the AG-UI store whose tables the rows come from, be it through views; None if they do not."""
    plan = value(connection, sql.SQL("EXPLAIN (VERBOSE, FORMAT JSON) SELECT * FROM {}").format(selection.rows))
    return next((schema for schema, table in _relations(plan) if table in _STORE_TABLES), None)


@contextmanager
def blamed(what: str, endpoint: Endpoint) -> Iterator[None]:
    """Say what the rows, or the SQL that selects them, are to blame for; other errors of the driver pass."""
    try:
        yield
    except psycopg.Error as error:
        if not (error.sqlstate or "").startswith(_OPERATORS_FAULT) or isinstance(error, errors.InsufficientPrivilege):
            raise
        raise StoreError(
            f"PostgreSQL at {endpoint.address} cannot read {what}: {reason_of(error, endpoint)}.",
            why="A row, or the SQL that selects the rows, makes the server give up on all of them.",
            remedy="Correct the source in the migration file, or the row.",
        ) from error


# Looking


def _looked_at(
    connection: Connection, config: PostgresRowsConfig, endpoint: Endpoint
) -> tuple[sql.Composable, dict[str, int]]:
    """The rows, and the oids of their columns' types by name."""
    if config.query is not None:
        _require_schema(connection, config.schema_, endpoint)
        rows = _named_rows(sql.SQL(config.query.strip().rstrip(";")))
        return rows, _probed(connection, rows, "query", endpoint)
    schema = config.schema_ or "public"
    table = sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, config.table or ""))
    try:
        columns = _probed(connection, _named_rows(table), "table", endpoint)
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        raise SpecError(
            f"source: there is no table '{schema}.{config.table}' in {endpoint.url}.",
            remedy="Correct the keys 'table' and 'schema'; upper and lower case matter.",
        ) from None
    if config.where is None:
        return _named_rows(table), columns
    rows = _named_rows(sql.SQL("{} WHERE (\n{}\n)").format(table, sql.SQL(config.where.strip().rstrip(";"))))
    _probed(connection, rows, "where", endpoint)
    return rows, columns


def _named_rows(query: sql.Composable) -> sql.Composed:
    """On lines of its own, so that a comment at its end comments out nothing else."""
    return sql.SQL("(\n{}\n) AS {}").format(query, sql.Identifier(ROWS))


def _probed(connection: Connection, rows: sql.Composable, key: str, endpoint: Endpoint) -> dict[str, int]:
    """The columns of the rows, none of which is read. Raises `errors.UndefinedTable` for a table, else ours."""
    try:
        # In binary, as only that goes by the protocol that refuses a second statement.
        with connection.cursor(binary=True) as cursor:
            cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(rows))
            columns = [(column.name, column.type_code) for column in cursor.description or ()]
    except errors.InsufficientPrivilege as error:
        raise StoreError(
            f"The user '{connection.info.user}' may not read the source's {key}: {reason_of(error, endpoint)}.",
            remedy="Grant SELECT on what it names (and USAGE on its schema), or connect as another user.",
        ) from error
    except psycopg.Error as error:
        if (error.sqlstate or "")[:2] not in _OPERATORS_FAULT or (
            key == "table" and isinstance(error, errors.UndefinedTable)  # what is missing is told by our caller
        ):
            raise
        raise SpecError(
            f"source.{key}: PostgreSQL does not accept it: {reason_of(error, endpoint)}.",
            remedy="Try it in psql, then correct the migration file.",
        ) from None
    twice = [name for name, count in Counter(name for name, _ in columns).items() if count > 1]
    if twice:
        raise SpecError(
            f"source.{key}: several of its columns are called '{twice[0]}'.",
            why="A document can have only one member of a name.",
            remedy="Give them different names: SELECT a.x AS a_x, b.x AS b_x …",
        )
    return dict(columns)


def _require_schema(connection: Connection, schema: str | None, endpoint: Endpoint) -> None:
    if schema is not None and not value(connection, "SELECT count(*) FROM pg_namespace WHERE nspname = %s", (schema,)):
        raise SpecError(f"source: there is no schema '{schema}' in {endpoint.url}.", remedy="Correct the key 'schema'.")


def _require(columns: Mapping[str, int], key: str, *names: str) -> None:
    for name in names:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(columns)}."
            raise SpecError(f"source.{key}: there is no column '{name}'. {hint}")


def _relations(plan: Any) -> Iterator[tuple[str, str]]:
    """Schema and name of every table in a plan."""
    if isinstance(plan, dict):
        if "Relation Name" in plan:
            yield plan.get("Schema", ""), plan["Relation Name"]
        plan = list(plan.values())
    if isinstance(plan, list):
        for item in plan:
            yield from _relations(item)


# Saying


def _column(name: str) -> sql.Composable:
    return sql.Identifier(ROWS, name)


def _joined(parts: list[sql.Composable], separator: str) -> sql.Composable:
    """Parts joined so that different parts never become one id: a part's own separators, and ``%``, are percent-encoded."""
    if len(parts) == 1:
        return parts[0]
    encoded = []
    for part in parts:
        for character in ("%", *dict.fromkeys(separator)):
            code = "".join(f"%{byte:02X}" for byte in character.encode())
            part = sql.SQL("replace({}, {}, {})").format(part, sql.Literal(character), sql.Literal(code))  # noqa: PLW2901 - one layer more
        encoded.append(part)
    between = sql.Literal(separator)
    whole = encoded[0]
    for part in encoded[1:]:
        whole = sql.SQL("{} || {} || {}").format(whole, between, part)
    return sql.SQL("({})").format(whole)


def _key(connection: Connection, rows: sql.Composable, id_: sql.Composable) -> tuple[bool, sql.Composable]:
    """Whether ids can be compared as text, and what sorts them by their UTF-8 bytes, from an index where there is one."""
    row = connection.execute(_DATABASE).fetchone()
    comparable, byte_ordered = row or (True, False)
    if not comparable:
        return False, sql.SQL("convert_to({}, 'UTF8')").format(id_)
    collation = value(connection, sql.SQL("SELECT pg_collation_for((SELECT {} FROM {} LIMIT 0))").format(id_, rows))
    if collation == _DEFAULT_COLLATION and byte_ordered:
        return True, id_
    return True, sql.SQL('{} COLLATE "C"').format(id_)


def _document(
    config: PostgresRowsConfig, columns: Mapping[str, int], types: Types
) -> tuple[Holds, sql.Composable, list[str]]:
    """What a document holds, the expression for it, and the columns it is made of."""
    if config.data is not None:
        _require(columns, "data", config.data)
        holds = _held(config.data, columns[config.data], types)
        return holds, sql.SQL("({})::{}").format(_column(config.data), sql.SQL(holds.value)), [config.data]
    names = list(config.columns or (name for name in columns if name not in config.id_column))
    _require(columns, "columns", *names)
    if MEMBER in names and config.migration_metadata:
        raise SpecError(
            f"source: the column '{MEMBER}' would be overwritten by what migration_metadata adds.",
            remedy="Set migration_metadata: false, or list the other columns under 'columns'.",
        )
    members = [(name, types.json(_column(name), columns[name]) or _column(name)) for name in names]
    return Holds.COLUMNS, sql.SQL("{}::text").format(row_as_json(members)), names


def _held(name: str, oid: int, types: Types) -> Holds:
    found = types.underlying(oid)
    if found.name in ("json", "jsonb"):
        return Holds(found.name)
    if found.category == "S":
        return Holds.TEXT
    raise SpecError(
        f"source.data: the column '{name}' is of type {found.spelling}, and a document is json, jsonb or text.",
        remedy=f"Leave out 'data' to make documents of all columns, or write columns: [{name}, …].",
    )


def _moment(key: str, name: str | None, columns: Mapping[str, int], types: Types) -> sql.Composable:
    """A time without a zone is taken as UTC, which is the connection's time zone."""
    if name is None:
        return sql.SQL("NULL::timestamptz")
    _require(columns, key, name)
    found = types.underlying(columns[name])
    if found.name not in ("timestamptz", "timestamp", "date"):
        raise SpecError(
            f"source.{key}: the column '{name}' is of type {found.spelling}, not timestamptz, timestamp or date.",
            remedy="Convert it in a query: SELECT …, to_timestamp(x) AS x FROM …",
        )
    return sql.SQL("({})::timestamptz").format(_column(name))


def _weight(names: list[str]) -> sql.Composable:
    """Bytes of the document as the server keeps it, so that nothing has to be unpacked."""
    sizes = [sql.SQL("coalesce(pg_column_size({}), 0)").format(_column(name)) for name in names]
    return sql.SQL("(1 + {})::bigint").format(sql.SQL(" + ").join(sizes) if sizes else sql.SQL("0"))
