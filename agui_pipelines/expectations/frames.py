"""The frames that suites are run on: Arrow tables of small columns here, pandas in the worker that runs the suites.

*records*, of the stages ``exported`` and ``staged``: a row for each state, version and snapshot; about 250,000 rows a frame,
of whole key ranges.

=====================  =====================================================================================================
``kind``               ``state``, ``version`` or ``snapshot``
``state_id``           the state that it is, or belongs to
``version_id``         a version's own id; of a snapshot, the version that it was made of; null for a state
``snapshot_id``        a snapshot's own id; null for others
``id_length``          characters of its own id
``size``               bytes of its document
``json_valid``         whether its document is a JSON object that can be read
``duplicate_keys``     whether an object in it names a key twice
``has_expiry``         whether it has a time to expire at; null but for states
``created_at``         RFC 3339, where known; null but for states
``updated_at``         likewise
``timestamp``          of a version or snapshot, as recorded; null for a state
``parent_id``          a version's parent, empty if it has none; null for others
=====================  =====================================================================================================

*records*, of the stage ``loaded``: a row for each record that was staged or that the target holds.

=====================  =====================================================================================================
``kind``               and ``state_id``, ``version_id``, ``snapshot_id``: as above, but a snapshot has no ``version_id``
``status``             ``equal``, ``normalised`` (equal by value, spelled differently), ``expired`` (rightly gone, its time was
                       over), ``missing``, ``corrupted``, ``extra`` (not among what was staged)
``staged``             whether it was among what was staged
``found``              whether the target has it
``digest_equal``       whether its exact digest is that of what was staged; null where it is not on both sides
=====================  =====================================================================================================

*totals*, of any stage: one frame with a row for each ``kind``, whose other columns are numbers of records over all key ranges.

=====================  =====================================================================================================
``exported``           of the stages ``exported`` and ``staged``: what was read
``staged``             of the stages ``staged`` and ``loaded``: what the transforms made of it, as the manifests count it
``bytes``              of the stages ``exported`` and ``staged``: the length of its documents
``compared``           of the stage ``loaded``: how many of the staged ones were compared
``found``              likewise: of these, how many the target has, whatever their digest
``normalised``         likewise, as are ``expired``, ``missing``, ``corrupted`` and ``extra``: how many have this status
=====================  =====================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.canonical import UNUSABLE, Trait
from agui_pipelines.expectations.suites import COLUMNS, Frame, Stage
from agui_pipelines.records import SCHEMAS, Kind, id_columns
from agui_pipelines.staging import SnapshotReader

FRAME_ROWS: Final = 250_000
"""Key ranges are gathered into frames of about this size: a suite costs a fifth of a second, however small its frame."""

_TYPES: Final = {
    **dict.fromkeys(("json_valid", "duplicate_keys", "has_expiry", "staged", "found", "digest_equal"), pa.bool_()),
    **dict.fromkeys(("id_length", "size"), pa.int64()),
}
_CARRIED: Final = (
    "state_id",
    "version_id",
    "snapshot_id",
    "size",
    "created_at",
    "updated_at",
    "timestamp",
    "parent_id",
)


def _schema(stage: Stage) -> pa.Schema:
    return pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS[stage, Frame.RECORDS]])


SNAPSHOT_RECORDS: Final = _schema(Stage.STAGED)
LOADED_RECORDS: Final = _schema(Stage.LOADED)


def snapshot_records(snapshots: Iterable[SnapshotReader]) -> Iterator[pa.Table]:
    """The records of exported or staged snapshots, each snapshot undivided; at least one frame, if an empty one."""
    group: list[pa.RecordBatch] = []
    rows = 0
    for snapshot in snapshots:
        records = snapshot.manifest.records
        if group and rows + records > FRAME_ROWS:
            yield pa.Table.from_batches(group, SNAPSHOT_RECORDS)
            group, rows = [], 0
        group += [_rows(kind, batch) for kind in Kind for batch in snapshot.batches(kind, _columns(kind))]
        rows += records
    yield pa.Table.from_batches(group, SNAPSHOT_RECORDS)


def loaded_records(statuses: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """What a comparison found (see `Comparison.statuses`), a frame for each batch; at least one, if an empty one."""
    empty = True
    for batch in statuses:
        empty = False
        kind, other, status = (batch.column(name) for name in ("kind", "other", "status"))
        staged = pc.not_equal(status, "extra")
        present = pc.invert(pc.is_in(status, pa.array(["missing", "expired"])))
        equal = pc.is_in(status, pa.array(["equal", "normalised"]))
        columns = {
            "kind": kind,
            "state_id": batch.column("state_id"),
            "version_id": pc.if_else(pc.equal(kind, str(Kind.VERSION)), other, None),
            "snapshot_id": pc.if_else(pc.equal(kind, str(Kind.SNAPSHOT)), other, None),
            "status": status,
            "staged": staged,
            "found": present,
            "digest_equal": pc.if_else(pc.and_(staged, present), equal, None),
        }
        yield pa.table(columns, schema=LOADED_RECORDS)
    if empty:
        yield LOADED_RECORDS.empty_table()


def totals(stage: Stage, numbers: dict[Kind, dict[str, int]]) -> pa.Table:
    """The frame of a stage's totals, from the numbers of each kind."""
    return pa.Table.from_pylist(
        [{"kind": str(kind), **values} for kind, values in numbers.items()],
        pa.schema([(name, pa.string() if name == "kind" else pa.int64()) for name in COLUMNS[stage, Frame.TOTALS]]),
    )


def _columns(kind: Kind) -> list[str]:
    own = [name for name in SCHEMAS[kind].names if name in _CARRIED]
    return [*own, "size", "traits", *(["expires_at"] if kind is Kind.STATE else [])]


def _rows(kind: Kind, batch: pa.RecordBatch) -> pa.RecordBatch:
    made = {name: batch.column(name) for name in batch.schema.names if name in _CARRIED}
    made["kind"] = pa.repeat(str(kind), batch.num_rows)
    made["id_length"] = pc.utf8_length(batch.column(id_columns(kind)[-1])).cast(pa.int64())
    made["json_valid"] = pc.invert(_has(batch, UNUSABLE))
    made["duplicate_keys"] = _has(batch, Trait.DUPLICATE_KEYS)
    if kind is Kind.STATE:
        made["has_expiry"] = pc.is_valid(batch.column("expires_at"))
    return pa.RecordBatch.from_arrays(
        [made.get(field.name, pa.nulls(batch.num_rows, field.type)) for field in SNAPSHOT_RECORDS],
        schema=SNAPSHOT_RECORDS,
    )


def _has(batch: pa.RecordBatch, traits: int) -> pa.BooleanArray:
    return pc.not_equal(pc.bit_wise_and(batch.column("traits"), pa.scalar(traits, pa.uint16())), 0)
