"""A real Redis-compatible server (Valkey, or whichever is found) that lives as long as it is used."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from agui_pipelines.embedded.binaries import Installation, find_redis
from agui_pipelines.embedded.process import HOST, Recipe, RunningServer, start_server, started

NAME: Final = "Redis"
NO_PERSISTENCE: Final = ("--save", "", "--appendonly", "no")


class EmbeddedRedis:
    """A Redis-compatible server that keeps nothing on disk, but for what ``settings`` (names as in ``redis.conf``) ask for.

    What it keeps goes with the server, unless a ``directory`` is given.
    It needs no password, so every user of this machine can connect: for demo and test data only.
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
                find=find_redis,
                program="server",
                stop_signal=signal.SIGTERM,
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
        """Connects to database 0."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def version(self) -> str:
        """Such as ``9.1.2``."""
        return started(self._server, NAME).version

    @property
    def directory(self) -> Path:
        """Where the server would write, if it is told to."""
        return started(self._server, NAME).data

    def _commands(self, installation: Installation, data: Path, port: int) -> list[list[str]]:
        settings = [part for name, value in self._settings.items() for part in (f"--{name}", value)]
        # Ours come last and win, but for persistence, which may be wanted.
        place = ["--bind", HOST, "--port", str(port), "--protected-mode", "yes", "--dir", str(data)]
        return [[str(installation.programs["server"]), *NO_PERSISTENCE, *settings, *place]]


def _refusal(server: RunningServer) -> str | None:
    client = redis.Redis(
        host=HOST, port=server.port, socket_timeout=2, retry=Retry(NoBackoff(), 0), decode_responses=True
    )
    try:
        with client:
            client.ping()
            directory = client.config_get("dir")["dir"]
    except redis.RedisError as error:
        return str(error)
    # Somebody else's server may have taken the port; ours is then about to end, and another port will be tried.
    return None if directory == str(server.data) else f"port {server.port} is answered by another server"
