"""Applying a round of a sync to the target: what is in conflict, what is to go, and the proof that all is as it should be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa

from agui_pipelines.errors import CollisionError
from agui_pipelines.keyspace import CATALOGUE, cut, owners, write_catalogue
from agui_pipelines.phases.comparison import EXPIRY_MILLISECONDS, Comparison
from agui_pipelines.phases.cursor import TARGET_ROW, Cursor
from agui_pipelines.phases.observation import LIST_LIMIT, Names, Unreadable, Within, clock, observe, spans_of_ids
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.rounds import Round
from agui_pipelines.phases.session import Session
from agui_pipelines.progress import Meter
from agui_pipelines.records import ORIGIN, SCHEMAS, Kind, id_columns
from agui_pipelines.staging import SnapshotReader

_PAGE: Final = 5_000
_FEW: Final = 1_000
"""Ids of the target that are asked for one by one."""
_TOUCHED: Final = pa.schema([("source_id", pa.binary())])

_IS_AS = (
    "({0}.canonical = a.canonical AND (NOT $expiry OR "
    "coalesce(abs({0}.expires_at - a.expires_at) <= $tolerance, {0}.expires_at IS NOT DISTINCT FROM a.expires_at)))"
)
_CONFLICTS: Final = f"""
    SELECT coalesce(h.source_id, o.source_id, encode(a.id)) AS source_id, a.kind AS kind, a.id AS id, a.other AS other
    FROM actual a
        LEFT JOIN held h ON h.kind = a.kind AND h.target_id = a.id AND h.other = a.other
        LEFT JOIN expected e ON e.kind = a.kind AND e.id = a.id AND e.other = a.other
        LEFT JOIN renamed o ON o.state_id = a.id
    WHERE (h.kind IS NOT NULL OR e.kind IS NOT NULL)
        AND NOT coalesce({_IS_AS.format("h")}, false) AND NOT coalesce({_IS_AS.format("e")}, false)
    UNION ALL
    SELECT h.source_id, h.kind, h.target_id, h.other
    FROM held h
        JOIN expected e ON e.kind = h.kind AND e.id = h.target_id AND e.other = h.other
        LEFT JOIN actual a ON a.kind = h.kind AND a.id = h.target_id AND a.other = h.other
    WHERE a.kind IS NULL AND NOT coalesce($expiry AND h.expires_at <= $now, false)
"""  # noqa: S608 - made of constants
"""What is in the target is neither what the cursor says, nor what is about to be written; or is gone from there."""

_ABSENT: Final = (
    "FROM held h LEFT JOIN expected e ON e.kind = h.kind AND e.id = h.target_id AND e.other = h.other "
    "WHERE e.kind IS NULL"
)
_SPARED: Final = "h.source_id IN (SELECT source_id FROM spared)"


@dataclass(slots=True)
class Application:
    """One round beside the target. The tables are those of `comparison.Comparison`, and besides:

    ``held``, what the cursor has of the round's ids in the target; ``spared``, ids of the source of which something was
    rejected in this round, under which nothing is removed; ``removed``, what is to go.
    """

    session: Session
    round: Round
    comparison: Comparison
    meter: Meter

    def conflicts(self) -> tuple[Names, list[bytes]]:
        """Records of the target that somebody else has changed, and the ids of the source that they came from."""
        self._look()
        values = {"expiry": self.comparison.expiry, "tolerance": EXPIRY_MILLISECONDS, "now": self._now}
        self.comparison.query(f"CREATE OR REPLACE TABLE conflicts AS {_CONFLICTS}", **values)
        names = self.comparison.names("SELECT DISTINCT id, other FROM conflicts")
        ids = self.comparison.query("SELECT DISTINCT source_id FROM conflicts") if names.count else []
        return names, [bytes(id_) for (id_,) in ids]

    def removed_ids(self) -> Iterator[list[bytes]]:
        """The ids of the target under which something is to go, in order, in lists."""
        last = None
        query = f"SELECT DISTINCT id FROM removed WHERE $last IS NULL OR id > $last ORDER BY id LIMIT {_PAGE}"  # noqa: S608 - a number
        while rows := self.comparison.query(query, last=last):
            yield [id_.encode() for (id_,) in rows]
            [last] = rows[-1]

    def remove(self) -> int:
        """Remove what is to go, histories first; how many records were there. Idempotent."""
        count = 0
        with self.session.target() as target:
            if not retried(self.session, self.meter, target.exists):
                return 0
            for kind in (Kind.VERSION, Kind.SNAPSHOT, Kind.STATE):
                for batch in self._named(kind, "removed"):
                    self.session.require_going()
                    count += retried(self.session, self.meter, partial(target.remove, kind, batch))
            target.flush()
        return count

    def kept(self) -> Iterator[pa.RecordBatch]:
        """What stays in the target although this round did not stage it, as batches of `cursor.TARGET_ROW`."""
        rows = self.comparison.query(f"SELECT h.* {_ABSENT} AND {_SPARED}")
        if rows:
            columns = zip(*rows, strict=True)
            yield pa.RecordBatch.from_arrays(
                [pa.array(c, f.type) for c, f in zip(columns, TARGET_ROW, strict=True)], schema=TARGET_ROW
            )

    def look_again(self) -> None:
        """Read what the target holds now under the round's ids, and join it with what was staged."""
        self.comparison.query("DROP TABLE joined")
        self.comparison.query("DELETE FROM actual")
        self._look()

    def still_there(self) -> Names:
        """Of what was to go, what is there all the same."""
        return self.comparison.names("SELECT id, other FROM removed SEMI JOIN actual USING (kind, id, other)")

    @property
    def _now(self) -> int | None:
        return clock(self.session, self.session.target, self.meter) if self.comparison.expiry else None

    def _look(self) -> None:
        self.comparison.join()  # puts down what was expected
        self.comparison.query("DROP TABLE joined")
        file = self.comparison.folder / "ids.parquet"
        count = self._catalogue(file)
        with self.session.target() as target:
            there = retried(self.session, self.meter, target.exists)
        if there and count:
            self._observe(file, count)
        self.comparison.join(self._now)

    def _catalogue(self, file: Path) -> int:
        with file.open("wb") as into:
            write_catalogue(self._target_ids(), into)
        [(count,)] = self.comparison.query(
            "SELECT count(DISTINCT id) FROM (SELECT id FROM expected UNION ALL SELECT target_id FROM held)"
        )
        return int(count)

    def _target_ids(self) -> Iterator[pa.RecordBatch]:
        last = None
        query = (
            "SELECT DISTINCT id FROM (SELECT id FROM expected UNION ALL SELECT target_id AS id FROM held) "  # noqa: S608
            f"WHERE $last IS NULL OR id > $last ORDER BY id LIMIT {10 * _PAGE}"
        )
        while rows := self.comparison.query(query, last=last):
            ids = [id_.encode() for (id_,) in rows]
            yield pa.RecordBatch.from_arrays([pa.array(ids, pa.binary()), pa.repeat(1, len(ids))], schema=CATALOGUE)
            [last] = rows[-1]

    def _observe(self, file: Path, count: int) -> None:
        if count <= _FEW:
            ids = [key for batch in self._target_ids() for key in batch.column("key").to_pylist()]
            spans = spans_of_ids(ids)
        else:
            with file.open("rb") as catalogue:
                ranges = cut(catalogue, self.session.migration.ranges)
            spans = Within(partial(_opened, file), ranges, sparse=True).spans()
        observe(
            self.session,
            self.session.target,
            spans,
            self.meter,
            self.comparison.observing,
            Unreadable(),
            keys=count,
            only=True,
        )

    def _named(self, kind: Kind, table: str) -> Iterator[pa.RecordBatch]:
        """The ids of a table's records of a kind, as batches of nothing but their columns."""
        names = id_columns(kind)
        schema = pa.schema([SCHEMAS[kind].field(name) for name in names])
        query = (
            f"SELECT id, other FROM {table} WHERE kind = $kind AND (id, other) > ($id, $other) "  # noqa: S608 - a name of ours
            "ORDER BY id, other LIMIT $limit"
        )
        last = ("", "")
        while rows := self.comparison.query(query, kind=kind, limit=LIST_LIMIT, id=last[0], other=last[1]):
            last = rows[-1]
            yield pa.RecordBatch.from_pylist([dict(zip(names, row, strict=False)) for row in rows], schema)


@contextmanager
def application(session: Session, round_: Round, cursor: Cursor, meter: Meter) -> Iterator[Application]:
    """Set what a round has staged beside what the cursor says of its ids."""
    with session.target() as store:
        times = store.times
    with Comparison(expiry=round_.plan.route.get("expiry") == "kept", times=times) as comparison:
        staged = round_.staged(session)
        comparison.expect(staged)
        comparison.join()  # puts down what was expected
        comparison.query("DROP TABLE joined")
        _insert_origins(comparison, staged)
        _insert_held(session, comparison, round_, cursor)
        comparison.insert("spared", pa.table([_rejected(session, round_)], schema=_TOUCHED))
        made = Application(session, round_, comparison, meter)
        comparison.query(
            f"CREATE TABLE removed AS SELECT DISTINCT h.kind, h.target_id AS id, h.other {_ABSENT} AND NOT {_SPARED}"
        )
        yield made


def _insert_origins(comparison: Comparison, staged: Sequence[SnapshotReader]) -> None:
    """The table ``renamed``: which id of the source became which, where a transform may have renamed them."""
    comparison.insert("pairs", pa.table([[], []], schema=ORIGIN))
    for snapshot in staged:
        if snapshot.manifest.origins_segment is not None:
            for batch in snapshot.origins():
                comparison.insert("pairs", batch)
    comparison.query("CREATE TABLE renamed AS SELECT DISTINCT state_id, encode(source_id) AS source_id FROM pairs")


def _insert_held(session: Session, comparison: Comparison, round_: Round, cursor: Cursor) -> None:
    """The table ``held``. Raises `CollisionError` if an id is taken by what came from an id that is not of the round."""
    comparison.insert("touched", _TOUCHED.empty_table())
    for batch in round_.touched(session):
        comparison.insert("touched", pa.RecordBatch.from_arrays(batch.columns, schema=_TOUCHED))
    comparison.insert("held", TARGET_ROW.empty_table())
    comparison.query("CREATE TABLE taken (target_id VARCHAR, source_id BLOB)")
    [(renamed,)] = comparison.query("SELECT count(*) FROM renamed")
    for batch in cursor.targets(session):
        comparison.insert("of_all", batch)
        comparison.query("INSERT INTO held SELECT * FROM of_all SEMI JOIN touched USING (source_id)")
        if renamed:
            comparison.query(
                "INSERT INTO taken SELECT DISTINCT target_id, source_id FROM of_all "
                "SEMI JOIN renamed r ON r.state_id = of_all.target_id ANTI JOIN touched USING (source_id)"
            )
        comparison.query("DELETE FROM of_all")
    rows = comparison.query(
        "SELECT DISTINCT t.target_id, decode(t.source_id), decode(r.source_id) FROM taken t "
        "JOIN renamed r ON r.state_id = t.target_id ORDER BY 1 LIMIT 100"
    )
    if rows:
        raise CollisionError(
            "After the transforms, different source ids want the same id: "
            f"{', '.join(f'{id_!r} (from {one!r} and {other!r})' for id_, one, other in rows[:5])}.",
            why="Only one of each could be kept; the first is in the target already. Nothing was written.",
            remedy="Change the transforms so that different ids stay different, and run the whole migration again.",
            ids=[id_ for id_, *_ in rows],
        )


def _rejected(session: Session, round_: Round) -> Any:
    """Whose the records can be that were rejected in a round."""
    snapshots = [*round_.exported(session), *round_.staged(session)]
    return pa.array([id_ for s in snapshots for reject in s.rejects() for id_ in owners(reject.id)], pa.binary())


def _opened(path: Path) -> IO[bytes]:
    return path.open("rb")
