"""The guide's flags (``--source redis --source-config …``) as a migration, for those who have no migration file."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agui_pipelines import spec
from agui_pipelines.errors import MissingVariableError, SpecError, UsageError


@dataclass(frozen=True, slots=True)
class Flags:
    """What was given on the command line; None where it was not."""

    source: str | None
    target: str | None
    source_config: Path | None
    target_config: Path | None
    match: str | None
    batch_size: int | None
    workspace: str | None
    accept_losses: str | None = None
    keep: str | None = None

    @property
    def given(self) -> bool:
        return any((self.source, self.target, self.source_config, self.target_config, self.match))


def mapping(flags: Flags) -> dict[str, Any]:
    """The migration file that the flags amount to. Raises `UsageError` if an end is missing."""
    source = _end("source", flags.source, flags.source_config)
    target = _end("target", flags.target, flags.target_config)
    if flags.match is not None:
        source["match"] = flags.match
    text: dict[str, Any] = {"name": f"{source['type']}-to-{target['type']}", "source": source, "target": target}
    return {**text, **overrides(flags)}


def of_store(kind: str, config: Path | None, workspace: str | None) -> dict[str, Any]:
    """The migration file of a single store, whose both ends it is: enough for what is done to one store."""
    store = _end("target", kind, config, option="store")
    text: dict[str, Any] = {"name": f"{store['type']}-store", "source": store, "target": store}
    return text if workspace is None else {**text, "workspace": workspace}


def overrides(flags: Flags) -> dict[str, Any]:
    """Flags that also change a migration read from a file."""
    values = {
        "batch_size": flags.batch_size,
        "workspace": flags.workspace,
        "accept_losses": _list(flags.accept_losses),
        "keep": _list(flags.keep),
    }
    return {key: value for key, value in values.items() if value is not None}


def _list(words: str | None) -> list[str] | None:
    return None if words is None else [word.strip() for word in words.split(",") if word.strip()]


def write(text: dict[str, Any], file: Path) -> None:
    """Write a migration file, readable by its owner only, as it may hold what somebody wrote out literally.

    Paths are written absolute: as flags they count from the current folder, in the file they would count from its own.
    """
    text = _anchored(text)
    with suppress(MissingVariableError):  # it will be set where the file is used
        spec.parse(text, origin="command line")
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{file} exists already.", remedy="Name another file with --output, or remove it.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}.") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        yaml.safe_dump(text, stream, sort_keys=False, allow_unicode=True)


def _anchored(text: dict[str, Any]) -> dict[str, Any]:
    anchored = dict(text)
    if "workspace" in text and "://" not in text["workspace"]:
        anchored["workspace"] = str(Path(text["workspace"]).absolute())
    for side in ("source", "target"):
        options = text[side].get("file_options")
        if isinstance(options, dict) and "base_dir" in options and not str(options["base_dir"]).startswith("${"):
            folder = str(Path(options["base_dir"]).absolute())
            anchored[side] = {**text[side], "file_options": {**options, "base_dir": folder}}
    path = text["source"].get("path")  # of a source of files
    if isinstance(path, str) and not path.startswith(("${", "~")):
        anchored["source"] = {**anchored["source"], "path": str(Path(path).absolute())}
    return anchored


def _end(side: str, kind: str | None, config: Path | None, *, option: str = "") -> dict[str, Any]:
    values = spec.read_mapping(config, what=f"{side} configuration") if config else {}
    kind = spec.ALIASES.get(kind, kind) if kind else None
    configured = spec.ALIASES.get(values.get("type", ""), values.get("type"))
    if kind and configured and kind != configured:
        raise SpecError(
            f"--{option or side} says '{kind}', but {config} is the configuration of a '{configured}' store."
        )
    if not (kind or configured):
        raise UsageError(
            f"The migration has no {side}.",
            remedy=f"Name a migration file, or give --{side} and --{side}-config.",
        )
    return {**values, "type": kind or configured}
