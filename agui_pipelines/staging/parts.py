"""Documents so large that Parquet would hold several copies of them are written as parts, each a row group of one row.

All rows repeat the record, but hold only their part of the document. The file's own metadata says where that is so:
``agui.parts`` is a JSON object that maps the number of the first row group to ``[row groups, bytes of the document]``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agui_pipelines.digests import only_value
from agui_pipelines.records import document_column

PART_BYTES: Final = 16 * 1024 * 1024

_KEY: Final = "agui.parts"


class PartsWriter:
    """Writes row groups, those of single large documents in parts; the documents are those of one binary column."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema, column: str) -> None:
        self._writer = writer
        self._schema = schema
        self._index = schema.get_field_index(column)
        self._groups = 0
        self._parts: dict[int, tuple[int, int]] = {}

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Write batches as one row group."""
        rows = sum(batch.num_rows for batch in batches)
        self._writer.write_table(pa.Table.from_batches(batches, self._schema), row_group_size=rows)
        self._groups += 1

    def is_large(self, batch: pa.RecordBatch) -> bool:
        """Whether a batch is to be written by itself, with `write_large`."""
        return (
            batch.num_rows == 1 and self._index >= 0 and len(only_value(batch.column(self._index)) or b"") > PART_BYTES
        )

    def write_large(self, batch: pa.RecordBatch) -> None:
        """Write a batch of one record."""
        content = only_value(batch.column(self._index)) or memoryview(b"")
        first = self._groups
        field = self._schema.field(self._index)
        for start in range(0, len(content), PART_BYTES):
            part = document_column([content[start : start + PART_BYTES]])
            self.write([batch.set_column(self._index, field, part)])
        self._parts[first] = (self._groups - first, len(content))

    def close(self) -> None:
        if self._parts:
            self._writer.add_key_value_metadata({_KEY: json.dumps(self._parts)})
        self._writer.close()


def row_groups(parquet: pq.ParquetFile, columns: list[str] | None, column: str) -> Iterator[pa.RecordBatch]:
    """The rows of a file, a row group at a time; what was written in parts is whole again, without a second copy of it."""
    parts = json.loads((parquet.metadata.metadata or {}).get(_KEY.encode(), b"{}"))
    group = 0
    while group < parquet.num_row_groups:
        count, size = parts.get(str(group), (1, 0))
        if count == 1 or (columns is not None and column not in columns):
            yield from parquet.read_row_group(group, columns=columns).to_batches()
        else:
            yield _joined(parquet, range(group, group + count), size, columns, column)
        group += count


def _joined(
    parquet: pq.ParquetFile, groups: range, size: int, columns: list[str] | None, column: str
) -> pa.RecordBatch:
    into = np.empty(size, np.uint8).data  # from Arrow's pool it might not go back to the system for a while
    [batch] = parquet.read_row_group(groups[0], columns=columns).to_batches()
    position = _copied(batch.column(column), into)
    for group in groups[1:]:
        position += _copied(parquet.read_row_group(group, columns=[column]).column(0), into[position:])
    if position != size:
        raise pa.ArrowInvalid("a document is not as long as it was")
    index = batch.schema.get_field_index(column)
    return batch.set_column(index, batch.schema.field(index), document_column([into]))


def _copied(values: pa.Array | pa.ChunkedArray, into: memoryview) -> int:
    """Copies the only value of a column; gives its size."""
    [array] = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    content = only_value(array) or b""
    into[: len(content)] = content
    return len(content)
