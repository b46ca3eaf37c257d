"""Assembles the Dagster definitions, and does nothing else. ``workspace.yaml`` points here."""

from __future__ import annotations

import dagster as dg

from agui_pipelines.automation.jobs import jobs
from agui_pipelines.automation.schedules import SCHEDULES
from agui_pipelines.automation.sensors import SENSORS
from agui_pipelines.resources import MigrationFile, MigrationRun
from assets import assess, backup, checks, export, import_, plan, preview, transform, validate
from assets.places import PLACES

MODULES = [assess, plan, export, transform, backup, import_, validate, preview]


ASSETS = [*PLACES, *dg.load_assets_from_modules(MODULES)]
CHECKS = dg.load_asset_checks_from_modules([checks])

defs = dg.Definitions(
    assets=ASSETS,
    asset_checks=CHECKS,
    jobs=jobs(),
    schedules=SCHEDULES,
    sensors=SENSORS,
    resources={"migration": MigrationFile()},
    executor=dg.in_process_executor,  # of what is materialized in the graph and of backfills; jobs name it themselves
)


def job_of(migration: MigrationRun, job: dg.UnresolvedAssetJobDefinition) -> dg.JobDefinition:
    """A job of these assets that is none of those people launch, for a run in this process over one migration."""
    with_it = dg.Definitions(ASSETS, asset_checks=CHECKS, jobs=[job], resources={"migration": migration})
    return with_it.resolve_job_def(job.name)
