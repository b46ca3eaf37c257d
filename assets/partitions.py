"""The key ranges as Dagster partitions.

Partition keys must be known when the code location is loaded, before any plan exists, so they are the ranges' names; the
real bounds stand in each plan. Their number is that of the default migration file, or 16.
"""

from __future__ import annotations

import dagster as dg

from agui_pipelines import spec
from agui_pipelines.errors import SpecError
from agui_pipelines.keyspace import MAX_RANGES, range_names

DEFAULT_RANGES = 16


def _configured() -> int:
    try:
        ranges = spec.read_mapping(spec.default_file(), what="migration file").get("ranges", DEFAULT_RANGES)
    except SpecError:  # a missing or broken file is reported by the run that needs it, not by loading the definitions
        return DEFAULT_RANGES
    return ranges if isinstance(ranges, int) and 1 <= ranges <= MAX_RANGES else DEFAULT_RANGES


KEY_RANGES = dg.StaticPartitionsDefinition(range_names(_configured()))
ALL_IN_ONE_RUN = dg.BackfillPolicy.single_run()
