"""The key ranges as Dagster partitions.

Partition keys must be known when the code location is loaded, before any plan exists, so they are the ranges' names; the
real bounds stand in each plan. Their number is that of the default migration file.
"""

from __future__ import annotations

import warnings

import dagster as dg

from agui_pipelines.keyspace import range_names
from assets.declared import RANGES

# That all ranges of a backfill go through one run is what this project rests on, and what nobody needs to be told of.
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)

KEY_RANGES = dg.StaticPartitionsDefinition(range_names(RANGES))
ALL_IN_ONE_RUN = dg.BackfillPolicy.single_run()
