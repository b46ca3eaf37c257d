"""One module only: Great Expectations takes seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from agui_pipelines.errors import SpecError
from agui_pipelines.expectations.frames import state_frame
from agui_pipelines.expectations.runner import ID_LIMIT, SuiteReport, run_suite
from agui_pipelines.records import SCHEMAS, Kind, digested
from agui_pipelines.staging import SnapshotReader, SnapshotWriter, Workspace


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    good = {"state_id": "a", "id_length": 1, "size": 2, "json_valid": True}
    return pd.DataFrame([{**good, **row} for row in rows])


def staged(made: pd.DataFrame) -> SuiteReport:
    return run_suite("staged", made)


GOOD = frame({}, {"state_id": "b", "id_length": 255, "size": 10_485_760})


def test_good_states_meet_the_shipped_suite() -> None:
    report = staged(GOOD)
    assert report.passed
    assert report.failed == ()
    assert (report.suite, report.rows) == ("staged", 2)
    shipped = Path(sys.modules[SuiteReport.__module__].__file__ or "").parent / "suites" / "staged.json"
    assert len(report.expectations) == len(json.loads(shipped.read_text())["expectations"])


def test_bad_states_fail_the_expectations_that_they_do_not_meet_and_are_named() -> None:
    report = staged(
        frame(
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
    assert found == {
        ("expect_column_values_to_be_unique", "state_id", "critical"): (("twice", "twice"), 2),
        ("expect_column_values_to_be_between", "id_length", "critical"): (("",), 1),
        ("expect_column_values_to_be_between", "id_length", "warning"): (("long",), 1),
        ("expect_column_values_to_be_in_set", "json_valid", "critical"): (("broken",), 1),
        ("expect_column_values_to_be_between", "size", "critical"): (("tiny",), 1),
        ("expect_column_values_to_be_between", "size", "warning"): (("huge",), 1),
    }


def test_a_large_document_alone_is_a_warning_that_does_not_block() -> None:
    report = staged(frame({"size": 20_000_000}))
    assert report.passed
    assert [e.severity for e in report.failed] == ["warning"]


def test_no_states_at_all_meet_the_suite() -> None:
    assert staged(GOOD.iloc[:0]).passed


def test_no_more_ids_are_named_than_the_limit_but_all_are_counted() -> None:
    (found,) = staged(frame(*({"state_id": f"s{i}", "json_valid": False} for i in range(ID_LIMIT + 50)))).failed
    assert len(found.failing_ids) == ID_LIMIT
    assert found.unexpected == ID_LIMIT + 50


def test_a_missing_column_fails_and_is_told() -> None:
    report = staged(GOOD.drop(columns=["json_valid"]))
    assert not report.passed
    details = {e.type: e.detail for e in report.failed}
    assert "json_valid" in details["expect_column_values_to_be_in_set"]
    assert "expect_table_columns_to_match_set" in details


def suite(folder: Path, *expectations: Any, **more: Any) -> Path:
    file = folder / "mine.json"
    file.write_text(json.dumps({"name": "mine", "expectations": list(expectations), **more}))
    return file


UNIQUE = {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "state_id"}, "severity": "critical"}


def test_an_edited_suite_is_read_from_its_file(tmp_path: Path) -> None:
    report = run_suite("mine", GOOD, path=suite(tmp_path, UNIQUE))
    assert [(e.type, e.column, e.passed) for e in report.expectations] == [(UNIQUE["type"], "state_id", True)]


@pytest.mark.parametrize(
    "expectation",
    [
        {**UNIQUE, "type": "expect_column_values_to_be_uniqe"},
        {**UNIQUE, "severity": "fatal"},
        {**UNIQUE, "kwargs": {}},
        {**UNIQUE, "kwargs": {"column": "state_id", "mostly": 7}},
        {"kwargs": {"column": "state_id"}},
        "expect_column_values_to_be_unique",
        5,
    ],
    ids=["unknown type", "unknown severity", "no column", "bad argument", "no type", "text", "number"],
)
def test_an_expectation_that_cannot_be_used_is_refused_and_never_dropped(tmp_path: Path, expectation: Any) -> None:
    # Great Expectations itself logs it and goes on, with a suite that passes.
    with pytest.raises(SpecError, match="is not one"):
        run_suite("mine", GOOD, path=suite(tmp_path, UNIQUE, expectation))


@pytest.mark.parametrize("text", ["", "x", "[]", "null", "5", "{}", '{"name":"a","expectations":5}', '{"name":""}'])
def test_a_file_that_is_no_suite_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(SpecError, match=r"mine\.json is not one"):
        run_suite("mine", GOOD, path=file)


def test_a_suite_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.json"):
        run_suite("mine", GOOD, path=tmp_path / "none.json")
    with pytest.raises(SpecError, match="unheard"):
        run_suite("unheard", GOOD)


# Frames ----------------------------------------------------------------------------------------------------------------


def sealed(folder: Path, *rows: dict[str, Any]) -> SnapshotReader:
    workspace = Workspace(str(folder), "m")
    batch, unusable = digested(Kind.STATE, pa.RecordBatch.from_pylist(list(rows), schema=SCHEMAS[Kind.STATE]))
    assert unusable == []
    with SnapshotWriter(workspace, stage="staged", plan_id="p", range_="00") as writer:
        writer.write(Kind.STATE, batch)
        manifest = writer.seal()
    return SnapshotReader(workspace, manifest.snapshot_id)


def test_a_frame_has_a_row_for_each_state_with_what_suites_look_at(tmp_path: Path) -> None:
    reader = sealed(tmp_path, {"state_id": "é😀", "data": b'{"a":1}'}, {"state_id": "", "data": b"{}"})
    made = state_frame(reader)
    assert made.to_dict("records") == [
        {"state_id": "é😀", "id_length": 2, "size": 7, "json_valid": True},
        {"state_id": "", "id_length": 0, "size": 2, "json_valid": True},
    ]
    assert [e.column for e in staged(made).failed] == ["id_length"]


def test_the_frame_of_an_empty_snapshot_is_empty_and_has_the_same_columns(tmp_path: Path) -> None:
    made = state_frame(sealed(tmp_path))
    assert len(made) == 0
    assert list(made.columns) == ["state_id", "id_length", "size", "json_valid"]
    both = pd.concat([made, GOOD], ignore_index=True)
    assert staged(both).passed


def test_great_expectations_is_not_imported_before_a_suite_is_run() -> None:
    code = "import sys, agui_pipelines.expectations; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
