"""Which transaction wrote a row last, and which of them have ended: what tells rows that were written since some moment.

A row names the transaction that wrote it (``xmin``), whenever that was committed, so a transaction that ends late is not
missed as it would be by a column of times. Those that a snapshot's ``xmin`` comes after had all ended when it was taken
(https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT).

Rows hold the lower 32 bits only. ``age`` counts from the present on, so that rows are told apart over the last 2^31
transactions; older ones may be taken for new, never new ones for older.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from psycopg import sql

from agui_pipelines.drivers.postgresql import Connection
from agui_pipelines.drivers.postgresql_reading import value

_FIRST: Final = 3
"""The first transaction that is one; numbers below have a meaning of their own."""


def horizon(connection: Connection) -> int:
    """The number, of 64 bits, before which every transaction has ended."""
    return int(value(connection, "SELECT txid_snapshot_xmin(txid_current_snapshot())"))


def are_tables(connection: Connection, oids: Sequence[int]) -> bool:
    """Whether all of some relations are tables, whose rows say who wrote them."""
    query = "SELECT bool_and(relkind IN ('r', 'p')) FROM pg_class WHERE oid = ANY(%s::oid[])"
    return value(connection, query, (list(oids),)) is True


def written_since(xmin: sql.Composable, since: int) -> sql.Composable:
    """The condition that a transaction from a horizon on, not more than 2^31 ago, wrote a row."""
    number = max(_FIRST, since % (1 << 32))
    return sql.SQL("age({}) <= age({}::text::xid)").format(xmin, sql.Literal(str(number)))
