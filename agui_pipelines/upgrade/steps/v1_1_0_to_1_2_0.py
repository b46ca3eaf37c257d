"""1.1.0 → 1.2.0: every file lies where the configured layout has it, and a history file says whose it is.

Convention of this project: in a file store of 1.2.0 each state, version and snapshot lies in the shard folder of its state,
and versions and snapshots carry ``StateID`` (store-format.md, section 2), which Go ignores. So a store whose
`enable_sharding` or `shard_count` was changed becomes one layout again. Redis and PostgreSQL keep histories by state already.
Checked: no state is of data format 2.0. No document, time or id is changed.
"""

from __future__ import annotations

from agui_pipelines.upgrade import work as work_
from agui_pipelines.upgrade.survey import Survey
from agui_pipelines.upgrade.work import Counts, Work

SUMMARY = "puts every file into its shard folder, with its state's id"

check = work_.require_format_1


def pending(found: Survey) -> Counts:
    return work_.to_settle(found)


def apply(work: Work) -> Counts:
    return work_.settle(work)
