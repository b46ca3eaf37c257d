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

A suite is data. Before Great Expectations is given any of it, it is looked through for what it may not hold; see `forms`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import ValidationError

from agui_pipelines.errors import SpecError
from agui_pipelines.expectations.forms import KWARGS, ExpectationForm, SuiteFile, Unique
from agui_pipelines.spec import Expectations


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
        outer = SuiteFile.model_validate(values)
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
    expectation = ExpectationForm.model_validate(values)
    kwargs = KWARGS.get(expectation.type)
    if kwargs is None:
        nearest = difflib.get_close_matches(expectation.type, KWARGS, n=1)
        known = f"did you mean '{nearest[0]}'?" if nearest else f"known here: {', '.join(KWARGS)}"
        raise ValueError(f"the type '{expectation.type}' is not one that can be used; {known}")
    frame = expectation.meta.get("frame", Frame.RECORDS)
    if frame not in list(Frame):
        raise ValueError(f"meta.frame is {frame!r}; known: {', '.join(Frame)}")
    columns = COLUMNS[stage, Frame(frame)]
    context = {"columns": columns, "where": f"the frame '{frame}' of the stage '{stage}'"}
    given = kwargs.model_validate(expectation.kwargs, context=context)
    if isinstance(given, Unique) and frame == Frame.RECORDS:
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
