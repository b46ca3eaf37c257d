"""Transforms between exported and staged records: one a file, chained in the order of the migration file.

In the migration file a step is a name (``identity``) or a mapping of one name to its options::

    transforms:
      - strip_prefix: {prefix: "session:"}
      - python: "my_package.shapes:upgrade"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.errors import SpecError
from agui_pipelines.ports import OnReject, Transform
from agui_pipelines.records import Kind
from agui_pipelines.transforms import identity, python, strip_prefix

_FACTORIES: Final[dict[str, Callable[[Any, Path], Transform]]] = {
    "identity": identity.build,
    "strip_prefix": strip_prefix.build,
    "python": python.build,
}


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


def chain(steps: Sequence[str | dict[str, Any]], folder: Path) -> Chain:
    """Build the chain that a migration file asks for. Raises `SpecError` for an unknown name or wrong options."""
    return Chain([_build(step, folder) for step in steps])


def _build(step: str | dict[str, Any], folder: Path) -> Transform:
    name, options = (step, None) if isinstance(step, str) else next(iter(step.items()), ("", None))
    if isinstance(step, dict) and len(step) != 1:
        raise SpecError(f"A transform is a name, or one name with its options, not {sorted(map(str, step))}.")
    if name not in _FACTORIES:
        raise SpecError(f"There is no transform '{name}'.", remedy=f"Known: {', '.join(sorted(_FACTORIES))}.")
    return _FACTORIES[name](options, folder)
