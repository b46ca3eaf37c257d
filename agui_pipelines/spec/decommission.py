"""When what a migration moved may be deleted at the source, and how fast."""

from __future__ import annotations

from pydantic import Field

from agui_pipelines.spec.section import Period, Section


class DecommissionOptions(Section):
    """The section ``decommission``."""

    soak: Period = 24 * 3600.0
    """Seconds for which the target must have been live."""
    rate: float = Field(1000, gt=0)
    """Records that are deleted per second at most."""
    batch: int = Field(500, ge=1, le=10_000)
    """Records that are deleted together at most."""
