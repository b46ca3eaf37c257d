"""What stands between extract and load: sealed snapshots under one workspace, read only through their manifests."""

from agui_pipelines.staging.manifest import KindSummary, Manifest, Segment
from agui_pipelines.staging.snapshot import SnapshotReader, SnapshotWriter
from agui_pipelines.staging.workspace import Workspace

__all__ = ["KindSummary", "Manifest", "Segment", "SnapshotReader", "SnapshotWriter", "Workspace"]
