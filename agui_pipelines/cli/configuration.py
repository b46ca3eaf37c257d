"""``upgrade-config``: a configuration of the flat dialect as one of nested keys."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import typer

from agui_pipelines.cli import output
from agui_pipelines.errors import SpecError, UsageError
from agui_pipelines.upgrade.configuration import Upgraded, upgraded

_UNPLACED = 1


def upgrade(file: Path, save: Path | None, *, json: bool) -> None:
    """Show the difference and write the result. Raises `typer.Exit` with 1 if a key could not be placed."""
    try:
        content = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise SpecError(f"The configuration {file} does not exist.", remedy="Name one.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise SpecError(f"The configuration {file} cannot be read: {reason}.") from None
    found = upgraded(content, origin=str(file))
    if save is not None:
        _write(found.text, save, file)
    if json:
        output.print_json(
            {
                "file": str(file),
                "written": None if save is None else str(save),
                "changed": bool(found.moves),
                "moved": [{"key": move.key, "to": move.to} for move in found.moves],
                "unplaced": [{"key": one.key, "why": one.why} for one in found.unplaced],
                "diff": found.diff,
            }
        )
    else:
        _tell(found, file, save)
    if found.unplaced:
        raise typer.Exit(_UNPLACED)


def _tell(found: Upgraded, file: Path, save: Path | None) -> None:
    if found.diff:
        output.say(found.diff)
    elif not found.moves:
        output.note(f"{file} has no key of the flat dialect: nothing is to be changed.")
    for one in found.unplaced:
        output.note(f"Not placed: {one.key}: {one.why}.")
    if save is not None:
        output.note(f"Wrote {save}.")
    elif found.moves:
        output.note(f"Nothing was written. Write it with: agui-migrate upgrade-config {file} -o NEW")


def _write(text: str, save: Path, file: Path) -> None:
    """Aside, then renamed. Only the file itself is replaced, which keeps its mode; another one is for its owner only."""
    same = save.exists() and save.samefile(file)
    if save.exists() and not same:
        raise UsageError(f"{save} exists already.", remedy="Name another file with --output, or remove it.")
    final = save.resolve()
    aside = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
    mode = file.stat().st_mode & 0o777 if same else 0o600
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(text.encode())
        aside.chmod(mode)
        aside.replace(final)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UsageError(f"{save} cannot be written: {error.strerror}.") from None
