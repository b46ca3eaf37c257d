"""Reading a PostgreSQL server: by COPY, in batches of columns, and what tells the server from others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from psycopg import errors, sql

from agui_pipelines.drivers.postgresql import Connection
from agui_pipelines.drivers.postgresql_binary import Form, decoded, received
from agui_pipelines.errors import StoreError
from agui_pipelines.ports import BATCH_BYTES

_IDENTITY: Final = "SELECT system_identifier::text FROM pg_control_system()"
_SUBSTITUTE: Final = (
    "SELECT coalesce(host(inet_server_addr()), 'local') || ':' || coalesce(inet_server_port(), 0) || ' since ' "
    "|| extract(epoch FROM pg_postmaster_start_time())"
)
"""What tells a server from others where its system identifier is not for everybody's eyes."""


def copied(connection: Connection, query: sql.Composable, forms: Sequence[Form], max_rows: int) -> Iterator[list[Any]]:
    """What a query yields, by COPY, as columns of up to `max_rows` and `BATCH_BYTES` (a larger row goes alone).

    Raises psycopg's errors, and `StoreError` for an answer that is not in the server's own format.
    """
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)
    try:
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for rows in received(copy, BATCH_BYTES, max_rows):
                columns = [decoded(rows, forms)]
                del rows
                yield columns.pop()
    except ValueError as error:
        raise StoreError(
            f"What the server sent cannot be read: {error}.",
            why="Its binary format is not the one that PostgreSQL documents.",
            remedy="See whether a proxy stands between, and connect to the server itself.",
        ) from error


def value(connection: Connection, query: Any, parameters: Any = None) -> Any:
    """The first column of a query's first row, or None."""
    row = connection.execute(query, parameters).fetchone()
    return None if row is None else row[0]


def server_name(connection: Connection) -> str:
    """``PostgreSQL 18.4``, without what a distribution adds to it."""
    return f"PostgreSQL {str(value(connection, 'SHOW server_version')).split()[0]}"


def server_identity(connection: Connection) -> str:
    """The server's system identifier, or else its address and the time of its start. Not for use in a transaction."""
    try:
        return str(value(connection, _IDENTITY))
    except errors.InsufficientPrivilege:
        return str(value(connection, _SUBSTITUTE))
