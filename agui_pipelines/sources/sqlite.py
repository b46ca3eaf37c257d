"""An SQLite database as a source: every row of a table or query is a state.

::

    source: {type: sqlite, path: app.db, table: sessions, id: id, data: state, types: {archived: boolean}}

The database is opened for reading only, and read in one transaction, so that writers do not disturb what is read. A value is
what SQLite stores, whatever the column is declared as; ``types`` says where a number is a boolean, or a text is JSON.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa

from agui_pipelines.errors import SourceError
from agui_pipelines.ports import OnReject, Place
from agui_pipelines.records import Kind
from agui_pipelines.sources.files import Files, require_columns
from agui_pipelines.sources.rows import Row, raw_row, scanned
from agui_pipelines.spec import SqliteConfig


class SqliteSource:
    """The rows of one table or query."""

    def __init__(self, config: SqliteConfig, folder: Path) -> None:
        self._config = config
        self._files = Files(config.path, folder)
        self._path = Path(self._files.pattern)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.STATE,)

    def place(self) -> Place:
        return self._files.place()

    def describe(self) -> str:
        what = "a query" if self._config.table is None else f"table {self._config.table}"
        return f"SQLite in {self._path}, {what}"

    def ping(self) -> str:
        """Opens the database if there is one; whether there is, `exists` tells."""
        if self._path.exists():
            with self._connection() as connection:
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        return f"SQLite {sqlite3.sqlite_version}"

    def exists(self) -> bool:
        if not self._path.is_file():
            return False
        with self._connection() as connection:
            connection.execute(f"EXPLAIN {self._query}")
        return True

    def close(self) -> None:
        """Nothing stays open between scans."""

    def scan(self, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        return scanned(self._rows(), self._config, self._config.types, on_reject)

    @property
    def _query(self) -> str:
        """The query, without what ends it: SQLite takes one statement at a time."""
        if self._config.query is not None:
            return self._config.query
        table = str(self._config.table).replace('"', '""')
        return f'SELECT * FROM "{table}"'  # noqa: S608 - quoted

    def _rows(self) -> Iterator[Row]:
        with self._connection() as connection:
            cursor = connection.execute(self._query)
            columns = [column[0] for column in cursor.description or ()]
            require_columns(columns, (*self._config.named, *self._config.types), self.describe())
            for number, row in enumerate(cursor, 1):
                cells = dict(zip(columns, row, strict=True))
                yield Row(f"row {number}", cells, partial(raw_row, cells))

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction of its own. Raises `SourceError` for whatever SQLite says."""
        uri = f"file:{quote(str(self._path))}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
                # Bytes that are no UTF-8 are carried as lone surrogates, to be told apart from blobs.
                connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
                connection.execute("PRAGMA query_only = ON")
                connection.execute("BEGIN")
                yield connection
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise SourceError(
                f"{self.describe()}: SQLite says: {error}.",
                why="The source must be read whole, by one statement that only reads.",
                remedy="Look at the path, the table and the query in the migration file.",
            ) from error


def open_(config: SqliteConfig, folder: Path) -> SqliteSource:
    return SqliteSource(config, folder)
