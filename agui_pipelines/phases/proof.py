"""A full proof that source and target are equal now, however they came to be: everything is read again on both sides.

It is a plan of its own, of the purpose ``verify``: listed, exported, transformed and held to the expectations as every other,
but not imported. Its snapshots are what the source held when the two were equal.
"""

from __future__ import annotations

from agui_pipelines.phases.admission import require_importable
from agui_pipelines.phases.cursor import current_cursor
from agui_pipelines.phases.expect import expect_exported, expect_staged, require_expected
from agui_pipelines.phases.export import export
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import staged_ranges, transform
from agui_pipelines.phases.validate import ValidationReport, validate


def prove(session: Session) -> ValidationReport:
    """Read both ends in full and compare them; the outcome is returned, whatever it is, and recorded.

    Raises what an import raises before anything is written: for too many rejects, losses that are not accepted, ids that fall
    together, and expectations that are not met.
    """
    cursor = current_cursor(session)
    made = plan(session, purpose="verify", fresh=True, stamped_at=cursor.stamped_at if cursor else "")
    names = [key_range.name for key_range in made.ranges]
    export(session, made, names)
    expect_exported(session, made)
    transform(session, made, names)
    expect_staged(session, made)
    require_importable(session, list(staged_ranges(session, made).values()))
    require_expected(session, made)
    return validate(session, made)
