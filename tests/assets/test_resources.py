"""What a phase tells while it works reaches the listener at once, and Dagster's log from the step's own thread."""

from __future__ import annotations

import dagster as dg
import pytest

from agui_pipelines.progress import Meter, Progress
from agui_pipelines.resources import _Observer


def test_a_note_is_a_warning_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[Progress] = []
    observer = _Observer(dg.build_asset_context(), told.append)
    Meter("import", observer.hear).tell("The connection broke. Trying again in 1.0 s (1 of 7).")
    assert [progress.note for progress in told] == ["The connection broke. Trying again in 1.0 s (1 of 7)."]
    assert "Trying again" not in capsys.readouterr().err
    observer.emit()
    observer.warn()
    assert capsys.readouterr().err.count("WARNING") == 1
