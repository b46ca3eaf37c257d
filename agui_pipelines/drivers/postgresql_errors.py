"""What PostgreSQL, or the way to it, answers when something is wrong, as errors of this project.

What an error is, is told by its SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html). A failed login
has none in libpq, only a text, which is matched in English and quoted otherwise. Of the server's messages only the primary
line is repeated: detail and context can hold pieces of somebody's documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from agui_pipelines.drivers.postgresql_endpoint import Endpoint
from agui_pipelines.errors import (
    ConnectionFailedError,
    InterruptedConnectionError,
    MigrationError,
    StoreBusyError,
    StoreError,
    UnreachableError,
    UnstorableRecordError,
)

_BUSY: Final = {
    "57014": "The statement was cancelled, most likely because it took longer than statement_timeout.",
    "55P03": "Another session holds a lock on what is needed, and did not release it in time.",
    "40P01": "Two sessions waited for each other's locks, and this one gave way.",
    "40001": "Another session changed the same rows at the same time.",
}
_GONE: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"})
_GONE_CLASS: Final = "08"

_NOT_HELD_CLASS: Final = "22"
_NOT_HELD: Final = frozenset({"54000", "54001"})
"""Program limits: a jsonb that is too large, or nested too deeply."""

_REMEDIES: Final = {
    "22021": ("Text in it is not in the encoding of the database.", "Use a database with the encoding UTF8."),
    "25006": ("It is a replica, or was made read-only, and takes no writes.", "Name the primary in connection_url."),
    "3F000": ("The schema does not exist.", "Create it, or correct the key 'schema'."),
    "42501": ("The user lacks a privilege.", "Grant it, or connect as another user."),
    "42P01": ("The tables of the store do not exist.", "Prepare the store first; an import does so by itself."),
    "53100": (
        "Its disk is full. What was committed so far is kept, and can be written again.",
        "Free some space, then resume.",
    ),
    "53200": ("It has too little memory for this.", "Free some memory, or use a smaller batch_size, then resume."),
}

_SERVER_SAYS: Final = "FATAL:"
_REFUSED_LOGIN: Final = ("authentication failed", "no password supplied", 'role "')
_NOT_NOW: Final = (
    "too many clients",
    "remaining connection slots",
    "too many connections",
    "the database system is starting up",
    "the database system is shutting down",
    "the database system is in recovery mode",
    "the database system is not yet accepting connections",
)


@contextmanager
def translated(endpoint: Endpoint) -> Iterator[None]:
    """Raise what goes wrong inside as one of our errors."""
    try:
        yield
    except psycopg.Error as error:
        raise _translation(error, endpoint) from error


def _translation(error: psycopg.Error, endpoint: Endpoint) -> MigrationError:
    state = error.sqlstate or ""
    where = f"PostgreSQL at {endpoint.address}"
    reason = reason_of(error, endpoint)
    if state in _BUSY:
        return StoreBusyError(f"{where} could not finish: {reason}.", why=_BUSY[state], remedy="Try again later.")
    if state in _GONE or state.startswith(_GONE_CLASS) or (not state and isinstance(error, psycopg.OperationalError)):
        return interrupted(reason, endpoint)
    why, remedy = _REMEDIES.get(state, ("", ""))
    if not why and (state.startswith(_NOT_HELD_CLASS) or state in _NOT_HELD or isinstance(error, psycopg.DataError)):
        return UnstorableRecordError(
            f"{where} cannot hold a record: {reason}.",
            why="No repetition would change that.",
            remedy="Repair the record at its source, or leave it out.",
        )
    code = f" (SQLSTATE {state})" if state else ""
    return StoreError(f"{where} refuses: {reason}{code}.", why=why, remedy=remedy)


def interrupted(reason: str, endpoint: Endpoint) -> InterruptedConnectionError:
    """A connection that worked, and went away."""
    return InterruptedConnectionError(
        f"The connection to PostgreSQL at {endpoint.address} broke: {reason}.",
        why="What was sent last may or may not have been carried out.",
        remedy="Try again; every write of a migration can be repeated.",
    )


def connect_failure(error: psycopg.Error, endpoint: Endpoint, *, again: bool) -> MigrationError:
    """What kept us from connecting; `again` if we were connected before, so that it is likely to pass."""
    reason = reason_of(error, endpoint)
    where = f"PostgreSQL at {endpoint.address}"
    if reason.startswith("database ") and "does not exist" in reason:
        return ConnectionFailedError(
            f"{where} has no database '{endpoint.database}'.",
            remedy="Create it (CREATE DATABASE …), or correct connection_url or the key 'database'.",
        )
    if any(text in reason for text in _REFUSED_LOGIN):
        return ConnectionFailedError(
            f"{where} does not let the user '{endpoint.user}' in: {reason}.",
            remedy="Correct user and password in connection_url.",
        )
    if any(text in reason for text in _NOT_NOW):
        return StoreBusyError(f"{where} accepts no connection now: {reason}.", remedy="Try again later.")
    if again:
        return interrupted(reason, endpoint)
    if _SERVER_SAYS in str(error):
        return ConnectionFailedError(
            f"{where} refuses the connection: {reason}.",
            remedy="Correct connection_url, or let the server accept it, for example in its pg_hba.conf.",
        )
    return UnreachableError(f"{where} cannot be reached: {reason}.", remedy="Start it, or correct connection_url.")


def reason_of(error: psycopg.Error, endpoint: Endpoint) -> str:
    """One line of what the server or the driver says."""
    text = error.diag.message_primary
    if text is None:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = lines[0] if lines else type(error).__name__
        # libpq: connection to server at "…", port … failed: FATAL:  …
        text = text.rpartition(" failed: ")[2].removeprefix(_SERVER_SAYS).strip()
    return endpoint.without_secrets(text).rstrip(".")
