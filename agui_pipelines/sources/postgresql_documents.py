"""Rows as states: documents that are JSON objects, and rows that cannot become a state rejected by name.

A batch of rows has the columns id, document, created and updated, in this order, as the server sent them. What the usual
document needs is done for a whole column at once; only what is unusual is looked at one by one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines import documents
from agui_pipelines.canonical import Trait, digest
from agui_pipelines.ports import BATCH_BYTES
from agui_pipelines.records import STATE
from agui_pipelines.sources.postgresql_selection import MEMBER, Holds

RejectRow = Callable[[str, bytes | None, str, str], None]
"""Takes a row's id, its document as it was read, a reason (a stable code) and a sentence."""

ROW: Final = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("document", pa.binary()),
        pa.field("created", pa.string()),
        pa.field("updated", pa.string()),
    ]
)

_BARE: Final = re.compile(rb"\s*\{\s*\}")
_WHITE_SPACE: Final = b" \t\r\n"


def once(batches: Iterable[pa.RecordBatch], reject: RejectRow) -> Iterator[pa.RecordBatch]:
    """Rows whose id no other row has; the batches are sorted by id. All rows of an id that several have are rejected."""
    last: pa.RecordBatch | None = None  # one row, of which it is not known yet whether the next one has its id
    repeated = False  # whether the one before it has
    for batch in batches:
        ids = batch.column("id")
        if last is not None:
            same = last.column("id")[0].as_py() == ids[0].as_py()
            yield from _parted(last, pa.array([repeated or same]), reject)
            repeated = same
        following = pc.equal(ids.slice(1), ids.slice(0, len(ids) - 1))
        preceding = pa.concat_arrays([pa.array([repeated]), following])
        yield from _parted(batch.slice(0, len(ids) - 1), pc.or_(preceding.slice(0, len(ids) - 1), following), reject)
        last, repeated = batch.slice(len(ids) - 1), preceding[len(ids) - 1].as_py()
    if last is not None:
        yield from _parted(last, pa.array([repeated]), reject)


def _parted(batch: pa.RecordBatch, twice: pa.BooleanArray, reject: RejectRow) -> Iterator[pa.RecordBatch]:
    if pc.any(twice).as_py():
        for row in batch.filter(twice).to_pylist():
            reject(
                row["id"],
                row["document"],
                "duplicate_id",
                "Several rows of the source have this id, so that nobody can tell which of them is the state.",
            )
        batch = batch.filter(pc.invert(twice))
    if batch.num_rows:
        yield batch


def states(batch: pa.RecordBatch, holds: Holds, migrated_at: str | None, reject: RejectRow) -> pa.RecordBatch:
    """Rows as a bare batch of states. With `migrated_at` their documents gain the member ``_migration``."""
    missing = pc.is_null(batch.column("document"))
    if pc.any(missing).as_py():
        for id_ in batch.column("id").filter(missing).to_pylist():
            reject(id_, None, "null_data", "The column that should hold its document is NULL.")
        batch = batch.filter(pc.invert(missing))
    batch = _objects(batch, holds)
    if migrated_at is not None and batch.num_rows:
        batch = _with_metadata(batch, holds, migrated_at, reject)
    columns = [*batch.columns, pa.nulls(batch.num_rows, STATE.field("expires_at").type)]
    return pa.RecordBatch.from_arrays(columns, schema=STATE)


def _replaced(batch: pa.RecordBatch, documents_: Any) -> pa.RecordBatch:
    return batch.set_column(1, ROW.field("document"), documents_)


# Objects


def _objects(batch: pa.RecordBatch, holds: Holds) -> pa.RecordBatch:
    """The batch with an object around every document that is none."""
    if holds is Holds.COLUMNS:
        return batch
    column = batch.column("document")
    doubtful = [True] * len(column) if holds is Holds.TEXT else pc.invert(pc.starts_with(column, "{")).to_pylist()
    if not any(doubtful):
        return batch
    values = column.to_pylist()
    changed = [_object(v, holds) if doubt else v for v, doubt in zip(values, doubtful, strict=True)]
    return _replaced(batch, pa.array(changed, pa.binary()))


def _object(document: bytes, holds: Holds) -> bytes:
    """A document as it is if it is a JSON object, else as the value of one that names the column's type."""
    if holds is Holds.TEXT:
        if document.lstrip(_WHITE_SPACE).startswith(b"{") and _is_object(document):
            return document
        return b'{"value":%b,"type":"text"}' % orjson.dumps(document.decode())
    if document.lstrip(_WHITE_SPACE).startswith(b"{"):  # the server has checked the rest
        return document
    return b'{"value":%b,"type":"%b"}' % (document, holds.value.encode())


def _is_object(document: bytes) -> bool:
    try:
        documents.members(document)
    except (ValueError, ArithmeticError):
        return False
    return True


# The member


def _with_metadata(batch: pa.RecordBatch, holds: Holds, migrated_at: str, reject: RejectRow) -> pa.RecordBatch:
    members = _members(batch, migrated_at)
    column = batch.column("document")
    unusual = _unusual(column, holds)
    if not unusual:
        return _replaced(batch, _appended(column, members))
    kept, changed = [], []
    for row, document in enumerate(column.to_pylist()):
        other = _merged(document, members[row].as_py())
        if other is None:
            reject(
                batch.column("id")[row].as_py(),
                document,
                "duplicate_keys",
                f"Its document has a member '{MEMBER}', and a key twice, so that nothing can be added without a loss; "
                "set migration_metadata: false.",
            )
        else:
            kept.append(row)
            changed.append(other)
    rest = batch if len(kept) == batch.num_rows else batch.take(pa.array(kept, pa.int64()))
    return _replaced(rest, pa.array(changed, pa.binary()))


def _members(batch: pa.RecordBatch, migrated_at: str) -> Any:
    """The member's value for each row; what is not known is left out. Moments are plain ASCII without quotes."""
    parts: list[Any] = [pa.scalar("{")]
    for name in ("created", "updated"):
        column = batch.column(name)
        if column.null_count < len(column):
            said = pc.binary_join_element_wise(f'"original_{name}_at":"', column, '",', "")
            parts.append(pc.coalesce(said, pa.scalar("")))
    parts.append(pa.repeat(pa.scalar(f'"migrated_at":"{migrated_at}"}}'), batch.num_rows))
    return pc.binary_join_element_wise(*parts, "").cast(pa.binary())


def _unusual(column: Any, holds: Holds) -> bool:
    """Whether a document may have the member already, or end in white space."""
    if holds is Holds.COLUMNS:
        return False
    _, offsets, data = column.buffers()
    bounds = memoryview(offsets).cast("i")[column.offset : column.offset + len(column) + 1]
    text = memoryview(data)[bounds[0] : bounds[-1]]
    # jsonb has no escapes for letters.
    needles = (MEMBER.encode(),) if holds is Holds.JSONB else (MEMBER.encode(), b"\\u")
    return _holds_any(text, needles) or not pc.all(pc.ends_with(column, "}")).as_py()


def _holds_any(text: memoryview, needles: tuple[bytes, ...]) -> bool:
    """All documents are searched as one text, several times as fast as one by one; only a large one is not copied for it."""
    if len(text) > BATCH_BYTES:
        return re.search(b"|".join(map(re.escape, needles)), text) is not None
    joined = bytes(text)
    return any(needle in joined for needle in needles)


def _appended(column: Any, members: Any) -> Any:
    """Documents that end in a brace, with the member before it."""
    if len(column) == 1:  # maybe a large one, which is copied only once
        document = memoryview(column[0].as_buffer())
        comma = b"" if _BARE.fullmatch(document) else b","
        whole = b"".join((document[:-1], comma, b'"%b":' % MEMBER.encode(), members[0].as_py(), b"}"))
        return pa.Array.from_buffers(pa.binary(), 1, [None, _offsets(len(whole)), pa.py_buffer(whole)])
    opened = pc.binary_slice(column, 0, -1)
    bare = pc.match_substring_regex(column, f"^{_BARE.pattern.decode()}$")
    comma = pc.if_else(bare, pa.scalar(b""), pa.scalar(b","))
    name = pa.scalar(b'"%b":' % MEMBER.encode())
    return pc.binary_join_element_wise(opened, comma, name, members, pa.scalar(b"}"), pa.scalar(b""))


def _offsets(length: int) -> pa.Buffer:
    """Of an Arrow column of one value."""
    return pa.py_buffer(struct.pack("=ii", 0, length))


def _merged(document: bytes, member: bytes) -> bytes | None:
    """A document with the member. One that it has already keeps what it says, as that is the older truth.

    None if the document has that, and besides a repeated key, which would not survive being written anew.
    """
    text = document.rstrip(_WHITE_SPACE)
    if not ((MEMBER.encode() in text or b"\\u" in text) and MEMBER in documents.members(text)):
        before = text[:-1].rstrip(_WHITE_SPACE)
        comma = b"" if before.endswith(b"{") else b","
        return b'%b%b"%b":%b}' % (before, comma, MEMBER.encode(), member)
    if digest(document).traits & Trait.DUPLICATE_KEYS:
        return None
    value = documents.loads(text)
    old = value[MEMBER] if isinstance(value[MEMBER], dict) else {"value": value[MEMBER]}
    return documents.dumps({**value, MEMBER: {**documents.loads(member), **old}})
