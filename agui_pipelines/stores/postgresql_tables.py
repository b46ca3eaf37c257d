"""The three tables of an AG-UI store on PostgreSQL: how they look, how they are made, and whether they can be used.

Where this project makes a table, its ids are compared byte by byte (``COLLATE "C"``), whatever the database's language:
types and contents are those of the format, and a key range can be read from the index. Tables that somebody else made are
used as they are; in a language's order, each key range then costs a scan of the whole table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import errors, sql

from agui_pipelines.drivers.postgresql import Connection
from agui_pipelines.drivers.postgresql_binary import Form
from agui_pipelines.keyspace import after
from agui_pipelines.records import Kind

_PREPARATION_LOCK: Final = 0x61677569
"""Key of the advisory lock under which tables are made: ``agui`` in ASCII."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name here and in `records`, and what the table says of it."""

    name: str
    field: str
    form: Form
    rule: str = ""

    @property
    def definition(self) -> str:
        kind = 'varchar(255) COLLATE "C"' if self.form is Form.TEXT else self.form.value
        return f"{kind} {self.rule}".rstrip()

    @property
    def is_optional(self) -> bool:
        """Whether NULL stands for the empty text."""
        return self.form is Form.TEXT and not self.rule


@dataclass(frozen=True, slots=True)
class Table:
    """One table. The first column is its key."""

    kind: Kind
    name: str
    columns: tuple[Column, ...]
    index: str = ""
    """Name of the index on the state id and the time, newest first."""

    @property
    def key(self) -> str:
        return self.columns[0].name

    @property
    def forms(self) -> tuple[Form, ...]:
        return tuple(column.form for column in self.columns)


ABSENT: Final = (errors.UndefinedTable, errors.InvalidSchemaName)
"""What the server says where the tables do not exist yet."""

_NOW: Final = "DEFAULT now()"

TABLES: Final = {
    Kind.STATE: Table(
        Kind.STATE,
        "ag_states",
        (
            Column("state_id", "state_id", Form.TEXT, "PRIMARY KEY"),
            Column("data", "data", Form.JSONB, "NOT NULL"),
            Column("created_at", "created_at", Form.MOMENT, _NOW),
            Column("updated_at", "updated_at", Form.MOMENT, _NOW),
        ),
    ),
    Kind.VERSION: Table(
        Kind.VERSION,
        "ag_versions",
        (
            Column("version_id", "version_id", Form.TEXT, "PRIMARY KEY"),
            Column("state_id", "state_id", Form.TEXT, "NOT NULL"),
            Column("data", "data", Form.JSONB, "NOT NULL"),
            Column("delta", "delta", Form.JSONB),
            Column("metadata", "metadata", Form.JSONB),
            Column("parent_id", "parent_id", Form.TEXT),
            Column("created_at", "timestamp", Form.MOMENT, _NOW),
        ),
        "idx_ag_versions_state_created",
    ),
    Kind.SNAPSHOT: Table(
        Kind.SNAPSHOT,
        "ag_snapshots",
        (
            Column("snapshot_id", "snapshot_id", Form.TEXT, "PRIMARY KEY"),
            Column("state_id", "state_id", Form.TEXT, "NOT NULL"),
            Column("data", "data", Form.JSONB, "NOT NULL"),
            Column("version_id", "version_id", Form.TEXT),
            Column("metadata", "metadata", Form.JSONB),
            Column("created_at", "timestamp", Form.MOMENT, _NOW),
        ),
        "idx_ag_snapshots_state_created",
    ),
}

_BYTE_ORDERED: Final = """
SELECT pg_encoding_to_char(d.encoding) IN ('UTF8', 'SQL_ASCII'),
    l.collname IN ('C', 'POSIX', 'ucs_basic') OR l.collprovider = 'b' OR l.collname = 'default' AND (
        to_jsonb(d) ->> 'datlocprovider' = 'b'
        OR coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' AND d.datcollate IN ('C', 'POSIX'))
FROM pg_database d, pg_attribute a JOIN pg_collation l ON l.oid = a.attcollation
WHERE d.datname = current_database() AND a.attrelid = to_regclass(%s) AND a.attname = %s
"""
"""Read through JSON, as the catalogue has a locale provider only from PostgreSQL 15 on."""


class Tables:
    """The tables within one schema."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._orders: dict[Kind, tuple[bool, bool]] = {}

    def identifier(self, table: Table) -> sql.Identifier:
        return sql.Identifier(self.schema, table.name)

    def is_byte_ordered(self, connection: Connection, table: Table) -> bool:
        """Whether the server compares the table's ids byte by byte anyway."""
        return all(self._order(connection, table))

    def sort_key(self, connection: Connection, table: Table, column: str) -> sql.Composable:
        """An expression that sorts the ids in `column` by their UTF-8 bytes, from the index where that is possible."""
        comparable, ordered = self._order(connection, table)
        if not comparable:
            return as_bytes(column)
        if ordered:
            return sql.Identifier(column)
        return sql.SQL('{} COLLATE "C"').format(sql.Identifier(column))

    def within(self, connection: Connection, table: Table, lower: bytes | None, upper: bytes | None) -> sql.Composable:
        """The condition that a row's state id lies between two bounds, of which the upper one is excluded."""
        conditions: list[sql.Composable] = [sql.SQL("true")] if lower is None and upper is None else []
        key = self.sort_key(connection, table, "state_id")
        comparable, _ = self._order(connection, table)
        if comparable and lower is not None and upper == after(lower) and (only := _text(lower)) is not None:
            # An index in a language's order helps with this, and not with the bounds.
            conditions.append(sql.SQL("state_id = {}").format(only))
        for condition, bound in ((sql.SQL("{} >= {}"), lower), (sql.SQL("{} < {}"), upper)):
            if bound is not None:
                # A bound that is no text, from the keys of some other system, can only be compared as bytes.
                text = _text(bound) if comparable else None
                sides = (as_bytes("state_id"), bound) if text is None else (key, text)
                conditions.append(condition.format(*sides))
        return sql.SQL(" AND ").join(conditions)

    def is_of_text(self, connection: Connection, table: Table) -> bool:
        """Whether ids can be compared as text."""
        comparable, _ = self._order(connection, table)
        return comparable

    def existing(self, connection: Connection) -> dict[Kind, int]:
        """The oids of those tables that exist."""
        names = [table.name for table in TABLES.values()]
        rows = connection.execute(
            "SELECT c.relname, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind <> 'i'",
            (self.schema, names),
        ).fetchall()
        oids: dict[str, int] = dict(rows)
        return {kind: oids[table.name] for kind, table in TABLES.items() if table.name in oids}

    def missing(self, connection: Connection) -> tuple[str, ...]:
        """What `create_missing` would make, by name."""
        existing = self.existing(connection)
        found = []
        for kind, table in TABLES.items():
            if kind not in existing:
                found.append(f"the table {table.name}")
            if table.index and (kind not in existing or self._lacks_index(connection, table, existing[kind])):
                found.append(f"the index {table.index}")
        return tuple(found)

    def create_missing(self, connection: Connection) -> None:
        """Make tables and indexes that are not there; the schema must be. Safe when several do it at once."""
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_PREPARATION_LOCK,))
            existing = self.existing(connection)
            for kind, table in TABLES.items():
                if kind not in existing:
                    connection.execute(self._definition(table))
                if table.index and (kind not in existing or self._lacks_index(connection, table, existing[kind])):
                    connection.execute(self._index_definition(table))

    def _definition(self, table: Table) -> sql.Composed:
        columns = [
            sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.definition)) for column in table.columns
        ]
        return sql.SQL("CREATE TABLE {} ({})").format(self.identifier(table), sql.SQL(", ").join(columns))

    def _index_definition(self, table: Table) -> sql.Composed:
        return sql.SQL("CREATE INDEX {} ON {} (state_id, created_at DESC)").format(
            sql.Identifier(table.index), self.identifier(table)
        )

    def _lacks_index(self, connection: Connection, table: Table, oid: int) -> bool:
        """Whether the index is missing and ours to make: only a table's owner can, and others can do without it."""
        row = connection.execute(
            "SELECT pg_has_role(c.relowner, 'USAGE') AND NOT EXISTS (SELECT FROM pg_class i WHERE i.relname = %s "
            "AND i.relnamespace = c.relnamespace) FROM pg_class c WHERE c.oid = %s",
            (table.index, oid),
        ).fetchone()
        return row == (True,)

    def _order(self, connection: Connection, table: Table) -> tuple[bool, bool]:
        """Whether the ids are kept in UTF-8, and whether the server compares them byte by byte."""
        if table.kind not in self._orders:
            name = self.identifier(table).as_string(connection)
            row = connection.execute(_BYTE_ORDERED, (name, "state_id")).fetchone()
            if row is None:
                return True, False
            self._orders[table.kind] = (row[0], row[1])
        return self._orders[table.kind]


def is_text(value: str) -> bool:
    """Whether PostgreSQL can hold a value as text at all."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def among(keys: Sequence[bytes]) -> sql.Composable:
    """The condition that a row's state id is one of some keys. What is no text that PostgreSQL could take is no row's."""
    texts = [text for key in keys if (text := _text(key)) is not None]
    return sql.SQL("state_id = ANY({}::text[])").format(sql.Literal(texts))


def as_bytes(column: str) -> sql.Composable:
    return sql.SQL("convert_to({}, 'UTF8')").format(sql.Identifier(column))


def _text(bound: bytes) -> str | None:
    """A bound as text, unless it is none that PostgreSQL could take."""
    try:
        return bound.decode() if b"\0" not in bound else None
    except UnicodeDecodeError:
        return None
