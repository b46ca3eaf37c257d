"""Connections to PostgreSQL: how one is opened, lent out, and given up when it broke.

Whoever reads in batches holds a connection for as long as its reader takes the batches, and may want to ask something else
meanwhile. So connections are lent: an operation that finds none idle opens another, which stays open for the next one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format, TransactionStatus

from agui_pipelines.drivers.postgresql_endpoint import Endpoint
from agui_pipelines.drivers.postgresql_errors import connect_failure, translated
from agui_pipelines.errors import InterruptedConnectionError

Connection = psycopg.Connection[tuple[Any, ...]]

_FIXED: Final = {
    "TimeZone": "UTC",
    # Rather an error than rows that a policy hides from us, as in pg_dump.
    "row_security": "off",
    # Compiling a COPY of wide rows takes longer than it can save.
    "jit": "off",
}


class Work(Enum):
    """What a connection is lent for, which decides its settings.

    Only single records are under ``statement_timeout``. A COPY takes as long as whoever takes its rows, so for batches
    the time counts instead that a statement waits for somebody's lock; a dead peer is noticed by keepalives.
    """

    RECORD = "record"
    READ = "read"
    WRITE = "write"
    """Like READ. Besides, ids are always looked up in the index: of a table that is just being filled the planner knows
    so little that it may choose to read it all, and that for every batch."""


@dataclass(frozen=True, slots=True)
class Binary:
    """A parameter that is in PostgreSQL's binary format already; the statement must say its type by a cast."""

    data: bytes


class _BinaryDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Binary) -> bytes:
        return obj.data


class _Session:
    """An open connection, the work that it is set up for, and since when it is idle (on the monotonic clock)."""

    __slots__ = ("connection", "idle_since", "work")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.work: Work | None = None
        self.idle_since = 0.0


class Connections:
    """The connections of one user, who works in one thread. None is opened before it is needed.

    `settings` are parameters of the server that hold for each of them, besides those that always do.
    """

    def __init__(self, endpoint: Endpoint, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self.endpoint = endpoint
        self.settings = {**_FIXED, **settings}
        self._idle: list[_Session] = []
        self._open: list[_Session] = []
        self._reached = False

    @contextmanager
    def lent(self, work: Work) -> Iterator[Connection]:
        """A connection in autocommit mode, free for use until the end of the block, in which driver errors become ours.

        Raises `ConnectionFailedError` when there is none to be had, and what `postgresql_errors.translated` says.
        """
        session = self._taken()
        try:
            with translated(self.endpoint):
                self._set_up(session, work)
                yield session.connection
        except InterruptedConnectionError:
            # Whatever ended this one has most likely ended the others too.
            self._close(self._idle)
            raise
        finally:
            self._give_back(session)

    def close(self) -> None:
        """Close all connections, also those that are lent. They may be opened anew by further use."""
        self._close(self._open)

    def _taken(self) -> _Session:
        if limit := self.endpoint.idle_timeout:
            # Firewalls and servers drop connections that are silent for long, and often tell nobody.
            self._close([session for session in self._idle if time.monotonic() - session.idle_since > limit])
        if self._idle:
            return self._idle.pop()
        session = _Session(_connected(self.endpoint, self.settings, again=self._reached))
        self._reached = True
        self._open.append(session)
        return session

    def _give_back(self, session: _Session) -> None:
        if session not in self._open:
            return
        if session.connection.info.transaction_status is TransactionStatus.IDLE:
            session.idle_since = time.monotonic()
            self._idle.append(session)
        else:
            self._close([session])

    def _close(self, sessions: list[_Session]) -> None:
        for session in list(sessions):
            session.connection.close()
            self._open.remove(session)
            if session in self._idle:
                self._idle.remove(session)

    def _set_up(self, session: _Session, work: Work) -> None:
        if session.work is work:
            return
        timeout = str(round(self.endpoint.statement_timeout * 1000))
        single = work is Work.RECORD
        settings = {
            "statement_timeout": timeout if single else "0",
            "lock_timeout": "0" if single else timeout,
            "enable_seqscan": "off" if work is Work.WRITE else "on",
        }
        session.work = None
        configure(session.connection, settings)
        session.work = work


def _connected(endpoint: Endpoint, settings: dict[str, str], *, again: bool) -> Connection:
    try:
        # Statements are not prepared: a table may be altered under us, and poolers lose track of them.
        connection = psycopg.connect(**endpoint.parameters, autocommit=True, prepare_threshold=None)  # type: ignore[arg-type] # libpq's parameters are text
    except psycopg.Error as error:
        # Not chained: nothing of a login goes into a traceback.
        raise connect_failure(error, endpoint, again=again) from None
    try:
        connection.adapters.register_dumper(Binary, _BinaryDumper)
        configure(connection, settings)
    except psycopg.Error as error:
        connection.close()
        raise connect_failure(error, endpoint, again=again) from None
    return connection


def configure(connection: Connection, settings: Mapping[str, str], *, local: bool = False) -> None:
    """Set parameters of the server, for the connection or only for its transaction."""
    calls = ", ".join([f"set_config(%s, %s, {local})"] * len(settings))
    connection.execute(f"SELECT {calls}".encode(), [part for item in settings.items() for part in item])
