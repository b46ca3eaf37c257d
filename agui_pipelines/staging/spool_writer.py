"""Writing a spool: gather what a scan yields, sort it on disk, and set aside ids that occur more than once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agui_pipelines.keyspace import sorted_on_disk
from agui_pipelines.ports import BATCH_BYTES
from agui_pipelines.records import REJECT, SCHEMAS, Kind, Reject, id_columns, reject_batch
from agui_pipelines.staging.arrivals import DOCUMENTS, Arrivals, Heap
from agui_pipelines.staging.spool import FORMAT, REJECTS, SIZE, Spool, spool_path
from agui_pipelines.staging.workspace import Workspace

ROW_GROUP_RECORDS: Final = 10_000
_GATHERED_REJECTS: Final = 1_000


class SpoolWriter:
    """Takes what a scan yields, in any order; `seal` sorts it. Left without `seal`, no spool exists."""

    def __init__(self, workspace: Workspace, spool_id: str) -> None:
        self._workspace, self._id = workspace, spool_id
        self._files = ExitStack()
        self._heap = Heap(self._files.enter_context(workspace.unnamed()))
        self._arrivals: dict[str, Arrivals] = {}
        self._rejects: list[Reject] = []
        self._reject_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    def write(self, kind: Kind, batch: pa.RecordBatch) -> None:
        """Add a bare batch."""
        if batch.num_rows:
            self._arriving(kind).add(batch.select(SCHEMAS[kind].names).cast(SCHEMAS[kind]), self._heap)

    def reject(self, reject: Reject) -> None:
        self._rejects.append(reject)
        self._reject_bytes += len(reject.raw or b"")
        if len(self._rejects) >= _GATHERED_REJECTS or self._reject_bytes >= BATCH_BYTES:
            self._put_rejects()

    def seal(self, fingerprint: str) -> Spool:
        """Write what arrived, sorted. A record whose id another one has too becomes a reject, and so does that one."""
        self._put_rejects()
        records = {}
        for kind in Kind:
            if kind in self._arrivals:
                records[str(kind)] = self._write_sorted(kind)
        rejects = 0
        if REJECTS in self._arrivals:
            with _parquet(self._workspace, spool_path(self._id, f"{REJECTS}.parquet"), REJECT, "id") as writer:
                for rows in sorted_on_disk(*self._arrivals[REJECTS].to_sort()):
                    rejects += rows.num_rows
                    self._write_groups(writer, REJECT, rows)
        spool = Spool(self._id, records, rejects, fingerprint)
        self._workspace.write(
            spool_path(self._id, "spool.json"), json.dumps({"format": FORMAT, **asdict(spool)}).encode()
        )
        return spool

    def _arriving(self, name: str) -> Arrivals:
        if name not in self._arrivals:
            schema, ids = (REJECT, ("id",)) if name == REJECTS else (SCHEMAS[Kind(name)], id_columns(Kind(name)))
            file = self._files.enter_context(self._workspace.unnamed())
            self._arrivals[str(name)] = Arrivals(file, schema, ids)
        return self._arrivals[name]

    def _put_rejects(self) -> None:
        if self._rejects:
            self._arriving(REJECTS).add(reject_batch(self._rejects), self._heap)
        self._rejects, self._reject_bytes = [], 0

    def _write_sorted(self, kind: Kind) -> int:
        """Returns how many records were written."""
        arrivals, schema = self._arrivals[kind], SCHEMAS[kind]
        written = 0
        path = spool_path(self._id, f"{kind}.parquet")
        with _parquet(self._workspace, path, pa.schema([*schema, SIZE]), "state_id") as writer:
            for rows, twice in _marked(sorted_on_disk(*arrivals.to_sort()), arrivals.ids):
                if twice.any():
                    self._arriving(REJECTS).add_carried(_of_one_id(kind, rows.filter(pa.array(twice))))
                once = rows.filter(pa.array(~twice))
                written += once.num_rows
                self._write_groups(writer, schema, once)
        return written

    def _write_groups(self, writer: pq.ParquetWriter, schema: pa.Schema, rows: pa.RecordBatch) -> None:
        """Fetch the documents of sorted rows, and write as many row groups as their bytes ask for."""
        lengths = [rows.column(f"{name}_length").fill_null(0) for name in schema.names if name in DOCUMENTS]
        sizes = np.sum([np.asarray(length, np.int64) for length in lengths], axis=0)
        for start, end in _cut(sizes):
            group = rows.slice(start, end - start)
            columns = [self._column(field, group) for field in schema]
            if SIZE.name in writer.schema.names:
                columns.append(pa.array(sizes[start:end]))
            writer.write_table(pa.Table.from_arrays(columns, schema=writer.schema), row_group_size=end - start)

    def _column(self, field: pa.Field, rows: pa.RecordBatch) -> pa.Array:
        if field.name not in DOCUMENTS:
            return rows.column(field.name).cast(field.type)
        positions = zip(
            rows.column(f"{field.name}_at").to_pylist(), rows.column(f"{field.name}_length").to_pylist(), strict=True
        )
        return pa.array([None if n is None else self._heap.get(at, n) for at, n in positions], pa.binary())


@contextmanager
def _parquet(workspace: Workspace, path: str, schema: pa.Schema, key: str) -> Iterator[pq.ParquetWriter]:
    """A Parquet file of the workspace. Its pages carry checksums, so that a range verifies just what it reads."""
    with (
        workspace.writing(path) as file,
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            write_statistics=[key],
            write_page_checksum=True,
        ) as writer,
    ):
        yield writer


def _marked(
    batches: Iterator[pa.RecordBatch], ids: tuple[str, ...]
) -> Iterator[tuple[pa.RecordBatch, np.ndarray[Any, np.dtype[np.bool_]]]]:
    """Sorted batches, each with a mask of the rows whose id another row has too, be it in the batch before or after."""
    held: pa.RecordBatch | None = None  # the last row, of which the next batch decides
    like_before = False
    for batch in batches:
        rows = batch if held is None else pa.concat_batches([held, batch])
        if rows.num_rows == 0:
            continue
        last = rows.num_rows - 1
        same = np.ones(last, np.bool_)
        for name in ids:
            same &= np.asarray(pc.equal(rows.column(name).slice(1), rows.column(name).slice(0, last)))
        twice = np.zeros(last + 1, np.bool_)
        twice[:-1] |= same
        twice[1:] |= same
        twice[0] |= like_before
        yield rows.slice(0, last), twice[:-1]
        held, like_before = rows.slice(last), bool(twice[-1])
    if held is not None:
        yield held, np.array([like_before])


def _of_one_id(kind: Kind, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Records that share an id, as carried rejects: whichever were kept, the others would be lost."""
    ids = [
        b"/".join(parts) for parts in zip(*(rows.column(name).to_pylist() for name in id_columns(kind)), strict=True)
    ]
    numbers = rows.column("sequence").to_pylist()
    count = rows.num_rows
    return pa.RecordBatch.from_pydict(
        {
            "kind": [str(kind)] * count,
            "id": pa.array(ids, pa.binary()),
            "raw_at": rows.column("data_at"),
            "raw_length": rows.column("data_length"),
            "phase": ["export"] * count,
            "reason": ["duplicate_id"] * count,
            "detail": [
                f"The source holds this id more than once; this is {kind} number {number + 1:,} of what it yielded."
                for number in numbers
            ],
            "sequence": rows.column("sequence"),
        }
    )


def _cut(sizes: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[tuple[int, int]]:
    """Row groups: at most so many rows and bytes, but at least one row each."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        end = int(np.searchsorted(ends, before + BATCH_BYTES, side="right"))
        end = min(max(end, start + 1), start + ROW_GROUP_RECORDS)
        yield start, end
        start = end
