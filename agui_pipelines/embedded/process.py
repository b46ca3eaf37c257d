"""Starting, awaiting and stopping one server: what is the same for every kind of server.

A server listens on a free port of the loopback interface, keeps its data in a scratch directory of its own, and has a
guardian (see ``guardian.py``), which ends it and removes that directory when this process ends, however that happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from agui_pipelines.embedded import guardian
from agui_pipelines.embedded.account import (
    Account,
    data_directory,
    environment,
    runnable,
    scratch_directory,
    server_account,
)
from agui_pipelines.embedded.binaries import Installation
from agui_pipelines.errors import EmbeddedServerError

HOST: Final = "127.0.0.1"
PREPARATION_SECONDS: Final = 60.0
READY_SECONDS: Final = 15.0
GRACE_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.02
PORT_ATTEMPTS: Final = 5
LOG_TAIL_BYTES: Final = 4000
PORT_TAKEN: Final = "Address already in use"
"""As every server's log says it, since servers are run with LC_ALL=C."""


@dataclass(frozen=True)
class Recipe:
    """What differs between one kind of server and another.

    ``program`` names the server among the programs of the installation. ``commands(installation, data, port)`` are run
    in order, the last being the server. ``refusal(server)`` tries once to use the server and says why that is not
    possible yet, or None. ``keep`` is a data directory that outlives the server.
    """

    name: str
    find: Callable[[], Installation]
    program: str
    stop_signal: signal.Signals
    commands: Callable[[Installation, Path, int], list[list[str]]]
    refusal: Callable[[RunningServer], str | None]
    keep: Path | None = None


class _PortTakenError(EmbeddedServerError):
    """Somebody else took the port between our finding it free and the server's binding it."""


@dataclass
class RunningServer:
    """A server, its guardian and its scratch directory: they have one lifetime."""

    name: str
    version: str
    port: int
    data: Path
    scratch: Path
    log: IO[bytes]
    process: subprocess.Popen[bytes]
    """The guardian; its standard input is the lifeline, its output the status."""
    stop_signal: signal.Signals
    pid: int | None = None

    @property
    def lifeline(self) -> IO[bytes]:
        return cast("IO[bytes]", self.process.stdin)

    @property
    def status(self) -> IO[bytes]:
        return cast("IO[bytes]", self.process.stdout)

    def await_prepared(self) -> None:
        """Returns as soon as the server itself is started; preparing its directory may take a slow disk a while."""
        if not _readable(self.status, PREPARATION_SECONDS):
            raise self._late(PREPARATION_SECONDS, "its data directory is still being prepared")
        line = self.status.read(32)
        if not line:
            raise self._ended()
        self.pid = int(line)

    def await_ready(self, refusal: Callable[[RunningServer], str | None]) -> None:
        """Returns as soon as the server can be used."""
        deadline = time.monotonic() + READY_SECONDS
        while (reason := refusal(self)) is not None:
            if self.process.poll() is not None:
                raise self._ended()
            if time.monotonic() > deadline:
                raise self._late(READY_SECONDS, reason)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ends the server and removes what it left; does nothing the second time."""
        if self.log.closed:
            return
        self._stop_guardian()
        all_ended = self._all_ended()
        guardian.remove(str(self.scratch))
        self.status.close()
        self.log.close()
        if not all_ended:
            raise EmbeddedServerError(
                f"{self.name} (process {self.pid}, port {self.port}) did not end.",
                why="Its guardian was killed, and the server does not heed the signal to stop.",
                remedy="End that process by hand.",
            )

    def _stop_guardian(self) -> None:
        if not self.lifeline.closed:
            # A byte and not only the pipe's end, as a process that we forked may hold the pipe too.
            with contextlib.suppress(BrokenPipeError):
                self.lifeline.write(b"x")
            self.lifeline.close()
        try:
            self.process.wait(3 * GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _all_ended(self) -> bool:
        """Whether the server and all that it started ended, too."""
        if _reaches_end(self.status, GRACE_SECONDS):
            return True
        if self.pid is None:
            return False
        # The guardian was killed before it could stop the server; only on Linux does the kernel do that for it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, self.stop_signal)
        return _reaches_end(self.status, GRACE_SECONDS)

    def log_tail(self) -> str:
        """The last lines that the server wrote."""
        size = os.fstat(self.log.fileno()).st_size
        # Not by seeking: the server writes through the same file position.
        end = os.pread(self.log.fileno(), LOG_TAIL_BYTES, max(0, size - LOG_TAIL_BYTES))
        return "\n".join(end.decode(errors="replace").strip().splitlines()[-20:])

    def _ended(self) -> EmbeddedServerError:
        code = self.process.wait(3 * GRACE_SECONDS)
        log = self.log_tail()
        kind = _PortTakenError if PORT_TAKEN in log else EmbeddedServerError
        return kind(
            f"{self.name} did not start: it ended with exit code {code}.",
            why=f"Its log ends with:\n{log}\n",
            remedy="Correct what the log complains of; the settings, most likely.",
            exit_code=code,
            log=log,
        )

    def _late(self, seconds: float, reason: str) -> EmbeddedServerError:
        log = self.log_tail()
        return EmbeddedServerError(
            f"{self.name} could not be used within {seconds:.0f} seconds: {reason}.",
            why=f"Its log ends with:\n{log}\n",
            remedy="See whether this machine is overloaded, and whether environment variables mislead the driver.",
            log=log,
        )


def start_server(recipe: Recipe) -> RunningServer:
    """Starts a server and returns when it can be used. Raises EmbeddedServerError, and then leaves nothing behind."""
    if os.name != "posix":
        raise EmbeddedServerError(
            f"{recipe.name} cannot be embedded on {sys.platform}.",
            why="Ending it reliably takes the process control of Linux or macOS.",
            remedy="Use a server of your own, or the Windows Subsystem for Linux.",
        )
    installation = recipe.find()
    for _ in range(PORT_ATTEMPTS - 1):
        with contextlib.suppress(_PortTakenError):
            return _start_on(free_port(), recipe, installation)
    return _start_on(free_port(), recipe, installation)


def started(server: RunningServer | None, name: str) -> RunningServer:
    """The server, for whatever can be asked of a running one only."""
    if server is None:
        raise EmbeddedServerError(f"{name} is not running.", remedy="Call start(), or use it in a `with` statement.")
    return server


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _start_on(port: int, recipe: Recipe, installation: Installation) -> RunningServer:
    account = server_account()
    with contextlib.ExitStack() as undo:
        scratch = scratch_directory(f"agui-{recipe.name.lower()}-", account)
        undo.callback(guardian.remove, str(scratch))
        installation, version = runnable(installation, recipe.program, account, scratch / "programs")
        data = data_directory(recipe.keep or scratch / "data", account)
        commands = recipe.commands(installation, data, port)
        # A file without a name, so that nothing can leave it behind.
        log = undo.enter_context(tempfile.TemporaryFile())
        process = _guarded(recipe, commands, scratch, account, log)
        server = RunningServer(recipe.name, version, port, data, scratch, log, process, recipe.stop_signal)
        undo.pop_all()
        undo.callback(server.stop)
        server.await_prepared()
        server.await_ready(recipe.refusal)
        undo.pop_all()
    return server


def _guarded(
    recipe: Recipe, commands: list[list[str]], scratch: Path, account: Account | None, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Starts the guardian, which starts the commands."""
    options = {"parent": os.getpid(), "stop-signal": int(recipe.stop_signal), "grace": GRACE_SECONDS, "remove": scratch}
    if account is not None:
        options |= {"uid": account.uid, "gid": account.gid}
    return subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", guardian.__file__),
            *(f"--{name}={value}" for name, value in options.items()),
            *(f"--command={json.dumps(command)}" for command in commands),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        bufsize=0,
        cwd=scratch,
        env=environment(),
        # Ctrl-C reaches all of the terminal's processes; the servers are to outlive whoever still uses them.
        start_new_session=True,
    )


def _readable(stream: IO[bytes], seconds: float) -> bool:
    """Whether there is something to read, or the end, within so many seconds."""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def _reaches_end(stream: IO[bytes], seconds: float) -> bool:
    """Whether the last process that could write to the pipe ends within so many seconds."""
    deadline = time.monotonic() + seconds
    while _readable(stream, max(0.0, deadline - time.monotonic())):
        if not stream.read(32):
            return True
    return False
