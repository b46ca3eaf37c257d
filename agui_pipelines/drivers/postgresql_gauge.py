"""What a PostgreSQL server says of some of its tables: rows, bytes, and how often they were read and written.

Nothing here changes anything. Everybody may ask all of it but the rows themselves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import errors, sql

from agui_pipelines.drivers.postgresql import Connection
from agui_pipelines.drivers.postgresql_reading import value
from agui_pipelines.pace import Pace
from agui_pipelines.ports import Activity

MANY: Final = 100
"""Rows whose documents are unpacked to find the largest."""
_OVERSIZE: Final = 1.1
"""A sample has not exactly so many rows, so that a few more are asked for; the last ones are left out."""
_SMALL: Final = 128 * 1024 * 1024
"""Bytes of a table, without its large values, up to which all of it may be read for a sample."""

_ESTIMATE: Final = "SELECT reltuples::bigint, pg_relation_size(oid), relkind FROM pg_class WHERE oid = %s"
_ACTIVITY: Final = """
SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint, sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint,
    extract(epoch FROM now() - pg_stat_get_db_stat_reset_time(d.oid))::float8
FROM pg_stat_user_tables, pg_database d WHERE relid = ANY(%s) AND d.datname = current_database() GROUP BY d.oid
"""
_AGE: Final = "SELECT extract(epoch FROM now())::float8 - (system_identifier >> 32) FROM pg_control_system()"
"""Seconds since the files of the server were made, of which its identifier is."""
_SAMPLED_KINDS: Final = ("r", "m")
"""Tables and materialized views have blocks to be sampled; partitioned and foreign tables and views are read from the start."""


@dataclass(slots=True)
class PostgresGauge:
    """Asks about the tables with these oids. The connection is in no transaction."""

    connection: Connection
    oids: Sequence[int]
    asked: int = 0

    def count(self, oid: int, pace: Pace) -> tuple[int | None, bool]:
        """Rows of a table, and whether that is the server's estimate, as counting would have taken longer than `pace` has."""
        name = sql.SQL("SELECT count(*) FROM {}").format(self._name(oid))
        found = self.in_time(name, pace)
        if found is not None:
            return int(found), False
        return self.estimated(oid), True

    def estimated(self, oid: int) -> int | None:
        """Rows of a table by its last ANALYZE or VACUUM; None if it never had one, or is no table."""
        rows, _, _ = self._row(_ESTIMATE, oid)
        return None if rows is None or rows < 0 else int(rows)

    def bytes(self, oid: int) -> int | None:
        found = self._value("SELECT pg_total_relation_size(%s)", oid)
        return None if found is None else int(found)

    def activity(self) -> Activity | None:
        """Rows read and written, of these tables; None where the server keeps no counters of them."""
        row = self._row(_ACTIVITY, list(self.oids))
        if row is None or row[0] is None:
            return None
        # From PostgreSQL 15 on there is no such time until somebody resets the counters. They outlive a restart.
        seconds = self._age() if row[2] is None else float(row[2])
        return Activity(time.monotonic(), int(row[0]), int(row[1]), seconds, "rows of these tables")

    def setting(self, name: str) -> str | None:
        found = self._value("SELECT current_setting(%s, true)", name)
        return None if found is None else str(found)

    def sample(self, oid: int, rows: int) -> sql.Composable:
        """What follows a table's name to read about so many of its rows from all over it; nothing to read it from the start.

        Of a small table single rows are sampled, for which the server reads it all but its large values; else blocks, of which
        it reads no others.
        """
        estimate, size, kind = self._row(_ESTIMATE, oid)
        if kind not in _SAMPLED_KINDS:
            return sql.SQL("")
        if estimate is None or estimate < 0:  # never analysed: a row is taken to have a kilobyte
            estimate = (size or 0) // 1024
        if estimate <= rows * 2:
            return sql.SQL("")
        percent = min(100.0, math.ceil(rows / estimate * _OVERSIZE * 1e6) / 1e4)
        method = "BERNOULLI" if (size or 0) <= _SMALL else "SYSTEM"
        return sql.SQL("TABLESAMPLE {} ({})").format(sql.SQL(method), sql.Literal(percent))

    def in_time(self, query: sql.Composable, pace: Pace) -> Any:
        """A query's value, or None if it takes longer than `pace` has left."""
        left = pace.left
        if left is None:
            return self._value(query)
        try:
            with self.connection.transaction():
                self.connection.execute(
                    "SELECT set_config('statement_timeout', %s, true)", (str(max(1, int(left * 1000))),)
                )
                return self._value(query)
        except errors.QueryCanceled:
            return None

    def _age(self) -> float | None:
        try:
            with self.connection.transaction():
                return float(self._value(_AGE))
        except errors.InsufficientPrivilege:
            return None

    def _name(self, oid: int) -> sql.Composable:
        schema, table = self._row(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
            oid,
        )
        return sql.Identifier(schema, table)

    def _value(self, query: Any, *parameters: Any) -> Any:
        self.asked += 1
        return value(self.connection, query, parameters)

    def _row(self, query: str, *parameters: Any) -> Any:
        self.asked += 1
        return self.connection.execute(query.encode(), parameters).fetchone()
