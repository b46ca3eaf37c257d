"""The loss ledger: for every property of the source whether a route keeps it, carries it in another form, or loses it.

Properties are told of records, so that they can be counted and named. What carries *meaning* blocks an import until the
migration file accepts its loss by name; what is *form* (the spelling of a number, the layout of a document, the offset of a
time whose moment stays) is listed and never blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.canonical import Trait
from agui_pipelines.records import SCHEMAS, Kind, digested

MEANING: Final = {
    "expiry": "an expiry, for which the target has no place: the state stays until somebody deletes it",
    "timestamps": "creation or update times, for which the target has no place",
    "duplicate_keys": "a key named twice in one object; the target keeps the last, as every reader would",
    "sub_microseconds": "a time finer than a microsecond, which is what the target keeps",
    "history": "versions beyond the history limit, or for which the target has no place",
    "snapshots": "snapshots, for which the target has no place",
}
"""Properties that carry meaning: what a record that has one has."""

FORM: Final = {
    "time_offset": "a time with an offset; the target keeps the moment, in UTC",
    "number_spelling": "a number that the target may spell in another way, such as 1e5; its value stays",
    "layout": "white space or an order of keys that the target does not keep",
}

KEEPABLE: Final = ("timestamps", "expiry")
"""Properties that a document's ``_migration`` member can carry."""

EXAMPLES: Final = 10
"""Ids that are named for each property."""

_MICROSECONDS: Final = len("2025-07-14T09:30:15.123456Z")
_FINER: Final = r"\.\d{6}\d*[1-9]"
_OFFSET: Final = r"[+-]\d\d:\d\d$"
_TIMES: Final = {
    Kind.STATE: ("created_at", "updated_at"),
    Kind.VERSION: ("timestamp",),
    Kind.SNAPSHOT: ("timestamp",),
}


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one property: records that had it, that carry it in another form now, and that lost it."""

    present: int = 0
    encoded: int = 0
    lost: int = 0
    examples: tuple[str, ...] = ()
    """Ids of the first records that lost it, or carry it in another form."""

    def __add__(self, other: Fate) -> Fate:
        examples = (*self.examples, *other.examples)[:EXAMPLES]
        return Fate(self.present + other.present, self.encoded + other.encoded, self.lost + other.lost, examples)


Fates = dict[str, Fate]
"""Fates by property."""


def present(kind: Kind, batch: pa.RecordBatch) -> dict[str, pa.BooleanArray]:
    """Which rows of a *digested* batch (its documents may be left out) have a property, by property; all others have none."""
    found: dict[str, pa.BooleanArray] = {
        "sub_microseconds": finer_than_microseconds(kind, batch),
        "time_offset": with_offset(kind, batch),
        "duplicate_keys": with_trait(batch.column("traits"), Trait.DUPLICATE_KEYS),
        "number_spelling": batch.column("spelling").is_valid(),
        "layout": _every(batch),
    }
    if kind is Kind.STATE:
        found["expiry"] = batch.column("expires_at").is_valid()
        found["timestamps"] = pc.or_(batch.column("created_at").is_valid(), batch.column("updated_at").is_valid())
    elif kind is Kind.VERSION:
        found["history"] = _every(batch)
    else:
        found["snapshots"] = _every(batch)
    return named(found)


def named(masks: Mapping[str, pa.BooleanArray]) -> dict[str, pa.BooleanArray]:
    """Only the masks that name a row."""
    return {name: mask for name, mask in masks.items() if pc.any(mask).as_py()}


def finer_than_microseconds(kind: Kind, batch: pa.RecordBatch) -> pa.BooleanArray:
    """Rows of a bare or digested batch with a time that has more than six digits after the second."""
    return _any_time(kind, batch, _FINER, lambda column: _longest(column) > _MICROSECONDS)


def with_offset(kind: Kind, batch: pa.RecordBatch) -> pa.BooleanArray:
    """Rows of a bare or digested batch with a time that is not written in UTC."""
    return _any_time(kind, batch, _OFFSET, lambda column: not pc.all(pc.ends_with(column, "Z")).as_py())


def with_trait(traits: pa.Array, trait: int) -> pa.BooleanArray:
    """Rows of a column of `canonical.Trait` bits that have a trait, or one of several."""
    return pc.not_equal(pc.bit_wise_and(traits, pa.scalar(trait, traits.type)), pa.scalar(0, traits.type))


def _any_time(kind: Kind, batch: pa.RecordBatch, pattern: str, worth: Any) -> pa.BooleanArray:
    found = none(batch)
    for name in _TIMES[kind]:
        column = batch.column(name)
        if column.null_count < len(column) and worth(column):
            found = pc.or_(found, pc.match_substring_regex(column, pattern).fill_null(fill_value=False))
    return found


def _longest(values: Any) -> int:
    return pc.max(pc.binary_length(values)).as_py() or 0


def _every(batch: pa.RecordBatch) -> pa.BooleanArray:
    return pa.repeat(pa.scalar(value=True), batch.num_rows)


def none(batch: pa.RecordBatch) -> pa.BooleanArray:
    """A mask that names no row."""
    return pa.repeat(pa.scalar(value=False), batch.num_rows)


def either(some: Mapping[str, pa.BooleanArray], others: Mapping[str, pa.BooleanArray]) -> dict[str, pa.BooleanArray]:
    """Masks of the rows that are named on either side."""
    return {**some, **{name: pc.or_(some[name], mask) if name in some else mask for name, mask in others.items()}}


def fates(
    batch: pa.RecordBatch,
    had: Mapping[str, pa.BooleanArray],
    lost: Mapping[str, pa.BooleanArray],
    encoded: Mapping[str, pa.BooleanArray],
    *,
    ids: str = "state_id",
) -> Fates:
    """The fates of one batch's properties, from masks of the rows that had, lost, and carry in another form each.

    `ids` is the column with the ids that name examples.
    """
    found = {}
    for name in {**had, **lost, **encoded}:
        examples: list[str] = []
        for mask in (masks[name] for masks in (lost, encoded) if name in masks):
            examples += batch.column(ids).take(pc.indices_nonzero(mask)[: EXAMPLES - len(examples)]).to_pylist()
        found[name] = Fate(_count(had.get(name)), _count(encoded.get(name)), _count(lost.get(name)), tuple(examples))
    return found


def _count(mask: pa.BooleanArray | None) -> int:
    return 0 if mask is None else pc.sum(mask).as_py() or 0


def probe() -> dict[Kind, pa.RecordBatch]:
    """A digested batch of each kind with one record that has every property, to ask a store what it would lose."""
    document = b'{"twice": 1, "twice": 1e5}'
    finest = "2025-07-14T09:30:15.123456789+02:00"
    times = dict.fromkeys(("created_at", "updated_at", "timestamp"), finest)
    found = {}
    for kind, schema in SCHEMAS.items():
        values: dict[str, Any] = dict.fromkeys(schema.names, "") | times | {"data": document}
        values |= {"expires_at": datetime(2100, 1, 1, tzinfo=UTC), "delta": None, "metadata": None, "extra": None}
        bare = pa.RecordBatch.from_pylist([{name: values[name] for name in schema.names}], schema=schema)
        found[kind], _ = digested(kind, bare)
    return found


def route(
    losing: Callable[[Kind, pa.RecordBatch], Mapping[str, pa.BooleanArray]], keep: Iterable[str]
) -> dict[str, str]:
    """Whether a target that loses what `losing` says has a place for each property: ``kept``, ``encoded`` or ``lost``."""
    verdicts: dict[str, str] = {}
    for kind, batch in probe().items():
        gone = losing(kind, batch)
        for name in present(kind, batch):
            encoded = kind is Kind.STATE and name in KEEPABLE and name in set(keep)
            verdict = "kept" if name not in gone else "encoded" if encoded else "lost"
            verdicts[name] = max(verdict, verdicts.get(name, verdict), key=["kept", "encoded", "lost"].index)
    return {name: verdicts[name] for name in (*MEANING, *FORM) if name in verdicts}


def together(each: Iterable[Fates]) -> Fates:
    """Fates of several batches or snapshots, added up."""
    total: Fates = {}
    for one in each:
        for name, fate in one.items():
            total[name] = total.get(name, Fate()) + fate
    return total


def lost(found: Fates) -> dict[str, int]:
    """Records that lost something with meaning, by property."""
    return {name: fate.lost for name, fate in found.items() if fate.lost and name in MEANING}


def unaccepted(found: Fates, accepted: Iterable[str]) -> dict[str, Fate]:
    """Properties with meaning that would be lost and that the migration does not accept to lose."""
    return {name: fate for name, fate in found.items() if name in MEANING and fate.lost and name not in set(accepted)}


def table(found: Fates, accepted: Iterable[str]) -> list[dict[str, Any]]:
    """The ledger as rows for people and programs: what carries meaning first."""
    rows = []
    for names, carries in ((MEANING, "meaning"), (FORM, "form")):
        for name in names:
            fate = found.get(name)
            if fate is None:
                continue
            verdict = "lost" if fate.lost else "encoded" if fate.encoded else "kept"
            rows.append(
                {
                    "property": name,
                    "carries": carries,
                    "verdict": verdict,
                    **asdict(fate),
                    "kept": fate.present - fate.encoded - fate.lost,
                    "accepted": name in set(accepted) if carries == "meaning" and fate.lost else None,
                    "examples": list(fate.examples),
                }
            )
    return rows
