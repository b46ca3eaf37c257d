"""Referential integrity of what was moved: whether the versions and states that records name are there.

What is broken among the staged records already is the source's own deviation: it was moved as it was. Only what is broken
in the target and was whole when it was staged counts against the migration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from agui_pipelines.phases.comparison import Comparison
from agui_pipelines.phases.observation import Names
from agui_pipelines.phases.session import Session
from agui_pipelines.records import Kind
from agui_pipelines.staging import SnapshotReader

ORPHANS: Final = "histories_without_state"
"""Versions and snapshots whose state is not there, as the format leaves them behind when a state is deleted."""

LINKS: Final = {"versions_without_parent": Kind.VERSION, "snapshots_without_version": Kind.SNAPSHOT}
"""What records name: findings, each with the kind of the records that name something which is not there."""

_LINKED: Final = """
    SELECT $finding AS finding, r.id, r.other, r.link FROM {records} r
    ANTI JOIN {side} v ON v.kind = 'version' AND v.id = r.id AND v.other = r.link
    WHERE r.kind = $kind AND r.link <> ''
"""
_STATELESS: Final = """
    SELECT $finding AS finding, r.id, r.other, r.link FROM {records} r
    ANTI JOIN {side} s ON s.kind = 'state' AND s.id = r.id
    WHERE r.kind <> 'state'
"""
_MOVED: Final = "(SELECT * FROM actual SEMI JOIN expected USING (kind, id, other))"


@dataclass(frozen=True, slots=True)
class Integrity:
    """Records by finding: `versions_without_parent`, `snapshots_without_version` and `ORPHANS`."""

    source: dict[str, Names] = field(default_factory=dict)
    """As they were staged: the source's own."""
    target: dict[str, Names] = field(default_factory=dict)
    """New in the target."""
    left_behind: int = 0
    """Versions and snapshots that name a version which the history limit left behind."""
    unpaired: int = 0
    """In the target, members of a sorted set without a body, and bodies that no sorted set names; named among the errors."""

    @property
    def holds(self) -> bool:
        """Nothing that was whole when it was staged names a version which is missing in the target."""
        return all(self.target[finding].count == 0 for finding in LINKS if finding in self.target)

    def to_dict(self) -> dict[str, Any]:
        def public(found: dict[str, Names]) -> dict[str, Any]:
            return {
                key: value
                for name, names in found.items()
                for key, value in ((name, list(names.ids)), (f"{name}_count", names.count))
            }

        return {
            "holds": self.holds,
            "source": public(self.source),
            "target": public(self.target),
            "left_behind_by_history_limit": self.left_behind,
            "members_or_bodies_alone": self.unpaired,
        }


def examine(
    session: Session, comparison: Comparison, staged: Iterable[SnapshotReader], *, unpaired: int = 0
) -> Integrity:
    """Look up, on both sides of a joined comparison, what versions and snapshots name."""
    if not comparison.query("SELECT 1 FROM expected WHERE kind <> 'state' LIMIT 1"):
        return Integrity(unpaired=unpaired)
    for table, records, side in (("broken", "expected", "expected"), ("broken_here", _MOVED, "actual")):
        comparison.query(f"CREATE TABLE {table} (finding VARCHAR, id VARCHAR, other VARCHAR, link VARCHAR)")
        for finding, kind in LINKS.items():
            linked = _LINKED.format(records=records, side=side)
            comparison.query(f"INSERT INTO {table} {linked}", finding=finding, kind=kind)
        stateless = _STATELESS.format(records=records, side=side)
        comparison.query(f"INSERT INTO {table} {stateless}", finding=ORPHANS)
    comparison.query(
        "DELETE FROM broken_here USING broken b WHERE (b.finding, b.id, b.other) = "
        "(broken_here.finding, broken_here.id, broken_here.other)"
    )
    return Integrity(
        left_behind=_forget_left_behind(session, comparison, staged) if session.migration.history_limit else 0,
        source=_found(comparison, "broken"),
        target=_found(comparison, "broken_here"),
        unpaired=unpaired,
    )


def _found(comparison: Comparison, table: str) -> dict[str, Names]:
    query = f"SELECT id, other FROM {table} WHERE finding = $finding"  # noqa: S608 - one of two names
    return {finding: comparison.names(query, finding=finding) for finding in (*LINKS, ORPHANS)}


def _forget_left_behind(session: Session, comparison: Comparison, staged: Iterable[SnapshotReader]) -> int:
    """Take out what is broken only because the history limit left behind what it names; how many records that are."""
    comparison.query("CREATE TABLE exported (version_id VARCHAR)")
    for snapshot in staged:
        for parent in snapshot.manifest.parents:
            for batch in SnapshotReader(session.workspace, parent).batches(Kind.VERSION, ["version_id"]):
                comparison.insert("exported", batch)
    [(count,)] = comparison.query(
        "DELETE FROM broken WHERE finding <> $orphans AND link IN (SELECT version_id FROM exported)", orphans=ORPHANS
    )
    return int(count)
