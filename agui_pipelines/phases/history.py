"""The history limit: of each state's versions only the newest are staged, and what is left behind is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from agui_pipelines.keyspace import sorted_on_disk
from agui_pipelines.records import Kind, instant
from agui_pipelines.staging import SnapshotReader

_AGES: Final = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("state_id", pa.string()),
        pa.field("moment", pa.string()),
        pa.field("timestamp", pa.string()),
        pa.field("version_id", pa.string()),
    ]
)


class History:
    """Tells, batch by batch in the order of a snapshot, which versions are beyond the limit."""

    def __init__(self, beyond: Iterator[int]) -> None:
        self._beyond = beyond
        self._next = next(beyond, None)
        self._row = 0

    def split(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.BooleanArray]:
        """The rows of the next batch that stay, and a mask of those that do not."""
        mask = [False] * batch.num_rows
        end = self._row + batch.num_rows
        while self._next is not None and self._next < end:
            mask[self._next - self._row] = True
            self._next = next(self._beyond, None)
        self._row = end
        beyond = pa.array(mask, pa.bool_())
        return batch.filter(pa.array([not b for b in mask], pa.bool_())), beyond


def newest_only(source: SnapshotReader, limit: int | None) -> History | None:
    """What to leave behind so that `limit` versions of each state stay; None without a limit.

    The newest are those with the latest time; of equal times those with the greater id. Ages are sorted on disk.
    """
    if limit is None:
        return None
    query = (
        "SELECT row FROM (SELECT row, row_number() OVER "  # noqa: S608 - a number
        "(PARTITION BY state_id ORDER BY moment DESC, timestamp DESC, version_id DESC) AS age FROM rows) "
        f"WHERE age > {int(limit)} ORDER BY row"
    )
    rows = sorted_on_disk(_ages(source), _AGES, query)
    return History(row for batch in rows for row in batch.column("row").to_pylist())


def _ages(source: SnapshotReader) -> Iterator[pa.RecordBatch]:
    first = 0
    for batch in source.batches(Kind.VERSION, ["state_id", "timestamp", "version_id"]):
        count = batch.num_rows
        moments = pa.array([instant(text) for text in batch.column("timestamp").to_pylist()], pa.string())
        columns = [
            pa.array(range(first, first + count), pa.int64()),
            batch.column("state_id"),
            moments,
            batch.column("timestamp"),
            batch.column("version_id"),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=_AGES)
        first += count
