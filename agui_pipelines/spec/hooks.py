"""Commands of the operator's, as they stand in a migration file."""

from __future__ import annotations

import shlex
from typing import Any, Final, Self

from pydantic import Field, model_validator

from agui_pipelines.spec.section import Period, Section

SHELL: Final = "/bin/sh"


class Command(Section):
    """An argument list, or a line that is split as a shell would, and run without one unless `shell` asks for it."""

    command: tuple[str, ...] = Field(min_length=1)
    """The words; with `shell`, the whole line as one."""
    shell: bool = False
    timeout: Period = 300.0
    """Seconds after which it, with its process group, is ended, and counts as failed."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_line(cls, value: Any) -> Any:
        values = {"command": value} if isinstance(value, str | list) else value
        if not isinstance(values, dict) or "command" not in values:
            return values
        line = values["command"]
        words = line if not isinstance(line, str) else [line] if values.get("shell") is True else _split(line)
        if isinstance(words, list | tuple) and not any(words):
            raise ValueError("the command is empty")
        return {**values, "command": words}

    @model_validator(mode="after")
    def _of_one_line(self) -> Self:
        if self.shell and len(self.command) > 1:
            raise ValueError("with shell: true, the command is one line, not a list of words")
        return self

    @property
    def arguments(self) -> tuple[str, ...]:
        """What is run."""
        return (SHELL, "-c", *self.command) if self.shell else self.command

    @property
    def name(self) -> str:
        """The program alone, as the words after it may hold a password."""
        return next(iter(self.command[0].split()), "") if self.shell else self.command[0]


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ValueError(f"the command cannot be split into words: {error}") from None


class Hook(Command):
    """A command whose exit code decides whether what comes next is done."""


class Hooks(Section):
    """Commands of the operator's that a rollback and a cutover run around their work."""

    stop: Hook | None = None
    """Ends whatever uses the side that is to be left; of a rollback, the target."""
    start: Hook | None = None
    """Begins it again."""
    switch: Hook | None = None
    """Has applications use the other side: changes their configuration, restarts them."""
    acceptance: Hook | None = None
    """Tries the applications on the other side, and ends with 0 if they are well."""
