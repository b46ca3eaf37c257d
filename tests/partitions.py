"""Dagster's partitions as the tests have them: few, since most of what a small run takes is Dagster's record of each.

They are made when they are imported, as many as the migration file says that the environment names then. So whichever
conftest.py has Dagster run takes them from here, before anything else imports the definitions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import pytest

from agui_pipelines import spec
from agui_pipelines.keyspace import range_names

LOADED_RANGES: Final = 4

with tempfile.TemporaryDirectory() as _folder, pytest.MonkeyPatch.context() as _patch:
    _file = Path(_folder) / "migration.yaml"
    _file.write_text(f"ranges: {LOADED_RANGES}\n")
    _patch.setenv(spec.FILE_VARIABLE, str(_file))
    from assets.partitions import KEY_RANGES

RANGES: Final = tuple(range_names(LOADED_RANGES))
assert tuple(KEY_RANGES.get_partition_keys()) == RANGES


def tags(first: str = RANGES[0], last: str = RANGES[-1]) -> dict[str, str]:
    """Of a run over these key ranges and those between."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
