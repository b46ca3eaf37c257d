"""CSV files as a source: every row is a state; its values are texts, unless ``types`` says what they are.

::

    source: {type: csv, path: users.csv, delimiter: ";", id: user_id, types: {age: integer, price: number, tags: json}}

The document is made of the columns (all but those of the id), or is what ``data`` holds. A row with more or fewer values
than there are columns, with a quote that is never closed, or with bytes that the encoding has no text for, is rejected by the
name ``file:line`` with its bytes. Of a column with a type, an empty value is null.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Final

import pyarrow as pa

from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind
from agui_pipelines.sources.files import FilesSource, opened, require_columns, unreadable
from agui_pipelines.sources.rows import Row, rejected, scanned
from agui_pipelines.spec import CsvConfig

FIELD_CHARACTERS: Final = 64 * 1024 * 1024
"""The longest value; a quote that is never closed would otherwise take the rest of the file for one."""


class CsvSource(FilesSource):
    """The rows of all files that ``path`` names."""

    FORMAT = "CSV"

    def __init__(self, config: CsvConfig, folder: Path) -> None:
        self._config = config
        super().__init__(config.path, folder)

    def scan(self, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        return scanned(self._rows(on_reject), self._config, self._config.types, on_reject)

    def _rows(self, on_reject: OnReject) -> Iterator[Row]:
        csv.field_size_limit(max(csv.field_size_limit(), FIELD_CHARACTERS))
        for file in self._files.found():
            name = self._files.name(file)
            with opened(file, name) as content:
                # What cannot be decoded is carried as lone surrogates, from which its bytes can be had again.
                text = TextIOWrapper(content, self._config.encoding, errors="surrogateescape", newline="")
                try:
                    yield from self._of_file(name, _Records(text, self._config), on_reject)
                except UnicodeDecodeError as error:
                    raise unreadable(name, f"it is not {self._config.encoding} ({error.reason})") from error

    def _of_file(self, name: str, records: _Records, on_reject: OnReject) -> Iterator[Row]:
        header = self._config.header
        columns = header if isinstance(header, tuple) else None
        for line, values, broken in records:
            row = Row(f"{name}:{line}", {}, partial(_bytes, records.text, self._config.encoding))
            if columns is None:
                if broken:
                    raise unreadable(name, f"its first row, which says what columns there are, is broken ({broken})")
                columns = tuple(values) if header else tuple(str(i + 1) for i in range(len(values)))
                require_columns(columns, (*self._config.named, *self._config.types), name)
                if header:
                    continue
            if broken or len(values) != len(columns):
                why = broken or f"it has {len(values)} values, and there are {len(columns)} columns"
                detail = f"The row is broken: {why}."
                rejected(on_reject, row.origin.encode("utf-8", "backslashreplace"), row, "broken_row", detail)
            else:
                yield Row(row.origin, dict(zip(columns, values, strict=True)), row.raw)


@dataclass(slots=True)
class _Records:
    """The records of a file with the number of their first line, and what is wrong with one that cannot be read."""

    file: TextIOWrapper
    config: CsvConfig
    text: str = ""
    """The record that was yielded last, as it stands in the file."""
    _line: int = 0
    _lines: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[int, list[str], str]]:
        reader = csv.reader(self._numbered(), delimiter=self.config.delimiter, quotechar=self.config.quote, strict=True)
        while True:
            self._lines.clear()
            first = self._line + 1
            values: list[str] = []
            problem = ""
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = str(error)
            self.text = "".join(self._lines)
            if values or problem:
                yield first, values, problem

    def _numbered(self) -> Iterator[str]:
        for line in self.file:
            self._line += 1
            self._lines.append(line)
            yield line


def _bytes(text: str, encoding: str) -> bytes:
    """A record's bytes as they are in the file, without the end of its last line."""
    return text.rstrip("\r\n").encode("utf-8" if encoding == "utf-8-sig" else encoding, "surrogateescape")


def open_(config: CsvConfig, folder: Path) -> CsvSource:
    return CsvSource(config, folder)
