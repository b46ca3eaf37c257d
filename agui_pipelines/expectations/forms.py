"""What may stand in a suite, so that nothing in it is evaluated, and each expectation says something of the whole.

Expectations that look at each row by itself, on columns that there are: the records come in several frames, so a mean or a
maximum of one of them would say nothing (``mostly`` is decided over all of them). What Great Expectations would evaluate as an
expression (a condition written as text, a suite parameter) or send to a database (a query) is not among it. The values of a
condition are plain literals, as Great Expectations writes them into an expression for pandas.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationInfo,
    model_validator,
)

from agui_pipelines.spec.section import Section


class SuiteFile(Section):
    name: Annotated[str, Field(min_length=1)]
    expectations: list[Any]
    meta: Annotated[dict[str, Any], Field(default_factory=dict)]
    notes: Any = None
    id: Any = None


class ExpectationForm(Section):
    type: str
    kwargs: dict[str, Any]
    severity: Literal["critical", "warning", "info"] = "critical"
    meta: Annotated[dict[str, Any], Field(default_factory=dict)]
    description: str | None = None
    notes: Any = None
    id: Any = None


def _known(column: str, info: ValidationInfo) -> str:
    looked_at: dict[str, Any] = info.context or {}
    columns, where = looked_at["columns"], looked_at["where"]
    if column not in columns:
        nearest = difflib.get_close_matches(column, columns, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"there are: {', '.join(columns)}"
        raise ValueError(f"there is no column '{column}' in {where}; {hint}")
    return column


def _literal(text: str) -> str:
    if not re.fullmatch(r"[\w .:/+-]*", text, re.ASCII):
        raise ValueError(
            f"the text {text!r} of a condition holds more than letters, digits, spaces and any of . : / + - _"
        )
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


_Column = Annotated[str, AfterValidator(_known)]
_Number = StrictInt | StrictFloat
_Value = StrictStr | StrictInt | StrictFloat | StrictBool
_Literal = Annotated[StrictStr, AfterValidator(_literal)] | StrictInt | StrictFloat | StrictBool
_Regex = Annotated[StrictStr, AfterValidator(_pattern)]


class _ConditionColumn(Section):
    name: _Column


class _Comparison(Section):
    type: Literal["comparison"]
    column: _ConditionColumn
    operator: Literal["==", "!=", "<", "<=", ">", ">="]
    parameter: _Literal


class _Nullity(Section):
    type: Literal["nullity"]
    column: _ConditionColumn
    is_null: StrictBool


class _Kwargs(Section):
    row_condition: Annotated[_Comparison | _Nullity, Field(discriminator="type")] | None = None


class _Mostly(_Kwargs):
    mostly: Annotated[_Number, Field(ge=0, le=1)] = 1


class _OneColumn(_Mostly):
    column: _Column


class _Bounds(_OneColumn):
    min_value: _Number | None = None
    max_value: _Number | None = None
    strict_min: StrictBool = False
    strict_max: StrictBool = False

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.min_value is None and self.max_value is None:
            raise ValueError("it needs min_value, max_value or both")
        return self


class _Length(_OneColumn):
    value: StrictInt


class _ValueSet(_OneColumn):
    value_set: Annotated[list[_Value], Field(min_length=1)]


class _Matching(_OneColumn):
    regex: _Regex


class _MatchingAll(_OneColumn):
    regex_list: Annotated[list[_Regex], Field(min_length=1)]


class _MatchingAny(_MatchingAll):
    match_on: Literal["any", "all"] = "any"


class _Pair(_Mostly):
    column_A: _Column  # noqa: N815 - Great Expectations' own names
    column_B: _Column  # noqa: N815
    ignore_row_if: Literal["both_values_are_missing", "either_value_is_missing", "neither"] = "both_values_are_missing"


class _GreaterPair(_Pair):
    or_equal: StrictBool = False


class Unique(_Mostly):
    """What has to be unique."""

    @property
    def columns(self) -> Sequence[str]:
        raise NotImplementedError


class _UniqueColumn(Unique):
    column: _Column

    @property
    def columns(self) -> Sequence[str]:
        return [self.column]


class _UniqueTogether(Unique):
    column_list: Annotated[list[_Column], Field(min_length=2)]
    ignore_row_if: Literal["all_values_are_missing", "any_value_is_missing", "never"] = "all_values_are_missing"

    @property
    def columns(self) -> Sequence[str]:
        return self.column_list


KWARGS: Final[dict[str, type[Section]]] = {
    "expect_column_values_to_not_be_null": _OneColumn,
    "expect_column_values_to_be_null": _OneColumn,
    "expect_column_values_to_be_between": _Bounds,
    "expect_column_values_to_be_in_set": _ValueSet,
    "expect_column_values_to_not_be_in_set": _ValueSet,
    "expect_column_value_lengths_to_be_between": _Bounds,
    "expect_column_value_lengths_to_equal": _Length,
    "expect_column_values_to_match_regex": _Matching,
    "expect_column_values_to_not_match_regex": _Matching,
    "expect_column_values_to_match_regex_list": _MatchingAny,
    "expect_column_values_to_not_match_regex_list": _MatchingAll,
    "expect_column_pair_values_to_be_equal": _Pair,
    "expect_column_pair_values_a_to_be_greater_than_b": _GreaterPair,
    "expect_column_values_to_be_unique": _UniqueColumn,
    "expect_compound_columns_to_be_unique": _UniqueTogether,
}
"""What each type of expectation takes; the columns are validated in a context of ``columns`` and ``where``."""
