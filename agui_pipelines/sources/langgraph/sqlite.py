"""Checkpoints from the file of LangGraph's SQLite saver, in which each lies as a whole, beside the writes of its tasks."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from agui_pipelines.errors import ConnectionFailedError, StoreBusyError, StoreError
from agui_pipelines.ports import Place
from agui_pipelines.sources.langgraph.checkpoints import Checkpoint, Leftover, Write
from agui_pipelines.sources.langgraph.values import Typed

_TABLES: Final = {
    "checkpoints": {
        "thread_id",
        "checkpoint_ns",
        "checkpoint_id",
        "parent_checkpoint_id",
        "type",
        "checkpoint",
        "metadata",
    },
    "writes": {"thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel", "type", "value"},
}

_CHECKPOINTS: Final = """
SELECT rowid, thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
FROM checkpoints ORDER BY thread_id, checkpoint_ns, checkpoint_id
"""
_WRITES: Final = """
SELECT w.task_id, {task_path} AS task_path, w.idx, w.channel, w.type, w.value
FROM checkpoints c JOIN writes w
ON w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns AND w.checkpoint_id = c.checkpoint_id
WHERE c.rowid = ? ORDER BY 2, 1, w.idx
"""
"""By the row's number, as ids need not be text that could be handed back to SQLite."""
_LEFT_WRITES: Final = """
SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, {task_path}, idx, channel, type, value
FROM writes w
WHERE NOT EXISTS (
    SELECT 1 FROM checkpoints c
    WHERE c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns AND c.checkpoint_id = w.checkpoint_id
)
"""


class SqliteCheckpoints:
    """See `checkpoints.Database`. The file is opened for reading only, when it is first used."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout

    def place(self) -> Place:
        """The real path of the file, and the device of this machine that holds it."""
        real = self._path.resolve()
        with self._connected():  # or there is no such file
            return Place("file", f"{platform.node()} device {real.stat().st_dev}", str(real))

    def describe(self) -> str:
        return f"LangGraph's checkpoints in {self._path}"

    def ping(self) -> str:
        with self._connected():
            return f"SQLite {sqlite3.sqlite_version}"

    def exists(self) -> bool:
        if not self._path.exists():
            return False
        with self._connected() as connection:
            return bool(_columns(connection, "checkpoints"))

    def close(self) -> None:
        """Nothing to do: a connection lives as long as its use."""

    @contextmanager
    def opened(self) -> Iterator[tuple[Iterator[Checkpoint], Iterator[Leftover]]]:
        """All in one read transaction: with a write-ahead log, as the saver sets it up, it keeps nobody from writing."""
        with self._connected() as connection:
            connection.execute("BEGIN")
            task_path = self._task_path(connection)
            yield _checkpoints(connection, task_path), _leftovers(connection, task_path)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            if not self._path.is_file():
                raise ConnectionFailedError(
                    f"{self._path} is no file that can be read.", remedy="Correct the key 'path'."
                )
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=self._timeout)) as connection:
                # What is not UTF-8 must not keep anything else from being read.
                connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
                connection.execute("SELECT 1 FROM sqlite_schema")
                yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreBusyError(f"{self._path} is locked by its writer.", remedy="Try again later.") from error
            raise ConnectionFailedError(
                f"{self._path} cannot be read: {error}.",
                remedy="Correct the key 'path', or the permissions of the file.",
            ) from error
        except sqlite3.Error as error:
            raise StoreError(
                f"{self._path} cannot be read: {error}.",
                why="It is damaged, or no database of SQLite.",
                remedy="Correct the key 'path', or restore the file.",
            ) from error

    def _task_path(self, connection: sqlite3.Connection) -> str:
        """How the queries name the path of a task, which old savers do not store. Raises `StoreError` for other tables."""
        for table, expected in _TABLES.items():
            columns = _columns(connection, table)
            if missing := sorted(expected - columns):
                what = f"the table {table} has no column {missing[0]}" if columns else f"there is no table {table}"
                raise StoreError(
                    f"{self._path} holds no checkpoints of LangGraph that can be read: {what}.",
                    why="They are read from the tables that SqliteSaver makes.",
                    remedy="Correct the key 'path'.",
                )
        return "task_path" if "task_path" in _columns(connection, "writes") else "''"


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def _checkpoints(connection: sqlite3.Connection, task_path: str) -> Iterator[Checkpoint]:
    query = _WRITES.format(task_path=task_path)
    for row, thread_id, namespace, checkpoint_id, parent_id, type_, body, metadata in connection.execute(_CHECKPOINTS):
        writes = connection.execute(query, (row,))
        yield Checkpoint(
            thread_id=_text(thread_id),
            namespace=_text(namespace),
            checkpoint_id=_text(checkpoint_id),
            parent_id=_text(parent_id or ""),
            body=_typed(type_, body),
            metadata=_bytes(metadata),
            writes=[_write(*write) for write in writes],
        )


def _leftovers(connection: sqlite3.Connection, task_path: str) -> Iterator[Leftover]:
    for thread_id, namespace, of, *write in connection.execute(_LEFT_WRITES.format(task_path=task_path)):
        yield Leftover(_text(thread_id), _text(namespace), replace(_write(*write), checkpoint_id=_text(of)))


def _write(task: Any, path: Any, number: int, channel: Any, type_: Any, value: Any) -> Write:
    return Write(_text(task), _text(path), number, _text(channel), _typed(type_, value))


def _text(value: Any) -> str:
    """SQLite gives what was stored, whatever the column's type is."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _typed(encoding: Any, value: Any) -> Typed:
    return Typed(None if encoding is None else _text(encoding), _bytes(value))


def _bytes(value: Any) -> bytes | None:
    return (
        None if value is None else value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    )
