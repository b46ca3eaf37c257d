"""Which suites a stage is held to, and what may stand in one. Great Expectations is not asked here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agui_pipelines.errors import SpecError
from agui_pipelines.expectations.forms import KWARGS
from agui_pipelines.expectations.suites import COLUMNS, Stage, Suite, parse, shipped, suites
from agui_pipelines.spec import Expectations

NOT_NULL = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "state_id"}}
BETWEEN = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "size", "max_value": 9}}
VERSIONS = {"type": "comparison", "column": {"name": "kind"}, "operator": "==", "parameter": "version"}


def text(*expectations: Any, name: str = "mine") -> bytes:
    return json.dumps({"name": name, "expectations": list(expectations)}).encode()


def read(*expectations: Any, stage: Stage = Stage.STAGED) -> Suite:
    return parse(stage, text(*expectations), "mine.json")


def but(expectation: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    return {**expectation, "kwargs": {**expectation["kwargs"], **kwargs}}


def of(type_: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": type_, "kwargs": kwargs}


@pytest.mark.parametrize("stage", Stage)
def test_the_shipped_suites_are_usable_and_block(stage: Stage) -> None:
    suite = parse(stage, shipped(stage), "shipped")
    assert suite.name == stage
    assert "critical" in [e["severity"] for e in suite.values["expectations"]]


def test_a_suite_of_ones_own_is_looked_at_besides_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(text(NOT_NULL))
    asked = Expectations.model_validate({"staged": "mine.json"})
    assert [suite.name for suite in suites(Stage.STAGED, asked, tmp_path)] == ["staged", "mine"]
    assert [suite.name for suite in suites(Stage.LOADED, asked, tmp_path)] == ["loaded"]


def test_a_suite_of_the_shipped_ones_name_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "edited.json").write_bytes(text(NOT_NULL, name="staged"))
    (tmp_path / "mine.json").write_bytes(text(BETWEEN))
    asked = Expectations.model_validate({"staged": ["edited.json", "mine.json"]})
    [edited, mine] = suites(Stage.STAGED, asked, tmp_path)
    assert edited.values["expectations"] == [NOT_NULL]
    assert mine.values["expectations"] == [BETWEEN]


def test_two_suites_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text(NOT_NULL))
    (tmp_path / "b.json").write_bytes(text(BETWEEN))
    with pytest.raises(SpecError, match="have the name 'mine'"):
        suites(Stage.STAGED, Expectations(staged=("a.json", "b.json")), tmp_path)


def test_a_file_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.json cannot be read: No such file"):
        suites(Stage.STAGED, Expectations(staged=("none.json",)), tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "x", "[]", "null", "5", "{}", '{"name":"a","expectations":5}', '{"name":"","expectations":[]}', "[" * 100_000],
)
def test_a_file_that_is_no_suite_is_refused(content: str) -> None:
    with pytest.raises(SpecError, match=r"mine\.json cannot be used: "):
        parse(Stage.STAGED, content.encode(), "mine.json")


@pytest.mark.parametrize(
    ("expectation", "problem"),
    [
        (
            {**NOT_NULL, "type": "expect_column_values_to_not_be_nul"},
            "did you mean 'expect_column_values_to_not_be_null'?",
        ),
        ({**NOT_NULL, "severity": "fatal"}, "severity: "),
        ({**NOT_NULL, "severty": "warning"}, "unknown key 'severty'; did you mean 'severity'?"),
        ({**NOT_NULL, "kwargs": {}}, "column: field required"),
        ({"kwargs": {"column": "state_id"}}, "type: field required"),
        (NOT_NULL["type"], "valid dictionary"),
        (5, "valid dictionary"),
        (
            but(NOT_NULL, column="state"),
            "there is no column 'state' in the frame 'records' of the stage 'staged'; did you mean",
        ),
        (but(NOT_NULL, colum="size"), "unknown key 'colum'; did you mean 'column'?"),
        (but(NOT_NULL, mostly=7), "mostly: "),
        (but(NOT_NULL, result_format="BOOLEAN_ONLY"), "unknown key 'result_format'"),
        (but(BETWEEN, max_value=None), "needs min_value, max_value or both"),
        (but(BETWEEN, max_value="9"), "max_value"),
        (of("expect_column_values_to_be_in_set", column="kind", value_set=[]), "value_set: "),
        (of("expect_column_values_to_match_regex", column="state_id", regex="("), "'(' is no regular expression"),
        ({**NOT_NULL, "meta": {"frame": "states"}}, "meta.frame is 'states'; known: records, totals"),
        ({**NOT_NULL, "meta": {"frame": "totals"}}, "there is no column 'state_id' in the frame 'totals'"),
        (of("expect_column_values_to_be_unique", column="size"), "together with the column 'state_id'"),
        (
            of("expect_compound_columns_to_be_unique", column_list=["kind", "size"]),
            "together with the column 'state_id'",
        ),
    ],
)
def test_an_expectation_that_cannot_be_used_is_refused_by_its_number_and_problem(
    expectation: Any, problem: str
) -> None:
    with pytest.raises(SpecError) as refused:
        read(NOT_NULL, expectation)
    assert refused.value.message.startswith("The expectation suite mine.json cannot be used: expectation 2, ")
    assert problem in refused.value.message


def test_nothing_is_expected_to_be_unique_in_what_was_loaded() -> None:
    with pytest.raises(SpecError, match="ids are unique anyway"):
        read(of("expect_column_values_to_be_unique", column="state_id"), stage=Stage.LOADED)


@pytest.mark.parametrize(
    "type_",
    [
        "expect_column_mean_to_be_between",
        "expect_table_row_count_to_be_between",
        "expect_column_values_to_match_json_schema",
        "expect_query_results_to_match_comparison",
        "unexpected_rows_expectation",
    ],
)
def test_what_asks_a_database_or_more_than_a_row_is_refused(type_: str) -> None:
    with pytest.raises(SpecError, match=f"the type '{type_}' is not one that can be used"):
        read(of(type_, column="size", min_value=1, unexpected_rows_query="SELECT 1", json_schema={}))


CODE = "__import__('os').system('true')"


@pytest.mark.parametrize(
    "condition",
    [
        CODE,
        "kind == 'version'",
        {"type": "pass_through", "pass_through_filter": CODE},
        {**VERSIONS, "operator": f"== 1 or {CODE} =="},
        {**VERSIONS, "column": {"name": CODE}},
        {**VERSIONS, "column": {"name": "`kind`"}},
        {**VERSIONS, "parameter": f"version' or {CODE} or '"},
        {**VERSIONS, "parameter": "`@x`"},
        {**VERSIONS, "parameter": "@x"},
        {**VERSIONS, "parameter": "a\\"},
        {**VERSIONS, "parameter": [CODE]},
        {**VERSIONS, "parameter": {"$PARAMETER": "now()"}},
        {"type": "or", "conditions": [{"type": "pass_through", "pass_through_filter": CODE}]},
        {"type": "and", "conditions": [VERSIONS]},
    ],
)
def test_a_condition_that_would_be_evaluated_is_refused(condition: Any) -> None:
    with pytest.raises(SpecError, match="expectation 1, row_condition"):
        read(but(NOT_NULL, row_condition=condition))


@pytest.mark.parametrize("more", [{"condition_parser": "pandas"}, {"max_value": {"$PARAMETER": "now()"}}])
def test_what_great_expectations_would_evaluate_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"condition_parser|max_value"):
        read(but(BETWEEN, **more))


def test_suite_parameters_are_refused() -> None:
    values = {"name": "mine", "expectations": [], "suite_parameters": {"a": 1}}
    with pytest.raises(SpecError, match="unknown key 'suite_parameters'"):
        parse(Stage.STAGED, json.dumps(values).encode(), "mine.json")


def test_the_documentation_names_every_type_and_column_and_its_example_is_usable() -> None:
    page = (Path(__file__).parents[3] / "docs" / "expectations.md").read_text("utf-8")
    assert set(re.findall(r"`(expect_\w+)`", page)) == set(KWARGS)
    cells = [line.split(" | ") for line in page.splitlines() if line.count(" | ") == 3]
    for (stage, frame), columns in COLUMNS.items():
        [row] = [row for row in cells if f"`{stage}`" in row[0] and row[1] == f"`{frame}`"]
        assert tuple(re.findall(r"`(\w+)`", row[3])) == columns
    [example] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert parse(Stage.EXPORTED, example.encode(), "docs").name == "users"


def test_looking_a_suite_through_imports_neither_great_expectations_nor_pandas() -> None:
    code = (
        "import sys; from agui_pipelines.expectations.suites import *;"
        "[parse(s, shipped(s), '') for s in Stage]; sys.exit(bool({'great_expectations', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
