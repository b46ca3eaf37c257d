"""The archive of a source: what it holds under the ids that a migration moved, and which of its records those are.

Which records were moved is told by the cursor: what it says of the target came from somewhere. A record that was rejected on
the way, or left behind by a history limit, is archived with the others of its id, and is none of them.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.keyspace import CATALOGUE, DUCKDB, KeyRange
from agui_pipelines.phases import backup as backups
from agui_pipelines.phases.backup import Backup
from agui_pipelines.phases.cursor import Cursor
from agui_pipelines.phases.session import Session
from agui_pipelines.records import Kind, id_columns

_MOVED: Final = pa.schema([("kind", pa.string()), ("id", pa.string()), ("other", pa.string())])


def archive(session: Session, cursor: Cursor) -> Backup:
    """Archive what the source holds under the ids that a cursor knows of, and read it back. Raises `BackupError`."""
    made = backups.archive(session, _keys(session, cursor), cursor.cursor_id)
    backups.verify(session, made)
    return made


def moved(session: Session, cursor: Cursor, within: KeyRange | None = None) -> Iterator[pa.RecordBatch]:
    """The records of the source that were moved: batches of ``kind``, ``id`` and ``other`` (empty for a state).

    With a range, those of the ids within it, and maybe some more.
    """
    for batch in cursor.targets(session, within):
        columns = [batch.column("kind"), batch.column("source_id").cast(pa.string()), batch.column("other")]
        found = pa.RecordBatch.from_arrays(columns, schema=_MOVED)
        yield found.filter(pc.not_equal(found.column("id"), ""))


def counts(session: Session, cursor: Cursor) -> dict[str, int]:
    """How many records of the source were moved, by kind."""
    found: Counter[str] = Counter(dict.fromkeys(map(str, Kind), 0))
    for batch in moved(session, cursor):
        for each in pc.value_counts(batch.column("kind")).to_pylist():
            found[each["values"]] += each["counts"]
    return dict(found)


class Moved:
    """Tells the records of a key range that were moved from the others of their ids. Use as a context manager."""

    def __init__(self, session: Session, cursor: Cursor, within: KeyRange) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="agui-archive-")
        folder = Path(self._scratch.name)
        self._connection = duckdb.connect(folder / "moved.duckdb", config={**DUCKDB, "temp_directory": str(folder)})
        self._connection.register("incoming", pa.Table.from_batches([], _MOVED))
        self._connection.execute("CREATE TABLE moved AS SELECT * FROM incoming")
        for batch in moved(session, cursor, within):
            self._connection.register("incoming", pa.Table.from_batches([batch]))
            self._connection.execute("INSERT INTO moved SELECT * FROM incoming")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._scratch.cleanup()

    def only(self, kind: Kind, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch that were moved."""
        names = id_columns(kind)
        other = pa.repeat(pa.scalar(""), batch.num_rows) if kind is Kind.STATE else batch.column(names[1])
        rows = pa.array(range(batch.num_rows), pa.int64())
        self._connection.register("incoming", pa.table({"row": rows, "id": batch.column(names[0]), "other": other}))
        found = self._connection.execute(
            "SELECT row FROM incoming i SEMI JOIN (SELECT id, other FROM moved WHERE kind = $kind) m "
            "ON i.id = m.id AND i.other = m.other ORDER BY row",
            {"kind": str(kind)},
        ).fetchall()
        return batch if len(found) == batch.num_rows else batch.take(pa.array([row for (row,) in found], pa.int64()))


def _keys(session: Session, cursor: Cursor) -> Iterator[pa.RecordBatch]:
    for batch in moved(session, cursor):
        ids = pc.unique(batch.column("id")).cast(pa.binary())
        yield pa.RecordBatch.from_arrays([ids, pa.repeat(1, len(ids))], schema=CATALOGUE)
