"""Rows of a table, a file or a query as states: one place that decides on ids, documents, times and rejects.

The id is the text of a column, or the texts of several, joined: within each of several parts ``%`` and the separator are
percent-encoded, so that different rows never get one id. The document is what a column holds, unchanged, or an object made
of columns by their names (see `values` for the forms).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

import pyarrow as pa

from agui_pipelines import documents
from agui_pipelines.ports import BATCH_BYTES, OnReject
from agui_pipelines.records import STATE, Kind, Reject
from agui_pipelines.sources.times import as_milliseconds, as_text
from agui_pipelines.sources.values import UnfitError, exact, is_finite, typed
from agui_pipelines.spec import ColumnType, RowsConfig

BATCH_ROWS: Final = 1_000


class State(NamedTuple):
    """One state; `expires` in milliseconds since 1970."""

    state_id: str
    document: bytes
    created: str | None = None
    updated: str | None = None
    expires: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row as a source has it.

    `origin` names it for people (``data.csv:17``) and, until its id is known, in rejects. `raw` gives its bytes; it is only
    asked for if the row is rejected.
    """

    origin: str
    values: Mapping[str, Any]
    raw: Callable[[], bytes | None]
    document: bytes | None = None
    """The document itself, where the source has it as bytes."""


def scanned(
    rows: Iterable[Row], config: RowsConfig, types: Mapping[str, ColumnType], on_reject: OnReject
) -> Iterator[tuple[Kind, pa.RecordBatch]]:
    """What a scanner of rows yields. A row that cannot become a state is rejected by its id, or else by its origin."""
    return batched(_states(rows, config, types, on_reject))


def batched(states: Iterable[State]) -> Iterator[tuple[Kind, pa.RecordBatch]]:
    """Batches bounded by rows and by bytes; a larger document travels alone."""
    pending: list[State] = []
    size = 0
    for state in states:
        if pending and (len(pending) >= BATCH_ROWS or size + len(state.document) > BATCH_BYTES):
            yield Kind.STATE, _batch(pending)
            pending, size = [], 0
        pending.append(state)
        size += len(state.document)
    if pending:
        yield Kind.STATE, _batch(pending)


def _batch(states: list[State]) -> pa.RecordBatch:
    columns = zip(*states, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, STATE, strict=True)], schema=STATE
    )


def _states(
    rows: Iterable[Row], config: RowsConfig, types: Mapping[str, ColumnType], on_reject: OnReject
) -> Iterator[State]:
    for row in rows:
        name = row.origin.encode("utf-8", "backslashreplace")
        try:
            values = (
                {**row.values, **{c: typed(row.values.get(c), t, c) for c, t in types.items()}} if types else row.values
            )
            state_id = id_of([values.get(column) for column in config.id], config)
            name = state_id.encode()
            state = _state(state_id, values, row.document, config)
        except UnfitError as error:
            rejected(on_reject, name, row, error.reason, str(error))
        else:
            yield state


def rejected(on_reject: OnReject, name: bytes, row: Row, reason: str, detail: str) -> None:
    told = f"{row.origin}: {detail}".encode("utf-8", "backslashreplace").decode()
    on_reject(Reject(Kind.STATE, name, row.raw(), "export", reason, told))


def _state(state_id: str, values: Mapping[str, Any], document: bytes | None, config: RowsConfig) -> State:
    def get(column: str | None) -> Any:
        return None if column is None else values.get(column)

    if document is None:
        document = document_of(get(config.data)) if config.data is not None else _document_of_columns(values, config)
    return State(
        state_id,
        document,
        time_text(get(config.created)),
        time_text(get(config.updated)),
        as_milliseconds(get(config.expires)),
    )


def time_text(value: Any) -> str | None:
    text = as_text(value)
    if text is not None:
        _require_text(text, "not_utf8", "A time is no text that UTF-8 can hold.")
    return text


def id_of(parts: list[Any], config: RowsConfig) -> str:
    """The state's id. Raises `UnfitError` if a part is missing or has no text."""
    texts = [id_text(part, column) for part, column in zip(parts, config.id, strict=True)]
    if len(texts) == 1:
        return texts[0]
    return config.id_separator.join(_escaped(text, config.id_separator) for text in texts)


def _escaped(text: str, separator: str) -> str:
    for character in dict.fromkeys("%" + separator):  # the sign of escaping comes first
        text = text.replace(character, "".join(f"%{byte:02X}" for byte in character.encode()))
    return text


def id_text(value: Any, column: str) -> str:
    if value is None or (isinstance(value, (float, Decimal)) and not is_finite(value)):
        raise UnfitError("no_id", f"'{column}' is missing or null, so the state has no id.")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise UnfitError("id_not_utf8", f"'{column}' is not text in UTF-8.") from None
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int, float, Decimal, UUID, dt.date, dt.time)):
        raise UnfitError("no_id", f"'{column}' holds a {type(value).__name__}, which has no text that could be an id.")
    text = value.isoformat() if isinstance(value, (dt.date, dt.time)) else str(value)
    _require_text(text, "id_not_utf8", f"'{column}' is not text in UTF-8.")
    return text


def _require_text(text: str, reason: str, detail: str) -> None:
    """Bytes that could not be decoded are carried as lone surrogates, which no store can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnfitError(reason, detail) from None


def document_of(value: Any) -> bytes:
    """What a column holds as a document: the bytes of a JSON text as they are, or an object that is written exactly."""
    if value is None:
        raise UnfitError("no_document", "There is no document.")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        _require_text(value, "not_utf8", "The document is not text in UTF-8.")
        return value.encode()
    return _written(value)


def _document_of_columns(values: Mapping[str, Any], config: RowsConfig) -> bytes:
    if config.columns is None:
        return _written({name: value for name, value in values.items() if name not in config.id})
    return _written({name: values.get(name) for name in config.columns})


def _written(value: Any) -> bytes:
    try:
        converted = exact(value)
        written = documents.dumps(converted)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnfitError("unsupported_value", f"A value has no JSON form: {error}.") from None
    if b"\\ud" in written and _has_surrogate(converted):
        raise UnfitError("not_utf8", "A text of the row is not UTF-8.")
    return written


def _has_surrogate(value: Any) -> bool:
    """Whether a text stands for bytes that could not be decoded."""
    if isinstance(value, str):
        return any("\udc80" <= character <= "\udcff" for character in value)
    if isinstance(value, dict):
        return any(_has_surrogate(item) for pair in value.items() for item in pair)
    return isinstance(value, list) and any(map(_has_surrogate, value))


def raw_row(values: Mapping[str, Any]) -> bytes:
    """A row that cannot become a state, as bytes for people to mend: JSON as far as that goes, else Python's own notation."""
    try:
        return documents.dumps({name: exact(value) for name, value in values.items()})
    except (UnfitError, ValueError, TypeError, RecursionError):
        return repr(dict(values)).encode("utf-8", "backslashreplace")
