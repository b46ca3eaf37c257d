"""An AG-UI store on PostgreSQL: the tables ``ag_states``, ``ag_versions`` and ``ag_snapshots`` of one schema.

Whatever is read of tables that do not exist yet is empty, as a store in which nothing was ever written has no states;
writing to them is an error that says to prepare the store first.

A commit is as durable as the server's settings make it, so there is nothing to flush.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final

import pyarrow as pa
from psycopg import sql

from agui_pipelines.drivers import postgresql_horizon
from agui_pipelines.drivers.postgresql import Connection, Connections, Work
from agui_pipelines.drivers.postgresql_binary import Form
from agui_pipelines.drivers.postgresql_endpoint import Endpoint
from agui_pipelines.drivers.postgresql_gauge import PostgresGauge
from agui_pipelines.drivers.postgresql_reading import copied, server_identity, server_name, value
from agui_pipelines.drivers.postgresql_view import held_view, viewing
from agui_pipelines.keyspace import CATALOGUE, Span
from agui_pipelines.owner import Owner
from agui_pipelines.pace import Pace
from agui_pipelines.ports import (
    Activity,
    Examination,
    Measurement,
    OnReject,
    Place,
    Refusal,
    Removal,
    Snapshot,
    StoreStats,
    Transaction,
    Version,
    Written,
)
from agui_pipelines.records import SCHEMAS, Kind
from agui_pipelines.sameness import sameness
from agui_pipelines.spec import PostgresConfig
from agui_pipelines.stores import postgresql_limits, postgresql_measuring
from agui_pipelines.stores.postgresql_check import examine
from agui_pipelines.stores.postgresql_lock import Fence, PostgresLease, lock, require_free
from agui_pipelines.stores.postgresql_lock import Place as LockPlace
from agui_pipelines.stores.postgresql_marks import APPLIED, LIVE, VERSION, Marks
from agui_pipelines.stores.postgresql_tables import ABSENT, TABLES, Table, Tables, among, is_text
from agui_pipelines.stores.postgresql_writing import Writing

_BATCH_ROWS: Final = 2_000
_KEY_ROWS: Final = 50_000
_SPARSE_KEYS: Final = 500
"""Ids that are asked for at a time."""


class PostgresStore:
    """See `ports.Store`. Connects when first used; raises `SpecError` for a URL that cannot be read."""

    def __init__(self, config: PostgresConfig) -> None:
        self._schema = config.schema_
        self._connections = Connections(Endpoint.of(config))
        self._tables = Tables(config.schema_)
        self._writing = Writing(self._tables)
        self._marks = Marks(config.schema_)
        self._place = LockPlace(self._connections, config.schema_, self.describe())
        self._fence = Fence(self._place)
        self._view: str | None = None
        self._asked = 0

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(TABLES)

    # Where and what it is

    def place(self) -> Place:
        with self._connections.lent(Work.RECORD) as connection:
            database = value(connection, "SELECT current_database()")
            server = server_identity(connection)
        return Place("postgresql", server, f"{database}.{self._schema}")

    def describe(self) -> str:
        return f"{self._connections.endpoint.url}, schema {self._schema}"

    def ping(self) -> str:
        with self._connections.lent(Work.RECORD) as connection:
            return server_name(connection)

    def now(self) -> int:
        with self._connections.lent(Work.RECORD) as connection:
            return int(value(connection, "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"))

    def check(self) -> None:
        with self._connections.lent(Work.RECORD) as connection:
            examine(connection, self._tables)

    def prepare(self) -> None:
        """Create tables and indexes where they are missing. The schema is never created."""
        with self._changing(Work.WRITE) as connection:
            self._tables.create_missing(connection)

    def lacking(self) -> tuple[str, ...]:
        with self._connections.lent(Work.RECORD) as connection:
            return self._tables.missing(connection)

    def version(self) -> str | None:
        with self._connections.lent(Work.RECORD) as connection:
            found = self._marks.read(connection, VERSION)
        return None if found is None else found.strip()

    def set_version(self, version: str | None) -> None:
        with self._changing(Work.RECORD) as connection:
            self._marks.write(connection, VERSION, version)

    def applied(self) -> bytes | None:
        with self._connections.lent(Work.RECORD) as connection:
            found = self._marks.read(connection, APPLIED)
        return None if found is None else found.encode()

    def set_applied(self, record: bytes | None) -> None:
        with self._changing(Work.RECORD) as connection:
            self._marks.write(connection, APPLIED, None if record is None else record.decode())

    def live(self) -> bytes | None:
        with self._connections.lent(Work.RECORD) as connection:
            found = self._marks.read(connection, LIVE)
        return None if found is None else found.encode()

    def set_live(self, record: bytes | None) -> None:
        with self._changing(Work.RECORD) as connection:
            self._marks.write(connection, LIVE, None if record is None else record.decode())

    def lock(self, owner: Owner, seconds: float) -> PostgresLease:
        """See `postgresql_lock`. Takes two connections, one of which stays within a transaction."""
        return lock(self._place, owner, seconds)

    def require_unlocked(self) -> None:
        require_free(self._place)

    def fence(self, token: str) -> None:
        self._fence.token = token

    def stats(self) -> StoreStats:
        """Exact counts; the size is that of the tables with their indexes."""
        with self._connections.lent(Work.READ) as connection:
            existing = self._tables.existing(connection)
            counts = {
                kind: value(
                    connection, sql.SQL("SELECT count(*) FROM {}").format(self._tables.identifier(TABLES[kind]))
                )
                for kind in existing
            }
            sizes = [value(connection, "SELECT pg_total_relation_size(%s)", (oid,)) for oid in existing.values()]
            server = server_name(connection)
        return StoreStats(
            states=counts.get(Kind.STATE, 0),
            versions=counts.get(Kind.VERSION, 0),
            snapshots=counts.get(Kind.SNAPSHOT, 0),
            bytes=sum(sizes),
            server=server,
            details={"schema": self._schema},
        )

    def close(self) -> None:
        self._connections.close()

    # Reading

    def held_view(self) -> AbstractContextManager[str]:
        """See `ports.Consistent`."""
        return held_view(self._connections)

    def join_view(self, view: str) -> None:
        self._view = view

    def exists(self) -> bool:
        """Whether the schema holds any of the tables."""
        with self._connections.lent(Work.RECORD) as connection:
            return bool(self._tables.existing(connection))

    def keys(self) -> Iterator[pa.RecordBatch]:
        for table in TABLES.values():
            columns = (
                "state_id, pg_column_size(data)::bigint" if table.kind is Kind.STATE else "DISTINCT state_id, 1::bigint"
            )
            query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(columns), self._tables.identifier(table))
            with viewing(self._connections, self._view) as connection:
                for keys, weights in _copied(connection, query, (Form.TEXT, Form.INTEGER), _KEY_ROWS):
                    yield pa.RecordBatch.from_arrays([keys.cast(pa.binary()), weights], schema=CATALOGUE)

    def read(self, kind: Kind, span: Span, on_reject: OnReject) -> Iterator[pa.RecordBatch]:  # noqa: ARG002 - every row is a record
        """In order of the ids' bytes, by one COPY. It sees the table as it was when the reading began, or in a view.

        Of a sparse span only what belongs to its keys, some hundreds of them at a time.
        """
        if span.lower is not None and span.lower == span.upper:
            return
        table = TABLES[kind]
        with viewing(self._connections, self._view) as connection:
            order = [
                self._tables.sort_key(connection, table, column) for column in dict.fromkeys(("state_id", table.key))
            ]
            for condition in self._conditions(connection, table, span):
                yield from self._records(connection, table, condition, sql.SQL(", ").join(order))

    def _conditions(self, connection: Connection, table: Table, span: Span) -> Iterator[sql.Composable]:
        if span.sparse and len(span) > 1 and self._tables.is_of_text(connection, table):
            for keys in span.keys(_SPARSE_KEYS):
                yield among(keys)
        else:
            yield self._tables.within(connection, table, span.lower, span.upper)

    def horizon(self) -> int | None:
        """See `ports.Watermarked`; None while a table is missing, or if one is a view."""
        with self._connections.lent(Work.RECORD) as connection:
            existing = self._tables.existing(connection)
            if len(existing) < len(TABLES) or not postgresql_horizon.are_tables(connection, list(existing.values())):
                return None
            return postgresql_horizon.horizon(connection)

    def written_since(self, horizon: int) -> Iterator[pa.RecordBatch]:
        """See `ports.Watermarked`. Reads the tables from one end to the other, but for the documents."""
        written = postgresql_horizon.written_since(sql.Identifier("xmin"), horizon)
        for table in TABLES.values():
            query = sql.SQL("SELECT state_id, 1::bigint FROM {} WHERE {}").format(
                self._tables.identifier(table), written
            )
            with viewing(self._connections, self._view) as connection:
                for keys, weights in _copied(connection, query, (Form.TEXT, Form.INTEGER), _KEY_ROWS):
                    yield pa.RecordBatch.from_arrays([keys.cast(pa.binary()), weights], schema=CATALOGUE)

    def list_states(self) -> Iterator[str]:
        """In order of the ids' bytes, as they were when the listing began."""
        table = TABLES[Kind.STATE]
        with self._connections.lent(Work.READ) as connection:
            query = sql.SQL("SELECT state_id FROM {} ORDER BY {}").format(
                self._tables.identifier(table), self._tables.sort_key(connection, table, "state_id")
            )
            for (ids,) in _copied(connection, query, (Form.TEXT,), _KEY_ROWS):
                yield from ids.to_pylist()

    def get_state(self, state_id: str) -> bytes | None:
        query = sql.SQL("SELECT data::text FROM {} WHERE state_id = %s").format(
            self._tables.identifier(TABLES[Kind.STATE])
        )
        if not is_text(state_id):
            return None
        with self._connections.lent(Work.RECORD) as connection:
            try:
                row = connection.execute(query, (state_id,)).fetchone()
            except ABSENT:
                return None
        return None if row is None else row[0].encode()

    def get_version(self, state_id: str, version_id: str) -> Version | None:
        rows = self._history(Kind.VERSION, state_id, version_id)
        return Version(**rows[0]) if rows else None

    def get_version_history(self, state_id: str, limit: int = 0) -> Sequence[Version]:
        return [Version(**row) for row in self._history(Kind.VERSION, state_id, limit=limit)]

    def get_snapshot(self, state_id: str, snapshot_id: str) -> Snapshot | None:
        rows = self._history(Kind.SNAPSHOT, state_id, snapshot_id)
        return Snapshot(**rows[0]) if rows else None

    def list_snapshots(self, state_id: str) -> Sequence[Snapshot]:
        return [Snapshot(**row) for row in self._history(Kind.SNAPSHOT, state_id)]

    # Measuring

    def measure(self, pace: Pace) -> Measurement:
        """Counts, as exact as `pace` gives time for, and what the server's statistics tell."""
        with self._gauged() as gauge:
            return postgresql_measuring.measured(gauge.connection, self._tables, gauge, pace)

    def activity(self) -> Activity | None:
        """Rows read and written of the store's tables. What a session did is counted up to a second later, or when it ends."""
        with self._gauged() as gauge:
            return gauge.activity()

    def sampled(self, states: int, pace: Pace, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:  # noqa: ARG002 - every row is a record
        """Rows of some blocks of the table of states, and the histories of the first of these."""

        def read(
            connection: Connection, table: Table, sampling: sql.Composable, condition: sql.Composable
        ) -> Iterator[pa.RecordBatch]:
            return self._records(connection, table, condition, sampling=sampling)

        with self._gauged() as gauge:
            yield from postgresql_measuring.sampled(gauge.connection, self._tables, gauge, states, read)

    def history_lengths(self, ids: Sequence[str], pace: Pace) -> dict[Kind, list[int]]:
        with self._gauged() as gauge:
            return postgresql_measuring.history_lengths(gauge.connection, self._tables, ids, pace)

    @property
    def asked(self) -> int:
        return self._asked

    @contextmanager
    def _gauged(self) -> Iterator[PostgresGauge]:
        with self._connections.lent(Work.READ) as connection:
            gauge = PostgresGauge(connection, list(self._tables.existing(connection).values()))
            try:
                yield gauge
            finally:
                self._asked += 2 + gauge.asked

    def examine(self, *, trying: bool) -> Examination:
        """Privileges are tried in a transaction that is taken back."""
        with self._connections.lent(Work.RECORD) as connection:
            return postgresql_measuring.examined(connection, self._tables, trying=trying)

    def holding(self, ids: Sequence[str]) -> list[str]:
        with self._connections.lent(Work.RECORD) as connection:
            return postgresql_measuring.holding(connection, self._tables, ids)

    # Writing

    def refusals(self, kind: Kind, batch: pa.RecordBatch) -> list[Refusal]:
        return postgresql_limits.refusals(kind, batch)

    def slots(self, kind: Kind, batch: pa.RecordBatch) -> pa.StringArray | None:
        """A table of versions or snapshots holds each id once, for whatever state."""
        return None if kind is Kind.STATE else batch.column(TABLES[kind].key)

    def losses(self, kind: Kind, batch: pa.RecordBatch) -> dict[str, pa.BooleanArray]:
        return postgresql_limits.losses(kind, batch)

    def times(self, batch: pa.RecordBatch) -> dict[str, pa.Int64Array]:
        """Both, in microseconds."""
        return postgresql_limits.times(batch)

    def write(self, kind: Kind, batch: pa.RecordBatch) -> Written:
        """A time that a state does not give is the present one for a new row; a row that is there keeps its creation time,
        and gets a new update time if it changes. A row whose document is spelled otherwise (1.0 for 1) does change.
        """
        if not batch.num_rows:
            return Written()
        with self._changing(Work.WRITE) as connection:
            return self._writing.write(connection, kind, batch)

    def remove(self, kind: Kind, batch: pa.RecordBatch) -> int:
        """In one transaction."""
        if not batch.num_rows:
            return 0
        with self._changing(Work.WRITE) as connection:
            return self._writing.remove(connection, kind, batch)

    def remove_unchanged(self, kind: Kind, batch: pa.RecordBatch) -> Removal:
        """In one transaction, which holds the rows from before they are read until they are deleted."""
        table = TABLES[kind]
        ids = [id_ for id_ in batch.column(table.key).to_pylist() if is_text(id_)]
        if not ids:
            return Removal(gone=batch.num_rows)
        named = sql.SQL("{} = ANY({}::text[])").format(sql.Identifier(table.key), sql.Literal(ids))
        held = sql.SQL("SELECT count(*) FROM (SELECT FROM {} WHERE {} ORDER BY {} FOR UPDATE) AS held").format(
            self._tables.identifier(table), named, sql.Identifier(table.key)
        )
        with self._changing(Work.WRITE) as connection, connection.transaction():
            try:
                with connection.transaction():
                    connection.execute(held)
            except ABSENT:
                return Removal(gone=batch.num_rows)
            found = sameness(kind, batch, self._records(connection, table, named))
            if found.same:
                self._writing.remove(connection, kind, batch.take(pa.array(found.same, pa.int64())))
        return Removal.of(batch.num_rows, found)

    def flush(self) -> None:
        """Nothing to do: every write was committed."""

    def set_state(self, state_id: str, document: bytes) -> None:
        with self.transaction() as transaction:
            transaction.set_state(state_id, document)

    def delete_state(self, state_id: str) -> bool:
        with self._changing(Work.RECORD) as connection:
            return self._writing.delete_state(connection, state_id)

    def save_version(self, version: Version) -> None:
        with self.transaction() as transaction:
            transaction.save_version(version)

    def save_snapshot(self, snapshot: Snapshot) -> None:
        with self.transaction() as transaction:
            transaction.save_snapshot(snapshot)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction of the server. What the store itself reads meanwhile, it reads outside of it."""
        with self._changing(Work.RECORD) as connection, connection.transaction():
            yield _OpenTransaction(self._writing, connection)

    # How

    @contextmanager
    def _changing(self, work: Work) -> Iterator[Connection]:
        """A connection to change the store with, in a transaction if there is a fence to be passed."""
        with self._connections.lent(work) as connection, self._fence.passing(connection):
            yield connection

    def _records(
        self,
        connection: Connection,
        table: Table,
        condition: sql.Composable,
        order: sql.Composable | None = None,
        sampling: sql.Composable | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Bare batches of the rows that meet a condition, of a sample of the table if that is given."""
        # The casts do nothing to the columns of the format, and make those of a lookalike table readable.
        columns = [
            sql.SQL("{}" if column.form is Form.TEXT else f"{{}}::{column.form.value}").format(
                sql.Identifier(column.name)
            )
            for column in table.columns
        ]
        query = sql.SQL("SELECT {} FROM {} {} WHERE {}").format(
            sql.SQL(", ").join(columns), self._tables.identifier(table), sampling or sql.SQL(""), condition
        )
        if order is not None:
            query += sql.SQL(" ORDER BY {}").format(order)
        for arrays in _copied(connection, query, table.forms, _BATCH_ROWS):
            yield _batch(table, arrays)

    def _history(self, kind: Kind, state_id: str, record_id: str | None = None, limit: int = 0) -> list[dict[str, Any]]:
        """Versions or snapshots of a state, newest first."""
        if not is_text(state_id) or not is_text(record_id or ""):
            return []
        table = TABLES[kind]
        condition = sql.SQL("state_id = {}").format(sql.Literal(state_id))
        if record_id is not None:
            condition += sql.SQL(" AND {} = {}").format(sql.Identifier(table.key), sql.Literal(record_id))
        order = sql.SQL("created_at DESC NULLS LAST, {}").format(sql.Identifier(table.key))
        if limit > 0:
            order += sql.SQL(" LIMIT {}").format(sql.Literal(limit))
        with self._connections.lent(Work.RECORD) as connection:
            return [row for batch in self._records(connection, table, condition, order) for row in batch.to_pylist()]


@dataclasses.dataclass(frozen=True, slots=True)
class _OpenTransaction:
    """See `ports.Transaction`."""

    writing: Writing
    connection: Connection

    def set_state(self, state_id: str, document: bytes) -> None:
        self.writing.put(self.connection, Kind.STATE, {"state_id": state_id, "data": document})

    def delete_state(self, state_id: str) -> None:
        self.writing.delete_state(self.connection, state_id)

    def save_version(self, version: Version) -> None:
        self.writing.put(self.connection, Kind.VERSION, dataclasses.asdict(version))

    def save_snapshot(self, snapshot: Snapshot) -> None:
        self.writing.put(self.connection, Kind.SNAPSHOT, dataclasses.asdict(snapshot))


def _copied(connection: Connection, query: sql.Composable, forms: Sequence[Form], max_rows: int) -> Iterator[list[Any]]:
    """What a query yields; a table that is missing is empty."""
    with suppress(*ABSENT):
        yield from copied(connection, query, forms, max_rows)


def _batch(table: Table, arrays: list[Any]) -> pa.RecordBatch:
    """Columns of a table as a bare batch."""
    schema = SCHEMAS[table.kind]
    found = dict(zip((column.field for column in table.columns), arrays, strict=True))
    columns = []
    for field in schema:
        values = found.get(field.name)
        if values is None:
            values = pa.nulls(len(arrays[0]), field.type)
        elif not field.nullable and values.null_count:
            values = values.fill_null("")
        columns.append(values)
    return pa.RecordBatch.from_arrays(columns, schema=schema)
