"""Cutover: an op, so that no "materialize all" ever reaches it."""

import dagster as dg
from pydantic import Field

from agui_pipelines.phases.cutover import Asked, cutover, rehearse
from agui_pipelines.phases.steps import Told
from agui_pipelines.resources import MigrationRun, require_confirmed
from agui_pipelines.spec import seconds_of
from assets import metadata
from assets.partitions import TARGET_POOL
from assets.places import live_side


class CutoverConfig(dg.Config):
    """What is asked for."""

    confirm: str = ""
    """The migration's name, without which nothing is stopped or switched."""
    rehearse: bool = False
    """Everything but stop, switch and the hooks, to see how long the window would be; needs no confirmation."""
    back: bool = False
    """Return to the source, with what was written to the target since."""
    source_is_stopped: bool = False
    """The applications have been stopped by hand."""
    max_window: str = Field("", description="Past it (10m), all is undone. Empty for no limit.")
    no_way_back: bool = False
    """It is agreed that there will be no way back."""
    accept_deletes: bool = False
    """Its first sync goes on although much is gone at the live side, or another server answers there than before."""


@dg.op(pool=TARGET_POOL, tags=metadata.reports_on(live_side))
def target_cutover(
    context: dg.OpExecutionContext, config: CutoverConfig, migration: dg.ResourceParam[MigrationRun]
) -> None:
    """Check, stop, sync, verify, switch, try: then applications use the target. A step that fails undoes all before it."""
    rehearsed = config.rehearse or migration.dry_run

    def tell(told: Told) -> None:
        context.log.info("%s %s: %s", told.step, told.state, told.detail)

    with migration.session(context) as session:
        asked = _asked(config)
        if rehearsed:
            report = rehearse(session, asked, tell=tell)
        else:
            require_confirmed(migration.migration, config.confirm)
            report = cutover(session, asked, tell=tell)
        found = metadata.of_cutover(report)
        if not rehearsed:
            context.log_event(dg.AssetMaterialization(live_side.key, metadata=found))
        context.add_output_metadata(found)


def _asked(config: CutoverConfig) -> Asked:
    """Raises `SpecError` for a window that is no duration."""
    return Asked(
        config.back,
        config.source_is_stopped,
        seconds_of(config.max_window) if config.max_window else None,
        config.no_way_back,
        config.accept_deletes,
    )
