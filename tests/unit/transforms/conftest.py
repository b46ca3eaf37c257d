from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agui_pipelines.errors import SpecError
from agui_pipelines.records import SCHEMAS, STATE, Kind, Reject
from agui_pipelines.transforms import chain

Applied = tuple[list[tuple[str, bytes]], list[Reject]]


@pytest.fixture(autouse=True)
def fresh_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("my_", "agui_transform")):
            del sys.modules[name]


@pytest.fixture
def apply(tmp_path: Path) -> Callable[..., Applied]:
    """Applies steps to states, given as ids and documents; gives what comes out, and what was rejected."""

    def applied(steps: list[Any] | Any, *rows: tuple[str, bytes]) -> Applied:
        rejects: list[Reject] = []
        batch = pa.RecordBatch.from_pylist([{"state_id": i, "data": d} for i, d in rows], schema=STATE)
        out = chain(steps if isinstance(steps, list) else [steps], tmp_path).apply(Kind.STATE, batch, rejects.append)
        assert out.schema.equals(STATE)
        return [(row["state_id"], row["data"]) for row in out.to_pylist()], rejects

    return applied


@pytest.fixture
def history(tmp_path: Path) -> Callable[..., tuple[list[dict[str, Any]], list[Reject]]]:
    """Applies steps to versions or snapshots, given as rows; missing columns are filled in."""

    def applied(kind: Kind, steps: list[Any], *rows: dict[str, Any]) -> tuple[list[dict[str, Any]], list[Reject]]:
        rejects: list[Reject] = []
        blank = {f.name: None if f.nullable else "t" for f in SCHEMAS[kind]}
        batch = pa.RecordBatch.from_pylist([{**blank, **row} for row in rows], schema=SCHEMAS[kind])
        out = chain(steps, tmp_path).apply(kind, batch, rejects.append)
        assert out.schema.equals(SCHEMAS[kind])
        return out.to_pylist(), rejects

    return applied


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[Any], str]:
    """What is said of a step that makes no sense."""

    def told(step: Any) -> str:
        with pytest.raises(SpecError) as caught:
            chain([step], tmp_path)
        return str(caught.value)

    return told
