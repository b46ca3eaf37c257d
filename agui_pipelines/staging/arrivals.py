"""What a scan yields, set down as it arrives: documents in one unnamed file, all that is small in others, to be sorted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, Final

import numpy as np
import pyarrow as pa

DOCUMENTS: Final = frozenset({"data", "delta", "metadata", "extra", "raw"})
"""The columns, of any schema in `records`, that may be large."""


class Heap:
    """Documents one after the other in an unnamed file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._end = 0
        self._flushed = False

    def put(self, column: pa.BinaryArray) -> tuple[pa.Array, pa.Array]:
        """Append the documents of a column; returns where each lies and its length, null for a null."""
        _, offsets_buffer, data = column.buffers()
        offsets = np.frombuffer(offsets_buffer, np.int32)[column.offset : column.offset + len(column) + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        if last > first:
            self._file.write(memoryview(data)[first:last])
            self._flushed = False
        at = self._end + (offsets[:-1].astype(np.int64) - first)
        self._end += last - first
        nulls = np.asarray(column.is_null())
        return pa.array(at), pa.array(np.diff(offsets).astype(np.int64), mask=nulls)

    def get(self, at: int, length: int) -> bytes:
        if not self._flushed:
            self._file.flush()
            self._flushed = True
        return os.pread(self._file.fileno(), length, at)


class Arrivals:
    """The small parts of the records of one kind, as they arrive, in an unnamed Arrow stream.

    *Carried* columns are ids as bytes (whose order is that of a catalogue), times as integers, texts as they are, and for
    each document its place and length in the heap; ``sequence`` counts the records as they came.
    """

    def __init__(self, file: IO[bytes], schema: pa.Schema, ids: tuple[str, ...]) -> None:
        self.ids = ids
        self._file, self._fields = file, list(schema)
        carried = [part for field in schema for part in self._carried_fields(field)]
        self._schema = pa.schema([*carried, pa.field("sequence", pa.int64())])
        self._writer = pa.ipc.new_stream(pa.PythonFile(file, mode="w"), self._schema)
        self._count = 0

    def _carried_fields(self, field: pa.Field) -> list[pa.Field]:
        if field.name in DOCUMENTS:
            return [pa.field(f"{field.name}_{part}", pa.int64()) for part in ("at", "length")]
        if field.name in self.ids:
            return [pa.field(field.name, pa.binary())]
        return [pa.field(field.name, pa.int64() if pa.types.is_timestamp(field.type) else field.type)]

    def add(self, batch: pa.RecordBatch, heap: Heap) -> None:
        columns: list[pa.Array] = []
        for field in self._fields:
            column = batch.column(field.name)
            if field.name in DOCUMENTS:
                columns.extend(heap.put(column))
            else:
                columns.append(column.cast(self._schema.field(field.name).type))
        sequence = pa.array(np.arange(self._count, self._count + batch.num_rows))
        self.add_carried(pa.RecordBatch.from_arrays([*columns, sequence], schema=self._schema))

    def add_carried(self, batch: pa.RecordBatch) -> None:
        """Add rows whose documents are in the heap already."""
        self._writer.write_batch(batch.select(self._schema.names).cast(self._schema))
        self._count += batch.num_rows

    def to_sort(self) -> tuple[Iterator[pa.RecordBatch], pa.Schema, str]:
        """What `sorted_on_disk` takes. Nothing can be added any more."""
        self._writer.close()
        self._file.flush()
        self._file.seek(0)
        order = ", ".join([*self.ids, "sequence"])
        return iter(pa.ipc.open_stream(self._file)), self._schema, f"SELECT * FROM rows ORDER BY {order}"  # noqa: S608
