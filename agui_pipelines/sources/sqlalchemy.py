"""Any database that SQLAlchemy has a dialect for, as a source: every row of a table or query is a state.

::

    source:
      type: sqlalchemy
      connection_url: "${APP_DATABASE_URL}"       # such as mysql+pymysql://user:password@host/app
      table: sessions
      id: [tenant, id]
      data: state

Rows are streamed by one statement, so that they are of one moment wherever the database reads consistently. Values are what
the driver gives, and JSON columns keep every digit where the dialect lets us parse them; elsewhere ``types: {column: json}``
says that a text is JSON. Needs the extra ``sqlalchemy`` and the database's own driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from agui_pipelines import documents
from agui_pipelines.errors import ConnectionFailedError, SourceError, SpecError
from agui_pipelines.ports import OnReject, Place
from agui_pipelines.records import Kind
from agui_pipelines.sources.files import require_columns
from agui_pipelines.sources.rows import Row, raw_row, scanned
from agui_pipelines.spec import SqlAlchemyConfig, redacted

try:
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
except ModuleNotFoundError as error:
    raise SpecError(
        "A source of the type 'sqlalchemy' needs SQLAlchemy, which is not installed.",
        remedy='Install it with: pip install "agui-pipelines[sqlalchemy]"',
    ) from error

ROWS_AT_ONCE: Final = 100
"""Rows that the driver fetches at a time: their documents are in memory together."""


class SqlAlchemySource:
    """The rows of one table or query."""

    def __init__(self, config: SqlAlchemyConfig) -> None:
        self._config = config
        self._url = config.connection_url.get_secret_value()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.STATE,)

    def place(self) -> Place:
        """Known by its address: nothing else is common to all databases. It is never a target."""
        return Place("sqlalchemy", redacted(self._url), self._config.table or "")

    def describe(self) -> str:
        what = "a query" if self._config.table is None else f"table {self._table_name}"
        return f"{redacted(self._url)}, {what}"

    def ping(self) -> str:
        with self._connection() as connection:
            version = ".".join(map(str, connection.dialect.server_version_info or ()))
            return f"{connection.dialect.name} {version}".strip()

    def exists(self) -> bool:
        if self._config.table is None:
            return True
        with self._connection() as connection:
            inspector = sa.inspect(connection)
            names = [*inspector.get_table_names(self._config.schema_), *inspector.get_view_names(self._config.schema_)]
            return self._config.table in names or inspector.has_table(self._config.table, self._config.schema_)

    def close(self) -> None:
        if "_engine" in self.__dict__:
            self._engine.dispose()

    def scan(self, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        return scanned(self._rows(), self._config, self._config.types, on_reject)

    def _rows(self) -> Iterator[Row]:
        with self._connection() as connection:
            streaming = connection.execution_options(stream_results=True, yield_per=ROWS_AT_ONCE)
            with streaming.execute(self._statement) as result:
                columns = list(result.keys())
                require_columns(columns, (*self._config.named, *self._config.types), self.describe())
                for number, row in enumerate(result, 1):
                    cells = dict(zip(columns, row, strict=True))
                    yield Row(f"row {number}", cells, partial(raw_row, cells))

    @property
    def _table_name(self) -> str:
        return ".".join(filter(None, (self._config.schema_, self._config.table)))

    @property
    def _statement(self) -> Any:
        """The columns' types stay unknown to SQLAlchemy: some of its own conversions round."""
        if self._config.query is not None:
            return sa.text(self._config.query.replace(":", r"\:"))  # a colon is the query's own, not a parameter
        return sa.select(sa.text("*")).select_from(sa.table(self._config.table or "", schema=self._config.schema_))

    @cached_property
    def _engine(self) -> sa.Engine:
        try:
            try:
                return sa.create_engine(self._url, json_deserializer=_exactly)
            except TypeError:  # dialects without JSON columns do not know the option
                return sa.create_engine(self._url)
        except (ArgumentError, NoSuchModuleError) as error:
            raise SpecError(
                f"SQLAlchemy cannot make anything of the source's connection_url {redacted(self._url)}.",
                remedy="Write it as dialect+driver://user:password@host/database; see SQLAlchemy's documentation.",
            ) from error
        except ModuleNotFoundError as error:
            raise SpecError(
                f"The source's connection_url asks for the driver '{error.name}', which is not installed.",
                remedy=f"Install it: pip install {error.name}",
            ) from error

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        """A connection that is told to read only where the dialect knows how. Raises errors without any secret."""
        try:
            connection = self._engine.connect()
        except SQLAlchemyError as error:
            raise ConnectionFailedError(
                f"{redacted(self._url)} cannot be reached: {self._told(error)}.",
                remedy="Look at the source's connection_url, and whether the database is up.",
            ) from error
        with connection:
            try:
                if connection.dialect.name == "postgresql":
                    connection = connection.execution_options(
                        isolation_level="REPEATABLE READ", postgresql_readonly=True
                    )
                yield connection
            except SQLAlchemyError as error:
                raise SourceError(
                    f"{self.describe()}: the database says: {self._told(error)}.",
                    why="The source must be read whole.",
                    remedy="Look at the table or query in the migration file, and at the database's log.",
                ) from error

    def _told(self, error: SQLAlchemyError) -> str:
        """What the database said, in one line and without the password."""
        lines = str(error.orig if isinstance(error, DBAPIError) and error.orig else error).strip().splitlines()
        text = lines[0].rstrip(".") if lines else type(error).__name__
        password = sa.make_url(self._url).password
        return text.replace(str(password), "***") if password else text


def _exactly(text: str | bytes) -> Any:
    return documents.loads(text.encode() if isinstance(text, str) else bytes(text))


def open_(config: SqlAlchemyConfig, folder: Path) -> SqlAlchemySource:  # noqa: ARG001 - every source is opened alike
    return SqlAlchemySource(config)
