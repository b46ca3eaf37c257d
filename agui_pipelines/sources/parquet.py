"""Parquet files as a source: every row is a state.

::

    source: {type: parquet, path: "lake/sessions/*.parquet", id: [tenant, session_id], updated: changed_at}

The document is made of the columns (all but those of the id), each value exactly, or is what ``data`` holds: JSON text, bytes
of JSON, or a structure. A file that is cut off or of another kind ends the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from agui_pipelines.ports import BATCH_BYTES, OnReject
from agui_pipelines.records import Kind
from agui_pipelines.sources.arrow_values import values
from agui_pipelines.sources.files import FilesSource, require_columns, unreadable
from agui_pipelines.sources.rows import Row, raw_row, scanned
from agui_pipelines.spec import ParquetConfig

_DECODED: Final = 4
"""By how much rows may be larger than their encoded pages let one think."""
_ROWS: Final = 250
"""The most rows that are decoded at a time, as equal texts take next to nothing in a file."""


class ParquetSource(FilesSource):
    """The rows of all files that ``path`` names."""

    FORMAT = "Parquet"

    def __init__(self, config: ParquetConfig, folder: Path) -> None:
        self._config = config
        super().__init__(config.path, folder)

    def scan(self, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        return scanned(self._rows(), self._config, {}, on_reject)

    def _rows(self) -> Iterator[Row]:
        for file in self._files.found():
            name = self._files.name(file)
            try:
                with pq.ParquetFile(file) as parquet:
                    yield from self._of_file(parquet, name)
            except (pa.ArrowException, OSError) as error:
                raise unreadable(name, str(error).splitlines()[0].rstrip(".")) from error

    def _of_file(self, parquet: pq.ParquetFile, name: str) -> Iterator[Row]:
        columns = parquet.schema_arrow.names
        require_columns(columns, self._config.named, name)
        wanted = list(self._config.named) if self._config.data or self._config.columns else None
        number = 0
        for group in range(parquet.num_row_groups):
            size = _rows_at_once(parquet.metadata.row_group(group))
            for batch in parquet.iter_batches(size, row_groups=[group], columns=wanted, use_threads=False):
                found = [self._values(column, batch.column(column)) for column in batch.schema.names]
                for row in zip(*found, strict=True):
                    number += 1
                    cells = dict(zip(batch.schema.names, row, strict=True))
                    yield Row(f"{name}:{number}", cells, partial(raw_row, cells))

    def _values(self, name: str, column: Any) -> list[Any]:
        """Bytes that are an id or a document are text; all others become base64."""
        if name in (*self._config.id, self._config.data) and _holds_bytes(column.type):
            texts: list[Any] = column.to_pylist()
            return texts
        return values(column)


def _holds_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _rows_at_once(group: Any) -> int:
    """So many rows that they are about a batch of documents, judged by the size of their group."""
    each = max(1, _DECODED * group.total_byte_size // max(1, group.num_rows))
    return int(max(1, min(_ROWS, BATCH_BYTES // each)))


def open_(config: ParquetConfig, folder: Path) -> ParquetSource:
    return ParquetSource(config, folder)
