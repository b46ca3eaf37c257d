"""A source that can only be scanned, read as any other through its spool in the workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pyarrow as pa

from agui_pipelines.errors import StagingError
from agui_pipelines.keyspace import KeyRange, Span
from agui_pipelines.ports import OnReject, Place, Scanner
from agui_pipelines.records import Kind
from agui_pipelines.staging import Workspace
from agui_pipelines.staging.spool import SpoolReader, has_spool
from agui_pipelines.staging.spool_writer import SpoolWriter

_EVERYTHING: Final = KeyRange("", None, None, 0, 0, 0)


class Spooled:
    """A `Reader` of what a `Scanner` yielded when the plan `spool_id` was made; `fill` makes the spool.

    A scanner may have an attribute ``fingerprint``: whatever, besides the migration file, decides what it yields (its files'
    sizes and times, the digest of a user's module). A spool of another fingerprint is not resumed.
    """

    def __init__(self, scanner: Scanner, workspace: Workspace, spool_id: str) -> None:
        self._scanner, self._workspace, self._id = scanner, workspace, spool_id
        self._opened: SpoolReader | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return self._scanner.kinds

    def place(self) -> Place:
        return self._scanner.place()

    def describe(self) -> str:
        return self._scanner.describe()

    def ping(self) -> str:
        return self._scanner.ping()

    def exists(self) -> bool:
        return self._scanner.exists()

    def close(self) -> None:
        self._scanner.close()

    @property
    def tells_changes(self) -> bool:
        """Whether the scanner's fingerprint changes with whatever it would yield, as that of files does."""
        return bool(getattr(self._scanner, "tells_changes", False))

    def serves(self, spool_id: str, max_rejects: int) -> bool:
        """Whether the spool of a plan can be resumed.

        One with more rejects than the migration allows would only be refused again; the source may have been mended, so it
        has to be scanned again.
        """
        if not has_spool(self._workspace, spool_id):
            return False
        spool = SpoolReader(self._workspace, spool_id).spool
        return spool.rejects <= max_rejects and spool.fingerprint == self._fingerprint()

    def fill(self, spool_id: str, on_progress: Callable[[int, int], None]) -> None:
        """Scan the source into the spool `spool_id`, and read that from now on.

        `on_progress` is told how many records, of how many bytes, have arrived since it was last called.
        """
        fingerprint = self._fingerprint()
        with SpoolWriter(self._workspace, spool_id) as writer:
            for kind, batch in self._scanner.scan(writer.reject):
                writer.write(kind, batch)
                on_progress(batch.num_rows, batch.nbytes)
            writer.seal(fingerprint)
        self._id = spool_id

    def keys(self) -> Iterator[pa.RecordBatch]:
        yield from self._spool().keys()

    def read(self, kind: Kind, span: Span, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        """The records of a key range. What the scan rejected is rejected here, in the range that its id falls into."""
        spool = self._spool()
        for reject in spool.rejects(span.range):
            # What is of no kind that will be asked for is told along with the first kind.
            if reject.kind is kind or (reject.kind not in self.kinds and kind is self.kinds[0]):
                on_reject(reject)
        states = 0
        for batch in spool.read(kind, span.range):
            states += batch.num_rows
            yield batch
        if not span.sparse and self.kinds == (kind,) and states != len(span):
            raise StagingError(
                f"The spool of the plan '{self._id}' holds {states:,} states in the key range {span.range.name}; "
                f"its catalogue lists {len(span):,}.",
                why="One of the two files is not what was written, so states would be missing.",
                remedy="Run the whole migration again with --fresh, which scans the source.",
            )

    @property
    def is_filled(self) -> bool:
        """Whether the spool is there to be read."""
        return has_spool(self._workspace, self._id)

    def counted(self) -> dict[str, int]:
        """Records of the spool, by kind."""
        return dict(self._spool().spool.records)

    def all_of(self, kind: Kind) -> Iterator[pa.RecordBatch]:
        """All records of a kind in the spool, in order of their ids."""
        return self._spool().read(kind, _EVERYTHING)

    def beginning(self, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        """What the scanner yields first, without a spool; for sources that may be read any number of times."""
        return self._scanner.scan(on_reject)

    def salvage(self, document: bytes) -> bytes | None:
        """Another form of a document that turned out to be none, if the source knows one."""
        salvage: Callable[[bytes], bytes | None] | None = getattr(self._scanner, "salvage", None)
        return None if salvage is None else salvage(document)

    def _fingerprint(self) -> str:
        return str(getattr(self._scanner, "fingerprint", ""))

    def _spool(self) -> SpoolReader:
        if self._opened is None or self._opened.spool.spool_id != self._id:
            if not has_spool(self._workspace, self._id):
                raise StagingError(
                    f"The source ({self.describe()}) has not been scanned for the plan '{self._id}', or its spool is gone.",
                    why="Such a source is read once, when a migration is planned.",
                    remedy="Run the whole migration again with --fresh, which scans it.",
                )
            self._opened = SpoolReader(self._workspace, self._id)
        return self._opened
