"""Transforms between exported and staged records: one a file, chained in the order of the migration file.

In the migration file a step is a name (``identity``) or a mapping of one name to its options::

    transforms:
      - strip_prefix: {prefix: "session:"}
      - rename_fields: {msgs: messages}
      - python: "my_package.shapes:upgrade"

Every transform's module says what it does, with an example. All of them give versions and snapshots the id of their state, and
change the documents that these recorded as they change the state's, unless the module says otherwise. None but
``format_1_to_2`` changes a version's ``delta``: after a transform that moves or changes members, it tells what changed between
the documents as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.errors import SpecError
from agui_pipelines.ports import OnReject, Transform
from agui_pipelines.records import Kind

_NAMES: Final = frozenset(
    {
        "add_migration_metadata",
        "add_prefix",
        "drop_fields",
        "flatten_metadata",
        "format_1_to_2",
        "identity",
        "json_schema",
        "jsonpatch",
        "percent_encode",
        "postgres_to_redis",
        "python",
        "rename_fields",
        "rename_ids",
        "schema_migration",
        "set_fields",
        "strip_prefix",
        "unflatten_metadata",
    }
)
"""Each is a module of this package with ``build(options, folder)``, imported when it is needed."""


class Chain:
    """Several transforms, applied one after the other."""

    def __init__(self, steps: Sequence[Transform]) -> None:
        self._steps = [step for step in steps if not step.identity]
        self.identity = not self._steps
        self.fingerprint = " | ".join(step.fingerprint for step in self._steps) or "identity"

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        for step in self._steps:
            batch = step.apply(kind, batch, on_reject)
        return batch


def names(steps: Sequence[str | dict[str, Any]]) -> tuple[str, ...]:
    """The names of the steps that a migration file asks for."""
    return tuple(step if isinstance(step, str) else next(iter(step), "") for step in steps)


def chain(steps: Sequence[str | dict[str, Any]], folder: Path) -> Chain:
    """Build the chain that a migration file asks for. Raises `SpecError` for an unknown name or wrong options."""
    return Chain([_build(step, folder) for step in steps])


def _build(asked: str | dict[str, Any], folder: Path) -> Transform:
    name, options = (asked, None) if isinstance(asked, str) else next(iter(asked.items()), ("", None))
    if isinstance(asked, dict) and len(asked) != 1:
        raise SpecError(f"A transform is a name, or one name with its options, not {sorted(map(str, asked))}.")
    if name not in _NAMES:
        raise SpecError(f"There is no transform '{name}'.", remedy=f"Known: {', '.join(sorted(_NAMES))}.")
    step: Transform = import_module(f"{__name__}.{name}").build(options, folder)
    return step
