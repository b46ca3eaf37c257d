"""What a store on PostgreSQL says of itself: rows of the table ``ag_meta`` (store-format.md, section 6).

The table is made when something is first written to it, and stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg import sql

from agui_pipelines.drivers.postgresql import Connection
from agui_pipelines.drivers.postgresql_reading import value
from agui_pipelines.stores.postgresql_tables import ABSENT

VERSION: Final = "version"
APPLIED: Final = "schema"
LIVE: Final = "live"
_TABLE: Final = "ag_meta"


@dataclass(frozen=True, slots=True)
class Marks:
    """The table in one schema."""

    schema: str

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(self.schema, _TABLE)

    def read(self, connection: Connection, key: str) -> str | None:
        """None if there is no such row, or no such table."""
        query = sql.SQL("SELECT value::text FROM {} WHERE key = %s").format(self._table)
        try:
            found: str | None = value(connection, query, (key,))
        except ABSENT:
            return None
        return found

    def write(self, connection: Connection, key: str, content: str | None) -> None:
        """In one transaction, which makes the table if it has to."""
        with connection.transaction():
            there = value(connection, "SELECT to_regclass(%s) IS NOT NULL", (self._table.as_string(connection),))
            if not there and content is None:
                return
            if not there:
                connection.execute(
                    sql.SQL("CREATE TABLE IF NOT EXISTS {} (key text PRIMARY KEY, value text)").format(self._table)
                )
            if content is None:
                connection.execute(sql.SQL("DELETE FROM {} WHERE key = %s").format(self._table), (key,))
            else:
                connection.execute(
                    sql.SQL(
                        "INSERT INTO {} (key, value) VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
                    ).format(self._table),
                    (key, content),
                )
