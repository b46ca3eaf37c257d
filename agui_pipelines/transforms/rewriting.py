"""What the transforms share: going through a batch row by row, and rejecting by name the rows that a step cannot change.

A row that a step leaves as it is keeps its bytes. A document is parsed with exact numbers (see `documents`); one that is
changed is written anew as compact JSON, its members in the order in which they stood; of repeated keys the last is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import pyarrow as pa

from agui_pipelines import documents
from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind, rejected

PHASE: Final = "transform"

Document = dict[str, Any]


class RejectedError(Exception):
    """Raised by a step for the row at hand; `reason` is a stable code, `detail` a sentence. It never leaves this package."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def rewrite(
    kind: Kind,
    batch: pa.RecordBatch,
    on_reject: OnReject,
    change: Callable[..., tuple[Any, ...] | None],
    *,
    columns: Sequence[str],
    given: Sequence[str] = (),
) -> pa.RecordBatch:
    """Replace each row's `columns` by what `change` returns for them; None leaves the row as it is.

    `change` is called with the row's values of `columns`, then of `given`. Rows for which it raises `RejectedError` go to
    `on_reject`; all other errors go through.
    """
    kept: list[int] = []
    values: list[Sequence[Any]] = []
    touched = False
    rows = zip(*(batch.column(name).to_pylist() for name in (*columns, *given)), strict=True)
    for row, before in enumerate(rows):
        try:
            after = change(*before)
        except RejectedError as error:
            on_reject(rejected(kind, batch, row, PHASE, error.reason, error.detail))
            continue
        kept.append(row)
        values.append(before if after is None else after)
        touched = touched or after is not None
    if len(kept) < batch.num_rows:
        batch = batch.take(pa.array(kept, pa.int64()))
    if not touched:
        return batch
    for position, name in enumerate(columns):
        index = batch.schema.get_field_index(name)
        field = batch.schema.field(index)
        batch = batch.set_column(index, field, pa.array([value[position] for value in values], field.type))
    return batch


class OfIds:
    """A step that gives each record another id. The records of a state's history follow it, being named by the same id."""

    identity = False

    def __init__(self, name: str, fingerprint: str, change: Callable[[str], str]) -> None:
        self._name, self._change = name, change
        self.fingerprint = fingerprint

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        return rewrite(kind, batch, on_reject, self._one, columns=("state_id",))

    def _one(self, state_id: str) -> tuple[str] | None:
        try:
            new = self._change(state_id)
        except RejectedError as error:
            raise _told_by(self._name, error) from None
        return None if new == state_id else (new,)


class OfDocuments:
    """A step that changes each document in place: `change` tells whether it did."""

    identity = False

    def __init__(self, name: str, fingerprint: str, change: Callable[[Document], bool]) -> None:
        self._name, self._change = name, change
        self.fingerprint = fingerprint

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        return rewrite(kind, batch, on_reject, self._one, columns=("data",))

    def _one(self, data: bytes) -> tuple[bytes] | None:
        return changed_document(self._name, data, self._change)


def changed_document(name: str, data: bytes, change: Callable[[Document], bool]) -> tuple[bytes] | None:
    """The bytes of a document after `change`, or None if that changed nothing. Raises `RejectedError`."""
    try:
        document = documents.loads(data)
        if not isinstance(document, dict):
            raise RejectedError("not_an_object", "The document is JSON, but not an object.")
        return (documents.dumps(document),) if change(document) else None
    except RejectedError as error:
        raise _told_by(name, error) from None
    except (ValueError, TypeError, RecursionError) as error:
        detail = f"{name}: The document cannot be read or written: {str(error) or type(error).__name__}."
        raise RejectedError("transform_failed", detail) from error


def same(one: Any, other: Any) -> bool:
    """Whether two values are written alike; unlike ``==`` it tells 1, 1.0 and true apart."""
    return type(one) is type(other) and documents.dumps(one) == documents.dumps(other)


def put_in_place(document: Document, key: str, members: Document) -> None:
    """Replace one member by others, at its place."""
    before = list(document.items())
    document.clear()
    for name, value in before:
        if name == key:
            document.update(members)
        else:
            document[name] = value


def _told_by(name: str, error: RejectedError) -> RejectedError:
    return RejectedError(error.reason, f"{name}: {error.detail}")
