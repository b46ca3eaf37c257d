"""How what has changed at the source is found and brought to the target."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agui_pipelines.spec.section import Section


class SyncOptions(Section):
    """The section ``sync``."""

    feed: Literal["auto", "digest", "watermark"] = "auto"
    """How changes are found: by looking at everything, or by what a PostgreSQL server tells of its rows; see
    `phases.feeds`."""
    digest_every: int = Field(10, ge=1)
    """With the watermark, every so manieth round looks at everything, as rows that are gone tell nothing."""
    max_delete_fraction: float = Field(0.2, ge=0, le=1)
    """Of the ids known of the source, how many may be gone before a round is refused."""
    on_conflict: Literal["fail", "source", "target"] = "fail"
    """What becomes of a record of the target that somebody else has changed: nothing is written at all, it is replaced by what
    the source has, or it is left alone."""
