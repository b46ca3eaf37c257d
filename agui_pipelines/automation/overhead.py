"""What a run of the whole migration takes that is not the migration's: Dagster's steps and events, measured without any work.

The job is one of the same shape: the same assets, partitions and checks, with nothing in them.
"""

import time

import dagster as dg

from agui_pipelines.phases.timeline import Seconds
from assets.assess import source_assessment
from assets.backup import target_backup
from assets.export import exported_snapshot
from assets.import_ import target_states
from assets.partitions import KEY_RANGES
from assets.plan import migration_plan
from assets.transform import staged_snapshot
from assets.validate import validation_report

_STEPS = (
    source_assessment,
    migration_plan,
    exported_snapshot,
    staged_snapshot,
    target_backup,
    target_states,
    validation_report,
)
_CHECKED = (exported_snapshot, staged_snapshot)
_OFF = 0.3
"""Share by which it may be another time."""


def around_steps(instance: dg.DagsterInstance, before: float) -> Seconds:
    """`before`: seconds that had passed when this was called, which a run takes too. Takes some seconds itself."""
    names = KEY_RANGES.get_partition_keys()
    tags = {"dagster/asset_partition_range_start": names[0], "dagster/asset_partition_range_end": names[-1]}
    definitions = dg.Definitions(
        assets=_assets(),
        asset_checks=[_check(real) for real in _CHECKED],
        jobs=[dg.define_asset_job("empty", executor_def=dg.in_process_executor)],
    )
    began = time.monotonic()
    definitions.resolve_job_def("empty").execute_in_process(
        instance=instance, run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}, tags=tags
    )
    took = before + time.monotonic() - began
    return Seconds(took * (1 - _OFF), took, took * (1 + _OFF))


def _assets() -> list[dg.AssetsDefinition]:
    """The steps of the job `migrate`, one after the other."""
    found: list[dg.AssetsDefinition] = []
    for real in _STEPS:
        found.append(_empty(real, [found[-1]] if found else []))
    return found


def _empty(real: dg.AssetsDefinition, deps: list[dg.AssetsDefinition]) -> dg.AssetsDefinition:
    policy = dg.BackfillPolicy.single_run() if real.partitions_def is not None else None

    @dg.asset(name=real.key.to_user_string(), deps=deps, partitions_def=real.partitions_def, backfill_policy=policy)
    def empty(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        if real in _CHECKED:  # those tell something of each partition
            for name in context.partition_keys:
                context.add_asset_metadata({"range_records": 0}, partition_key=name)
        return dg.MaterializeResult(metadata={"records": 0})

    return empty


def _check(real: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=real.key, blocking=True, name="empty")
    def empty() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    return empty
