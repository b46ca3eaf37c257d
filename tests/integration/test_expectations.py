"""The stages of expectations over real migrations: every kind of record, several frames, suites that change meanwhile."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from agui_pipelines.errors import SpecError, ValidationFailedError
from agui_pipelines.expectations import frames
from agui_pipelines.phases.expect import expect_exported, expect_staged, recorded
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.validate import require_passed, validate
from agui_pipelines.records import SCHEMAS, Kind

STATES = 12
ONLY_STATES = {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "kind", "value_set": ["state"]}}
HISTORY = [f"s{n:02}/{other}" for n in range(STATES) for other in ("v", "x")]


def records():
    time = "2025-07-14T09:30:15Z"
    states = [{"state_id": f"s{n:02}", "data": b'{"n":%d}' % n} for n in range(STATES)]
    states[0]["expires_at"] = datetime(2100, 1, 1, tzinfo=UTC)
    version = {"version_id": "v", "timestamp": time, "parent_id": "", "data": b"{}"}
    snapshot = {"snapshot_id": "x", "timestamp": time, "version_id": "v", "data": b"{}"}
    return {
        Kind.STATE: states,
        Kind.VERSION: [{**version, "state_id": state["state_id"]} for state in states],
        Kind.SNAPSHOT: [{**snapshot, "state_id": state["state_id"]} for state in states],
    }


@pytest.fixture
def moving(migration, config, opened, tmp_path):
    """A migration of states with histories from Redis to Redis, with a suite of one expectation for each stage."""

    def make(**stages):
        for stage, expectation in stages.items():
            suite = {"name": "mine", "expectations": [expectation]}
            (tmp_path / f"{stage}.json").write_text(json.dumps(suite))
        paths = {stage: f"{stage}.json" for stage in stages}
        return migration(source=source, target=config("redis", "target"), expectations=paths)

    source = config("redis", "source")
    store = opened(source)
    store.prepare()
    for kind, rows in records().items():
        store.write(kind, pa.RecordBatch.from_pylist(rows, schema=SCHEMAS[kind]))
    return make


def staged_and_imported(move):
    """The suites are looked at last, as an import refuses what does not meet them."""
    session, made = move.stage()
    import_(session, made, [r.name for r in made.ranges])
    expect_exported(session, made)
    expect_staged(session, made)
    return session, made


def test_every_kind_of_record_is_looked_at_at_every_stage(moving):
    session, made = staged_and_imported(moving(exported=ONLY_STATES, staged=ONLY_STATES, loaded=ONLY_STATES))

    report = validate(session, made)

    found = {(suite["stage"], suite["suite"]): suite for suite in recorded(session, made.plan_id)}
    assert list(found) == [(stage, name) for stage in ("exported", "staged", "loaded") for name in (stage, "mine")]
    assert {suite["rows"] for suite in found.values()} == {3 * STATES}
    for stage in ("exported", "staged", "loaded"):
        assert found[stage, stage]["failures"] == []
        [failure] = found[stage, "mine"]["failures"]
        assert failure["unexpected"] == 2 * STATES
        assert sorted(failure["failing_ids"]) == HISTORY
        assert not found[stage, "mine"]["passed"]
    assert list(report.expectations) == list(found.values())
    assert all(kind.corrupted.count == kind.missing.count == 0 for kind in report.kinds.values())
    assert not report.passed
    with pytest.raises(ValidationFailedError, match=r"The loaded records do not meet the expectations: .*24 rows"):
        require_passed(report)


def test_several_frames_find_what_one_would(moving, monkeypatch):
    monkeypatch.setattr(frames, "FRAME_ROWS", 10)
    monkeypatch.setattr("agui_pipelines.phases.expect.FRAME_ROWS", 10)
    mostly = {**ONLY_STATES, "kwargs": {**ONLY_STATES["kwargs"], "mostly": 0.33}}

    session, made = staged_and_imported(moving(exported=mostly, staged=ONLY_STATES, loaded=mostly))

    assert validate(session, made).passed
    [_, exported, _, staged, _, loaded] = recorded(session, made.plan_id)
    assert [suite["rows"] for suite in (exported, staged, loaded)] == [3 * STATES] * 3
    assert [suite["passed"] for suite in (exported, staged, loaded)] == [True, False, True]
    assert sorted(staged["failures"][0]["failing_ids"]) == HISTORY


def test_what_is_gone_or_changed_in_the_target_is_found_by_the_shipped_suite(moving, opened):
    move = moving()
    session, made = staged_and_imported(move)
    target = opened(move.text["target"])
    target.remove(Kind.VERSION, pa.RecordBatch.from_pylist([{"state_id": "s03", "version_id": "v"}]))
    changed = [{"state_id": "s05", "data": b'{"n":6}'}]
    target.write(Kind.STATE, pa.RecordBatch.from_pylist(changed, schema=SCHEMAS[Kind.STATE]))

    report = validate(session, made)

    [suite] = report.loaded
    assert {(e.frame, e.column): e.failing_ids for e in suite.failed} == {
        ("records", "status"): ("s03/v",),
        ("records", "digest_equal"): ("s05",),
        ("totals", "missing"): ("version",),
    }


def test_a_suite_that_broke_since_the_plan_is_told_before_the_target_is_read(moving, tmp_path):
    session, made = staged_and_imported(moving(loaded=ONLY_STATES))
    (tmp_path / "loaded.json").write_text("{")

    with pytest.raises(SpecError, match=r"loaded\.json cannot be used"):
        validate(session, made)

    assert session.ledger.last("expect_loaded") is None
