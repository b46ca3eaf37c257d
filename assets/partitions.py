"""The key ranges as Dagster partitions, and the pool in which runs queue up for the target.

Partition keys must be known when the code location is loaded, before any plan exists, so they are the ranges' names; the
real bounds stand in each plan. Their number is that of the default migration file.
"""

from __future__ import annotations

import warnings
from typing import Final

import dagster as dg

from agui_pipelines.keyspace import range_names
from assets.declared import RANGES

# That ranges of a backfill which follow each other go through one run is what this project rests on, and what nobody needs to
# be told of. Ranges that lie apart are runs of their own, one for each row of neighbours.
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)

KEY_RANGES = dg.StaticPartitionsDefinition(range_names(RANGES))
ALL_IN_ONE_RUN = dg.BackfillPolicy.single_run()

TARGET_POOL: Final = "target"
"""Of the steps that write to the target, or switch to it: ``dagster.yaml`` lets one run with any of them go on at a time.

Runs that Dagster launches queue up by it. What keeps two migrations apart, wherever they run, is the lock in the target.
"""
