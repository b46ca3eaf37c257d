"""2.0.0 → 2.1.0: every place is there, every file lies where it belongs, and a history file says whose it is.

Convention of this project: what 1.1.0 and 1.2.0 bring to a store of 1.x, 2.1.0 brings to one of 2.x: missing folders, tables
and indexes are created; in a file store, versions and snapshots get ``StateID`` (store-format.md, section 2), and files move
into the shard folders of their states. Checked: no state is of data format 1.0. No document, time or id is changed.

The configuration that goes with 2.1.0 has the nested keys of section 5: agui-migrate upgrade-config.
"""

from __future__ import annotations

from agui_pipelines.upgrade import work as work_
from agui_pipelines.upgrade.survey import Survey
from agui_pipelines.upgrade.work import Counts, Work

SUMMARY = "creates what is missing, and puts every file into its shard folder, with its state's id"

check = work_.require_format_2


def pending(found: Survey) -> Counts:
    return {"created": len(found.lacking), **work_.to_settle(found)}


def apply(work: Work) -> Counts:
    return {"created": work_.create_missing(work), **work_.settle(work)}
