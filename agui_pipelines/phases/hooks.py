"""Running the operator's own commands, with a time limit for each, and keeping what came of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final

from agui_pipelines.errors import HookError
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.session import Session
from agui_pipelines.spec import Command, Hook, Migration, redacted_lines

PHASE: Final = "hook"
"""Ledger entries of this phase say what became of the hook that their `unit` names."""
KEPT: Final = 64 * 1024
"""Bytes of a hook's output that are kept, the last ones."""
_TOLD: Final = 500
_END_SECONDS: Final = 5.0
"""For how long it is waited that what was killed is gone."""
"""Characters of a failed hook's output that are told, the last ones."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a command."""

    exit_code: int | None
    """None if it could not be started, or took too long; below zero if a signal ended it."""
    seconds: float
    output: str = ""
    """What it printed last, without secrets."""
    trouble: str = ""
    """Why there is no exit code, as the rest of a sentence; empty if there is one."""

    @property
    def failure(self) -> str:
        """What is wrong, as the rest of a sentence; empty if it ended with 0."""
        return self.trouble or (f"ended with {self.exit_code}" if self.exit_code else "")


def run_hook(session: Session, name: str, hook: Hook, *, phase: str = "rollback", side: str = "target") -> Ran:
    """Run a hook in the folder of the migration file, and record in the ledger what came of it.

    It has our environment without the variables that the migration file takes secrets from, and with ``AGUI_HOOK`` (its
    name), ``AGUI_PHASE`` (`phase`), ``AGUI_SIDE`` (`side`: ``source`` or ``target``, the one that is stopped, started, switched
    to or tried), ``AGUI_MIGRATION_NAME``, ``AGUI_SOURCE_KIND`` and ``AGUI_TARGET_KIND``.

    Raises `HookError` if it cannot be started, does not exit with 0, or takes longer than its time limit; what it has
    started ends with it then.
    """
    ran = run_command(session.migration, hook, {"AGUI_HOOK": name, "AGUI_PHASE": phase, "AGUI_SIDE": side})
    outputs = {
        "phase": phase,
        "side": side,
        "command": hook.name,
        "exit_code": ran.exit_code,
        "seconds": ran.seconds,
        "trouble": ran.trouble,
        "output": ran.output,
    }
    session.ledger.record(Entry(PHASE, "", name, outputs=outputs))
    if ran.failure:
        raise _failed(name, hook, ran)
    return ran


def run_command(migration: Migration, command: Command, variables: dict[str, str], given: bytes = b"") -> Ran:
    """Run a command of the migration file, with `variables` and what tells of the migration in its environment.

    `given`: what it can read from its standard input. If this is interrupted, the command ends with it.
    """
    began = time.monotonic()
    environment = {
        **migration.secrets.without(os.environ),
        "AGUI_MIGRATION_NAME": migration.name,
        "AGUI_SOURCE_KIND": migration.source.type,
        "AGUI_TARGET_KIND": migration.target.type,
        **variables,
    }

    def ended(code: int | None, trouble: str = "") -> Ran:
        return Ran(code, round(time.monotonic() - began, 3), _tail(migration, output), trouble)

    # Files, as a pipe would be held open by whatever a command leaves running, and could fill up.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as told:
        told.write(given)
        told.seek(0)
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command, from the file that they named
                command.arguments,
                cwd=migration.folder,
                env=environment,
                stdin=told,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return ended(None, f"cannot be started: {reason}")
        try:
            return ended(process.wait(command.timeout))
        except subprocess.TimeoutExpired:
            goes_on = "" if _end(process) else ", and cannot be ended, as it is another user's"
            return ended(None, f"took longer than {command.timeout:g} seconds{goes_on}")
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> bool:
    """End a command with its process group; whether it has ended. What runs as another user, as by sudo, may not be."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    return process.returncode is not None


def _tail(migration: Migration, output: IO[bytes]) -> str:
    """The last words, without secrets: of a word that was cut it could not be told whether it is the rest of one."""
    first = max(0, output.seek(0, os.SEEK_END) - KEPT)
    output.seek(first)
    text = output.read().decode("utf-8", "replace")
    if first:
        _, *whole = re.split(r"\n" if "\n" in text[:-1] else r"\s", text, maxsplit=1)
        text = "".join(whole)
    return redacted_lines(migration.secrets.struck_from(text))


def _failed(name: str, hook: Hook, ran: Ran) -> HookError:
    told = " ".join(ran.output.split())
    if len(told) > _TOLD:
        told = told[-_TOLD - 1 :].partition(" ")[2]
    return HookError(
        f"The {name} hook '{hook.name}' {ran.failure}.{f' It said: {told}' if told else ''}",
        why="What comes next relies on it.",
        remedy=f"Mend hooks.{name} in the migration file, or what it calls, then run the same command again.",
        hook=name,
    )
