"""What a target has no place for, carried in the document's ``_migration`` member, and taken out of it again.

The member is the guide's own convention, ``{original_created_at, original_updated_at, migrated_at}``, with
``original_expires_at`` besides. `carried` adds it (``keep: [timestamps, expiry]``), `restored` turns it back into the
record's own times (``restore_kept: true``). A document that already has one keeps what it says: that is the older truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines import documents
from agui_pipelines.records import STATE, instant

MEMBER: Final = "_migration"
_COLUMNS: Final = {
    "created_at": "original_created_at",
    "updated_at": "original_updated_at",
    "expires_at": "original_expires_at",
}
_OF_PROPERTY: Final = {"timestamps": ("created_at", "updated_at"), "expiry": ("expires_at",)}
_QUOTED: Final = orjson.dumps(MEMBER)
_OWN: Final = re.compile(rb',?"_migration":(\{(?:"original_\w+":"[^"\\]*",?)+\})\}$')
"""The member as `carried` appends it, so that taking it out leaves every other byte of the document as it was."""


def carried(
    batch: pa.RecordBatch, lost: Mapping[str, pa.BooleanArray], keep: Iterable[str]
) -> tuple[pa.RecordBatch, dict[str, pa.BooleanArray]]:
    """A batch whose documents carry what `keep` names of what they would lose, and which rows do, by property.

    The digests of a digested batch are those of the documents as they were.
    """
    encoded = {name: lost[name] for name in keep if name in lost}
    if not encoded:
        return batch, {}
    data = batch.column("data").to_pylist()
    members: dict[int, dict[str, str]] = {}
    for name, mask in encoded.items():
        rows = pc.indices_nonzero(mask)
        for column in _OF_PROPERTY[name]:
            for row, value in zip(rows.to_pylist(), batch.column(column).take(rows).to_pylist(), strict=True):
                if value is not None:
                    text = _moment(value) if isinstance(value, datetime) else value
                    members.setdefault(row, {})[_COLUMNS[column]] = text
    for row, added in members.items():
        data[row] = _with(data[row], added)
    index = batch.schema.get_field_index("data")
    return batch.set_column(index, batch.schema.field(index), pa.array(data, pa.binary())), encoded


def restored(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A bare batch of states with the times that their documents carried, and without the members that carried them."""
    rows = pc.indices_nonzero(pc.match_substring(batch.column("data").cast(pa.large_binary()), MEMBER)).to_pylist()
    columns = {name: batch.column(name).to_pylist() for name in ("data", *_COLUMNS)} if rows else {}
    for row in rows:
        document, found = _without(columns["data"][row])
        columns["data"][row] = document
        for column, member in _COLUMNS.items():
            if member in found:
                text = found[member]
                columns[column][row] = _milliseconds(text) if column == "expires_at" else text
    for name, values in columns.items():
        index = batch.schema.get_field_index(name)
        batch = batch.set_column(index, batch.schema.field(index), pa.array(values, STATE.field(name).type))
    return batch


def _with(document: bytes, added: Mapping[str, str]) -> bytes:
    text = document.rstrip(b" \t\r\n")
    if (_QUOTED in text or b"\\" in text) and MEMBER in documents.members(text):
        value = documents.loads(text)
        old = value[MEMBER] if isinstance(value[MEMBER], dict) else {"value": value[MEMBER]}
        return document if added.keys() <= old.keys() else documents.dumps({**value, MEMBER: {**added, **old}})
    before = text[:-1].rstrip(b" \t\r\n")
    comma = b"" if before.endswith(b"{") else b","
    return b"%b%b%b:%b}" % (before, comma, _QUOTED, orjson.dumps(added))


def _without(document: bytes) -> tuple[bytes, dict[str, str]]:
    """A document without what `_with` added, and what that was; unchanged if there is nothing of the kind."""
    own = _OWN.search(document)
    if own is not None and document.count(_QUOTED) == 1:
        member = orjson.loads(own.group(1))
        if _usable(member) == member:
            return document[: own.start()] + b"}", member
    value = documents.loads(document)
    member = value.get(MEMBER)
    found = _usable(member) if isinstance(member, dict) else {}
    if not found:
        return document, {}
    left = {name: item for name, item in member.items() if name not in found}
    rest = {name: item for name, item in value.items() if name != MEMBER}
    if left.keys() - {"migrated_at"}:
        rest[MEMBER] = left
    return documents.dumps(rest), found


def _usable(member: Mapping[str, Any]) -> dict[str, str]:
    """The members that are times; what is not stays in the document."""
    times = {name: member[name] for name in _COLUMNS.values() if isinstance(member.get(name), str)}
    return {name: text for name, text in times.items() if _milliseconds(text) is not None}


def _moment(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milliseconds(text: str) -> datetime | None:
    """An RFC 3339 time as a moment; None if it is none."""
    try:
        return datetime.fromisoformat(instant(text)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
