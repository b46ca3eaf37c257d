from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import math
import uuid
from collections import namedtuple
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agui_pipelines import documents
from agui_pipelines.canonical import Trait, digest

quick = settings(max_examples=120, deadline=None)

numbers = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.sampled_from([Decimal("1e-400"), Decimal("-0.0"), Decimal("1E+400"), Decimal("0.1000000000000000055")]),
)
strings = st.text(max_size=6) | st.text(st.sampled_from('a"\\/\x00\u2028😀\ud800\udfff'), max_size=4)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, strings),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=10,
)


def exactly(value: Any) -> Any:
    """The value with its numbers by sign, digits and exponent and its strings as JSON pairs up surrogates."""
    match value:
        case bool() | None:
            return repr(value)
        case int() | Decimal():
            sign, digits, exponent = Decimal(value).as_tuple()
            text = "".join(map(str, digits)).lstrip("0")
            assert isinstance(exponent, int)
            stripped = text.rstrip("0")
            return (sign, stripped, exponent + len(text) - len(stripped)) if text else "zero"
        case str():
            return "string " + value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        case list():
            return [exactly(item) for item in value]
        case _:
            return {exactly(key): exactly(item) for key, item in value.items()}


@quick
@given(values)
def test_a_value_comes_back_as_it_was_written_to_the_last_digit(value: Any) -> None:
    assert exactly(documents.loads(documents.dumps(value))) == exactly(value)


@quick
@given(values)
def test_what_is_written_is_compact_valid_json(value: Any) -> None:
    written = documents.dumps({"a": value})
    assert not digest(written).traits & Trait.INVALID
    assert written.startswith(b'{"a":')


@pytest.mark.parametrize(
    "document",
    [
        b'{"n":123456789012345678901234567890}',
        b'{"n":-0.0}',
        b'{"n":0.1000000000000000055}',
        b'{"n":1e-400}',
        b'{"n":1e400}',
        b'{"n":1.0}',
        b'{"n":1.10}',
        b'{"n":0.30000000000000004}',
        b'{"n":1E+5}',
        b'{"n":18446744073709551616}',
        b'{"n":' + b"9" * 5000 + b"}",
        b'{"n":0.' + b"1" * 5000 + b"}",
        b'{"n":"\\ud800"}',
        b'{"n":"\\u0000"}',
        b'{"a":1,"a":2}',
    ],
    ids=lambda document: document[:30],
)
def test_a_document_that_is_read_and_written_keeps_its_value(document: bytes) -> None:
    written = documents.dumps(documents.loads(document))
    assert digest(written).canonical == digest(document).canonical


def test_integers_stay_integers_and_other_numbers_become_decimals() -> None:
    found = documents.loads(b'{"a":1,"b":123456789012345678901234567890,"c":1.0,"d":1e5,"e":-7}')
    assert [type(value) for value in found.values()] == [int, int, Decimal, Decimal, int]
    assert found["b"] == 123456789012345678901234567890
    assert str(found["c"]) == "1.0"


@quick
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_is_written_so_that_it_reads_back_as_the_same_double(number: float) -> None:
    assert json.loads(documents.dumps([number])) == [number]
    assert json.loads(documents.dumps([number, 2**70])) == [number, 2**70]


def test_non_ascii_text_is_written_as_utf8() -> None:
    assert documents.dumps({"é": "東京😀"}) == '{"é":"東京😀"}'.encode()


@given(st.text())
@example("\x7f\u2028\u2029\ufeff")
def test_text_is_spelled_alike_whatever_stands_beside_it(text: str) -> None:
    """Integers over 64 bits take another way."""
    beside = b"," + str(2**70).encode()
    assert documents.dumps([text, 2**70]) == documents.dumps([text])[:-1] + beside + b"]"


def test_lone_surrogates_are_written_as_escapes_and_come_back() -> None:
    written = documents.dumps({"\ud800": "x\udfff", "é": 2**70})
    assert written.isascii()
    assert documents.loads(written) == {"\ud800": "x\udfff", "é": 2**70}


BIG = {"big": 2**70}
"""Makes the slower of the two writers write the document."""


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int


Pair = namedtuple("Pair", "x y")  # noqa: PYI024 - the plain kind is meant


@pytest.mark.parametrize("beside", [{}, BIG], ids=["fast", "slow"])
@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        [{"deep": [math.nan]}],
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("-Infinity"),
        {1: 2},
        {None: 2},
        {True: 2},
        {1.5: 2},
        {"1": 1, 1: 2},
        {1, 2},
        b"bytes",
        object(),
        1j,
        Pair(1, 2),
        Point(1),
        Color.RED,
        dt.datetime(2025, 1, 1, tzinfo=dt.UTC),
        dt.date(2025, 1, 1),
        uuid.UUID(int=1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_json_is_refused_and_never_written_as_something_else(value: Any, beside: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        documents.dumps({"a": value, **beside})


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":01}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-32-le"),
        b'{"a":1e9999999999999999999999}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda document: repr(document[:30]),
)
def test_what_cannot_be_read_is_a_value_error_for_loads_and_members(document: bytes) -> None:
    with pytest.raises(ValueError):
        documents.loads(document)
    if not document.startswith(b'{"a":1e9'):  # a member is not looked into
        with pytest.raises(ValueError):
            documents.members(document)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=30) | st.text('{}[]",:\\ue0123456789truefalsn .+-', max_size=20).map(str.encode))
def test_loads_takes_exactly_what_the_digest_calls_valid(content: bytes) -> None:
    valid = not digest(content).traits & (Trait.INVALID | Trait.TOO_DEEP)
    try:
        documents.loads(content)
    except ValueError:
        assert not valid
    else:
        assert valid


def test_a_value_nested_too_deeply_to_be_written_is_a_value_error() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError):
        documents.dumps(value)


# members ---------------------------------------------------------------------------------------------------------------


@quick
@given(st.dictionaries(strings, values, max_size=5), st.sampled_from([None, 2]))
def test_the_members_of_an_object_have_the_values_that_they_have_in_it(
    value: dict[str, Any], indent: int | None
) -> None:
    text = documents.dumps(value).decode()
    document = text.encode() if indent is None else text.replace(":{", " : {\n").replace(":[", ":\t[").encode()
    whole = documents.loads(document)
    found = documents.members(document)
    assert found.keys() == whole.keys()
    for key, raw in found.items():
        assert exactly(documents.loads(raw)) == exactly(whole[key])


def test_members_are_given_as_the_bytes_that_the_document_holds() -> None:
    found = documents.members(b'{"a": 1e5 ,"b":{"c" : 1.0},"d":"\\u0041","e":null,"f":123456789012345678901234567890}')
    assert found == {
        "a": b"1e5",
        "b": b'{"c" : 1.0}',
        "d": b'"\\u0041"',
        "e": b"null",
        "f": b"123456789012345678901234567890",
    }


def test_members_next_to_a_lone_surrogate_keep_every_digit() -> None:
    found = documents.members(b'{"s":"\\ud800","n":0.1000000000000000055,"big":123456789012345678901234567890}')
    assert found["s"] == b'"\\ud800"'
    assert digest(b"[" + found["n"] + b"]").canonical == digest(b"[0.1000000000000000055]").canonical
    assert found["big"] == b"123456789012345678901234567890"


def test_of_a_repeated_key_the_last_member_counts() -> None:
    assert documents.members(b'{"a":1,"a":2}') == {"a": b"2"}
    assert documents.members(b'{"a":"\\ud800","a":2}') == {"a": b"2"}


@pytest.mark.parametrize("document", [b"[]", b"1", b'"a"', b"null", b'["\\ud800"]', b"true"])
def test_only_an_object_has_members(document: bytes) -> None:
    with pytest.raises(ValueError):
        documents.members(document)


@settings(max_examples=400, deadline=None)
@given(
    st.builds(
        lambda whole, at, new: whole[: at % len(whole)] + new + whole[at % len(whole) + 1 :],
        st.sampled_from(
            [b'{"a":{"b":[1,2.5e3,"x\\u0041"]},"c":null,"d":true}', b'{"State":{"a":"\\ud83d\\ude00"},"ID":"x"}']
        ),
        st.integers(0, 60),
        st.binary(max_size=2) | st.sampled_from([b'"', b"{", b"}", b"\\", b",", b"\xff", b"0", b"e", b" "]),
    )
)
def test_members_takes_exactly_the_objects_that_the_digest_calls_valid(document: bytes) -> None:
    valid = not digest(document).traits & (Trait.INVALID | Trait.NOT_OBJECT)
    try:
        documents.members(document)
    except ValueError:
        assert not valid
    else:
        assert valid
