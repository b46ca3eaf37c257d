from __future__ import annotations

import inspect

import pytest

from agui_pipelines import errors
from agui_pipelines.errors import MigrationError, SpecError, StoreBusyError, named

ALL = [
    value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, MigrationError)
]  # fmt: skip


def test_the_text_of_an_error_says_what_why_and_what_to_do_on_one_line() -> None:
    error = SpecError("It is wrong.", why="It matters.", remedy="Mend it.")
    assert str(error) == "It is wrong. It matters. Mend it."
    assert str(SpecError("It is wrong.", remedy="Mend it.")) == "It is wrong. Mend it."
    assert str(SpecError("It is wrong.")) == "It is wrong."


def test_the_data_of_an_error_lies_on_attributes() -> None:
    error = SpecError("It is wrong.", why="w", remedy="r", ids=["a"], count=3)
    assert (error.message, error.why, error.remedy) == ("It is wrong.", "w", "r")
    assert error.data == {"ids": ["a"], "count": 3}


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_one_of_the_tree_in_the_docstring(kind: type[MigrationError]) -> None:
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", ALL)
def test_the_exit_code_is_that_in_the_docstring(kind: type[MigrationError]) -> None:
    lines = [line.split() for line in (errors.__doc__ or "").splitlines() if "exit " in line]
    documented = {
        word: int(line[-1].rstrip(")")) for line in lines for word in line if word.endswith("Error")
    }  # an error without a code of its own has that of its parent
    owner = next(c for c in kind.__mro__ if c.__name__ in documented or c is MigrationError)
    assert kind.exit_code == documented.get(owner.__name__, 1)


@pytest.mark.parametrize("kind", ALL)
def test_only_a_lost_connection_and_a_busy_store_are_worth_another_try(kind: type[MigrationError]) -> None:
    assert kind.transient == (kind.__name__ in {"InterruptedConnectionError", "SlotMovedError", "StoreBusyError"})


def test_a_transient_error_can_be_told_from_the_instance() -> None:
    assert StoreBusyError("locked").transient


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([], ""),
        (["a"], "'a'"),
        (["a", "b"], "'a', 'b'"),
        (["a", "b", "c", "d", "e"], "'a', 'b', 'c', 'd', 'e'"),
        (["a", "b", "c", "d", "e", "f"], "'a', 'b', 'c', 'd', 'e' and 1 more"),
        ([str(i) for i in range(2005)], "'0', '1', '2', '3', '4' and 2,000 more"),
        (["it's", "a\nb"], "\"it's\", 'a\\nb'"),
    ],
)
def test_ids_are_quoted_and_the_rest_of_them_counted(ids: list[str], text: str) -> None:
    assert named(ids) == text


def test_how_many_ids_are_named_can_be_chosen() -> None:
    assert named(["a", "b", "c"], limit=1) == "'a' and 2 more"
