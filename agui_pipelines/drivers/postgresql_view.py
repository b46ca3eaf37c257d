"""Reading a PostgreSQL database as it was at one moment, from several connections.

A transaction of isolation level REPEATABLE READ sees what was committed when it began, and can hand this view to others
by an exported snapshot (https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION).
It has to stay open until the last of them has joined. While a view is held the server cannot clean up rows that are
deleted or changed meanwhile; nothing is locked against reading or writing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import sql

from agui_pipelines.drivers.postgresql import Connection, Connections, Work, configure
from agui_pipelines.drivers.postgresql_errors import reason_of
from agui_pipelines.drivers.postgresql_reading import value
from agui_pipelines.errors import ConnectionFailedError

_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_JOIN: Final = sql.SQL("SET TRANSACTION SNAPSHOT {}")
WITHOUT_TIME_LIMIT: Final = (
    "SELECT set_config(name, '0', true) FROM pg_settings "
    "WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"
)
"""For a transaction that is idle for as long as others work; the second setting exists from PostgreSQL 17 on."""


@contextmanager
def viewing(connections: Connections, view: str | None = None) -> Iterator[Connection]:
    """A connection in a transaction that only reads, and sees what `view` shows, or else what is committed now.

    Raises `ConnectionFailedError`, which no repetition mends, if nobody holds the view any more.
    """
    with connections.lent(Work.READ) as connection:
        _begin(connection, connections, view)
        yield connection
        # After an error this is not reached: a connection that comes back within a transaction is closed.
        connection.execute("COMMIT")


@contextmanager
def held_view(connections: Connections) -> Iterator[str]:
    """The name by which other connections can join the view of a transaction that stays open until the block ends."""
    with connections.lent(Work.READ) as connection:
        _begin(connection, connections)
        # The transaction ends with its connection: should that have broken since, nobody needs it any more.
        yield str(value(connection, "SELECT pg_export_snapshot()"))


def _begin(connection: Connection, connections: Connections, view: str | None = None) -> None:
    connection.execute(_BEGIN)
    if view is not None:
        _join(connection, connections, view)
    # Again, as a pooler may have given this transaction another server connection than the one that was set up.
    configure(connection, connections.settings, local=True)
    connection.execute(WITHOUT_TIME_LIMIT)


def _join(connection: Connection, connections: Connections, view: str) -> None:
    try:
        connection.execute(_JOIN.format(sql.Literal(view)))
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        reason = reason_of(error, connections.endpoint)
        raise ConnectionFailedError(
            f"PostgreSQL at {connections.endpoint.address} does not know the moment that the source is read at: {reason}.",
            why="The connection that held it broke, and what is read at another moment may not fit to what was read before.",
            remedy="Run the same command again: it keeps the key ranges that are finished and reads the others anew.",
        ) from error
