"""A real PostgreSQL server that lives as long as it is used."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg

from agui_pipelines.embedded.account import has_name, server_account
from agui_pipelines.embedded.binaries import Installation, find_postgres
from agui_pipelines.embedded.process import HOST, Recipe, RunningServer, start_server, started
from agui_pipelines.errors import EmbeddedServerError

NAME: Final = "PostgreSQL"
INITDB_OPTIONS: Final = ("--no-sync", "--locale=C", "-E", "UTF8", "-U", "postgres", "-A", "trust")


class EmbeddedPostgres:
    """PostgreSQL with its defaults and, on top of them, ``settings`` (names as in ``postgresql.conf``).

    The data goes with the server, unless a ``directory`` is given: that is initialised if it is empty, and kept.
    The superuser needs no password, so every user of this machine can connect: for demo and test data only.
    Raises EmbeddedServerError.
    """

    def __init__(self, *, settings: Mapping[str, str] = {}, directory: Path | None = None) -> None:
        self._settings = dict(settings)
        self._directory = directory
        self._server: RunningServer | None = None

    def start(self) -> Self:
        """Returns when the server can be used. Does nothing if it is started already."""
        if self._server is None:
            recipe = Recipe(
                name=NAME,
                find=find_postgres,
                program="postgres",
                stop_signal=signal.SIGINT,
                commands=self._commands,
                refusal=_refusal,
                keep=self._directory,
            )
            self._server = start_server(recipe)
        return self

    def stop(self) -> None:
        """Ends the server. Does nothing if it is not started."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        return started(self._server, NAME).port

    @property
    def url(self) -> str:
        """Connects as the superuser to the database ``postgres``."""
        return _url(started(self._server, NAME))

    @property
    def version(self) -> str:
        """Such as ``18.4``."""
        return started(self._server, NAME).version

    @property
    def directory(self) -> Path:
        """Where the data lies."""
        return started(self._server, NAME).data

    def _commands(self, installation: Installation, data: Path, port: int) -> list[list[str]]:
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        # Ours come last and win: no socket file, which would need a directory that fits the system's length limit.
        server = [*settings, "-D", str(data), "-h", HOST, "-p", str(port), "-k", ""]
        commands = [[str(installation.programs["postgres"]), *server]]
        if not (data / "PG_VERSION").exists():
            _check_account()
            commands.insert(0, [str(installation.programs["initdb"]), *INITDB_OPTIONS, "-D", str(data)])
        return commands


def _url(server: RunningServer) -> str:
    return f"postgresql://postgres@{HOST}:{server.port}/postgres"


def _refusal(server: RunningServer) -> str | None:
    try:
        with psycopg.connect(_url(server), connect_timeout=2, autocommit=True) as connection:
            answer = connection.execute("SHOW data_directory").fetchone()
    except psycopg.OperationalError as error:
        return str(error).strip()
    # Somebody else's server may have taken the port; ours is then about to end, and another port will be tried.
    return None if answer == (str(server.data),) else f"port {server.port} is answered by another server"


def _check_account() -> None:
    account = server_account()
    if not has_name(account):
        raise EmbeddedServerError(
            "The user id that PostgreSQL is to run as has no name on this system.",
            why="initdb refuses to work for a user that the system does not know.",
            remedy="Run this as a user that has an entry in /etc/passwd, or add one.",
        )
