"""Which source record became which staged one: carried beside each batch through the transform, kept in the snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

import pyarrow as pa

from agui_pipelines.errors import CollisionError, named
from agui_pipelines.keyspace import sorted_on_disk
from agui_pipelines.records import ORIGIN, SOURCE_ID, Kind
from agui_pipelines.staging import SnapshotReader

_NAMED: Final = 100
"""Target ids that are named, and so many source ids for each of them."""

_COLLIDING: Final = f"""
    WITH twice AS (
        SELECT state_id FROM rows GROUP BY state_id HAVING min(source_id) <> max(source_id) ORDER BY state_id LIMIT {_NAMED}
    ),
    pairs AS (SELECT DISTINCT state_id, source_id FROM rows SEMI JOIN twice USING (state_id))
    SELECT state_id, source_id FROM pairs
    QUALIFY row_number() OVER (PARTITION BY state_id ORDER BY source_id) <= {_NAMED}
    ORDER BY state_id, source_id
"""  # noqa: S608 - made of constants


def beside(batch: pa.RecordBatch, others: pa.RecordBatch) -> pa.RecordBatch:
    """A batch with the columns of another one appended, row by row."""
    for field, column in zip(others.schema, others.columns, strict=True):
        batch = batch.append_column(field, column)
    return batch


def without_rows(batch: pa.RecordBatch, rows: set[int]) -> pa.RecordBatch:
    """The batch without some of its rows."""
    if not rows:
        return batch
    return batch.take(pa.array([row for row in range(batch.num_rows) if row not in rows], pa.int64()))


def origins(kind: Kind, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Which ids became which in a batch that carries its sources; of a state's history, each pair once."""
    columns = [batch.column("state_id"), batch.column(SOURCE_ID)]
    if kind is not Kind.STATE:
        pairs = pa.table(columns, schema=ORIGIN).group_by(ORIGIN.names, use_threads=False).aggregate([])
        columns = [pairs.column(name).combine_chunks() for name in ORIGIN.names]
    return pa.RecordBatch.from_arrays(columns, schema=ORIGIN)


def require_distinct_ids(readers: Sequence[SnapshotReader]) -> None:
    """Raises `CollisionError`, naming the source ids, if records of different source ids were given one id.

    It counts which id a record has, not which kind it is: two histories must not become one either.
    """
    batches = (batch for reader in readers for batch in reader.origins())
    pairs = [row for batch in sorted_on_disk(batches, ORIGIN, _COLLIDING) for row in batch.to_pylist()]
    if not pairs:
        return
    sources = {
        target: [pair["source_id"] for pair in group] for target, group in groupby(pairs, lambda pair: pair["state_id"])
    }
    told = [f"{target!r} (from {named(ids)})" for target, ids in sources.items()]
    rest = len(told) - 5
    raise CollisionError(
        f"After the transforms, different source ids want the same id: {', '.join(told[:5])}"
        f"{f' and {rest:,} more' if rest > 0 else ''}.",
        why="Only one of each could be kept.",
        remedy="Change the transforms so that different ids stay different, and run again.",
        ids=list(sources),
        sources=sources,
    )
