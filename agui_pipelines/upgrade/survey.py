"""Survey: what a store says that it is, and what its documents say; reads all of it once and changes nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Final

import orjson
import pyarrow as pa

from agui_pipelines import documents
from agui_pipelines.errors import RefusedError, StoreError, UsageError, named
from agui_pipelines.keyspace import cut, write_catalogue
from agui_pipelines.phases.observation import Take, Unreadable, Within, observe
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import End, Session
from agui_pipelines.ports import Settling, Store
from agui_pipelines.records import Kind
from agui_pipelines.spec import ForeignConfig
from agui_pipelines.upgrade import versions

PHASE: Final = "survey"
_NAMED: Final = 100

OLD, NEW = "1.0", "2.0"
"""Data formats, as a document's member ``version`` has them."""
_MEMBERS: Final = {OLD: "data", NEW: "payload"}
"""The member that a document of a format has besides."""
_MARKERS: Final = {
    "file": "the file VERSION in its folder",
    "redis": "the key meta:version after its prefix",
    "postgresql": "the row 'version' of its table ag_meta",
}


@dataclass(slots=True)
class Survey:
    """What was found. Of ids, the first hundred of each finding."""

    place: str = ""
    where: str = ""
    """Where its marker stands, for people."""
    marker: str | None = None
    lacking: tuple[str, ...] = ()
    records: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    """Documents of states by their data format."""
    histories: Counter[str] = field(default_factory=Counter)
    """Documents of versions and snapshots likewise."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Ids of states by format."""
    unsettled: Counter[str] = field(default_factory=Counter)
    """Records by kind that `ports.Settling` would put where they belong."""
    unreadable: list[str] = field(default_factory=list)
    unreadable_count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, store: Store, kind: Kind, batch: pa.RecordBatch) -> None:
        """Count the records of a digested batch."""
        self.records[str(kind)] += batch.num_rows
        if isinstance(store, Settling) and (unsettled := store.unsettled(kind, batch)):
            self.unsettled[str(kind)] += unsettled
        counts = self.formats if kind is Kind.STATE else self.histories
        for state_id, data in zip(batch.column("state_id"), batch.column("data"), strict=True):
            format_ = format_of(data.as_py())
            counts[format_ or ""] += 1
            if format_ is not None and kind is Kind.STATE:
                ids = self.examples.setdefault(format_, [])
                if len(ids) < _NAMED:
                    ids.append(state_id.as_py())

    def include(self, other: Survey) -> None:
        with self._lock:
            for counts in ("records", "formats", "histories", "unsettled"):
                getattr(self, counts).update(getattr(other, counts))
            for format_, ids in other.examples.items():
                found = self.examples.setdefault(format_, [])
                found += ids[: _NAMED - len(found)]
            self.unreadable += other.unreadable[: _NAMED - len(self.unreadable)]
            self.unreadable_count += other.unreadable_count

    def version(self, assumed: str | None = None) -> str:
        """Which version the store is of: what is `assumed`, what its marker says, or what its documents tell.

        Raises `RefusedError` for a marker that is unknown, damaged, or contradicted by the documents; and for documents of
        both formats.
        """
        if assumed is not None:
            return assumed
        marked = None if self.marker is None else versions.parsed(self.marker, where=self.where)
        old, new = self.formats[OLD], self.formats[NEW]
        if old and new:
            raise self._mixed()
        told = versions.FIRST if old else versions.UNMARKED
        if marked is None:
            return told
        contradicting = OLD if marked.startswith("2.") else NEW
        if self.formats[contradicting]:
            raise self._contradicted(marked, contradicting)
        return marked

    def require_readable(self) -> None:
        """Raises `RefusedError` if something of the store is no valid record."""
        if self.unreadable_count:
            raise RefusedError(
                f"What {self.place} holds under {self.unreadable_count:,} ids cannot be read: {named(self.unreadable)}.",
                why="It can be neither checked nor backed up, so an upgrade could not be taken back. Nothing was changed.",
                remedy="Mend or remove it there, then run again.",
                ids=list(self.unreadable),
            )

    def _mixed(self) -> RefusedError:
        return RefusedError(
            f"{self.place} holds documents of both data formats: {self.formats[OLD]:,} of 1.0 ({named(self.examples[OLD])}) "
            f"and {self.formats[NEW]:,} of 2.0 ({named(self.examples[NEW])}).",
            why="It is of no one version: a migration from 1.x to 2.0 has not come to its end, or two stores lie in one place.",
            remedy="Finish that migration, or take it back (agui-migrate rollback). If documents of your own only look like "
            "those of a format, say what the store is: --from VERSION.",
        )

    def _contradicted(self, marked: str, format_: str) -> RefusedError:
        ids = self.examples[format_]
        return RefusedError(
            f"The version marker contradicts the data: it says {marked} ({self.where}), and {self.formats[format_]:,} states "
            f"are of data format {format_}: {named(ids)}.",
            why="An upgrade by the wrong one of the two would do harm. Nothing was changed.",
            remedy="Correct the marker, or remove it, and the store is told by looking. If documents of your own only look "
            "like those of that format, say what the store is: --from VERSION.",
            ids=list(ids),
        )


def opened(session: Session, of: End) -> AbstractContextManager[Store]:
    """The store at one end of a migration. Raises `UsageError` if it is no AG-UI store."""
    source = session.migration.source
    if of == "source" and isinstance(source, ForeignConfig):
        raise UsageError(
            f"The source is of the type {source.type}, which is no AG-UI store.",
            why="Only an AG-UI store has a version that it can be upgraded from.",
            remedy="Leave --of out.",
        )
    return session.target() if of == "target" else session.source_store()


def require_store(session: Session, of: End) -> None:
    """Raises `StoreError` if there is no store to be upgraded: taking its lock would make a folder."""
    with opened(session, of) as store:
        store.check()
        if not store.exists():
            raise StoreError(
                f"There is no store at {store.describe()}.",
                why="An upgrade of nothing would look like a success.",
                remedy="Correct file_options.base_dir, or connection_url, database and schema.",
            )


def survey(session: Session, of: End = "target") -> Survey:
    """Read a whole store, in batches, on several connections. Tables that do not exist yet are empty ones."""
    found = Survey()
    meter = session.meter(PHASE)
    unreadable = Unreadable()
    with opened(session, of) as store:
        store.ping()
        found.place, found.lacking, found.marker = store.describe(), store.lacking(), store.version()
        found.where = _MARKERS.get(store.place().kind, "its marker")
        if not store.exists():
            return found
        with TemporaryDirectory(prefix="agui-survey-") as scratch:
            within = retried(session, meter, partial(_everything, session, store, Path(scratch) / "keys.parquet"))
            observe(
                session,
                partial(opened, session, of),
                within.spans(empty=True),
                meter,
                partial(_taking, session, of, found),
                unreadable,
                keys=sum(key_range.keys for key_range in within.ranges),
                only=False,
            )
    found.unreadable, found.unreadable_count = list(unreadable.ids[:_NAMED]), unreadable.count
    session.conclude(meter, "")
    return found


@contextmanager
def _taking(session: Session, of: End, found: Survey) -> Iterator[Take]:
    """Takes the batches of one key range; what it has seen counts if all of them were read."""
    part = Survey()
    with opened(session, of) as store:
        yield partial(part.take, store)
    found.include(part)


def _everything(session: Session, store: Store, file: Path) -> Within:
    with file.open("wb") as sorted_keys:
        write_catalogue(store.keys(), sorted_keys)
    with file.open("rb") as catalogue:
        ranges = cut(catalogue, session.migration.ranges)
    return Within(partial(_read, file), ranges)


def _read(file: Path) -> AbstractContextManager[IO[bytes]]:
    return file.open("rb")


def format_of(document: bytes) -> str | None:
    """The data format of a document: ``1.0``, ``2.0``, or None for any other."""
    if b"version" not in document and b"\\" not in document:
        return None
    try:
        members = documents.members(document)
        said = orjson.loads(members.get("version", b"null"))
    except (ValueError, ArithmeticError):  # lone surrogates, or numbers beyond reading, which no format has there
        return None
    return said if isinstance(said, str) and _MEMBERS.get(said) in members else None
