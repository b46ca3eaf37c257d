"""What a run of the whole migration takes that is not the migration's: Dagster's steps and events, measured without any work.

The job is one of the same shape: the same assets, partitions and checks, with nothing in them.
"""

import time
from collections.abc import Iterable, Iterator

import dagster as dg

from agui_pipelines.phases.timeline import Seconds
from assets import checks
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
_OFF = 0.3
"""Share by which it may be another time."""


def around_steps(instance: dg.DagsterInstance, before: float) -> Seconds:
    """`before`: seconds that had passed when this was called, which a run takes too. Takes some seconds itself."""
    names = KEY_RANGES.get_partition_keys()
    tags = {"dagster/asset_partition_range_start": names[0], "dagster/asset_partition_range_end": names[-1]}
    definitions = dg.Definitions(
        assets=_assets(),
        asset_checks=[_checks(real) for real in (checks.EXPORTED, checks.STAGED)],
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
    name, ranged = real.key.to_user_string(), real.partitions_def is not None

    @dg.asset(
        name=name,
        deps=deps,
        partitions_def=real.partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run() if ranged else None,
        check_specs=_alike(real.check_specs),
    )
    def empty(context: dg.AssetExecutionContext) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        for partition in context.partition_keys if ranged else ():
            context.add_asset_metadata({"range_records": 0}, partition_key=partition)
        yield from _passed(real.check_specs)
        yield dg.MaterializeResult(metadata={"records": 0})

    return empty


def _checks(real: dg.AssetChecksDefinition) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(name=real.op.name, specs=_alike(real.check_specs))
    def empty() -> Iterator[dg.AssetCheckResult]:
        yield from _passed(real.check_specs)

    return empty


def _alike(real: Iterable[dg.AssetCheckSpec]) -> list[dg.AssetCheckSpec]:
    return [dg.AssetCheckSpec(each.name, asset=each.asset_key, blocking=each.blocking) for each in real]


def _passed(real: Iterable[dg.AssetCheckSpec]) -> Iterator[dg.AssetCheckResult]:
    for each in real:
        yield dg.AssetCheckResult(passed=True, check_name=each.name, metadata={"failed": 0})
