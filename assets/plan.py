"""Plan: what a run is going to move."""

import dagster as dg

from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.proposal import propose
from agui_pipelines.phases.timeline import document, document_name
from agui_pipelines.resources import MigrationRun
from assets import metadata
from assets.assess import source_assessment
from assets.declared import OWNERS, TAGS
from assets.partitions import KEY_RANGES
from assets.places import target_store


@dg.asset(
    group_name="prepare",
    kinds={"duckdb", "parquet"},
    code_version="1",
    owners=OWNERS,
    tags=TAGS,
    deps=[source_assessment, target_store],
)
def migration_plan(
    context: dg.AssetExecutionContext, migration: dg.ResourceParam[MigrationRun]
) -> dg.MaterializeResult[None]:
    """The source's keys, sorted on disk and cut into key ranges of equal weight.

    Both ends are connected to and checked first. An interrupted run's plan is taken up again unless `fresh` is set. The job
    `assess_and_plan` also rehearses it on samples, and writes what it found as a document, which is shown here.
    """
    with migration.cut_into(len(KEY_RANGES.get_partition_keys())).session(context) as session:
        made = plan(session, purpose=migration.purpose, fresh=migration.fresh)
        written = document(session.workspace, made.plan_id)
        if migration.propose:
            written = propose(session, made, rehearsing=migration.rehearse, start_up=migration.start_up)
        link = metadata.link(session.workspace, document_name(made.plan_id, "md"), "plan_file") if written else {}
        return dg.MaterializeResult(metadata={**metadata.of_plan(made, written), **link})
