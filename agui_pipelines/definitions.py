"""Assembles the Dagster definitions, and does nothing else. ``workspace.yaml`` points here."""

from __future__ import annotations

import dagster as dg

from agui_pipelines.automation.jobs import jobs
from agui_pipelines.automation.sensors import SENSORS
from agui_pipelines.resources import MigrationFile
from assets import assess, backup, checks, export, import_, plan, preview, transform, validate
from assets.places import PLACES

MODULES = [assess, plan, export, transform, backup, import_, validate, preview]


def build_defs() -> dg.Definitions:
    return dg.Definitions(
        assets=[*PLACES, *dg.load_assets_from_modules(MODULES)],
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        jobs=jobs(),
        sensors=SENSORS,
        resources={"migration": MigrationFile()},
    )


defs = build_defs()
