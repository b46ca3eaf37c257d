"""The jobs that people launch."""

from __future__ import annotations

import dagster as dg

from agui_pipelines.resources import MIGRATE, PLAN
from assets.plan import migration_plan
from assets.preview import import_preview
from assets.rollback import target_rollback
from assets.sync import target_sync
from assets.validate import validation_report

DRY_RUN = "dry_run"
VALIDATE = "validate"
AFTER_RUN = "agui/rollback_of"
"""Tag of a rollback: the run that it undoes."""
ATTEMPT = "agui/rollback_attempt"
"""Tag of a rollback: for the how manieth time it is tried, if not for the first."""


@dg.job(name="rollback", executor_def=dg.in_process_executor)
def rollback_job() -> None:
    """Put the target back as it was: the newest backup, a named one, or what a failed run imported. Hooks run around it."""
    target_rollback()


@dg.job(name="sync", executor_def=dg.in_process_executor)
def sync_job() -> None:
    """Bring what has changed at the source since the import, or the last sync, to the target, and remove what is gone."""
    target_sync()


def jobs() -> list[dg.UnresolvedAssetJobDefinition | dg.JobDefinition]:
    """All jobs. Steps run in one process: phases work with threads, and a process a step would cost seconds each."""
    migrated = dg.AssetSelection.assets(validation_report).upstream()
    previewed = dg.AssetSelection.assets(import_preview).upstream()
    return [
        dg.define_asset_job(
            MIGRATE,
            selection=migrated,
            description="The whole migration: plan, export, transform, check, import, validate. Choose all key ranges.",
            executor_def=dg.in_process_executor,
        ),
        dg.define_asset_job(
            PLAN,
            selection=dg.AssetSelection.assets(migration_plan).upstream(),
            description="The plan as a document: strategy, timeline from a rehearsal, resources, risks. A run takes it up.",
            executor_def=dg.in_process_executor,
        ),
        dg.define_asset_job(
            DRY_RUN,
            selection=previewed,
            description="Everything but the import: reads, transforms, checks, and says what an import would do.",
            executor_def=dg.in_process_executor,
            config={"resources": {"migration": {"config": {"dry_run": True}}}},
        ),
        dg.define_asset_job(
            VALIDATE,
            selection=dg.AssetSelection.assets(validation_report),
            description="Read the target back in full and compare it with what was staged.",
            executor_def=dg.in_process_executor,
        ),
        rollback_job,
        sync_job,
    ]
