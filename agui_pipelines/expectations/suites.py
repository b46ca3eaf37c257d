"""Suites: to which ones each stage is held, and what may stand in them.

A suite is a JSON file in Great Expectations' own form, a name and a list of expectations; those that are shipped lie in
``suites/``, one for each stage. A migration file adds its users' own by path; one that has the name of the shipped one takes
its place, so that an edited copy of it can be used instead::

    {"name": "mine", "expectations": [
      {"type": "expect_column_values_to_match_regex", "severity": "warning",
       "kwargs": {"column": "state_id", "regex": "^user-",
                  "row_condition": {"type": "comparison", "column": {"name": "kind"}, "operator": "==", "parameter": "state"}}},
      {"type": "expect_column_values_to_be_between", "meta": {"frame": "totals"},
       "kwargs": {"column": "exported", "min_value": 1, "row_condition":
                  {"type": "comparison", "column": {"name": "kind"}, "operator": "==", "parameter": "state"}}}]}

`frames` says which frames and columns there are. A failing expectation of the severity ``critical`` (the default) blocks,
``warning`` and ``info`` only tell.

A suite is data. What it may hold is listed here, and is looked at before Great Expectations is given any of it: expectations
that look at each row by itself (the records come in several frames, so a mean or a maximum of one of them would say nothing;
``mostly`` is decided over all of them), on columns that there are. What Great Expectations would evaluate as an expression (a
condition written as text, a suite parameter) or send to a database (a query) is not among it. The values of a condition are
plain literals, as Great Expectations writes them into an expression for pandas.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from agui_pipelines.errors import SpecError
from agui_pipelines.spec import Expectations
from agui_pipelines.spec.section import Section


class Stage(StrEnum):
    """Where expectations are looked at: what was read, what is about to be written, and what is in the target."""

    EXPORTED = "exported"
    STAGED = "staged"
    LOADED = "loaded"


class Frame(StrEnum):
    """What an expectation looks at, as its ``meta.frame`` says; the records unless it says otherwise."""

    RECORDS = "records"
    TOTALS = "totals"


_RECORD_COLUMNS: Final = (
    *("kind", "state_id", "version_id", "snapshot_id", "id_length", "size", "json_valid", "duplicate_keys"),
    *("has_expiry", "created_at", "updated_at", "timestamp", "parent_id"),
)
COLUMNS: Final = {
    (Stage.EXPORTED, Frame.RECORDS): _RECORD_COLUMNS,
    (Stage.EXPORTED, Frame.TOTALS): ("kind", "exported", "bytes"),
    (Stage.STAGED, Frame.RECORDS): _RECORD_COLUMNS,
    (Stage.STAGED, Frame.TOTALS): ("kind", "exported", "staged", "bytes"),
    (Stage.LOADED, Frame.RECORDS): (
        *("kind", "state_id", "version_id", "snapshot_id", "status", "staged", "found", "digest_equal"),
    ),
    (Stage.LOADED, Frame.TOTALS): (
        *("kind", "staged", "compared", "found", "normalised", "expired", "missing", "corrupted", "extra"),
    ),
}
"""What each column holds is said in `frames`."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite of a stage, looked through and fit to be run."""

    stage: Stage
    name: str
    values: dict[str, Any]
    """What the file holds, as Great Expectations takes it."""


def shipped(stage: Stage) -> bytes:
    """The text of the suite that comes with this package."""
    return files(__package__).joinpath("suites", f"{stage}.json").read_bytes()


def suites(stage: Stage, asked: Expectations, folder: Path) -> tuple[Suite, ...]:
    """The suites that a stage is held to; paths count from `folder`. Raises `SpecError` for a file that is no usable suite."""
    paths: Sequence[str] = getattr(asked, stage)
    own = [_read(stage, folder / Path(path).expanduser()) for path in paths]
    [(name, count)] = Counter(suite.name for suite in own).most_common(1) or [("", 0)]
    if count > 1:
        raise SpecError(
            f"{count} expectation suites of the stage '{stage}' have the name '{name}'.",
            why="Their results could not be told apart.",
            remedy="Give each a name of its own.",
        )
    if any(suite.name == stage for suite in own):
        return tuple(own)
    return (parse(stage, shipped(stage), f"{stage}.json"), *own)


def _read(stage: Stage, path: Path) -> Suite:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SpecError(
            f"The expectation suite {path} cannot be read: {error.strerror}.",
            remedy="Its path counts from the migration file's folder.",
        ) from None
    return parse(stage, text, str(path))


def parse(stage: Stage, text: bytes, origin: str) -> Suite:
    """Look a suite's text through. Raises `SpecError`, which names the file `origin` and the expectation."""
    try:
        values = orjson.loads(text)
    except ValueError as error:
        raise _unusable(origin, f"it is not JSON: {error}") from None
    try:
        outer = _File.model_validate(values)
    except ValidationError as error:
        raise _unusable(origin, _first_problem(error)) from None
    for number, expectation in enumerate(outer.expectations, 1):
        try:
            _look_through(stage, expectation)
        except ValidationError as error:
            raise _unusable(origin, f"expectation {number}, {_first_problem(error)}") from None
        except ValueError as error:
            raise _unusable(origin, f"expectation {number}, {error}") from None
    return Suite(stage, outer.name, values)


def _look_through(stage: Stage, values: Any) -> None:
    expectation = _Expectation.model_validate(values)
    kwargs = _KWARGS.get(expectation.type)
    if kwargs is None:
        nearest = difflib.get_close_matches(expectation.type, _KWARGS, n=1)
        known = f"did you mean '{nearest[0]}'?" if nearest else f"known here: {', '.join(_KWARGS)}"
        raise ValueError(f"the type '{expectation.type}' is not one that can be used; {known}")
    frame = expectation.meta.get("frame", Frame.RECORDS)
    if frame not in list(Frame):
        raise ValueError(f"meta.frame is {frame!r}; known: {', '.join(Frame)}")
    columns = COLUMNS[stage, Frame(frame)]
    context = {"columns": columns, "where": f"the frame '{frame}' of the stage '{stage}'"}
    given = kwargs.model_validate(expectation.kwargs, context=context)
    if isinstance(given, _Unique) and frame == Frame.RECORDS:
        if stage is Stage.LOADED:
            raise ValueError(
                f"the type '{expectation.type}' cannot be used of what was loaded, where ids are unique anyway"
            )
        # Records of one id are in one frame, so what is unique together with the id is unique.
        if "state_id" not in given.columns:
            raise ValueError("what is to be unique is only known to be so together with the column 'state_id'")


def _unusable(origin: str, problem: str) -> SpecError:
    return SpecError(
        f"The expectation suite {origin} cannot be used: {problem}.",
        why="An expectation that is not looked at would seem to be met.",
        remedy="Mend the file. `agui-migrate expectations show staged` prints a suite to start from.",
    )


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where + ': ' if where else ''}{message[:1].lower()}{message[1:]}"


# What may stand in a suite ---------------------------------------------------------------------------------------------


class _File(Section):
    name: Annotated[str, Field(min_length=1)]
    expectations: list[Any]
    meta: Annotated[dict[str, Any], Field(default_factory=dict)]
    notes: Any = None
    id: Any = None


class _Expectation(Section):
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


class _Unique(_Mostly):
    """What has to be unique."""

    @property
    def columns(self) -> Sequence[str]:
        raise NotImplementedError


class _UniqueColumn(_Unique):
    column: _Column

    @property
    def columns(self) -> Sequence[str]:
        return [self.column]


class _UniqueTogether(_Unique):
    column_list: Annotated[list[_Column], Field(min_length=2)]
    ignore_row_if: Literal["all_values_are_missing", "any_value_is_missing", "never"] = "all_values_are_missing"

    @property
    def columns(self) -> Sequence[str]:
        return self.column_list


_KWARGS: Final[dict[str, type[_Kwargs]]] = {
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
