"""Suites as Great Expectations runs them, and the frames that they are run on. One module only: the import takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agui_pipelines.expectations.frames import (
    LOADED_RECORDS,
    SNAPSHOT_RECORDS,
    loaded_records,
    snapshot_records,
    totals,
)
from agui_pipelines.expectations.runner import ID_LIMIT, SuiteReport, run_suite, together
from agui_pipelines.expectations.suites import COLUMNS, Frame, Stage, Suite, parse, shipped
from agui_pipelines.records import SCHEMAS, Kind, digested
from agui_pipelines.staging import SnapshotReader, SnapshotWriter, Workspace


def states(*rows: dict[str, Any]) -> pa.Table:
    good = {"kind": "state", "id_length": 1, "size": 2, "json_valid": True, "duplicate_keys": False}
    return pa.Table.from_pylist([{**good, "state_id": f"s{i}", **row} for i, row in enumerate(rows)], SNAPSHOT_RECORDS)


def loaded(*rows: tuple[str, str, str, str]) -> pa.Table:
    named = [dict(zip(("kind", "state_id", "other", "status"), row, strict=True)) for row in rows]
    [table] = loaded_records([pa.RecordBatch.from_pylist(named)] if named else [])
    return table


def of_shipped(stage: Stage, table: pa.Table, frame: Frame = Frame.RECORDS) -> SuiteReport:
    return run_suite(parse(stage, shipped(stage), ""), frame, table)


def staged(table: pa.Table) -> SuiteReport:
    return of_shipped(Stage.STAGED, table)


def mine(*expectations: dict[str, Any], stage: Stage = Stage.STAGED) -> Suite:
    return parse(stage, json.dumps({"name": "mine", "expectations": list(expectations)}).encode(), "")


def of(type_: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": type_, "kwargs": kwargs}


GOOD = states({}, {"id_length": 255, "size": 10_485_760})


@pytest.mark.parametrize("stage", [Stage.EXPORTED, Stage.STAGED])
def test_good_states_meet_the_shipped_suites(stage: Stage) -> None:
    report = of_shipped(stage, GOOD)
    assert report.passed
    assert report.failed == ()
    assert (report.stage, report.suite, report.rows) == (stage, stage, 2)
    assert len(report.expectations) == len(json.loads(shipped(stage))["expectations"])
    assert [e.number for e in report.expectations] == list(range(1, len(report.expectations) + 1))


def test_bad_states_fail_the_expectations_that_they_do_not_meet_and_are_named() -> None:
    report = staged(
        states(
            {"state_id": "good"},
            {"state_id": "twice"},
            {"state_id": "twice"},
            {"state_id": "", "id_length": 0},
            {"state_id": "long", "id_length": 256},
            {"state_id": "broken", "json_valid": False},
            {"state_id": "tiny", "size": 1},
            {"state_id": "huge", "size": 10_485_761},
        )
    )
    assert not report.passed
    found = {(e.type, e.column, e.severity): (e.failing_ids, e.unexpected) for e in report.failed}
    together_ = "kind, state_id, version_id, snapshot_id"
    assert found == {
        ("expect_compound_columns_to_be_unique", together_, "critical"): (("twice", "twice"), 2),
        ("expect_column_values_to_be_between", "id_length", "critical"): (("",), 1),
        ("expect_column_values_to_be_between", "id_length", "warning"): (("long",), 1),
        ("expect_column_values_to_be_in_set", "json_valid", "critical"): (("broken",), 1),
        ("expect_column_values_to_be_between", "size", "critical"): (("tiny",), 1),
        ("expect_column_values_to_be_between", "size", "warning"): (("huge",), 1),
    }


def test_records_without_an_id_are_told_of_what_was_exported() -> None:
    [found] = of_shipped(Stage.EXPORTED, states({}, {"state_id": None})).failed
    assert (found.type, found.unexpected) == ("expect_column_values_to_not_be_null", 1)


def test_versions_and_snapshots_of_one_state_are_different_records_and_named_with_their_own_ids() -> None:
    history = [{"kind": "version", "state_id": "a", "version_id": v} for v in ("v1", "v2", "v2")]
    history += [{"kind": "snapshot", "state_id": "a", "version_id": "v1", "snapshot_id": x} for x in ("x1", "x2", "x2")]
    [found] = staged(states({"state_id": "a"}, *history)).failed
    assert found.failing_ids == ("a/v2", "a/v2", "a/x2", "a/x2")


def test_a_large_document_alone_is_a_warning_that_does_not_block() -> None:
    report = staged(states({"size": 20_000_000}))
    assert report.passed
    assert [e.severity for e in report.failed] == ["warning"]


@pytest.mark.parametrize("stage", Stage)
def test_no_records_at_all_meet_the_suites(stage: Stage) -> None:
    empty = LOADED_RECORDS if stage is Stage.LOADED else SNAPSHOT_RECORDS
    nothing = dict.fromkeys(Kind, dict.fromkeys(COLUMNS[stage, Frame.TOTALS][1:], 0))
    assert of_shipped(stage, empty.empty_table()).failed == ()
    assert of_shipped(stage, totals(stage, nothing), Frame.TOTALS).failed == ()


def test_no_more_ids_are_named_than_the_limit_but_all_are_counted() -> None:
    [found] = staged(states(*({"state_id": f"s{i}", "json_valid": False} for i in range(ID_LIMIT + 50)))).failed
    assert len(found.failing_ids) == ID_LIMIT
    assert found.unexpected == ID_LIMIT + 50


# What was loaded -------------------------------------------------------------------------------------------------------


def test_what_arrived_meets_the_suite_whatever_else_the_target_holds() -> None:
    rows = [("state", "a", "", "equal"), ("state", "b", "", "normalised"), ("state", "c", "", "expired")]
    table = loaded(*rows, ("state", "other", "", "extra"), ("version", "a", "v", "equal"))
    assert of_shipped(Stage.LOADED, table).failed == ()
    assert table.select(["staged", "found", "digest_equal"]).to_pylist() == [
        {"staged": True, "found": True, "digest_equal": True},
        {"staged": True, "found": True, "digest_equal": True},
        {"staged": True, "found": False, "digest_equal": None},
        {"staged": False, "found": True, "digest_equal": None},
        {"staged": True, "found": True, "digest_equal": True},
    ]


def test_what_is_missing_or_corrupted_fails_the_suite_by_name() -> None:
    report = of_shipped(
        Stage.LOADED,
        loaded(("state", "a", "", "equal"), ("version", "a", "v", "missing"), ("snapshot", "a", "x", "corrupted")),
    )
    assert not report.passed
    assert {e.column: e.failing_ids for e in report.failed} == {"status": ("a/v",), "digest_equal": ("a/x",)}


def test_numbers_that_do_not_agree_fail_the_suite_of_the_totals() -> None:
    good = {
        "staged": 3,
        "compared": 3,
        "found": 3,
        "normalised": 0,
        "expired": 0,
        "missing": 0,
        "corrupted": 0,
        "extra": 9,
    }
    uncounted, missing = {**good, "compared": 2, "found": 2}, {**good, "found": 2, "missing": 1}
    table = totals(Stage.LOADED, {Kind.STATE: good, Kind.VERSION: uncounted, Kind.SNAPSHOT: missing})
    report = of_shipped(Stage.LOADED, table, Frame.TOTALS)
    assert {e.column: e.failing_ids for e in report.failed} == {
        "staged, compared": ("version",),
        "missing": ("snapshot",),
    }


# Suites of one's own ---------------------------------------------------------------------------------------------------


def only(kind: str) -> dict[str, Any]:
    return {"type": "comparison", "column": {"name": "kind"}, "operator": "==", "parameter": kind}


@pytest.mark.parametrize(
    ("expectation", "failing"),
    [
        (of("expect_column_values_to_not_be_null", column="version_id"), ("a", "b")),
        (of("expect_column_values_to_not_be_null", column="version_id", row_condition=only("version")), ()),
        (of("expect_column_values_to_be_null", column="version_id"), ("a/v1", "a/v2")),
        (of("expect_column_values_to_be_between", column="size", min_value=2, strict_min=True), ("a/v1",)),
        (of("expect_column_values_to_be_in_set", column="kind", value_set=["state"]), ("a/v1", "a/v2")),
        (of("expect_column_values_to_not_be_in_set", column="kind", value_set=["version", 5]), ("a/v1", "a/v2")),
        (of("expect_column_value_lengths_to_be_between", column="timestamp", max_value=4), ("a/v2",)),
        (of("expect_column_value_lengths_to_equal", column="timestamp", value=5), ("a/v1",)),
        (of("expect_column_values_to_match_regex", column="state_id", regex="^a$"), ("b",)),
        (of("expect_column_values_to_not_match_regex", column="timestamp", regex="^200[0-9]{2}$"), ("a/v2",)),
        (of("expect_column_values_to_match_regex_list", column="state_id", regex_list=["^a$", "^c$"]), ("b",)),
        (of("expect_column_values_to_not_match_regex_list", column="state_id", regex_list=["^b$"]), ("b",)),
        (of("expect_column_pair_values_to_be_equal", column_A="size", column_B="id_length"), ("b", "a/v1", "a/v2")),
        (of("expect_column_pair_values_a_to_be_greater_than_b", column_A="size", column_B="id_length"), ("a/v1",)),
        (of("expect_column_values_to_be_unique", column="state_id", row_condition=only("state")), ()),
        (of("expect_column_values_to_be_unique", column="state_id"), ("a", "a/v1", "a/v2")),
        (of("expect_compound_columns_to_be_unique", column_list=["kind", "state_id"]), ("a/v1", "a/v2")),
        (of("expect_column_values_to_match_regex", column="created_at", regex="^2026"), ()),
        (
            of(
                "expect_column_values_to_be_null",
                column="state_id",
                row_condition={"type": "nullity", "column": {"name": "timestamp"}, "is_null": False},
            ),
            ("a/v1", "a/v2"),
        ),
    ],
)
def test_whatever_may_be_expected_is_found_as_it_says(expectation: dict[str, Any], failing: tuple[str, ...]) -> None:
    table = states(
        {"state_id": "a", "size": 4, "id_length": 4},
        {"state_id": "b", "size": 4},
        {"kind": "version", "state_id": "a", "version_id": "v1", "size": 2, "id_length": 3, "timestamp": "2000"},
        {"kind": "version", "state_id": "a", "version_id": "v2", "size": 3, "id_length": 2, "timestamp": "20012"},
    )
    [found] = run_suite(mine(expectation), Frame.RECORDS, table).expectations
    assert found.detail == ""
    if expectation["type"] == "expect_column_pair_values_a_to_be_greater_than_b":
        failing = ("a", *failing)  # where both are equal
    assert found.failing_ids == failing
    assert found.passed == (not failing)
    assert found.severity == "critical"


def test_what_cannot_be_evaluated_fails_and_says_why() -> None:
    suite = mine(of("expect_column_values_to_be_between", column="state_id", max_value=9))
    report = run_suite(suite, Frame.RECORDS, GOOD)
    assert not report.passed
    [found] = report.failed
    assert "of the same type" in found.detail


def test_expectations_of_the_other_frame_wait_for_it() -> None:
    records = of("expect_column_values_to_not_be_null", column="state_id")
    counted = {**of("expect_column_values_to_be_between", column="staged", min_value=1), "meta": {"frame": "totals"}}
    suite = mine(counted, records)
    numbers = {
        Kind.STATE: {"exported": 2, "staged": 2, "bytes": 4},
        Kind.VERSION: {"exported": 1, "staged": 0, "bytes": 0},
    }
    report = together(
        [run_suite(suite, Frame.TOTALS, totals(Stage.STAGED, numbers)), run_suite(suite, Frame.RECORDS, GOOD)]
    )
    assert [(e.number, e.frame, e.failing_ids) for e in report.expectations] == [
        (1, "totals", ("version",)),
        (2, "records", ()),
    ]
    assert report.rows == 2


def test_several_frames_are_judged_as_one() -> None:
    suite = mine(of("expect_column_values_to_be_in_set", column="json_valid", value_set=[True], mostly=0.7))
    good, bad = states({}, {}, {}), states({}, {"state_id": "bad", "json_valid": False})
    one = run_suite(suite, Frame.RECORDS, bad)
    assert not one.passed
    both = together([one, run_suite(suite, Frame.RECORDS, good)])
    [found] = both.expectations
    assert (both.rows, found.considered, found.unexpected, found.failing_ids) == (5, 5, 1, ("bad",))
    assert both.passed
    assert not together([one, one, one, run_suite(suite, Frame.RECORDS, good)]).passed


def test_the_text_in_a_condition_is_taken_as_it_stands_by_pandas_too() -> None:
    text = "a b.c:d/e+f-g_h 5"
    condition = {"type": "comparison", "column": {"name": "state_id"}, "operator": "==", "parameter": text}
    suite = mine(of("expect_column_values_to_be_null", column="kind", row_condition=condition))
    [found] = run_suite(
        suite, Frame.RECORDS, states({"state_id": text}, {"state_id": "a"}, {"state_id": "b"})
    ).expectations
    assert (found.detail, found.considered, found.failing_ids) == ("", 1, (text,))


# Frames ----------------------------------------------------------------------------------------------------------------


def sealed(folder: Path, records: dict[Kind, list[dict[str, Any]]], range_: str = "00") -> SnapshotReader:
    workspace = Workspace(str(folder), "m")
    with SnapshotWriter(workspace, stage="staged", plan_id="p", range_=range_) as writer:
        for kind, rows in records.items():
            batch, unusable = digested(kind, pa.RecordBatch.from_pylist(rows, schema=SCHEMAS[kind]))
            assert unusable == []
            writer.write(kind, batch)
        manifest = writer.seal()
    return SnapshotReader(workspace, manifest.snapshot_id)


RECORDS: dict[Kind, list[dict[str, Any]]] = {
    Kind.STATE: [{"state_id": "é😀", "data": b'{"a":1,"a":2}', "created_at": "2026", "expires_at": 5}],
    Kind.VERSION: [{"state_id": "é😀", "version_id": "v1", "timestamp": "t", "data": b"{}", "parent_id": "v0"}],
    Kind.SNAPSHOT: [{"state_id": "é😀", "snapshot_id": "x", "timestamp": "t", "data": b"{}", "version_id": "v1"}],
}


def test_a_frame_has_a_row_for_each_record_with_what_suites_look_at(tmp_path: Path) -> None:
    [table] = snapshot_records([sealed(tmp_path, RECORDS)])
    of_state = {"id_length": 2, "size": 13, "duplicate_keys": True, "has_expiry": True, "created_at": "2026"}
    history = {
        "id_length": 2,
        "size": 2,
        "duplicate_keys": False,
        "has_expiry": None,
        "created_at": None,
        "timestamp": "t",
    }
    nothing = dict.fromkeys(["version_id", "snapshot_id", "updated_at", "timestamp", "parent_id"])
    every = {"state_id": "é😀", "json_valid": True}
    assert table.to_pylist() == [
        {**nothing, **every, "kind": "state", **of_state},
        {**nothing, **every, "kind": "version", **history, "version_id": "v1", "parent_id": "v0"},
        {**nothing, **every, "kind": "snapshot", **history, "version_id": "v1", "snapshot_id": "x", "id_length": 1},
    ]
    assert tuple(table.column_names) == COLUMNS[Stage.STAGED, Frame.RECORDS]
    assert staged(table).failed == ()


def test_frames_hold_whole_key_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agui_pipelines.expectations.frames.FRAME_ROWS", 6)
    ranges = [sealed(tmp_path, RECORDS, name) for name in ("00", "01", "02")]
    assert [table.num_rows for table in snapshot_records(ranges)] == [6, 3]


def test_the_frame_of_nothing_is_empty_and_has_the_same_columns(tmp_path: Path) -> None:
    for snapshots in ([], [sealed(tmp_path, {})]):
        [table] = snapshot_records(snapshots)
        assert (table.num_rows, table.schema) == (0, SNAPSHOT_RECORDS)


def test_great_expectations_is_not_imported_before_a_suite_is_run() -> None:
    code = "import sys, agui_pipelines.expectations.runner; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
