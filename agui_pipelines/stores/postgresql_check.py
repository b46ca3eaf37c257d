"""Whether states could be written to a PostgreSQL database as it is: schema, tables, columns and privileges."""

from __future__ import annotations

from typing import Any, Final

from agui_pipelines.drivers.postgresql import Connection
from agui_pipelines.drivers.postgresql_binary import Form
from agui_pipelines.errors import StoreError
from agui_pipelines.stores.postgresql_tables import TABLES, Table, Tables

_TYPES: Final = {
    Form.TEXT: frozenset({"character varying(255)", "character varying", "text"}),
    Form.JSONB: frozenset({"jsonb"}),
    Form.MOMENT: frozenset({"timestamp with time zone"}),
}

_SERVER: Final = """
SELECT pg_encoding_to_char(encoding), current_setting('transaction_read_only'), current_user
FROM pg_database WHERE datname = current_database()
"""
_SCHEMA: Final = """
SELECT has_schema_privilege(oid, 'USAGE'), has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = %s
"""
_COLUMNS: Final = """
SELECT attname, format_type(atttypid, atttypmod),
    attnotnull AND NOT atthasdef AND attidentity = '' AND attgenerated = ''
FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
"""
_UNIQUE: Final = """
SELECT EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indnkeyatts = 1
        AND i.indpred IS NULL AND a.attname = %s)
"""
_PRIVILEGES: Final = ("SELECT", "INSERT", "UPDATE")


def examine(connection: Connection, tables: Tables) -> None:
    """Changes nothing. Raises `StoreError` for the first thing that is in the way."""
    encoding, read_only, user = _row(connection, _SERVER)
    if encoding != "UTF8":
        raise StoreError(
            f"The database has the encoding {encoding}.",
            why="Documents are UTF-8, and not all of them could be kept in another encoding.",
            remedy="Use a database that was created WITH ENCODING 'UTF8'.",
        )
    if read_only == "on":
        raise StoreError(
            "The server takes no writes: it is a replica, or its transactions are read-only by default.",
            remedy="Name the primary in connection_url, or turn default_transaction_read_only off.",
        )
    existing = tables.existing(connection)
    _examine_schema(connection, tables.schema, user, complete=len(existing) == len(TABLES))
    for kind, oid in existing.items():
        _examine_columns(connection, tables.schema, TABLES[kind], oid)
        _examine_privileges(connection, tables.schema, TABLES[kind], oid, user)


def _examine_schema(connection: Connection, schema: str, user: str, *, complete: bool) -> None:
    row = connection.execute(_SCHEMA, (schema,)).fetchone()
    if row is None:
        raise StoreError(
            f"The schema '{schema}' does not exist.",
            why="A schema is never created here, as its owner and its privileges are somebody's decision.",
            remedy=f"Create it: CREATE SCHEMA \"{schema}\"; or correct the key 'schema'.",
        )
    may_use, may_create = row
    lacking = "USAGE" if not may_use else "CREATE" if not may_create and not complete else None
    if lacking:
        raise StoreError(
            f"The user '{user}' lacks the privilege {lacking} on the schema '{schema}'.",
            why="The tables of the store are not all there, and have to be created." if lacking == "CREATE" else "",
            remedy=f'Grant it: GRANT {lacking} ON SCHEMA "{schema}" TO "{user}";',
        )


def _examine_columns(connection: Connection, schema: str, table: Table, oid: int) -> None:
    found = {name: (kind, demanded) for name, kind, demanded in connection.execute(_COLUMNS, (oid,)).fetchall()}
    wanted = {column.name: _TYPES[column.form] for column in table.columns}
    faults = [f"the column '{name}' is missing" for name in wanted if name not in found]
    faults += [
        f"the column '{name}' is {found[name][0]} instead of {min(types, key=len)}"
        for name, types in wanted.items()
        if name in found and found[name][0] not in types
    ]
    faults += [
        f"the column '{name}', which is not of the format, must not be null and has no default"
        for name, (_, demanded) in found.items()
        if demanded and name not in wanted
    ]
    if not faults and not _row(connection, _UNIQUE, (oid, table.key))[0]:
        faults.append(f"the column '{table.key}' is not its primary key")
    if faults:
        raise StoreError(
            f"The table '{schema}.{table.name}' cannot be used: {'; '.join(faults)}.",
            why="It is not the table that the format of an AG-UI store describes.",
            remedy="Rename or alter it, or use another schema.",
        )


def _examine_privileges(connection: Connection, schema: str, table: Table, oid: int, user: str) -> None:
    row = _row(
        connection,
        "SELECT " + ", ".join(["has_table_privilege(%s, %s)"] * len(_PRIVILEGES)),
        [value for privilege in _PRIVILEGES for value in (oid, privilege)],
    )
    lacking = [privilege for privilege, granted in zip(_PRIVILEGES, row, strict=True) if not granted]
    if lacking:
        raise StoreError(
            f"The user '{user}' lacks {', '.join(lacking)} on the table '{schema}.{table.name}'.",
            remedy=f'Grant it: GRANT {", ".join(lacking)} ON "{schema}"."{table.name}" TO "{user}";',
        )


def _row(connection: Connection, query: str, parameters: Any = None) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), parameters).fetchone()
    if row is None:
        raise StoreError("The server's catalogue does not know the database that we are connected to.")
    return row
