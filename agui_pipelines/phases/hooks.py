"""Running the operator's own commands, with a time limit for each."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from contextlib import suppress
from typing import IO, Final

from agui_pipelines.errors import HookError
from agui_pipelines.phases.session import Session
from agui_pipelines.spec import Hook, redacted_words

_TOLD: Final = 500
"""Characters of a failed hook's output that are told, the last ones."""
_READ: Final = 64 * 1024
"""Bytes of it that are looked at."""


def run_hook(session: Session, name: str, hook: Hook, *, phase: str = "rollback") -> None:
    """Run a hook in the folder of the migration file, with ``AGUI_HOOK`` (its name) and ``AGUI_MIGRATION_NAME`` set.

    Raises `HookError` if it cannot be started, does not exit with 0, or takes longer than its time limit; what it has
    started ends with it then.
    """
    environment = {**os.environ, "AGUI_HOOK": name, "AGUI_MIGRATION_NAME": session.migration.name}
    with tempfile.TemporaryFile() as output:  # a pipe would be held open by whatever a hook leaves running
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command, from the file that they named
                hook.command,
                cwd=session.migration.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise _failed(name, hook, f"cannot be started: {error.strerror}") from error
        try:
            code = process.wait(hook.timeout)
        except subprocess.TimeoutExpired:
            _end(process)
            raise _failed(name, hook, f"took longer than {hook.timeout:g} seconds", _tail(output)) from None
        except BaseException:
            _end(process)
            raise
        if code != 0:
            raise _failed(name, hook, f"ended with {code}", _tail(output))


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(output: IO[bytes]) -> str:
    """The last words, without secrets: of a word that was cut it could not be told whether it is the rest of one."""
    first = max(0, output.seek(0, os.SEEK_END) - _READ)
    output.seek(first)
    text = output.read().decode("utf-8", "replace")
    if first:
        _, *whole = re.split(r"\n" if "\n" in text[:-1] else r"\s", text, maxsplit=1)
        text = "".join(whole)
    told = redacted_words(text)
    return told if len(told) <= _TOLD else told[-_TOLD - 1 :].partition(" ")[2]


def _failed(name: str, hook: Hook, what: str, said: str = "") -> HookError:
    return HookError(
        f"The {name} hook '{hook.command[0]}' {what}.{f' It said: {said}' if said else ''}",
        why="What comes next relies on it.",
        remedy=f"Mend hooks.{name} in the migration file, or what it calls, then run the same command again.",
        hook=name,
    )
