"""The jobs that people launch. Each opens in the launchpad with a configuration that is valid as it stands.

Their steps run in one process: phases work with threads, and a process a step would cost seconds each.
"""

from __future__ import annotations

from typing import Any, Final

import dagster as dg

from agui_pipelines.resources import DRY_RUN, MIGRATE, PLAN
from assets.assess import source_assessment
from assets.backup import target_backup
from assets.cutover import target_cutover
from assets.declared import SCHEDULES, TAGS
from assets.decommission import source_decommission
from assets.export import exported_snapshot
from assets.import_ import target_states
from assets.plan import migration_plan
from assets.preview import import_preview
from assets.rollback import target_rollback
from assets.sync import target_sync
from assets.transform import staged_snapshot
from assets.validate import validation_report
from assets.verify import target_sample

VALIDATE: Final = "validate"
AFTER_RUN: Final = "agui/rollback_of"
"""Tag of a rollback: the run that it undoes."""
ATTEMPT: Final = "agui/rollback_attempt"
"""Tag of a rollback: for the how manieth time it is tried, if not for the first."""


def _config(op: str = "", of_op: dict[str, Any] | None = None, **of_migration: Any) -> dict[str, Any]:
    """What the launchpad shows: a migration file (empty for the default one), and what else the job asks for."""
    resources = {"resources": {"migration": {"config": {"migration_file": "", **of_migration}}}}
    return {**({"ops": {op: {"config": of_op}}} if op else {}), **resources}


def _job(
    name: str, last: dg.AssetsDefinition, description: str, **of_migration: Any
) -> dg.UnresolvedAssetJobDefinition:
    """A job that makes an asset and all before it that can be made."""
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(last).upstream(),
        description=description,
        config=_config(**of_migration),
        executor_def=dg.in_process_executor,
        tags=TAGS,
    )


@dg.job(
    name="rollback",
    executor_def=dg.in_process_executor,
    config=_config("target_rollback", {"backup": "", "after_run": "", "confirm": ""}),
    tags=TAGS,
)
def rollback_job() -> None:
    """Put the target back as it was before the newest import or sync, a named backup, or what a failed run imported.

    Hooks run around it. A live target is put back only with the migration's name as `confirm`.
    """
    target_rollback()


@dg.job(
    name="decommission",
    executor_def=dg.in_process_executor,
    config=_config("source_decommission", {"confirm": ""}, dry_run=False),
    tags=TAGS,
)
def decommission_job() -> None:
    """Delete at the source what was moved, archived first. Without the migration's name it only says what would go."""
    source_decommission()


@dg.job(
    name="cutover",
    executor_def=dg.in_process_executor,
    config=_config(
        "target_cutover",
        {"confirm": "", "rehearse": False, "back": False, "source_is_stopped": False, "max_window": ""},
        dry_run=False,
    ),
    tags=TAGS,
)
def cutover_job() -> None:
    """Make the target the side that applications use, or return to the source; or only rehearse it.

    Nothing is stopped or switched unless the migration's name is given as `confirm`.
    """
    target_cutover()


@dg.job(
    name="sync",
    executor_def=dg.in_process_executor,
    config=_config("target_sync", {"accept_deletes": False, "complete": False}),
    tags=TAGS,
)
def sync_job() -> None:
    """Bring what has changed at the source since the import, or the last sync, to the target, and remove what is gone."""
    target_sync()


@dg.job(
    name="verify_sample",
    executor_def=dg.in_process_executor,
    config=_config("target_sample", {"sample": SCHEDULES.sample}),
    tags=TAGS,
)
def verify_sample_job() -> None:
    """Compare a random sample of the target with what the import and the syncs after it have left there."""
    target_sample()


def ranges_alone(*, planned: bool) -> dg.UnresolvedAssetJobDefinition:
    """The job `migrate` without its validation, and without its plan unless one is to be made."""
    ranged = dg.AssetSelection.assets(exported_snapshot, staged_snapshot, target_backup, target_states)
    before = dg.AssetSelection.assets(source_assessment, migration_plan)
    return dg.define_asset_job(MIGRATE, before | ranged if planned else ranged, executor_def=dg.in_process_executor)


def jobs() -> list[dg.UnresolvedAssetJobDefinition | dg.JobDefinition]:
    """All jobs, in the order in which a migration needs them."""
    return [
        _job(
            PLAN,
            migration_plan,
            "What the source holds, whether it can be moved, and the plan as a document: strategy, timeline from a rehearsal, "
            "resources, risks. A run takes it up.",
            rehearse=True,
        ),
        _job(
            DRY_RUN,
            import_preview,
            "Everything but the import: reads, transforms, checks, and says what an import would do.",
            dry_run=True,
        ),
        _job(
            MIGRATE,
            validation_report,
            "The whole migration: plan, export, transform, check, import, validate. Choose all key ranges.",
            dry_run=False,
            fresh=False,
        ),
        dg.define_asset_job(
            VALIDATE,
            selection=dg.AssetSelection.assets(validation_report),
            description="Read the target back in full and compare it with what was staged.",
            config=_config(),
            executor_def=dg.in_process_executor,
            tags=TAGS,
        ),
        sync_job,
        verify_sample_job,
        cutover_job,
        rollback_job,
        decommission_job,
    ]
