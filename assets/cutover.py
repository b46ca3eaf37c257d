"""Cutover: an op, so that no "materialize all" ever reaches it."""

import dagster as dg
from pydantic import Field

from agui_pipelines.phases.cutover import Asked, cutover, rehearse
from agui_pipelines.resources import MigrationRun
from agui_pipelines.spec import seconds_of


class CutoverConfig(dg.Config):
    """What is asked for."""

    rehearse: bool = False
    """Everything but stop, switch and the hooks, to see how long the window would be."""
    back: bool = False
    """Return to the source, with what was written to the target since."""
    source_is_stopped: bool = False
    """The applications have been stopped by hand."""
    max_window: str = Field("", description="Past it (10m), all is undone. Empty for no limit.")
    no_way_back: bool = False
    """It is agreed that there will be no way back."""


@dg.op
def target_cutover(
    context: dg.OpExecutionContext, config: CutoverConfig, migration: dg.ResourceParam[MigrationRun]
) -> None:
    """Check, stop, sync, verify, switch, try: then applications use the target. A step that fails undoes all before it."""
    asked = Asked(
        config.back,
        config.source_is_stopped,
        seconds_of(config.max_window) if config.max_window else None,
        config.no_way_back,
    )
    with migration.session(context) as session:
        carried_out = rehearse if config.rehearse else cutover
        report = carried_out(
            session, asked, tell=lambda told: context.log.info("%s %s: %s", told.step, told.state, told.detail)
        )
        context.add_output_metadata(
            {
                "outcome": report.outcome,
                "live": report.live,
                "report": dg.MetadataValue.md(report.to_markdown()),
                **({"window_seconds": report.window_seconds} if report.window_seconds is not None else {}),
            }
        )
