"""A random sample of ids, for targets too large to be read in full. What it finds is a hint, never a proof."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.keyspace import sorted_on_disk
from agui_pipelines.records import Kind
from agui_pipelines.staging import SnapshotReader

_ID: Final = pa.schema([pa.field("state_id", pa.string())])


@dataclass(frozen=True, slots=True)
class Sample:
    """Ids of states, chosen by `seed` alone from all that there are; their histories go with them."""

    ids: tuple[bytes, ...]
    of: int
    """Ids that it was chosen from."""
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return {"ids": len(self.ids), "of": self.of, "seed": self.seed}


def choose(batches: Iterable[pa.RecordBatch], size: int, seed: int | None = None) -> Sample:
    """`size` ids at random of the first column, or all if there are fewer. The same seed gives the same ids of the same."""
    seed = secrets.randbits(32) if seed is None else seed
    query = (
        "WITH ids AS (SELECT DISTINCT state_id FROM rows) SELECT state_id, (SELECT count(*) FROM ids) AS count FROM ids "  # noqa: S608 - numbers
        f"ORDER BY md5(state_id || '/{int(seed)}'), state_id LIMIT {int(size)}"
    )
    rows = [row for batch in sorted_on_disk(_ids(batches), _ID, query) for row in batch.to_pylist()]
    return Sample(tuple(sorted(row["state_id"].encode() for row in rows)), rows[0]["count"] if rows else 0, seed)


def staged_ids(staged: Iterable[SnapshotReader]) -> Iterator[pa.RecordBatch]:
    """The ids of what was staged, for `choose`."""
    for snapshot in staged:
        for kind in Kind:
            yield from snapshot.batches(kind, ["state_id"])


def _ids(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield pa.RecordBatch.from_arrays([batch.column(0)], schema=_ID)
