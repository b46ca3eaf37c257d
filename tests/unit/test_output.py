"""What a command prints while it works."""

from __future__ import annotations

import pytest

from agui_pipelines.cli import output
from agui_pipelines.progress import Meter, Progress


def test_a_note_is_printed_at_once_and_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress() as listener:
        meter = Meter("import", listener, total=10)
        meter.tell("The connection [broke]. Trying again in 0.3 s (1 of 7).")
        meter.tell("The connection [broke]. Trying again in 1.2 s (2 of 7).")
    assert capsys.readouterr().err.splitlines() == [
        "Import: The connection [broke]. Trying again in 0.3 s (1 of 7).",
        "Import: The connection [broke]. Trying again in 1.2 s (2 of 7).",
    ]


def test_a_phase_that_begins_once_more_is_told_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress() as listener:
        for done in (10, 10, 1, 12):
            listener(Progress("export", done, max(done, 10), 0, 2.0))

    assert capsys.readouterr().err.splitlines() == [
        "Export: 10 of 10 in 2.0 s, 5/s",
        "Export: 12 of 12 in 2.0 s, 6/s",
    ]
