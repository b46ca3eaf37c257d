"""What a snapshot consists of. A segment that no manifest names does not exist.

The manifest is JSON, written last, with a checksum of its own content, so that a truncated or edited one is noticed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson
from xxhash import xxh3_128_hexdigest

from agui_pipelines.errors import StagingError
from agui_pipelines.losses import Fate, Fates
from agui_pipelines.records import Kind

FORMAT: Final = 3


@dataclass(frozen=True, slots=True)
class Segment:
    """One sealed Parquet file. `path` counts from the workspace's ``snapshots`` folder, `file_bytes` is its length."""

    path: str
    kind: str
    records: int
    document_bytes: int
    file_bytes: int
    checksum: str
    """xxh3_128 of the file, 32 hex digits."""


@dataclass(frozen=True, slots=True)
class KindSummary:
    """Sums over the segments of one kind of record."""

    records: int = 0
    document_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """A sealed snapshot of one key range."""

    snapshot_id: str
    stage: str
    """``exported`` or ``staged``."""
    plan_id: str
    range: str
    created_at: str
    segments: tuple[Segment, ...]
    rejects: int
    rejects_segment: Segment | None
    vanished: int
    """Keys of the catalogue that were gone when they were to be read."""
    parents: tuple[str, ...] = ()
    transform: str = "identity"
    fates: Fates = field(default_factory=dict)
    """What became of the records' properties, by property; see `losses`."""
    origins_segment: Segment | None = None
    """Which ids became which, where a transform may have renamed them."""

    def summary(self, kind: Kind) -> KindSummary:
        segments = [s for s in self.segments if s.kind == kind]
        return KindSummary(sum(s.records for s in segments), sum(s.document_bytes for s in segments))

    @property
    def records(self) -> int:
        return sum(s.records for s in self.segments)

    @property
    def document_bytes(self) -> int:
        return sum(s.document_bytes for s in self.segments)

    def to_json(self) -> bytes:
        body = orjson.dumps({"format": FORMAT, **asdict(self)}, option=orjson.OPT_INDENT_2)
        return orjson.dumps({"checksum": xxh3_128_hexdigest(body), "manifest": orjson.Fragment(body)})

    @classmethod
    def from_json(cls, content: bytes, origin: str) -> Manifest:
        """Raises `StagingError` if the content is damaged or of an unknown format."""
        try:
            outer = orjson.loads(content)
            body = content[content.index(b'"manifest":') + len(b'"manifest":') : -1]
            if outer["checksum"] != xxh3_128_hexdigest(body):
                raise ValueError("its checksum does not match")
            values: dict[str, Any] = outer["manifest"]
            if values.pop("format") != FORMAT:
                raise ValueError("its format is not known to this version")
            values["segments"] = tuple(Segment(**s) for s in values["segments"])
            values["rejects_segment"] = Segment(**values["rejects_segment"]) if values["rejects_segment"] else None
            origins = values.get("origins_segment")
            values["origins_segment"] = Segment(**origins) if origins else None
            values["parents"] = tuple(values["parents"])
            values["fates"] = {
                name: Fate(**{**fate, "examples": tuple(fate["examples"])}) for name, fate in values["fates"].items()
            }
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StagingError(
                f"The manifest {origin} is damaged: {error}.",
                why="A snapshot is only trusted through its manifest.",
                remedy="Start over with --fresh, which exports again.",
            ) from error
