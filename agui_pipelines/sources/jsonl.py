"""JSON Lines as a source: every line is a state, and its text is carried as it is, to the last digit.

::

    source: {type: jsonl, path: "export/*.jsonl.gz", id: [tenant, session], data: state, updated: changed_at}

Without ``data`` or ``columns`` the whole line is the document. ``data`` may hold the document itself or, as a string, its
JSON text. Empty lines are passed over. A line that is no JSON object is rejected by the name ``file:line``, its bytes kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa

from agui_pipelines import documents
from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind
from agui_pipelines.sources.files import FilesSource, opened
from agui_pipelines.sources.rows import Row, rejected, scanned
from agui_pipelines.spec import JsonLinesConfig

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_WHITE_SPACE: Final = b" \t\r\n"


class JsonLinesSource(FilesSource):
    """The lines of all files that ``path`` names."""

    FORMAT = "JSON Lines"

    def __init__(self, config: JsonLinesConfig, folder: Path) -> None:
        self._config = config
        super().__init__(config.path, folder)
        self._wanted = [
            name for name in (*config.id, config.created, config.updated, config.expires) if name is not None
        ]

    def scan(self, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        return scanned(self._rows(on_reject), self._config, {}, on_reject)

    def _rows(self, on_reject: OnReject) -> Iterator[Row]:
        for file in self._files.found():
            name = self._files.name(file)
            for number, line in _lines(file, name):
                row = self._row(f"{name}:{number}", line)
                if row is None:
                    unread = Row(f"{name}:{number}", {}, partial(bytes, line.strip(b"\r\n")))
                    detail = "The line is not a JSON object in UTF-8."
                    rejected(
                        on_reject, unread.origin.encode("utf-8", "backslashreplace"), unread, "undecodable", detail
                    )
                else:
                    yield row

    def _row(self, origin: str, line: bytes) -> Row | None:
        """None if the line is no JSON object."""
        text = line.strip(_WHITE_SPACE)
        try:
            members = documents.members(text)
            values = {name: _value(members[name]) for name in self._wanted if name in members}
            if self._config.data is not None:
                values[self._config.data] = _document(members.get(self._config.data, b"null"))
        except ValueError:
            return None
        return Row(origin, values, lambda: text, self._whole(text, members))

    def _whole(self, text: bytes, members: dict[str, bytes]) -> bytes | None:
        """The line, or those of its members that were asked for, each in its own bytes; None if one member is it all."""
        if self._config.data is not None:
            return None
        if self._config.columns is None:
            return text
        kept = [(name, members[name]) for name in self._config.columns if name in members]
        return b"{%b}" % b",".join(b"%b:%b" % (orjson.dumps(name), value) for name, value in kept)


def _value(member: bytes) -> Any:
    """An id or a time. A plain string need not be parsed, and most are plain."""
    if member.startswith(b'"') and member.endswith(b'"') and b"\\" not in member:
        return member[1:-1].decode()
    return documents.loads(member)


def _document(member: bytes) -> Any:
    """A document that is a member: its bytes, or the text of a string, or None."""
    member = member.strip(_WHITE_SPACE)
    if member == b"null" or member.startswith(b'"'):
        return documents.loads(member)
    return member


def _lines(file: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something, with their numbers."""
    with opened(file, name) as content:
        for number, line in enumerate(content, 1):
            whole = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            if whole.strip(_WHITE_SPACE):
                yield number, whole


def open_(config: JsonLinesConfig, folder: Path) -> JsonLinesSource:
    return JsonLinesSource(config, folder)
