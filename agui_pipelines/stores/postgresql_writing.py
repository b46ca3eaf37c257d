"""How batches get into the tables: the fastest ways that were measured, each atomic for its batch.

A batch of which no id exists yet goes straight into the table by a binary COPY, in which jsonb is parsed on arrival. Any
other batch, and any batch with an id that appears in between, is upserted by one statement from arrays. On 200,000 states
of 1 KB the first way took 3.2 s of the server's CPU and the second 4.4 s, the same as from a temporary table; unlike that,
it needs no privilege for temporary tables and leaves nothing to clean within a transaction.

Whether a row changed is told by comparing the stored bytes (``*<>`` on records). ``IS DISTINCT FROM`` would take 1.0 for 1
and keep the old spelling, and comparing texts costs half as much again.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from psycopg.pq import TransactionStatus

from agui_pipelines.drivers.postgresql import Binary, Connection
from agui_pipelines.drivers.postgresql_binary import (
    HEADER,
    TRAILER,
    Form,
    UnknownMomentError,
    array_parameter,
    copy_rows,
    wire,
)
from agui_pipelines.errors import StoreError, UnstorableRecordError
from agui_pipelines.ports import Written
from agui_pipelines.records import SCHEMAS, Kind, id_columns
from agui_pipelines.stores.postgresql_tables import ABSENT, TABLES, Column, Table, Tables, is_text

_TEXT_OID: Final = 25
_MOMENT_OID: Final = 1184
_NOT_HELD: Final = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)
_EPOCH: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A batch as the server takes it: one ``binary`` column for each column of the table."""

    table: Table
    values: pa.RecordBatch

    def __len__(self) -> int:
        return int(self.values.num_rows)

    def array(self, column: Column) -> Binary:
        oid = _MOMENT_OID if column.form is Form.MOMENT else _TEXT_OID
        return Binary(array_parameter(self.values.column(column.name), oid))

    def texts(self, name: str) -> list[str]:
        return [value.decode() for value in self.values.column(name).to_pylist()]


class Writing:
    """Writes to the tables of one schema. Driver errors pass through, but for those that are about a record."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def write(self, connection: Connection, kind: Kind, batch: pa.RecordBatch) -> Written:
        """Write a batch in a transaction of its own, or in the one that is open."""
        rows = _rows(TABLES[kind], batch)
        try:
            now = self._time_if_none_exists(connection, rows)
            if now is not None:
                try:
                    with _savepoint(connection):
                        self._append(connection, rows, now)
                    return Written(inserted=len(rows))
                except psycopg.errors.UniqueViolation:
                    pass  # written by somebody else just now, or twice in the batch
            return self._upsert(connection, rows)
        except _NOT_HELD as error:
            raise _unstorable(connection, rows, error) from error

    def put(self, connection: Connection, kind: Kind, record: dict[str, Any]) -> None:
        """Upsert one record, given by the fields of its schema, within whatever transaction is open."""
        for column in TABLES[kind].columns:
            if column.form is Form.TEXT and not is_text(record[column.field]):
                raise UnstorableRecordError(
                    f"The {column.field} {record[column.field]!r} cannot be stored.",
                    why="No text in PostgreSQL can hold U+0000 or half a surrogate pair.",
                    remedy="Use another id.",
                )
        if not record["data"].lstrip().startswith(b"{"):
            raise UnstorableRecordError(
                f"The document of the {kind} of '{record['state_id']}' is not a JSON object.",
                why="A state is one JSON object.",
                remedy="Wrap the value in an object.",
            )
        rows = _rows(TABLES[kind], pa.RecordBatch.from_pylist([record], schema=SCHEMAS[kind]))
        try:
            self._upsert(connection, rows)
        except _NOT_HELD as error:
            raise _unstorable(connection, rows, error) from error

    def delete_state(self, connection: Connection, state_id: str) -> bool:
        """Whether there was one."""
        query = sql.SQL("DELETE FROM {} WHERE state_id = %s").format(self._tables.identifier(TABLES[Kind.STATE]))
        if not is_text(state_id):
            return False
        try:
            with connection.transaction():
                return connection.execute(query, (state_id,)).rowcount > 0
        except ABSENT:
            return False

    def remove(self, connection: Connection, kind: Kind, batch: pa.RecordBatch) -> int:
        """Delete the records with the ids of a batch, of which other columns are not looked at; how many there were."""
        table = TABLES[kind]
        named = [column for column in table.columns if column.field in id_columns(kind)]
        columns = [batch.column(column.field).cast(pa.binary()) for column in named]
        # No text in PostgreSQL holds U+0000, so what has such an id is not there.
        possible = pc.invert(pc.match_substring(columns[0], b"\0"))
        for column in columns[1:]:
            possible = pc.and_(possible, pc.invert(pc.match_substring(column, b"\0")))
        ids = [Binary(array_parameter(column.filter(possible), _TEXT_OID)) for column in columns]
        query = sql.SQL("DELETE FROM {table} t USING unnest({arrays}) AS s ({given}) WHERE {same}").format(
            table=self._tables.identifier(table),
            arrays=_listed(sql.SQL("%s::text[]") for _ in named),
            given=_listed(sql.Identifier(column.name) for column in named),
            same=sql.SQL(" AND ").join(
                sql.SQL("t.{0} = s.{0}").format(sql.Identifier(column.name)) for column in named
            ),
        )
        try:
            with connection.transaction():
                return connection.execute(query, ids).rowcount
        except ABSENT:
            return 0

    def _time_if_none_exists(self, connection: Connection, rows: _Rows) -> int | None:
        """The server's time, if none of the ids is in the table yet."""
        table = rows.table
        key = sql.Identifier(table.key)
        if table.kind is Kind.STATE and self._tables.is_byte_ordered(connection, table):
            # The batch is sorted, so its ids lie between the first and the last; looking for them is one descent.
            condition = sql.SQL("{} BETWEEN %s AND %s").format(key)
            ids = rows.values.column(table.key)
            parameters: list[Any] = [Binary(ids[0].as_py()), Binary(ids[-1].as_py())]
        else:
            condition = sql.SQL("{} = ANY(%s::text[])").format(key)
            parameters = [rows.array(table.columns[0])]
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {}), now()").format(
            self._tables.identifier(table), condition
        )
        row = connection.execute(query, parameters).fetchone()
        if row is None or row[0]:
            return None
        moment: dt.datetime = row[1]
        return (moment - _EPOCH) // dt.timedelta(microseconds=1)

    def _append(self, connection: Connection, rows: _Rows, now: int) -> None:
        """Add rows of which none exists. A time that a state lacks is `now`."""
        table = rows.table
        columns = []
        for column in table.columns:
            values = rows.values.column(column.name)
            if table.kind is Kind.STATE and column.form is Form.MOMENT and values.null_count:
                values = values.fill_null(struct.pack("!q", now))
            columns.append((column.form, values))
        query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
            self._tables.identifier(table), sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
        )
        with connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.write(HEADER)
            for part in copy_rows(columns):
                copy.write(part)
            copy.write(TRAILER)

    def _upsert(self, connection: Connection, rows: _Rows) -> Written:
        written = Written()
        with connection.transaction():
            for group, given in _by_given_times(rows):
                parameters = [group.array(column) for column in given]
                try:
                    row = connection.execute(self._statement(rows.table, given), parameters).fetchone()
                except psycopg.errors.CardinalityViolation:
                    raise _named_twice(group) from None
                inserted, returned = row or (0, 0)
                if rows.table.kind is not Kind.STATE and returned < len(group):
                    self._refuse_foreign_ids(connection, group)
                written += Written(inserted, returned - inserted, len(group) - returned)
        return written

    def _statement(self, table: Table, given: tuple[Column, ...]) -> sql.Composed:
        """Upsert from arrays, one for each given column. What is not given is a time: a new row gets the present one; a
        row that changes keeps its creation time and gets a new update time.
        """
        compared = [sql.Identifier(column.name) for column in given if column.name not in (table.key, "state_id")]
        changed = [
            sql.Identifier(column.name)
            for column in table.columns
            if column.name not in (table.key, "state_id") and (column in given or column.name == "updated_at")
        ]
        return sql.SQL(
            "WITH written AS (INSERT INTO {table} AS t ({columns}) SELECT {values} FROM unnest({arrays}) AS s ({given}) "
            "ON CONFLICT ({key}) DO UPDATE SET {changes} WHERE t.state_id = excluded.state_id "
            # The casts keep the parser from comparing field by field.
            "AND row({old})::record *<> row({new})::record RETURNING (t.xmax = 0) AS is_new) "
            "SELECT count(*) FILTER (WHERE is_new), count(*) FROM written"
        ).format(
            table=self._tables.identifier(table),
            columns=_listed(sql.Identifier(column.name) for column in table.columns),
            values=_listed(_value(column, given=column in given) for column in table.columns),
            arrays=_listed(sql.SQL(f"%s::{_array_type(column)}") for column in given),
            given=_listed(sql.Identifier(column.name) for column in given),
            key=sql.Identifier(table.key),
            changes=_listed(sql.SQL("{0} = excluded.{0}").format(name) for name in changed),
            old=_listed(sql.SQL("t.{}").format(name) for name in compared),
            new=_listed(sql.SQL("excluded.{}").format(name) for name in compared),
        )

    def _refuse_foreign_ids(self, connection: Connection, rows: _Rows) -> None:
        """The format's key is the version or snapshot id alone; a record of another state is not to be overwritten."""
        table = rows.table
        query = sql.SQL(
            "SELECT s.id, t.state_id, s.state_id FROM unnest(%s::text[], %s::text[]) AS s (id, state_id) "
            "JOIN {} t ON t.{} = s.id WHERE t.state_id <> s.state_id LIMIT 1"
        ).format(self._tables.identifier(table), sql.Identifier(table.key))
        found = connection.execute(query, [rows.array(table.columns[0]), rows.array(table.columns[1])]).fetchone()
        if found:
            raise StoreError(
                f"The {table.kind} '{found[0]}' of the state '{found[2]}' has the id of a {table.kind} that the state "
                f"'{found[1]}' already has.",
                why=f"The table {table.name} holds each id once, for whatever state, so one would overwrite the other.",
                remedy="Leave one of the two out, or import into another schema. Nothing of the batch was written.",
                ids=[found[0]],
            )


def _rows(table: Table, batch: pa.RecordBatch) -> _Rows:
    """The batch in order of its state ids, so that pages of the index are filled one after the other, and two writers lock
    rows in the same order.
    """
    if "extra" in batch.schema.names and batch.column("extra").null_count < batch.num_rows:
        raise UnstorableRecordError(
            f"A {table.kind} has members beside those of the format.",
            why=f"The table {table.name} has no column for them.",
            remedy="Leave the record, or those members, out.",
        )
    ids = batch.column("state_id")
    if batch.num_rows > 1 and not pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py():
        batch = batch.take(pc.sort_indices(ids))
    columns = [_wire(table, column, batch) for column in table.columns]
    return _Rows(table, pa.RecordBatch.from_arrays(columns, [column.name for column in table.columns]))


def _wire(table: Table, column: Column, batch: pa.RecordBatch) -> Any:
    values = batch.column(column.field)
    if column.is_optional:
        values = pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)
    try:
        return wire(column.form, values)
    except UnknownMomentError as error:
        name = batch.column(table.columns[0].field)[error.row].as_py()
        raise UnstorableRecordError(
            f"The {column.field} of the {table.kind} '{name}' is {error.text!r}, which is not an RFC 3339 time.",
            why="The column holds moments and nothing else.",
            remedy="Repair the record at its source, or leave it out.",
            ids=[name],
        ) from None


def _by_given_times(rows: _Rows) -> Iterator[tuple[_Rows, tuple[Column, ...]]]:
    """The rows by which of a state's times they give, with the columns that they give. Usually one group."""
    table = rows.table
    times = [column for column in table.columns if column.form is Form.MOMENT] if table.kind is Kind.STATE else []
    groups: list[tuple[_Rows, list[Column]]] = [(rows, list(table.columns))]
    for column in times:
        groups = [
            (part, given if has_time else [other for other in given if other is not column])
            for group, given in groups
            for has_time, part in _parted(group, column)
        ]
    yield from ((group, tuple(given)) for group, given in groups)


def _parted(rows: _Rows, column: Column) -> list[tuple[bool, _Rows]]:
    """The rows that have a value in this column, and those that have none."""
    values = rows.values.column(column.name)
    if values.null_count in (0, len(rows)):
        return [(not values.null_count, rows)]
    return [
        (True, _Rows(rows.table, rows.values.filter(values.is_valid()))),
        (False, _Rows(rows.table, rows.values.filter(values.is_null()))),
    ]


def _savepoint(connection: Connection) -> AbstractContextManager[object]:
    """What fails inside leaves a transaction that is open as it was; where none is, a statement is one by itself."""
    is_open = connection.info.transaction_status is TransactionStatus.INTRANS
    return connection.transaction() if is_open else nullcontext()


def _value(column: Column, *, given: bool) -> sql.Composable:
    if not given:
        return sql.SQL("now()")
    name = sql.SQL("s.{}").format(sql.Identifier(column.name))
    return sql.SQL("{}::jsonb").format(name) if column.form is Form.JSONB else name


def _array_type(column: Column) -> str:
    return "timestamptz[]" if column.form is Form.MOMENT else "text[]"


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _named_twice(rows: _Rows) -> StoreError:
    seen: dict[str, str] = {}
    for name, state in zip(rows.texts(rows.table.key), rows.texts("state_id"), strict=True):
        if name in seen:
            break
        seen[name] = state
    return StoreError(
        f"A batch holds two {rows.table.kind}s with the id '{name}', of the states '{seen[name]}' and '{state}'.",
        why=f"The table {rows.table.name} holds each id once, for whatever state, so one would overwrite the other.",
        remedy="Leave one of the two out, or import into another schema. Nothing of the batch was written.",
        ids=[name],
    )


def _unstorable(connection: Connection, rows: _Rows, error: psycopg.Error) -> UnstorableRecordError:
    """Which record it was. That takes a statement for each, which does not matter now."""
    names = rows.texts(rows.table.key)
    name = next((names[row] for row in range(len(rows)) if _is_refused(connection, rows, row)), None)
    kind = rows.table.kind
    which = f"the {kind} '{name}'" if name is not None else f"one of the {kind}s '{names[0]}' to '{names[-1]}'"
    return UnstorableRecordError(
        f"PostgreSQL cannot hold {which}: {error.diag.message_primary or 'its text is not accepted'}.",
        why="No repetition would change that. Nothing of its batch was written.",
        remedy="Repair the record at its source, or leave it out.",
        ids=[name] if name is not None else names,
    )


def _is_refused(connection: Connection, rows: _Rows, row: int) -> bool:
    documents = [
        rows.values.column(column.name)[row].as_py() for column in rows.table.columns if column.form is Form.JSONB
    ]
    for document in documents:
        if document is not None:
            try:
                with connection.transaction():
                    connection.execute("SELECT %s::text::jsonb IS NULL", (Binary(document),))
            except _NOT_HELD:
                return True
    return False
