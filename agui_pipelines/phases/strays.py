"""Strays: records that a migration once brought into the target, and of which the source knows nothing any more."""

from __future__ import annotations

from typing import Final

from agui_pipelines.phases.comparison import Comparison
from agui_pipelines.phases.cursor import cursors
from agui_pipelines.phases.observation import Names
from agui_pipelines.phases.session import Session

_EXTRA: Final = "SELECT id, other FROM joined WHERE status = 'extra'"
_BROUGHT: Final = """
    SELECT j.id, j.other FROM joined j
    SEMI JOIN brought b ON j.kind = b.kind AND j.id = b.target_id AND j.other = b.other
    WHERE j.status = 'extra'
"""


def strays(session: Session, comparison: Comparison) -> Names:
    """Of what the target holds too much, what some cursor of this migration says that it came from the source."""
    if not comparison.names(_EXTRA).count:
        return Names()
    comparison.query("CREATE TABLE brought (kind VARCHAR, target_id VARCHAR, other VARCHAR)")
    for cursor in {each.cursor_id: each for each in cursors(session.ledger)}.values():
        if not session.workspace.has(f"{cursor.folder}/target.parquet"):
            continue  # too old to be kept
        for batch in cursor.targets(session):
            comparison.insert("brought", batch.select(["kind", "target_id", "other"]))
    return comparison.names(_BROUGHT)
