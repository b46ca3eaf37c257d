"""The lock of a store on PostgreSQL: a row that names the owner, and advisory locks.

The row lies in the table ``ag_locks``, which is made for it and goes when the lock is released. It says who holds the lock
and, by the server's clock, until when. Three advisory locks stand beside it, each for one schema of the database:

* *gate*, held while the row is changed;
* *holder*, held by a connection of the owner's own for as long as it has the lock. Where a role may make no tables this
  alone is the lock, and ends when that connection does: nothing then says who the owner is but the connection's
  ``application_name``;
* *writers*, shared by all transactions that change the store behind a fence. Whoever takes the lock over waits for those
  of the last owner, after which each one sees that the lock is not its own.

All of them belong to a transaction, and not to a session, as a pooler may give each transaction another connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import errors, sql

from agui_pipelines.drivers.postgresql import Connection, Connections, Work, configure
from agui_pipelines.drivers.postgresql_errors import translated
from agui_pipelines.drivers.postgresql_reading import value
from agui_pipelines.drivers.postgresql_view import WITHOUT_TIME_LIMIT
from agui_pipelines.errors import LockedError, MigrationError, StoreBusyError
from agui_pipelines.owner import Owner, locked, lost

_TABLE: Final = "ag_locks"
_NAME: Final = "writer"
"""The only row there is, so that no two owners can have one."""
_NEEDED: Final = "SELECT, INSERT, UPDATE, DELETE"
_WAIT: Final = "10s"
"""For the last owner's transactions, after their connections were told to end."""
_APPLICATION: Final = "agui-migrate "
_APPLICATION_MAX: Final = 63

_READ_COMMITTED: Final = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
"""So that each statement sees what was committed while the one before it waited."""
_HOLDERS: Final = sql.SQL(
    "pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND (classid::bigint << 32) | objid::bigint = {}"
)
"""See https://www.postgresql.org/docs/current/view-pg-locks.html on how it shows the keys of advisory locks."""


@dataclass(frozen=True, slots=True)
class Place:
    """The locks of one schema."""

    connections: Connections
    schema: str
    name: str
    """The store as it describes itself."""

    @property
    def table(self) -> sql.Identifier:
        return sql.Identifier(self.schema, _TABLE)

    def key(self, what: str) -> int:
        """The key of an advisory lock, which the whole database shares with whoever else uses such locks."""
        text = f"agui {what} {self.schema}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """A transaction in which nobody else changes the row."""
        with self.connections.lent(Work.RECORD) as connection, connection.transaction():
            connection.execute(_READ_COMMITTED)
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (self.key("gate"),))
            yield connection

    def has_table(self, connection: Connection) -> bool:
        """Whether there is the table, and we may use it."""
        query = "SELECT has_table_privilege(to_regclass(%s), p) FROM unnest(string_to_array(%s, ', ')) AS p"
        rows = connection.execute(query, (self.table.as_string(connection), _NEEDED)).fetchall()
        return all(allowed for (allowed,) in rows)

    def may_make_table(self, connection: Connection) -> bool:
        query = "SELECT to_regclass(%s) IS NULL AND has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = %s"
        row = connection.execute(query, (self.table.as_string(connection), self.schema)).fetchone()
        return row == (True,)


@dataclass(slots=True)
class Fence:
    """Lets changes through; with a token, only while the lock is held by the owner that has it."""

    place: Place
    token: str = ""
    _by_row: bool | None = None

    @contextmanager
    def passing(self, connection: Connection) -> Iterator[None]:
        """Within the block, and until what is changed in it is committed, the lock stays ours. Raises `LockLostError`."""
        if not self.token:
            yield
            return
        with connection.transaction():
            if not self._is_ours(connection):
                raise lost(self.place.name)
            yield

    def _is_ours(self, connection: Connection) -> bool:
        if self._by_row is None:
            self._by_row = self.place.has_table(connection)
        if self._by_row:
            held = sql.SQL("SELECT FROM {} WHERE token = {} AND expires_at > clock_timestamp()").format(
                self.place.table, sql.Literal(self.token)
            )
        else:
            held = sql.SQL("SELECT FROM ") + _HOLDERS.format(sql.Literal(self.place.key(self.token)))
        # In one message, as this comes before every batch; the lock must be had before the other statement begins.
        statements = sql.SQL("{}; SELECT pg_advisory_xact_lock_shared({}); SELECT EXISTS ({})").format(
            sql.SQL(_READ_COMMITTED), sql.Literal(self.place.key("writers")), held
        )
        try:
            cursor = connection.execute(statements)
        except errors.UndefinedTable:  # it went with the lock
            return False
        while cursor.nextset():
            pass
        return cursor.fetchone() == (True,)


@dataclass(slots=True)
class PostgresLease:
    """See `ports.Lease`."""

    place: Place
    owner: Owner
    seconds: float
    by_row: bool = False
    _held: ExitStack = field(default_factory=ExitStack)
    _holder: Connection | None = None

    def renew(self) -> None:
        """A connection that broke is replaced, as long as the row is ours."""
        if self.by_row and not self._renew_row():
            raise lost(self.place.name)
        if not self._is_holding():
            if not self.by_row:
                raise lost(self.place.name)
            self.hold()

    def release(self) -> None:
        if self._holder is not None:
            with suppress(psycopg.Error):  # it is gone, and its locks with it
                self._holder.execute("ROLLBACK")
            self._holder = None
        self._held.close()
        if not self.by_row:
            return
        with self.place.changing() as connection:
            if self.place.has_table(connection):
                self._remove_row(connection)
        self.by_row = False

    def hold(self) -> bool:
        """Take the advisory lock *holder*, and one that tells by the token whose it is; whether the former could be had."""
        self._held.close()
        self._holder = None
        connection = self._held.enter_context(self.place.connections.lent(Work.RECORD))
        with translated(self.place.connections.endpoint):
            connection.execute("BEGIN")
            connection.execute(WITHOUT_TIME_LIMIT)
            name = f"{_APPLICATION}{self.owner.migration}".encode()[:_APPLICATION_MAX].decode("utf-8", "ignore")
            configure(connection, {"application_name": name}, local=True)
            if value(connection, "SELECT pg_try_advisory_xact_lock(%s)", (self.place.key("holder"),)):
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (self.place.key(self.owner.token),))
                self._holder = connection
            else:
                self._held.close()
        return self._holder is not None

    def _remove_row(self, connection: Connection) -> None:
        """And the table, if it is ours to drop and nobody is using it."""
        table = self.place.table
        connection.execute(sql.SQL("DELETE FROM {} WHERE token = %s").format(table), (self.owner.token,))
        owned = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(%s)"
        left = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table)
        if value(connection, owned, (table.as_string(connection),)) and not value(connection, left):
            with suppress(errors.LockNotAvailable), connection.transaction():
                connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(table))
                connection.execute(sql.SQL("DROP TABLE {}").format(table))

    def _renew_row(self) -> bool:
        query = sql.SQL(
            "UPDATE {} SET expires_at = clock_timestamp() + make_interval(secs => %s) "
            "WHERE token = %s AND expires_at > clock_timestamp()"
        ).format(self.place.table)
        with self.place.connections.lent(Work.RECORD) as connection:
            try:
                return connection.execute(query, (self.seconds, self.owner.token)).rowcount == 1
            except errors.UndefinedTable:
                return False

    def _is_holding(self) -> bool:
        if self._holder is None:
            return False
        try:
            self._holder.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True


def lock(place: Place, owner: Owner, seconds: float) -> PostgresLease:
    """Take the lock of a place. Raises `LockedError`; `StoreBusyError` if the last owner's transactions do not end."""
    lease = PostgresLease(place, owner, seconds)
    try:
        is_holder = lease.hold()
        with place.changing() as connection:
            replaced = _take_row(lease, connection, is_holder=is_holder)
        _await_writers(place, end=replaced)
    except BaseException:
        with suppress(MigrationError):  # what is being raised says more
            lease.release()
        raise
    return lease


def require_free(place: Place) -> None:
    """Raises `LockedError` if somebody has the lock of a place. Who comes to take it meanwhile waits for this."""
    with place.changing() as connection:
        held = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(_HOLDERS.format(sql.Literal(place.key("holder"))))
        _require_left(place, connection, is_held=bool(value(connection, held)))


def _require_left(place: Place, connection: Connection, *, is_held: bool) -> bool:
    """Whether an owner that is gone has left its row. Raises `LockedError` if one has not, or a connection holds the lock."""
    row = None
    if place.has_table(connection):
        query = sql.SQL("SELECT owner, token, extract(epoch FROM expires_at - clock_timestamp())::float8 FROM {}")
        row = connection.execute(query.format(place.table)).fetchone()
    if row is not None:
        present, left = Owner.parsed(row[0]), row[2]
        if left > 0 and not (present and present.is_gone()):
            raise locked(place.name, present, left)
    if is_held and (row is None or not _is_held_by(place, connection, row[1])):
        raise _locked_by_connection(place, connection)
    return row is not None


def _take_row(lease: PostgresLease, connection: Connection, *, is_holder: bool) -> bool:
    """Whether another owner's row was there. Raises `LockedError`."""
    place = lease.place
    replaced = _require_left(place, connection, is_held=not is_holder)
    if not place.has_table(connection):
        if not place.may_make_table(connection):
            return False
        connection.execute(
            sql.SQL(
                "CREATE TABLE {} (name text PRIMARY KEY, owner text NOT NULL, token text NOT NULL, "
                "expires_at timestamptz NOT NULL)"
            ).format(place.table)
        )
    connection.execute(sql.SQL("DELETE FROM {}").format(place.table))
    insert = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, clock_timestamp() + make_interval(secs => %s))")
    values = (_NAME, lease.owner.to_json().decode(), lease.owner.token, lease.seconds)
    connection.execute(insert.format(place.table), values)
    lease.by_row = True
    return replaced


def _is_held_by(place: Place, connection: Connection, token: str) -> bool:
    """Whether the lock *holder* is that of a connection of the owner with this token, which may outlive its row."""
    pids = [sql.SQL("SELECT pid FROM ") + _HOLDERS.format(sql.Literal(place.key(key))) for key in ("holder", token)]
    return bool(value(connection, sql.SQL("SELECT EXISTS ({} INTERSECT {})").format(*pids)))


def _locked_by_connection(place: Place, connection: Connection) -> LockedError:
    """By an owner that has no row, as it may make no table; or that is just about to make one."""
    holders = sql.SQL("SELECT pid FROM ") + _HOLDERS.format(sql.Literal(place.key("holder")))
    query = sql.SQL("SELECT pid, application_name FROM pg_stat_activity WHERE pid IN ({})").format(holders)
    pid, name = connection.execute(query).fetchone() or ("unknown", "")
    migration = name.removeprefix(_APPLICATION)
    return locked(
        place.name, None, named=f"the migration '{migration}' (the connection with the process id {pid} there)"
    )


def _await_writers(place: Place, *, end: bool) -> None:
    """Return when no transaction changes the store that passed the fence of an earlier owner; `end` ends those there are."""
    key = place.key("writers")
    with place.connections.lent(Work.RECORD) as connection, connection.transaction():
        if value(connection, "SELECT pg_try_advisory_xact_lock(%s)", (key,)):
            return
        if end:
            holders = _HOLDERS.format(sql.Literal(key))
            with suppress(errors.InsufficientPrivilege), connection.transaction():
                connection.execute(sql.SQL("SELECT pg_terminate_backend(pid) FROM ") + holders)
        configure(connection, {"lock_timeout": _WAIT}, local=True)
        try:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
        except errors.LockNotAvailable as error:
            raise StoreBusyError(
                f"The last migration that wrote to {place.name} has left a transaction open there.",
                why="It could still be committed. This run has written nothing.",
                remedy="End that migration's connections (pg_terminate_backend), then run again.",
            ) from error
