"""``schema_migration: file``: one of the user's numbered migrations (see `upgrade.schema`), applied to every state's document.

With ``my_shapes.py`` beside the migration file::

    def up(state_id, document):
        document["settings"] = {"theme": document.pop("theme", "light")}
        return document

    def down(state_id, document):
        document["theme"] = document.pop("settings")["theme"]
        return document

::

    transforms: [schema_migration: {file: my_shapes.py, direction: up}]
    before:     user-1  {"theme": "dark", "n": 1.50}
    after:      user-1  {"n":1.50,"settings":{"theme":"dark"}}
    before:     user-2  {"theme": "dark", "settings": 1e400}
    after:      user-2  {"settings":{"theme":"dark"}}

A Python file has ``up`` and may have ``down``, each as the transform ``python`` calls a function, ids excepted: these stay. A
JSON file holds a JSON Patch, as the transform ``jsonpatch`` takes it, or ``{"up": [...], "down": [...]}``. The documents
that versions and snapshots recorded stay as they were, unless the file says otherwise: ``history = True`` in Python,
``"history": true`` in JSON. Deltas are left as they are in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
from xxhash import xxh3_128_hexdigest

from agui_pipelines import documents, user_code
from agui_pipelines.errors import SpecError
from agui_pipelines.ports import OnReject, Transform
from agui_pipelines.records import Kind
from agui_pipelines.transforms.jsonpatch import patching
from agui_pipelines.transforms.options import wrong
from agui_pipelines.transforms.python import PythonFunction

_NAME: Final = "schema_migration"
_EXAMPLE: Final = "schema_migration: {file: migrations/0003_rename_theme.py, direction: up}"
_MEMBERS: Final = frozenset({"up", "down", "history"})

Direction = Literal["up", "down"]


@dataclass(frozen=True)
class SchemaMigration:
    """A step as it is, for the kinds of record that the file speaks of."""

    step: Transform
    history: bool
    fingerprint: str
    identity: bool = False

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        return self.step.apply(kind, batch, on_reject) if self.history or kind is Kind.STATE else batch


def build(options: Any, folder: Path) -> SchemaMigration:
    values = {"file": options} if isinstance(options, str) else options
    if not isinstance(values, dict) or not isinstance(values.get("file"), str) or set(values) - {"file", "direction"}:
        raise wrong(_NAME, "needs a file", _EXAMPLE)
    direction = values.get("direction", "up")
    if direction not in ("up", "down"):
        raise wrong(_NAME, "has the direction up or down", _EXAMPLE)
    return load(folder / values["file"], folder, direction)


def load(file: Path, folder: Path, direction: Direction) -> SchemaMigration:
    """Raises `SpecError` for a file that is missing, cannot be loaded, or has no such direction."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SpecError(f"The schema migration {file} cannot be read: {error.strerror}.") from error
    step, history = (_of_python if file.suffix == ".py" else _of_json)(file, folder, content, direction)
    return SchemaMigration(step, history, f"{_NAME}:{file.name}:{direction}:{checksum(content)}")


def checksum(content: bytes) -> str:
    """Of a migration's file: 32 hex digits."""
    return xxh3_128_hexdigest(content)


def directions(file: Path, folder: Path) -> frozenset[Direction]:
    """What a file can do. Raises `SpecError` if it cannot even be applied upwards."""
    load(file, folder, "up")
    try:
        load(file, folder, "down")
    except SpecError:
        return frozenset({"up"})
    return frozenset({"up", "down"})


def _of_python(file: Path, folder: Path, content: bytes, direction: Direction) -> tuple[Transform, bool]:
    module = user_code.load_file(file, folder, "schema migration")
    function = getattr(module, direction, None)
    if not callable(function):
        raise _lacking(file, f"no function {direction}(state_id, document)")
    name = f"{file.name}:{direction}"
    return PythonFunction(name, function, f"{name}:{checksum(content)}"), getattr(module, "history", False) is True


def _of_json(file: Path, folder: Path, content: bytes, direction: Direction) -> tuple[Transform, bool]:  # noqa: ARG001
    try:
        found = documents.loads(content)
    except (ValueError, ArithmeticError) as error:
        raise SpecError(f"The schema migration {file.name} is not JSON: {error}.") from error
    values = {"up": found} if isinstance(found, list) else found
    if not isinstance(values, dict) or set(values) - _MEMBERS or not isinstance(values.get("history", False), bool):
        raise _lacking(file, "neither a JSON Patch nor an object of up, down and history")
    operations = values.get(direction)
    if not isinstance(operations, list) or not operations:
        raise _lacking(file, f"no list of operations for {direction}")
    try:
        return patching(f"{file.name}:{direction}", operations), values.get("history", False)
    except SpecError as error:
        raise SpecError(f"The schema migration {file.name} cannot be used: {error.message}") from error


def _lacking(file: Path, what: str) -> SpecError:
    return SpecError(
        f"The schema migration {file.name} has {what}.",
        why="It cannot be applied in that direction.",
        remedy="See README.md, 'Schema migrations', for how such a file looks.",
    )
