"""1.1.0 → 1.1.1: the store is known to be in order.

Convention of this project: every record of a store of 1.1.1 has been read and found to be one. Checked: everything can be
read, every version and snapshot has a state's id, no state is of data format 2.0. Nothing is changed.
"""

from __future__ import annotations

from agui_pipelines.upgrade import work as work_
from agui_pipelines.upgrade.survey import Survey
from agui_pipelines.upgrade.work import Counts, Work

SUMMARY = "checks every record"


def check(found: Survey) -> None:
    """Every record can be read, and is of format 1.x."""
    found.require_readable()
    work_.require_format_1(found)


def pending(found: Survey) -> Counts:  # noqa: ARG001 - there is never anything
    return {}


def apply(work: Work) -> Counts:  # noqa: ARG001 - there is never anything
    return {}
