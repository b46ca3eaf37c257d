"""What a source that can only be scanned yields."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from agui_pipelines.ports import Scanner
from agui_pipelines.records import STATE, Kind, Reject
from agui_pipelines.sources import open_source
from agui_pipelines.spec import ForeignConfig


@dataclass(frozen=True)
class Scanned:
    """Everything that one scan yielded."""

    batches: list[pa.RecordBatch]
    rejects: list[Reject]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for batch in self.batches for row in batch.to_pylist()]

    @property
    def documents(self) -> dict[str, bytes]:
        return {row["state_id"]: row["data"] for row in self.rows}

    @property
    def rejected(self) -> list[tuple[bytes, str, bytes | None]]:
        return [(r.id, r.reason, r.raw) for r in self.rejects]


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Scanner]:
    """Opens a source as a migration file in the test's folder would name it."""

    def open_(**config: Any) -> Scanner:
        source = open_source(TypeAdapter(ForeignConfig).validate_python(config), tmp_path)
        assert isinstance(source, Scanner)
        return source

    return open_


@pytest.fixture
def scan(opened: Callable[..., Scanner]) -> Callable[..., Scanned]:
    """Scans a source from end to end."""

    def run(**config: Any) -> Scanned:
        rejects: list[Reject] = []
        with closing(opened(**config)) as source:
            source.ping()
            assert source.exists()
            batches = []
            for kind, batch in source.scan(rejects.append):
                assert kind is Kind.STATE
                assert batch.schema == STATE
                batch.validate(full=True)
                batches.append(batch)
        return Scanned(batches, rejects)

    return run
