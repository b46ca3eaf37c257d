"""What an AG-UI store on PostgreSQL can say of itself cheaply, and whether it can take what is to be written; see `ports`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import psycopg
import pyarrow as pa
from psycopg import sql

from agui_pipelines.drivers.postgresql import Connection
from agui_pipelines.drivers.postgresql_gauge import MANY, PostgresGauge
from agui_pipelines.drivers.postgresql_reading import server_name, value
from agui_pipelines.pace import Pace
from agui_pipelines.ports import Examination, Measurement, Privilege
from agui_pipelines.records import Kind
from agui_pipelines.stores.postgresql_tables import TABLES, Table, Tables, is_text

HISTORIES: Final = 200
"""States whose histories are sampled."""

_OLDEST: Final = 120000
_OVERHEAD: Final = 120
"""Bytes that a row takes beside its document and id: its header, times, and an entry of the index, about."""
_IDS: Final = 1000
_LARGEST: Final = """
SELECT state_id, octet_length(data::text) FROM (
    SELECT state_id, data FROM {} ORDER BY pg_column_size(data) DESC LIMIT {}) AS largest ORDER BY 2 DESC LIMIT 10
"""

Reading = Callable[[Connection, Table, sql.Composable, sql.Composable], Iterator[pa.RecordBatch]]


def measured(connection: Connection, tables: Tables, gauge: PostgresGauge, pace: Pace) -> Measurement:
    """See `ports.Measured.measure`. `gauge` is of the store's tables."""
    existing = tables.existing(connection)
    counts: dict[Kind, int | None] = dict.fromkeys(Kind, 0)
    estimated, unmeasured = [], {}
    for kind, oid in existing.items():
        counts[kind], guessed = gauge.count(oid, pace)
        if guessed:
            estimated.append(f"{kind}s")
            if counts[kind] is None:
                unmeasured[f"{kind}s"] = "counting takes longer than a run may wait, and the table was never analysed"
    largest: tuple[tuple[str, int], ...] = ()
    if Kind.STATE in existing and pace.left is None:
        query = sql.SQL(_LARGEST).format(tables.identifier(TABLES[Kind.STATE]), sql.Literal(MANY))
        largest = tuple((id_, size) for id_, size in connection.execute(query).fetchall())
    elif Kind.STATE in existing:
        unmeasured["largest states of all"] = "finding them reads the whole table, for which a run does not wait"
    activity = gauge.activity()
    if activity is None:
        unmeasured["reads and writes"] = "the server keeps no counters of these tables"
    told = {"wal_level": gauge.setting("wal_level"), "encoding": gauge.setting("server_encoding")}
    sizes = [gauge.bytes(oid) for oid in existing.values()]
    return Measurement(
        system="PostgreSQL",
        version=server_name(connection).removeprefix("PostgreSQL "),
        states=counts[Kind.STATE],
        versions=counts[Kind.VERSION],
        snapshots=counts[Kind.SNAPSHOT],
        estimated=tuple(estimated),
        bytes=sum(size or 0 for size in sizes),
        bytes_of="tables with their indexes",
        largest=largest,
        details={name: setting for name, setting in told.items() if setting is not None},
        unmeasured=unmeasured,
    )


def sampled(
    connection: Connection, tables: Tables, gauge: PostgresGauge, states: int, read: Reading
) -> Iterator[tuple[Kind, pa.RecordBatch]]:
    """See `ports.Measured.sampled`. `read` gives the rows of what takes a table's place in FROM, that meet a condition."""
    existing = tables.existing(connection)
    ids: list[str] = []
    if Kind.STATE in existing:
        clause = gauge.sample(existing[Kind.STATE], states)
        for batch in read(connection, TABLES[Kind.STATE], clause, sql.SQL("true LIMIT {}").format(sql.Literal(states))):
            ids += batch.column("state_id")[: max(0, HISTORIES - len(ids))].to_pylist()
            yield Kind.STATE, batch
    for kind in (Kind.VERSION, Kind.SNAPSHOT):
        if kind in existing and ids:
            condition = sql.SQL("state_id = ANY({})").format(sql.Literal(ids))
            for batch in read(connection, TABLES[kind], sql.SQL(""), condition):
                yield kind, batch


def history_lengths(connection: Connection, tables: Tables, ids: Sequence[str], pace: Pace) -> dict[Kind, list[int]]:
    """See `ports.Measured.history_lengths`: served by the indexes on the state's id."""
    existing = tables.existing(connection)
    lengths: dict[Kind, list[int]] = {Kind.VERSION: [], Kind.SNAPSHOT: []}
    for start in range(0, len(ids), _IDS):
        some = list(ids[start : start + _IDS])
        for kind, found in lengths.items():
            counts: dict[str, int] = {}
            if kind in existing:
                query = sql.SQL("SELECT state_id, count(*) FROM {} WHERE state_id = ANY(%s) GROUP BY state_id").format(
                    tables.identifier(TABLES[kind])
                )
                counts = dict(connection.execute(query, (some,)).fetchall())
            found += [counts.get(id_, 0) for id_ in some]
        if not pace(len(some)):
            break
    return lengths


def holding(connection: Connection, tables: Tables, ids: Sequence[str]) -> list[str]:
    """See `ports.Examined.holding`."""
    if Kind.STATE not in tables.existing(connection):
        return []
    query = sql.SQL("SELECT state_id FROM {} WHERE state_id = ANY(%s)").format(tables.identifier(TABLES[Kind.STATE]))
    there: set[str] = set()
    for start in range(0, len(ids), _IDS):
        some = [id_ for id_ in ids[start : start + _IDS] if is_text(id_)]
        there.update(id_ for (id_,) in connection.execute(query, (some,)).fetchall())
    return [id_ for id_ in ids if id_ in there]


def examined(connection: Connection, tables: Tables, *, trying: bool) -> Examination:
    """See `ports.Examined.examine`."""
    number = int(value(connection, "SELECT current_setting('server_version_num')"))
    return Examination(
        system="PostgreSQL",
        version=server_name(connection).removeprefix("PostgreSQL "),
        too_old="Versions before 12 are not supported." if number < _OLDEST else "",
        privileges=_tried(connection, tables) if trying else (),
        record_overhead=_OVERHEAD,
        unmeasured={"free disk": "PostgreSQL does not tell how much room its disks have"},
    )


def _tried(connection: Connection, tables: Tables) -> tuple[Privilege, ...]:
    """What an import does, done in a transaction that is then taken back, so that nothing of it stays, whatever happens.

    In the store's own tables where they are there, as privileges are those of a table; else in a scratch table of the schema.
    """
    existing = tables.existing(connection)
    found = []
    with _taken_back(connection):
        if len(existing) < len(TABLES):
            found += _in_scratch_table(connection, tables.schema)
        for kind in existing:
            found += _in_table(connection, tables, TABLES[kind])
    return tuple(found)


def _in_scratch_table(connection: Connection, schema: str) -> list[Privilege]:
    scratch = sql.Identifier(schema, f"agui_scratch_{uuid.uuid4().hex[:16]}")
    grant = f'Grant it: GRANT USAGE, CREATE ON SCHEMA "{schema}" TO the user of connection_url;'
    steps = {
        f"create a table in the schema {schema}": ("CREATE TABLE {} (id varchar(255) PRIMARY KEY, data jsonb)", True),
        "insert into a table of its own": ("INSERT INTO {} VALUES ('scratch', '{{}}')", True),
        "delete from a table of its own": ("DELETE FROM {}", False),
    }
    found = []
    for action, (statement, needed) in steps.items():
        denied = _denial(connection, sql.SQL(statement).format(scratch))
        found.append(Privilege(action, denied, needed, grant if denied else ""))
        if denied:
            break
    return found


def _in_table(connection: Connection, tables: Tables, table: Table) -> Iterator[Privilege]:
    name, key = tables.identifier(table), sql.Identifier(table.key)
    scratch = f"agui-scratch-{uuid.uuid4().hex}"
    texts = [column for column in table.columns if column.rule == "NOT NULL" and column.field != "data"]
    columns = sql.SQL(", ").join([key, *(sql.Identifier(column.name) for column in texts), sql.Identifier("data")])
    values = sql.SQL(", ").join([sql.Literal(scratch)] * (1 + len(texts)) + [sql.SQL("'{}'::jsonb")])
    where = sql.SQL("{} = {}").format(key, sql.Literal(scratch))
    insert = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET data = EXCLUDED.data").format(
        name, columns, values, key
    )
    steps = {
        "read": ("SELECT", sql.SQL("SELECT 1 FROM {} WHERE {}").format(name, where), True),
        "insert into": ("INSERT, UPDATE", insert, True),
        "update": ("UPDATE", sql.SQL("UPDATE {} SET data = data WHERE {}").format(name, where), True),
        "delete from": ("DELETE", sql.SQL("DELETE FROM {} WHERE {}").format(name, where), False),
    }
    for action, (privilege, statement, needed) in steps.items():
        denied = _denial(connection, statement)
        remedy = f'Grant it: GRANT {privilege} ON "{tables.schema}"."{table.name}" TO the user of connection_url;'
        yield Privilege(f"{action} {table.name}", denied, needed, remedy if denied else "")


@contextmanager
def _taken_back(connection: Connection) -> Iterator[None]:
    with connection.transaction(force_rollback=True):
        yield


def _denial(connection: Connection, statement: sql.SQL | sql.Composed) -> str:
    """Why the server does not let us run a statement; empty if it does."""
    try:
        with connection.transaction():
            connection.execute(statement)
    except psycopg.OperationalError:
        raise
    except (psycopg.errors.ForeignKeyViolation, psycopg.errors.CheckViolation):
        return ""  # what a row must be is asked after who may write it, and no record is as this one
    except psycopg.Error as error:
        return (error.diag.message_primary or type(error).__name__).rstrip(".")
    return ""
