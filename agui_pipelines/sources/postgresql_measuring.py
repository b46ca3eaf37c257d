"""What a table or query of PostgreSQL can say of itself cheaply; see `ports.Measured`."""

from __future__ import annotations

from typing import Final

from psycopg import errors, sql

from agui_pipelines.drivers.postgresql_gauge import PostgresGauge
from agui_pipelines.drivers.postgresql_reading import server_name, value
from agui_pipelines.pace import Pace
from agui_pipelines.ports import Measurement
from agui_pipelines.sources.postgresql_selection import Selection, sampled_rows
from agui_pipelines.spec import PostgresRowsConfig

_FEW: Final = 1000
"""Rows that a sample of blocks must give, or all that are asked for; else they are read from the start of the table."""


def measured(
    gauge: PostgresGauge, oid: int | None, selection: Selection, config: PostgresRowsConfig, pace: Pace
) -> Measurement:
    """`oid`: of the table; None for a query."""
    unmeasured = {}
    states, guessed = _counted(gauge, oid, selection, config, pace)
    if states is None:
        unmeasured["states"] = "counting takes longer than a run may wait, and the server has no estimate of it"
    if oid is None:
        unmeasured |= dict.fromkeys(("bytes", "reads and writes"), "the server keeps no counters of a query")
    elif gauge.activity() is None:
        unmeasured["reads and writes"] = "the server keeps no counters of it: it is no table, or track_counts is off"
    told = {"wal_level": gauge.setting("wal_level"), "encoding": gauge.setting("server_encoding")}
    return Measurement(
        system="PostgreSQL",
        version=server_name(gauge.connection).removeprefix("PostgreSQL "),
        states=states,
        estimated=("states",) if guessed and states is not None else (),
        bytes=None if oid is None else gauge.bytes(oid),
        bytes_of="table with its indexes",
        details={name: setting for name, setting in told.items() if setting is not None},
        unmeasured=unmeasured,
    )


def some_rows(
    gauge: PostgresGauge, oid: int | None, selection: Selection, config: PostgresRowsConfig, count: int
) -> sql.Composable:
    """What to select from for about so many rows from all over the source."""
    if oid is None:
        return selection.rows
    clause = gauge.sample(oid, count)
    rows = sampled_rows(config, clause)
    if config.where is None:
        return rows
    found = value(
        gauge.connection,
        sql.SQL("SELECT count(*) FROM (SELECT FROM {} LIMIT {}) AS first_ones").format(rows, sql.Literal(_FEW)),
    )
    return rows if found >= min(_FEW, count) else selection.rows


def _counted(
    gauge: PostgresGauge, oid: int | None, selection: Selection, config: PostgresRowsConfig, pace: Pace
) -> tuple[int | None, bool]:
    """Rows, and whether that is an estimate. Of a condition or a query there is none, so it is counted, or not told."""
    if oid is not None and config.where is None:
        return gauge.count(oid, pace)
    try:
        return gauge.in_time(sql.SQL("SELECT count(*) FROM {}").format(selection.rows), pace), False
    except (errors.DataError, errors.SyntaxErrorOrAccessRuleViolation):
        return None, False  # a row or the SQL is to blame, which the reading of the rows tells by name
