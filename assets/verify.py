"""Verify: an op that looks at a sample of the target, as a schedule has it do at night."""

import dagster as dg
from pydantic import Field

from agui_pipelines.errors import UsageError
from agui_pipelines.phases.spot_check import require_passed, spot_check
from agui_pipelines.resources import MigrationRun
from assets import declared, metadata
from assets.partitions import TARGET_POOL
from assets.places import target_store


class SampleConfig(dg.Config):
    """What is looked at."""

    sample: int = Field(default=declared.SCHEDULES.sample, description="Ids, chosen at random; at least 1.")


@dg.op(pool=TARGET_POOL, tags=metadata.reports_on(target_store))
def target_sample(
    context: dg.OpExecutionContext, config: SampleConfig, migration: dg.ResourceParam[MigrationRun]
) -> None:
    """Compare a random sample of the target with what the import and the syncs have left there."""
    with migration.session(context) as session:
        _require_some(config.sample)
        report = spot_check(session, config.sample)
        found = metadata.of_spot_check(report)
        context.log_event(dg.AssetObservation(target_store.key, metadata=found))
        context.add_output_metadata(found)
        require_passed(report)


def _require_some(sample: int) -> None:
    """Raises `UsageError`. A bound of the field itself would end in Dagster's own error, with a traceback."""
    if sample < 1:
        raise UsageError(
            f"sample is {sample}.",
            why="A sample without ids says nothing of the target.",
            remedy="Give the number of ids to compare: 1 or more.",
        )
