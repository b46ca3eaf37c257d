"""1.0.0 → 1.1.0: the store has all the places that section 2 to 4 of the format name.

Convention of this project: a store of 1.0.0 may lack folders, tables or indexes of which it never needed one, for instance
``ag_snapshots`` or ``idx_ag_versions_state_created``; one of 1.1.0 has them all. Redis needs none. Checked: no state is of data
format 2.0. Nothing that is recorded is changed.
"""

from __future__ import annotations

from agui_pipelines.upgrade import work as work_
from agui_pipelines.upgrade.survey import Survey
from agui_pipelines.upgrade.work import Counts, Work

SUMMARY = "creates the folders, tables and indexes that are missing"

check = work_.require_format_1


def pending(found: Survey) -> Counts:
    return {"created": len(found.lacking)}


def apply(work: Work) -> Counts:
    return {"created": work_.create_missing(work)}
