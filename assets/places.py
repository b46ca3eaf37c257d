"""What is not made here: the systems at both ends, and what the jobs of the last phases leave behind.

Nobody can materialize these. The jobs `sync`, `cutover` and `decommission`, which no "materialize all" ever reaches, report
what they did as a materialization of theirs.
"""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from assets.declared import OWNERS, SCHEDULES, SOURCE_KIND, TAGS, TARGET_KIND

source_system = dg.AssetSpec(
    "source_system",
    group_name="assess",
    kinds={SOURCE_KIND},
    owners=OWNERS,
    tags=TAGS,
    description="Where the state is now: a foreign system or an AG-UI store. It is read, and changed by nothing but the job "
    "decommission.",
)
target_store = dg.AssetSpec(
    "target_store",
    group_name="prepare",
    kinds={TARGET_KIND},
    owners=OWNERS,
    tags=TAGS,
    description="The AG-UI store that the state is moved to. While a run writes there, a lock in it keeps every other one off.",
)
synced_target = dg.AssetSpec(
    "synced_target",
    group_name="go_live",
    deps=["source_system", "validation_report"],
    kinds={TARGET_KIND},
    owners=OWNERS,
    tags=TAGS,
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(seconds=SCHEDULES.max_lag), warn_window=timedelta(seconds=SCHEDULES.max_lag / 2)
    ),
    description="The target as the job sync has last brought it up to the source, with its lag. It is stale once that is "
    "longer ago than schedules.max_lag.",
)
live_side = dg.AssetSpec(
    "live_side",
    group_name="go_live",
    deps=[synced_target],
    kinds={TARGET_KIND},
    owners=OWNERS,
    tags=TAGS,
    description="Which of the two sides applications use, as the job cutover has last left it, with its report.",
)
source_archive = dg.AssetSpec(
    "source_archive",
    group_name="retire",
    deps=[live_side],
    kinds={"parquet"},
    owners=OWNERS,
    tags=TAGS,
    description="What the job decommission has archived of the source before it deleted it there; "
    "`agui-migrate backup restore` puts it back.",
)

PLACES = [source_system, target_store, synced_target, live_side, source_archive]
