"""Checkpoints from the tables of LangGraph's PostgreSQL savers.

The usual saver keeps every checkpoint; channels whose value is no text, number or boolean lie in ``checkpoint_blobs`` under
their version. The shallow saver keeps the newest checkpoint only, its tables have neither checkpoint ids nor versions.
Which one it is, and how old, is told by the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from psycopg import errors, sql

from agui_pipelines.drivers.postgresql import Connection, Connections, Work
from agui_pipelines.drivers.postgresql_endpoint import Endpoint
from agui_pipelines.errors import StoreError
from agui_pipelines.ports import Place
from agui_pipelines.sources.langgraph.checkpoints import JSONB, Blob, Checkpoint, Leftover, Write
from agui_pipelines.sources.langgraph.values import Typed
from agui_pipelines.spec import PostgresConfig

_TABLES: Final = {
    "checkpoints": {"thread_id", "checkpoint_ns", "checkpoint", "metadata"},
    "checkpoint_blobs": {"thread_id", "checkpoint_ns", "channel", "type", "blob"},
    "checkpoint_writes": {"thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel", "type", "blob"},
}
"""The columns that each has had from the beginning."""

_COLUMNS: Final = (
    "SELECT c.relname, array_agg(a.attname::text) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
    "WHERE c.oid = ANY(ARRAY[to_regclass(%s), to_regclass(%s), to_regclass(%s)]::oid[]) "
    "AND a.attnum > 0 AND NOT a.attisdropped GROUP BY c.relname"
)
_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WITHOUT_TIME_LIMIT: Final = (
    "SELECT set_config(name, '0', true) FROM pg_settings "
    "WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"
)
_IDENTITY: Final = "SELECT system_identifier::text FROM pg_control_system()"
_SUBSTITUTE: Final = (
    "SELECT coalesce(host(inet_server_addr()), 'local') || ':' || coalesce(inet_server_port(), 0) || ' since ' "
    "|| extract(epoch FROM pg_postmaster_start_time())"
)

_VERSIONS: Final = sql.SQL(
    "jsonb_each_text(CASE jsonb_typeof(c.checkpoint -> 'channel_versions') "
    "WHEN 'object' THEN c.checkpoint -> 'channel_versions' ELSE '{}' END) AS v(channel, version)"
)
"""The channels of a checkpoint and the versions that it has them in, as rows."""

_CHECKPOINTS: Final = """
SELECT c.thread_id, c.checkpoint_ns, c.checkpoint_id, coalesce(c.parent_checkpoint_id, ''),
    convert_to(c.checkpoint::text, 'UTF8'), convert_to(c.metadata::text, 'UTF8'),
    b.channels, b.types, b.blobs, w.checkpoints, w.tasks, w.paths, w.numbers, w.channels, w.types, w.blobs
FROM (SELECT {columns} FROM {checkpoints} c ORDER BY thread_id, checkpoint_ns, checkpoint_id OFFSET 0) c
LEFT JOIN LATERAL (
    SELECT array_agg(channel) AS channels, array_agg(type) AS types, array_agg(blob) AS blobs FROM (
        SELECT b.channel, b.type, b.blob FROM {versions} JOIN {blobs} b
        ON b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns AND b.channel = v.channel AND {is_version}
        WHERE b.type <> 'empty' ORDER BY b.channel
    ) found
) b ON true
LEFT JOIN LATERAL (
    SELECT array_agg(checkpoint_id) AS checkpoints, array_agg(task_id) AS tasks, array_agg(task_path) AS paths,
        array_agg(idx) AS numbers, array_agg(channel) AS channels, array_agg(type) AS types, array_agg(blob) AS blobs
    FROM (
        SELECT w.checkpoint_id, w.task_id, {task_path} AS task_path, w.idx, w.channel, w.type, w.blob FROM {writes} w
        WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns AND {is_checkpoint}
        ORDER BY {task_path} COLLATE "C", w.task_id COLLATE "C", w.idx
    ) found
) w ON true
ORDER BY c.thread_id, c.checkpoint_ns, c.checkpoint_id
"""
"""One row a checkpoint, with all that belongs to it. In the order of the primary key, whose last is what the saver takes for
the newest; sorted before anything is joined, so that what the server sorts, if it has to, is small."""

_LEFT_WRITES: Final = """
SELECT w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, {task_path}, w.idx, w.channel, w.type, w.blob
FROM {writes} w WHERE NOT EXISTS (
    SELECT FROM {checkpoints} c
    WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns AND {is_checkpoint}
)
"""
_LEFT_BLOBS: Final = """
SELECT b.thread_id, b.checkpoint_ns, b.channel, {version}, b.type, b.blob FROM {blobs} b
WHERE b.type <> 'empty' AND NOT EXISTS (
    SELECT FROM (SELECT c.thread_id, c.checkpoint_ns, v.channel, v.version FROM {checkpoints} c, {versions}) v
    WHERE b.thread_id = v.thread_id AND b.checkpoint_ns = v.checkpoint_ns AND b.channel = v.channel AND {is_version}
)
"""


class PostgresCheckpoints:
    """See `checkpoints.Database`. Connects when first used; raises `SpecError` for a URL that cannot be read."""

    def __init__(self, config: PostgresConfig) -> None:
        self._schema = config.schema_
        self._connections = Connections(Endpoint.of(config))

    def place(self) -> Place:
        with self._connections.lent(Work.RECORD) as connection:
            database = _value(connection, "SELECT current_database()")
            try:
                server = _value(connection, _IDENTITY)
            except errors.InsufficientPrivilege:
                server = _value(connection, _SUBSTITUTE)
        return Place("postgresql", str(server), f"{database}.{self._schema}")

    def describe(self) -> str:
        return f"{self._connections.endpoint.url}, LangGraph's checkpoints in the schema {self._schema}"

    def ping(self) -> str:
        with self._connections.lent(Work.RECORD) as connection:
            return f"PostgreSQL {str(_value(connection, 'SHOW server_version')).split()[0]}"

    def exists(self) -> bool:
        with self._connections.lent(Work.RECORD) as connection:
            return "checkpoints" in self._columns(connection)

    def close(self) -> None:
        self._connections.close()

    @contextmanager
    def opened(self) -> Iterator[tuple[Iterator[Checkpoint], Iterator[Leftover]]]:
        with self._connections.lent(Work.READ) as connection:
            connection.execute(_BEGIN)
            connection.execute(_WITHOUT_TIME_LIMIT)
            parts = self._parts(self._columns(connection))
            yield _checkpoints(connection, parts), _leftovers(connection, parts)
            # After an error this is not reached: a connection that comes back within a transaction is closed.
            connection.execute("COMMIT")

    def _columns(self, connection: Connection) -> dict[str, set[str]]:
        """The columns of LangGraph's tables, of those that are there."""
        names = [self._table(name).as_string(connection) for name in _TABLES]
        return {table: set(columns) for table, columns in connection.execute(_COLUMNS, names)}

    def _table(self, name: str) -> sql.Identifier:
        return sql.Identifier(self._schema, name)

    def _parts(self, columns: Mapping[str, set[str]]) -> dict[str, sql.Composable]:
        """What the queries are completed with. Raises `StoreError` for tables that no saver has made."""
        for table, expected in _TABLES.items():
            if missing := sorted(expected - columns.get(table, set())):
                what = (
                    f"the table {table} has no column {missing[0]}"
                    if table in columns
                    else f"there is no table {table}"
                )
                raise StoreError(
                    f"The schema {self._schema} holds no checkpoints of LangGraph that can be read: {what}.",
                    why="They are read from the tables that PostgresSaver makes.",
                    remedy="Correct connection_url or the key 'schema'.",
                )
        shallow = "checkpoint_id" not in columns["checkpoints"]
        own = {
            "columns": "c.*, c.checkpoint ->> 'id' AS checkpoint_id, NULL::text AS parent_checkpoint_id"
            if shallow
            else "c.*",
            # The shallow saver leaves the writes of the checkpoint before, which it looks for sent messages in.
            "is_checkpoint": "true" if shallow else "w.checkpoint_id = c.checkpoint_id",
            "is_version": "b.version = v.version" if "version" in columns["checkpoint_blobs"] else "true",
            "version": "b.version" if "version" in columns["checkpoint_blobs"] else "''",
            "task_path": "w.task_path" if "task_path" in columns["checkpoint_writes"] else "''",
        }
        tables = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
        identifiers = zip(("checkpoints", "blobs", "writes"), map(self._table, tables), strict=True)
        return {"versions": _VERSIONS, **{name: sql.SQL(text) for name, text in own.items()}, **dict(identifiers)}


def _checkpoints(connection: Connection, parts: Mapping[str, sql.Composable]) -> Iterator[Checkpoint]:
    for row in _streamed(connection, _CHECKPOINTS, parts):
        thread_id, namespace, checkpoint_id, parent_id, body, metadata, channels, types, blobs, *writes = row
        yield Checkpoint(
            thread_id=thread_id,
            namespace=namespace,
            checkpoint_id=checkpoint_id or "",
            parent_id=parent_id,
            body=Typed(JSONB, body),
            metadata=metadata,
            blobs={name: Typed(*value) for name, *value in _rows(channels, types, blobs)},
            writes=[
                Write(task, path, number, channel, Typed(type_, blob), of if of != checkpoint_id else None)
                for of, task, path, number, channel, type_, blob in _rows(*writes)
            ],
        )


def _leftovers(connection: Connection, parts: Mapping[str, sql.Composable]) -> Iterator[Leftover]:
    for thread_id, namespace, of, task, path, number, channel, *value in _streamed(connection, _LEFT_WRITES, parts):
        yield Leftover(thread_id, namespace, Write(task, path, number, channel, Typed(*value), of))
    for thread_id, namespace, channel, version, *value in _streamed(connection, _LEFT_BLOBS, parts):
        yield Leftover(thread_id, namespace, Blob(channel, version, Typed(*value)))


def _streamed(connection: Connection, query: str, parts: Mapping[str, sql.Composable]) -> Iterator[tuple[Any, ...]]:
    """The rows, of which one at a time is in memory."""
    statement = sql.SQL(query).format(**parts)
    with connection.cursor() as cursor:
        yield from cursor.stream(statement, binary=True)


def _rows(*columns: list[Any] | None) -> Iterable[tuple[Any, ...]]:
    """Aggregated arrays as rows; of no rows, PostgreSQL makes no arrays."""
    return zip(*(column or () for column in columns), strict=True)


def _value(connection: Connection, query: Any) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]
