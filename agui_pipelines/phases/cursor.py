"""The cursor: what the target stands for, of the source. Each round of a sync starts from one and ends with the next.

It lies in the workspace, immutable, and is named by a ledger entry that is recorded after the data that it stands for::

    cursors/<cursor id>/source.parquet    a row for each id of the source, as it was read (`SOURCE_ROW`), sorted by id
                        target.parquet    a row for each record that the target got for it (`TARGET_ROW`), sorted likewise

A state is known by the xxh3_128 of the bytes that the source holds, and by its expiry; the versions and snapshots of an id
together, by the sum of a digest of each, so that an id with a long history takes no more room than another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from agui_pipelines.digests import WIDTH
from agui_pipelines.phases.session import Session

CURSOR: Final = "cursor"
"""Phase of the ledger entries that name cursors."""

SOURCE_ROW: Final = pa.schema(
    [
        pa.field("source_id", pa.binary(), nullable=False),
        pa.field("state", pa.binary(WIDTH)),
        pa.field("expires_at", pa.int64()),
        pa.field("history", pa.binary(WIDTH)),
    ]
)
"""`state` is null where there are only versions or snapshots, `history` where there are none; `expires_at` in milliseconds
since the epoch."""

TARGET_ROW: Final = pa.schema(
    [
        pa.field("source_id", pa.binary(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("target_id", pa.string(), nullable=False),
        pa.field("other", pa.string(), nullable=False),
        pa.field("canonical", pa.binary(WIDTH), nullable=False),
        pa.field("expires_at", pa.int64()),
    ]
)
"""`other` is the id of a version or snapshot, empty for a state; `canonical` as in `records.DIGEST_FIELDS`."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """One cursor, by what the ledger says of it."""

    cursor_id: str
    base_plan: str
    """The plan whose validated import the first cursor was made from; of a seeded one, the plan that read both ends."""
    round_id: str
    """The round (a plan of the purpose ``sync``) that made it; empty for a first one."""
    source: str
    """The source, as it describes itself."""
    server: str
    """`ports.Place.server` of the source."""
    stamped_at: str
    """The moment that documents name as that of their migration, where the source stamps them (see `ports.Stamping`)."""
    ids: int
    """Ids of the source."""
    records: int
    """Records in the target that came from them."""
    horizon: int | None = None
    """Of a `ports.Watermarked` source, the transaction before which all that was written is part of it."""
    partial: int = 0
    """Rounds since the last one that looked at the whole source."""
    seeded: bool = False
    """Whether it was made by looking at both ends, instead of from an import; see `sync.seed_cursor`."""
    created_at: str = ""

    @property
    def sources_file(self) -> str:
        return f"cursors/{self.cursor_id}/source.parquet"

    @property
    def targets_file(self) -> str:
        return f"cursors/{self.cursor_id}/target.parquet"

    def sources(self, session: Session) -> Iterator[pa.RecordBatch]:
        """Batches of `SOURCE_ROW`, in order of the ids' bytes."""
        raise NotImplementedError

    def targets(self, session: Session) -> Iterator[pa.RecordBatch]:
        """Batches of `TARGET_ROW`, in order of the source ids' bytes: all that the target holds of this migration."""
        raise NotImplementedError


def current_cursor(session: Session) -> Cursor | None:
    """What the target stands for now; None if it was never synced, or what it stood for was taken back."""
    raise NotImplementedError
