"""Spools: what a source that can only be read from one end to the other yielded, kept sorted by id in the workspace.

::

    <workspace>/<migration>/spools/<plan>/state.parquet, version.parquet, snapshot.parquet   of the schemas in `records`
                                         /rejects.parquet     what could not become a record, sorted by id too
                                         /spool.json          written last: a spool without it does not exist

While the source is scanned, documents go one after the other into an unnamed file, and what is small (ids, times, where the
documents lie) into another; the small ones are then sorted on disk and the documents fetched in that order. So memory is
bounded by one row group, however large the documents are, and a source that is sorted already is read straight through.
Row groups hold at most `ports.BATCH_BYTES` of documents; the statistics of their ids say which of them a key range needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agui_pipelines.errors import StagingError
from agui_pipelines.keyspace import CATALOGUE, KeyRange
from agui_pipelines.records import REJECT, SCHEMAS, Kind, Reject
from agui_pipelines.staging.workspace import Workspace

FORMAT: Final = 1
REJECTS: Final = "rejects"

_FOLDER: Final = "spools"
SIZE: Final = pa.field("size", pa.int64(), nullable=False)
"""A column of the spool's own: the bytes of a record's documents, the weight of its key."""


@dataclass(frozen=True, slots=True)
class Spool:
    """A complete spool: how many records of each kind it holds, how many rejects, and of which source it was made."""

    spool_id: str
    records: dict[str, int]
    rejects: int
    fingerprint: str


class SpoolReader:
    """Reads a complete spool by key range. Raises `StagingError` if there is none, or it is damaged."""

    def __init__(self, workspace: Workspace, spool_id: str) -> None:
        self._workspace, self._id = workspace, spool_id
        self.spool = _known(
            workspace.read(spool_path(spool_id, "spool.json")), str(workspace.path(spool_path(spool_id, "")))
        )

    def keys(self) -> Iterator[pa.RecordBatch]:
        """The ids of all records, as batches of `CATALOGUE` weighed by bytes."""
        for kind in self.spool.records:
            for table in self._groups(kind, ["state_id", SIZE.name], None):
                for batch in table.to_batches():
                    columns = [batch.column(0).cast(pa.binary()), batch.column(1)]
                    yield pa.RecordBatch.from_arrays(columns, schema=CATALOGUE)

    def read(self, kind: Kind, range_: KeyRange) -> Iterator[pa.RecordBatch]:
        """Bare batches of the records of a kind whose state lies in a range, sorted by id."""
        if kind in self.spool.records:
            for table in self._groups(kind, SCHEMAS[kind].names, range_):
                yield from table.filter(_within(table.column("state_id"), range_)).cast(SCHEMAS[kind]).to_batches()

    def rejects(self, range_: KeyRange) -> Iterator[Reject]:
        """What could not become a record and lies in a range: of ranges that cover all keys, one has it."""
        if self.spool.rejects:
            for table in self._groups(REJECTS, REJECT.names, range_):
                for row in table.filter(_within(table.column("id"), range_)).to_pylist():
                    yield Reject(**{**row, "kind": Kind(row["kind"])})

    def _groups(self, name: str, columns: list[str], range_: KeyRange | None) -> Iterator[pa.Table]:
        """The row groups of a file that may hold something of a range."""
        path = spool_path(self._id, f"{name}.parquet")
        with self._workspace.reading(path) as file:
            try:
                parquet = pq.ParquetFile(file, page_checksum_verification=True)
                key = parquet.schema_arrow.get_field_index("id" if name == REJECTS else "state_id")
                for group in range(parquet.num_row_groups):
                    if range_ is None or _may_hold(parquet.metadata.row_group(group).column(key).statistics, range_):
                        yield parquet.read_row_group(group, columns=columns)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(str(self._workspace.path(path)), str(error).splitlines()[0]) from error


def spools(workspace: Workspace) -> list[str]:
    """The ids of all spools that a workspace holds, complete or not, oldest first."""
    return workspace.names(_FOLDER)


def has_spool(workspace: Workspace, spool_id: str) -> bool:
    return workspace.has(spool_path(spool_id, "spool.json"))


def remove_spool(workspace: Workspace, spool_id: str) -> None:
    workspace.remove_folder(f"{_FOLDER}/{spool_id}")


def spool_path(spool_id: str, name: str) -> str:
    return f"{_FOLDER}/{spool_id}/{name}"


def _known(content: bytes, origin: str) -> Spool:
    try:
        values = json.loads(content)
        if values.pop("format") != FORMAT:
            raise ValueError("its format is not known to this version")
        return Spool(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(origin, str(error)) from error


def _damaged(origin: str, what: str) -> StagingError:
    return StagingError(
        f"The spool {origin} is damaged: {what}.",
        why="What it holds of the source cannot be trusted.",
        remedy="Start over with --fresh, which scans the source again.",
    )


def _may_hold(statistics: Any, range_: KeyRange) -> bool:
    """Whether a row group's ids can lie in a range; very long ids have no statistics."""
    if statistics is None or not statistics.has_min_max:
        return True
    first, last = (v.encode() if isinstance(v, str) else v for v in (statistics.min, statistics.max))
    return (range_.lower is None or last >= range_.lower) and (range_.upper is None or first < range_.upper)


def _within(ids: pa.ChunkedArray, range_: KeyRange) -> pa.ChunkedArray:
    keys = ids.cast(pa.binary())
    inside = pc.is_valid(keys)
    if range_.lower is not None:
        inside = pc.and_(inside, pc.greater_equal(keys, pa.scalar(range_.lower, pa.binary())))
    if range_.upper is not None:
        inside = pc.and_(inside, pc.less(keys, pa.scalar(range_.upper, pa.binary())))
    return inside
