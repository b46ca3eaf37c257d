"""What documents and ids look like, told from sampled digested batches in bounded memory.

Documents over `INSPECTED` are told by their size alone, as to look inside would take many times their size in memory.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines import documents
from agui_pipelines.canonical import LARGE, Trait
from agui_pipelines.losses import with_trait
from agui_pipelines.records import Kind, Reject, instant
from agui_pipelines.sizes import Sizes
from agui_pipelines.sources.redis_documents import is_taken

INSPECTED: Final = LARGE
NAMED: Final = 100
"""Ids that are named of each finding."""

_MIB: Final = 1024 * 1024
LIMITS: Final = {
    "document": 10 * _MIB,
    "metadata": _MIB,
    "patch": _MIB,
    "depth": 10,
    "array": 10_000,
    "object": 1_000,
    "string": _MIB,
}
"""What the reference store enforces when a state is used (store-format.md, section 7): bytes, levels, items, keys."""

_EXACT: Final = 1 << 53
_TRAITS: Final = {
    "duplicate_keys": Trait.DUPLICATE_KEYS,
    "nul": Trait.NUL,
    "lone_surrogates": Trait.LONE_SURROGATE,
    "extreme_numbers": Trait.EXTREME_NUMBER,
}
BEYOND: Final = "numbers_beyond_2_53"
_PREFIX: Final = re.compile(r"\A(?:[^\W\d_]|_)*[^\w]|\A[^\W\d]+(?=\d)", re.UNICODE)
_PREFIXES: Final = 5_000
_SHOWN: Final = 20
_OTHER: Final = "(others)"
_NO_PREFIX: Final = "(none)"
_SPANS: Final = {"under 1 hour": 3600, "under 1 day": 86400, "under 7 days": 7 * 86400, "under 30 days": 30 * 86400}
_LONGER: Final = "longer"
_SOME_BYTES: Final = 16 * _MIB
_TOGETHER: Final = 500
"""Documents that are compressed on trial: at most so many bytes, so many of a batch together."""


@dataclass(slots=True)
class Found:
    """Records of some property: how many, the first hundred by id, and the greatest amount where there is one."""

    count: int = 0
    ids: list[str] = field(default_factory=list)
    greatest: int = 0

    def add(self, ids: Iterable[str], amount: int = 0) -> None:
        for id_ in ids:
            self.count += 1
            if len(self.ids) < NAMED:
                self.ids.append(id_)
        self.greatest = max(self.greatest, amount)

    def to_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = {"count": self.count, "ids": self.ids}
        return told | ({"greatest": self.greatest} if self.greatest else {})


@dataclass(frozen=True, slots=True)
class Profile:
    """What was found of the records that were looked at."""

    records: dict[str, int]
    sizes: Sizes
    prefixes: dict[str, int]
    id_bytes: int
    """Of the longest id."""
    ids_not_ascii: int
    kinds_of_value: dict[str, int]
    """Documents, and what a foreign system held instead of one, by type."""
    types: dict[str, int]
    """Values within the documents by their JSON type."""
    encodings: dict[str, int]
    depths: dict[int, int]
    findings: dict[str, Found]
    """Traits of documents, by name."""
    limits: dict[str, Found]
    """Records that exceed a limit of the reference, by the limit."""
    expiries: dict[str, int]
    """How long states still live."""
    ages: dict[str, int]
    """How long ago states were updated; empty where the source does not tell."""
    written_in_last_hour: int
    """States among `ages`."""
    uninspected: int
    compressed: float | None
    """Bytes of documents that remain of each when compressed with zstd."""
    rejects: dict[str, Found]
    """What could not become a record, by reason."""

    @property
    def states(self) -> int:
        return self.records.get("state", 0)

    @property
    def not_json(self) -> int:
        """Values of a foreign system that are no JSON object, and rejects that were not JSON either."""
        wrapped = sum(count for kind, count in self.kinds_of_value.items() if kind != "JSON object")
        undecodable = sum(
            self.rejects[reason].count for reason in ("undecodable", "not_an_object") if reason in self.rejects
        )
        return wrapped + undecodable

    @property
    def not_json_share(self) -> float | None:
        """Of all that was looked at, be it records or rejects; None if there was nothing."""
        values = sum(self.records.values()) + sum(found.count for found in self.rejects.values())
        return self.not_json / values if values else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "sizes": self.sizes.to_dict(),
            "prefixes": self.prefixes,
            "longest_id_bytes": self.id_bytes,
            "ids_not_ascii": self.ids_not_ascii,
            "kinds_of_value": self.kinds_of_value,
            "not_json": self.not_json,
            "not_json_share": self.not_json_share,
            "types": self.types,
            "encodings": self.encodings,
            "depths": {str(depth): count for depth, count in sorted(self.depths.items())},
            "findings": {name: found.to_dict() for name, found in self.findings.items()},
            "over_limits": {name: found.to_dict() for name, found in self.limits.items()},
            "expiries": self.expiries,
            "updated": self.ages,
            "uninspected": self.uninspected,
            "compressed_share": self.compressed,
            "rejects": {reason: found.to_dict() for reason, found in self.rejects.items()},
        }


@dataclass(slots=True)
class Profiler:
    """Takes digested batches; `result` tells what was found. `now`: the source's clock, seconds since the epoch."""

    now: float = field(default_factory=time.time)
    _records: Counter[str] = field(default_factory=Counter)
    _sizes: Sizes = field(default_factory=Sizes)
    _prefixes: Counter[str] = field(default_factory=Counter)
    _id_bytes: int = 0
    _not_ascii: int = 0
    _kinds: Counter[str] = field(default_factory=Counter)
    _types: Counter[str] = field(default_factory=Counter)
    _encodings: Counter[str] = field(default_factory=Counter)
    _depths: Counter[int] = field(default_factory=Counter)
    _findings: dict[str, Found] = field(default_factory=dict)
    _limits: dict[str, Found] = field(default_factory=dict)
    _expiries: Counter[str] = field(default_factory=Counter)
    _ages: Counter[str] = field(default_factory=Counter)
    _uninspected: int = 0
    _plain: int = 0
    _packed: int = 0
    _rejects: dict[str, Found] = field(default_factory=dict)

    def add(self, kind: Kind, batch: pa.RecordBatch) -> None:
        """Look at the records of a digested batch."""
        ids: list[str] = batch.column("state_id").to_pylist()
        self._records[str(kind)] += len(ids)
        for name, trait in _TRAITS.items():
            rows = pc.indices_nonzero(with_trait(batch.column("traits"), trait)).to_pylist()
            if rows:
                self._findings.setdefault(name, Found()).add(ids[row] for row in rows)
        self._over("document", ids, batch.column("size").to_pylist())
        if kind is Kind.STATE:
            self._ids(ids)
            self._sizes.add(ids, batch.column("size").to_pylist())
            self._times(batch)
        else:
            parts = {"metadata": "metadata", "patch": "delta"}
            for limit, column in parts.items():
                if column in batch.schema.names:
                    sizes = pc.binary_length(batch.column(column)).fill_null(0).to_pylist()
                    self._over(limit, ids, sizes)
        column = batch.column("data")
        if kind is Kind.STATE and self._plain < _SOME_BYTES:
            some = b"".join(column[row].as_py() for row in range(min(len(ids), _TOGETHER)))[:_SOME_BYTES]
            self._plain += len(some)
            self._packed += pa.compress(some, codec="zstd").size if some else 0
        for row, id_ in enumerate(ids):
            self._document(kind, id_, column[row].as_buffer())

    def reject(self, reject: Reject) -> None:
        self._rejects.setdefault(reject.reason, Found()).add([reject.name])

    def result(self) -> Profile:
        return Profile(
            records=dict(self._records),
            sizes=self._sizes,
            prefixes=_most(self._prefixes),
            id_bytes=self._id_bytes,
            ids_not_ascii=self._not_ascii,
            kinds_of_value=dict(self._kinds.most_common()),
            types=dict(self._types.most_common()),
            encodings=dict(self._encodings.most_common()),
            depths=dict(self._depths),
            findings=self._findings,
            limits=self._limits,
            expiries=_in_order(self._expiries),
            ages=_in_order(self._ages),
            written_in_last_hour=self._ages[next(iter(_SPANS))],
            uninspected=self._uninspected,
            compressed=round(self._packed / self._plain, 3) if self._plain else None,
            rejects=self._rejects,
        )

    def _over(self, limit: str, ids: list[str], amounts: list[int]) -> None:
        for id_, amount in zip(ids, amounts, strict=True):
            if amount > LIMITS[limit]:
                self._limits.setdefault(limit, Found()).add([id_], amount)

    def _ids(self, ids: list[str]) -> None:
        for id_ in ids:
            match = _PREFIX.match(id_)
            prefix = match.group() if match else _NO_PREFIX
            known = prefix in self._prefixes or len(self._prefixes) < _PREFIXES
            self._prefixes[prefix if known else _OTHER] += 1
            if not id_.isascii():
                self._not_ascii += 1
            self._id_bytes = max(self._id_bytes, len(id_.encode()))

    def _times(self, batch: pa.RecordBatch) -> None:
        for expires in batch.column("expires_at").cast(pa.int64()).to_pylist():
            self._expiries["never" if expires is None else _span(expires / 1000 - self.now)] += 1
        for updated in batch.column("updated_at").to_pylist():
            moment = None if updated is None else _moment(updated)
            if moment is not None:
                self._ages[_span(self.now - moment)] += 1

    def _document(self, kind: Kind, id_: str, data: pa.Buffer) -> None:
        if data.size > INSPECTED:
            self._uninspected += 1
            return
        document = data.to_pybytes()
        if kind is Kind.STATE:
            self._encodings["ASCII" if document.isascii() else "UTF-8"] += 1
            self._kinds[_kind_of_value(document)] += 1
        try:
            shape = inspected(document)
        except (ValueError, RecursionError):
            self._uninspected += 1
            return
        if kind is Kind.STATE:
            self._types.update(shape.types)
            self._depths[shape.depth] += 1
        amounts = {"depth": shape.depth, "array": shape.array, "object": shape.object, "string": shape.string}
        for limit, amount in amounts.items():
            self._over(limit, [id_], [amount])
        if shape.beyond:
            self._findings.setdefault(BEYOND, Found()).add([id_])


@dataclass(slots=True)
class Shape:
    """The largest of what a document holds: levels, items of an array, keys of an object, bytes of a string."""

    depth: int = 0
    array: int = 0
    object: int = 0
    string: int = 0
    beyond: bool = False
    """Whether an integer in it lies beyond 2^53, where a double no longer tells each from the next."""
    types: Counter[str] = field(default_factory=Counter)


def inspected(document: bytes) -> Shape:
    """Raises ValueError for what is not JSON."""
    shape = Shape()
    try:
        value = orjson.loads(document)
    except orjson.JSONDecodeError:
        value = documents.loads(document)  # orjson takes no lone surrogates
    doubtful = _walk(value, shape)
    if doubtful and not shape.beyond:  # orjson makes doubles of integers over 64 bits, and of 1e300
        again = Shape()
        _walk(documents.loads(document), again)
        shape.beyond = again.beyond
    return shape


def _walk(value: Any, shape: Shape) -> bool:
    """Fill in the shape; whether some double may have been an integer."""
    doubtful = False
    pending = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, dict):
            shape.types["object"] += 1
            shape.depth = max(shape.depth, depth)
            shape.object = max(shape.object, len(item))
            pending += [(member, depth + 1) for member in item.values()]
        elif isinstance(item, list):
            shape.types["array"] += 1
            shape.depth = max(shape.depth, depth)
            shape.array = max(shape.array, len(item))
            pending += [(member, depth + 1) for member in item]
        elif isinstance(item, str):
            shape.types["string"] += 1
            if len(item) > shape.string // 4:
                shape.string = max(shape.string, len(item.encode("utf-8", "surrogatepass")))
        elif item is None:
            shape.types["null"] += 1
        elif isinstance(item, bool):
            shape.types["boolean"] += 1
        elif isinstance(item, int):
            shape.types["integer"] += 1
            shape.beyond = shape.beyond or not -_EXACT <= item <= _EXACT
        else:
            shape.types["number"] += 1
            doubtful = doubtful or (isinstance(item, float) and abs(item) >= _EXACT)
    return doubtful


def _kind_of_value(document: bytes) -> str:
    """``JSON object``, or the type of what a foreign Redis held, whose document names it (store-format.md, section 7)."""
    if b'"type"' not in document or not is_taken(document):
        return "JSON object"
    return str(documents.loads(documents.members(document)["type"]))


def _span(seconds: float) -> str:
    return next((name for name, limit in _SPANS.items() if seconds < limit), _LONGER)


def _in_order(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in (*_SPANS, _LONGER, "never") if counts[name]}


def _most(prefixes: Counter[str]) -> dict[str, int]:
    shown = dict(prefixes.most_common(_SHOWN))
    rest = prefixes.total() - sum(shown.values())
    return shown | ({_OTHER: shown.get(_OTHER, 0) + rest} if rest else {})


def _moment(time_: str) -> float | None:
    """Seconds since the epoch; None for what is no time."""
    try:
        return datetime.fromisoformat(instant(time_)).timestamp()
    except (ValueError, OverflowError):
        return None
