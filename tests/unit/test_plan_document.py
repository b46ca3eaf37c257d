"""A plan's document as Markdown: whatever places are called, tables stay tables."""

from __future__ import annotations

from time import sleep
from types import SimpleNamespace

import orjson
import pytest

from agui_pipelines import spec
from agui_pipelines.errors import StagingError
from agui_pipelines.ledger import Entry, Ledger
from agui_pipelines.phases.markdown import markdown, table
from agui_pipelines.phases.rehearse import Rehearsal
from agui_pipelines.phases.risks import risks
from agui_pipelines.phases.timeline import document, document_name, side_by_side
from agui_pipelines.staging import Workspace

MIGRATION = {
    "name": "m",
    "source": {"type": "file", "file_options": {"base_dir": "source"}},
    "target": {"type": "file", "file_options": {"base_dir": "target"}},
}
SECONDS = {"low": 8.0, "expected": 10.0, "high": 12.0}
VALUES = {
    "plan_id": "plan-1",
    "migration": "m",
    "made_at": "2026-11-22T10:00:00.000+00:00",
    "written_at": "2026-11-22T10:01:00.000+00:00",
    "source": {"place": "files below /a|b`c", "server": "Linux file system"},
    "target": {"place": "redis://host/0, keys p|*", "server": "Redis 8", "records_already_there": 12_345},
    "volume": {"keys": 1_000, "bytes": None},
    "strategy": {
        "recommended": "big_bang",
        "asked": "rolling",
        "reasons": ["Because."],
        "maintenance_window": {
            "measured": True,
            "seconds": SECONDS,
            "meaning": "all stand still",
            "undoing_seconds": None,
        },
    },
    "timeline": {
        "measured": True,
        "why_not": "",
        "phases": {"plan": SECONDS, "export": SECONDS},
        "total": {"low": 16.0, "expected": 20.0, "high": 24.0},
        "rehearsal": {"rounds": [{"keys": 10}, {"keys": 100}]},
    },
    "resources": {
        "workspace": "/w",
        "workspace_bytes": None,
        "target_bytes": 2**20,
        "memory_bytes": None,
        "ranges": 16,
        "parallelism": 2,
        "batch_size": 5000,
        "source_connections": 3,
        "target_connections": 6,
    },
    "risks": [{"risk": "It breaks.", "mitigation": "Mend it."}],
    "loss_ledger": [
        {"property": "expiry", "carries": "meaning", "verdict": "lost", "accepted": False, "present_in_sample": 3}
    ],
}


@pytest.fixture
def workspace(tmp_path):
    return Workspace(str(tmp_path), "m")


@pytest.fixture
def planned(workspace):
    """A workspace with a plan's document, and its ledger."""
    workspace.write(document_name("plan-1"), orjson.dumps(VALUES))
    return workspace, Ledger(workspace)


def time(ledger, unit, seconds):
    ledger.record(Entry("timing", "plan-1", unit, outputs={"seconds": seconds}))


def test_tables_stay_tables_whatever_a_place_is_called() -> None:
    text = markdown(VALUES)

    for block in text.split("\n\n"):
        rows = [line.replace("\\|", "") for line in block.splitlines()]
        if block.startswith("|"):
            assert len({line.count("|") for line in rows}) == 1, block
    assert "files below /a\\|b'c" in text


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("x|y", r"x\|y"),
        (r"x\|y", r"x\\\|y"),
        (r"x\\|y", r"x\\\\\|y"),
        (r"x\y|", r"x\y\|"),  # one that stands elsewhere is as it was
        ("x\n|", r"x \|"),
    ],
)
def test_a_backslash_before_a_pipe_does_not_end_the_cell(text, cell) -> None:
    assert table(("a",), [(text,)]).splitlines()[-1] == f"| {cell} |"


def test_every_part_is_there() -> None:
    text = markdown(VALUES)

    for part in ("asks for rolling", "8 s to 12 s", "| export | 8.0 | 12.0 | 10.0 |", "12,345", "*Mend it.*", "**no**"):
        assert part in text


def test_what_was_planned_and_what_it_took_stand_side_by_side(planned) -> None:
    workspace, ledger = planned
    entry = ledger.record(Entry("timing", "plan-1", "validate", outputs={"seconds": 99.0}))
    workspace.write(document_name("plan-1"), orjson.dumps({**VALUES, "written_at": entry.at}))
    sleep(0.01)  # entries are told apart by milliseconds
    for unit, seconds in (("plan", 9.0), ("export", 30.0), ("export", 20.0), ("recheck", 1.0)):
        time(ledger, unit, seconds)

    found = side_by_side(workspace, ledger, "plan-1", total_seconds=35.0)

    rows = {row["phase"]: (row["actual"], row["ratio"], row["within"]) for row in found["phases"]}
    assert rows == {"plan": (9.0, 0.9, True), "export": (20.0, 2.0, False), "around": (6.0, None, False)}
    assert (found["total"]["actual"], found["total"]["ratio"]) == (35.0, 1.75)


def test_a_run_that_did_only_the_rest_says_so(planned) -> None:
    workspace, ledger = planned
    ledger.record(Entry("export", "plan-1", "00"))
    time(ledger, "export", 0.0)
    assert side_by_side(workspace, ledger, "plan-1")["resumed"] is False

    earlier = Entry("export", "plan-1", "00", at="2020-01-01T00:00:00+00:00")
    entries = [earlier, *ledger.entries()]
    fake = SimpleNamespace(
        entries=lambda **wanted: [e for e in entries if e.phase == wanted["phase"]],
        last=lambda phase, **_: next(e for e in reversed(entries) if e.phase == phase),
    )
    assert side_by_side(workspace, fake, "plan-1")["resumed"] is True


def test_a_plan_without_a_document_or_a_timeline_has_nothing_to_compare(workspace) -> None:
    assert side_by_side(workspace, Ledger(workspace), "plan-1") is None
    workspace.write(document_name("plan-2"), orjson.dumps({**VALUES, "timeline": {"measured": False}}))
    assert side_by_side(workspace, Ledger(workspace), "plan-2") is None


def test_a_damaged_document_is_told(workspace) -> None:
    workspace.write(document_name("plan-1"), b"{")

    with pytest.raises(StagingError, match="plan-1"):
        document(workspace, "plan-1")


@pytest.mark.parametrize(
    ("before", "failing", "held", "sentence"),
    [
        (False, "rollback", 0, "Nothing of the target is backed up"),
        (True, "rollback", 7, "7 records already"),
        (True, "keep", 0, "half written"),
    ],
)
def test_settings_that_carry_a_risk_are_named(before, failing, held, sentence) -> None:
    migration = spec.parse({**MIGRATION, "backup": {"before_import": before}, "on_failure": failing})

    found = risks(migration, "blue_green", Rehearsal(failure="none"), VALUES["loss_ledger"], held)

    told = " ".join(row["risk"] for row in found)
    for each in (sentence, "expiry", "blue-green", "no measured timeline"):
        assert each in told


@pytest.mark.parametrize(("required", "told"), [(999, False), (1_001, True), (None, False)])
def test_a_target_that_was_slower_than_is_required_is_a_risk(required, told) -> None:
    migration = spec.parse({**MIGRATION, "requirements": {"min_throughput": required} if required else {}})

    found = risks(migration, "big_bang", Rehearsal(), [], 0, 1_000.0)

    assert any("took 1,000 states a second" in row["risk"] for row in found) is told
