"""Any table or query of a PostgreSQL database as a source: every row is a state.

A state's id is the text of one column, or of several (``a:b``). Its document is a json, jsonb or text column, or a JSON
object of all columns (`postgresql_types` tells how); text that is no JSON object becomes ``{"value": …, "type": "text"}``,
JSON that is none likewise with its own type. Rows without an id, rows that share one, and rows whose document is NULL are
rejected by name.

Each key range is one COPY, sorted by the ids' bytes. An index on the id serves it where that is one column of text in byte
order, of integers or of uuids; otherwise each range costs a scan of the table, unless there is an index on the expression
``(id::text) COLLATE "C"``. A query is run once for each range: it has to yield the same rows each time that it is run at
one moment, so no ``random()`` and no ``LIMIT`` without an order.

The source is only read: every transaction is READ ONLY, and so is every connection by default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
from psycopg import sql

from agui_pipelines.drivers import postgresql_horizon
from agui_pipelines.drivers.postgresql import Connection, Connections, Work
from agui_pipelines.drivers.postgresql_binary import Form
from agui_pipelines.drivers.postgresql_endpoint import Endpoint
from agui_pipelines.drivers.postgresql_gauge import PostgresGauge
from agui_pipelines.drivers.postgresql_reading import copied, server_identity, server_name, value
from agui_pipelines.drivers.postgresql_view import held_view, viewing
from agui_pipelines.keyspace import CATALOGUE, Span, after
from agui_pipelines.pace import Pace
from agui_pipelines.ports import Activity, Measurement, OnReject, Place
from agui_pipelines.records import Kind, Reject
from agui_pipelines.sources import postgresql_measuring
from agui_pipelines.sources.postgresql_documents import ROW, once
from agui_pipelines.sources.postgresql_documents import states as states_of
from agui_pipelines.sources.postgresql_selection import (
    Selection,
    blamed,
    examined,
    reads_store,
    relation,
    written_rows,
)
from agui_pipelines.sources.postgresql_types import SETTINGS
from agui_pipelines.spec import PostgresRowsConfig

_BATCH_ROWS: Final = 4_000
_KEY_ROWS: Final = 50_000
_FEW_KEYS: Final = 500
_SPARSE_KEYS: Final = 10_000
"""Ids that are asked for at a time, each time by a scan of the table if no index serves them."""
_ANSWERING: Final = frozenset({"connection_url", "postgresql_options", "max_connections", "max_retries", "compression"})
"""Keys that do not decide what is read; nor do the timeouts."""

_SETTINGS: Final = {
    **SETTINGS,
    "default_transaction_read_only": "on",
    # A scan that begins where another one is, or several workers, would give another order each time.
    "synchronize_seqscans": "off",
}


class PostgresRowsSource:
    """See `ports.Reader`, `ports.Consistent` and `ports.Stamping`. Connects when first used.

    Raises `SpecError` for a source that is configured wrongly, when it is first looked at.
    """

    def __init__(self, config: PostgresRowsConfig) -> None:
        self._config = config
        self._connections = Connections(Endpoint.of(config), _settings(config))
        self._selection: Selection | None = None
        self._view: str | None = None
        self._migrated_at = datetime.now(UTC)
        self._asked = 0

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.STATE,)

    # Where and what it is

    def place(self) -> Place:
        """The store's own place where its tables are read, be it through a view; else one that no store can be in."""
        with self._connections.lent(Work.RECORD) as connection:
            server = server_identity(connection)
        with self._reading() as (connection, selection):
            database = value(connection, "SELECT current_database()")
            schema = reads_store(connection, selection)
        return Place("postgresql", server, f"{database}.{schema or f'{self._schema}.{self._config.table}'}")

    def describe(self) -> str:
        """Ends with a digest of what decides which rows are read and how, as a variable in the file may change it."""
        what = f"table {self._schema}.{self._config.table}" if self._config.table is not None else "a query"
        return f"{self._connections.endpoint.url}, {what} ({_digest(self._config)})"

    def ping(self) -> str:
        with self._connections.lent(Work.RECORD) as connection:
            return server_name(connection)

    def exists(self) -> bool:
        """True, or an error that says what is wrong with the source."""
        with self._reading():
            return True

    def close(self) -> None:
        self._connections.close()

    # Reading

    def held_view(self) -> AbstractContextManager[str]:
        """See `ports.Consistent`."""
        return held_view(self._connections)

    def join_view(self, view: str) -> None:
        self._view = view

    def stamp(self, moment: datetime) -> None:
        """Until this is called, documents say that they were migrated when the source was opened."""
        self._migrated_at = moment

    def keys(self) -> Iterator[pa.RecordBatch]:
        with self._reading() as (connection, selection):
            for keys, weights in copied(connection, selection.keys(), (Form.TEXT, Form.INTEGER), _KEY_ROWS):
                yield pa.RecordBatch.from_arrays([keys.cast(pa.binary()), weights], schema=CATALOGUE)

    def read(self, kind: Kind, span: Span, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        """States, if `kind` is that. Rows without an id belong to the first key range, which has no lower bound."""
        if kind is not Kind.STATE or (span.lower is not None and span.lower == span.upper):
            return

        def reject(id_: str, raw: bytes | None, reason: str, detail: str) -> None:
            on_reject(Reject(Kind.STATE, id_.encode(), raw, "export", reason, detail))

        migrated_at = self._moment if self._config.migration_metadata else None
        with self._reading() as (connection, selection):
            if span.lower is None:
                for id_, document in _nameless(connection, selection):
                    reject(id_, document, "null_id", "A column of its id is NULL, so that nobody could ask for it.")
            for query in _queries(selection, span):
                for batch in once(_rows(connection, selection, query), reject):
                    found = states_of(batch, selection.holds, migrated_at, reject)
                    if found.num_rows:
                        yield found

    def horizon(self) -> int | None:
        """See `ports.Watermarked`; of a table alone, all of whose rows are states.

        What a query or a condition selects may change although no row of the table did.
        """
        if self._config.table is None or self._config.where is not None:
            return None
        with self._connections.lent(Work.RECORD) as connection:
            oid = relation(connection, self._config)
            if oid is None or not postgresql_horizon.are_tables(connection, [oid]):
                return None
            return postgresql_horizon.horizon(connection)

    def written_since(self, horizon: int) -> Iterator[pa.RecordBatch]:
        """See `ports.Watermarked`. Reads the table from one end to the other, but for what is stored apart from it."""
        with self._reading() as (connection, selection):
            query = written_rows(self._config, selection, partial(postgresql_horizon.written_since, since=horizon))
            for keys, weights in copied(connection, query, (Form.TEXT, Form.INTEGER), _KEY_ROWS):
                yield pa.RecordBatch.from_arrays([keys.cast(pa.binary()), weights], schema=CATALOGUE)

    # Measuring

    def measure(self, pace: Pace) -> Measurement:
        """Rows, as exact as `pace` gives time for, and what the server's statistics tell of the table."""
        with self._gauged() as (gauge, oid, selection):
            return postgresql_measuring.measured(gauge, oid, selection, self._config, pace)

    def activity(self) -> Activity | None:
        """Rows of the table that were read and written, whether or not `where` selects them; None for a query."""
        with self._gauged() as (gauge, oid, _):
            return None if oid is None else gauge.activity()

    def sampled(self, states: int, pace: Pace, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:  # noqa: ARG002 - see `Pace`
        """Rows of some blocks of a table; of a query, and where a condition leaves too few, the first ones."""

        def reject(id_: str, raw: bytes | None, reason: str, detail: str) -> None:
            on_reject(Reject(Kind.STATE, id_.encode(), raw, "export", reason, detail))

        migrated_at = self._moment if self._config.migration_metadata else None
        with self._gauged() as (gauge, oid, selection):
            rows = postgresql_measuring.some_rows(gauge, oid, selection, self._config, states)
            with blamed(f"the source ({self._config.table or 'query'})", self._connections.endpoint):
                for batch in _rows(gauge.connection, selection, selection.some(rows, states)):
                    yield Kind.STATE, states_of(batch, selection.holds, migrated_at, reject)

    def history_lengths(self, ids: Sequence[str], pace: Pace) -> dict[Kind, list[int]]:  # noqa: ARG002 - there are none
        return {}

    @property
    def asked(self) -> int:
        return self._asked

    @contextmanager
    def _gauged(self) -> Iterator[tuple[PostgresGauge, int | None, Selection]]:
        with self._reading() as (connection, selection):
            oid = relation(connection, self._config)
        with self._connections.lent(Work.READ) as connection:
            gauge = PostgresGauge(connection, [] if oid is None else [oid])
            try:
                yield gauge, oid, selection
            finally:
                self._asked += 2 + gauge.asked

    @property
    def _schema(self) -> str:
        return self._config.schema_ or "public"

    @property
    def _moment(self) -> str:
        return self._migrated_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @contextmanager
    def _reading(self) -> Iterator[tuple[Connection, Selection]]:
        """A transaction, and what is read in it."""
        endpoint = self._connections.endpoint
        with viewing(self._connections, self._view) as connection:
            if self._selection is None:
                self._selection = examined(connection, self._config, endpoint)
            with blamed(f"the source ({'query' if self._config.table is None else self._config.table})", endpoint):
                yield connection, self._selection


def open_(config: PostgresRowsConfig, folder: Path) -> PostgresRowsSource:  # noqa: ARG001 - every source is opened alike
    return PostgresRowsSource(config)


def _rows(connection: Connection, selection: Selection, query: sql.Composable) -> Iterator[pa.RecordBatch]:
    """Batches of `postgresql_documents.ROW`."""
    forms = (Form.TEXT, selection.holds.form, Form.MOMENT, Form.MOMENT)
    for ids, found, created, updated in copied(connection, query, forms, _BATCH_ROWS):
        yield pa.RecordBatch.from_arrays([ids, found.cast(pa.binary()), created, updated], schema=ROW)


def _nameless(connection: Connection, selection: Selection) -> Iterator[tuple[str, bytes | None]]:
    for labels, found in copied(connection, selection.nameless(), (Form.TEXT, Form.TEXT), _BATCH_ROWS):
        yield from zip(labels.to_pylist(), found.cast(pa.binary()).to_pylist(), strict=True)


def _queries(selection: Selection, span: Span) -> Iterator[sql.Composable]:
    """By the bounds, or of a sparse span by its keys: a few one by one, as an index may serve those."""
    if not span.sparse or len(span) == 1:
        yield selection.within(span.lower, span.upper)
    elif len(span) <= _FEW_KEYS:
        for key in sorted(span.key_set()):
            yield selection.within(key, after(key))
    else:
        for keys in span.keys(_SPARSE_KEYS):
            yield selection.among(keys)


def _settings(config: PostgresRowsConfig) -> dict[str, str]:
    if config.query is None:
        return _SETTINGS
    settings = {**_SETTINGS, "max_parallel_workers_per_gather": "0"}
    if config.schema_ is not None:
        settings["search_path"] = sql.Identifier(config.schema_).as_string()
    return settings


def _digest(config: PostgresRowsConfig) -> str:
    decisive = {k: v for k, v in config.model_dump().items() if k not in _ANSWERING and not k.endswith("_timeout")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:8]
