"""What LangGraph's genuine serialiser writes, and what it becomes as JSON."""

from __future__ import annotations

import datetime as dt
import enum
import json
import sys
import uuid
from base64 import b64decode
from collections import OrderedDict, deque
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
import ormsgpack
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Send

from agui_pipelines.sources.langgraph.values import Typed, UnusableError, json_text, text_of, tree

NAMELESS = __name__


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Order:
    number: int
    lines: list[Point]


class Profile(pydantic.BaseModel):
    name: str
    since: dt.date


@dataclass
class Dollars:
    amount: Decimal


def stored(value: Any) -> Typed:
    return Typed(*JsonPlusSerializer().dumps_typed(value))


def converted(value: Any) -> Any:
    return json.loads(json_text(stored(value)), parse_float=Decimal)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (None, None),
        ([1, "a", True, None, {"k": []}], [1, "a", True, None, {"k": []}]),
        (b"\x00\xff", {"$type": "builtins.bytes", "$base64": "AP8="}),
        ([b""], [{"$type": "builtins.bytes", "$base64": ""}]),
        (bytearray(b"ab"), {"$type": "builtins.bytearray", "$base64": "YWI="}),
        (
            [dt.datetime(2026, 11, 22, 10, 0, 0, 5, dt.UTC)],
            [{"$type": "datetime.datetime", "$value": "2026-11-22T10:00:00.000005+00:00"}],
        ),
        ([dt.date(2026, 1, 2)], [{"$type": "datetime.date", "$value": "2026-01-02"}]),
        ([dt.timedelta(1, 2, 3)], [{"$type": "datetime.timedelta", "$args": [1, 2, 3]}]),
        (
            [uuid.UUID(int=10)],
            [{"$type": "uuid.UUID", "$value": "00000000-0000-0000-0000-00000000000a"}],
        ),
        ([Decimal("1.10")], [{"$type": "decimal.Decimal", "$value": "1.10"}]),
        ({1}, {"$type": "builtins.set", "$value": [1]}),
        (frozenset({"a"}), {"$type": "builtins.frozenset", "$value": ["a"]}),
        (deque([1, 2]), {"$type": "collections.deque", "$value": [1, 2]}),
        ((1, (2,)), [1, [2]]),
        ([ip_address("::1")], [{"$type": "ipaddress.IPv6Address", "$value": "::1"}]),
        ([ZoneInfo("UTC")], [{"$type": "zoneinfo.ZoneInfo", "$value": "UTC"}]),
        (
            [Colour.RED, Level.HIGH],
            [{"$type": f"{NAMELESS}.Colour", "$value": "red"}, {"$type": f"{NAMELESS}.Level", "$value": 3}],
        ),
        (
            [Order(7, [Point(1, 2)])],
            [{"$type": f"{NAMELESS}.Order", "number": 7, "lines": [{"$type": f"{NAMELESS}.Point", "x": 1, "y": 2}]}],
        ),
        (
            Profile(name="Ada", since=dt.date(2026, 1, 2)),
            {
                "$type": f"{NAMELESS}.Profile",
                "name": "Ada",
                "since": {"$type": "datetime.date", "$value": "2026-01-02"},
            },
        ),
        ([Send("node", {"a": 1})], [{"$type": "langgraph.types.Send", "$args": ["node", {"a": 1}]}]),
        ({1: "a", "b": 2}, {"$type": "builtins.dict", "$items": [[1, "a"], ["b", 2]]}),
        (
            {(1, "x"): b"v"},
            {"$type": "builtins.dict", "$items": [[[1, "x"], {"$type": "builtins.bytes", "$base64": "dg=="}]]},
        ),
        ({"$type": "mine"}, {"$type": "builtins.dict", "$items": [["$type", "mine"]]}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (
            np.array([[1, 2]], dtype="<i2"),
            {"$type": "numpy.ndarray", "dtype": "<i2", "shape": [1, 2], "order": "C", "$base64": "AQACAA=="},
        ),
    ],
)
def test_every_type_has_a_form(value: Any, form: Any) -> None:
    assert converted(value) == form


def test_a_message_becomes_its_fields_and_names_its_type() -> None:
    call = {"name": "f", "args": {"x": 1.50, "y": [10**18]}, "id": "c1", "type": "tool_call"}
    message = AIMessage(
        "…", id="m1", tool_calls=[call], usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    )
    form = converted([HumanMessage("hi", id="m0"), message])
    assert [item["$type"] for item in form] == [
        "langchain_core.messages.human.HumanMessage",
        "langchain_core.messages.ai.AIMessage",
    ]
    for item, original in zip(form, [HumanMessage("hi", id="m0"), message], strict=True):
        assert {k: v for k, v in item.items() if k != "$type"} == original.model_dump()


def test_a_field_that_begins_like_a_mark_does_not_become_one() -> None:
    payload = ormsgpack.packb(["shop", "Price", {"$value": 1, "n": 2}])
    assert json.loads(json_text(Typed("msgpack", ormsgpack.packb(ormsgpack.Ext(2, payload))))) == {
        "$type": "shop.Price",
        "$fields": {"$value": 1, "n": 2},
    }


def test_a_path_keeps_its_parts() -> None:
    form = converted([Path("/a/b")])[0]
    assert form["$type"].startswith("pathlib")
    assert PurePosixPath(*form["$args"]) == PurePosixPath("/a/b")


def test_numbers_stay_what_they_are() -> None:
    value = [0.1, 1e300, -0.0, 5e-324, 2**64 - 1, -(2**63), 1.0]
    text = json_text(stored(value)).decode()
    assert [repr(float(t)) for t in text.strip("[]").split(",")[:4]] == ["0.1", "1e+300", "-0.0", "5e-324"]
    assert text.endswith("18446744073709551615,-9223372036854775808,1.0]")


def test_json_of_older_savers_keeps_every_digit_and_what_names_a_class() -> None:
    envelope = '{"lc":2,"type":"constructor","id":["datetime","datetime"],"args":[2026,1,2]}'
    text = (
        '{"a":12345678901234567890123456789012345678901,"b":0.10000000000000000000001,"c":'
        + envelope
        + ',"d":"\\ud800"}'
    )
    assert json_text(Typed("json", text.encode())) == text.encode()


def test_an_object_of_older_savers_that_looks_like_a_mark_is_told_from_one() -> None:
    assert json.loads(json_text(Typed("json", b'{"$type":"builtins.bytes","$base64":"AA=="}'))) == {
        "$type": "builtins.dict",
        "$items": [["$type", "builtins.bytes"], ["$base64", "AA=="]],
    }


def test_keys_that_are_there_twice_or_are_equal_to_python_only_are_all_kept() -> None:
    twice = b"\x82\xa1a\x01\xa1a\x02"
    equal = b"\x82\x01\xa1x\xc3\xa1y"  # the keys 1 and true
    assert json.loads(json_text(Typed("msgpack", twice)))["$items"] == [["a", 1], ["a", 2]]
    assert json.loads(json_text(Typed("msgpack", equal)))["$items"] == [[1, "x"], [True, "y"]]


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        (stored([float("nan")]), "not_finite", "nan"),
        (stored({"a": {"b": float("-inf")}}), "not_finite", "-inf"),
        (Typed("json", b'{"a":NaN}'), "undecodable", "json"),
        (Typed("json", b"{"), "undecodable", "json"),
        (Typed("json", b'{"a":"\xff"}'), "undecodable", "json"),
        (Typed("pickle", b"\x80\x04N."), "pickle", "pickled"),
        (Typed("msgpack+aes", b"1234"), "encrypted", "msgpack+aes"),
        (Typed("yaml", b"a: 1"), "unknown_encoding", "yaml"),
        (Typed(None, b"a"), "unknown_encoding", "''"),
        (Typed("msgpack", b"\x01\x01"), "undecodable", "ExtraData"),
        (Typed("msgpack", b""), "undecodable", "msgpack"),
        (Typed("msgpack", b"\x92\x01"), "undecodable", "msgpack"),
        (Typed("msgpack", b"\xa1\xff"), "undecodable", "UnicodeDecodeError"),
        (Typed("msgpack", b"\xc1"), "undecodable", "FormatError"),
        (Typed("msgpack", b"\x91" * 5000), "undecodable", "msgpack"),
        (Typed("msgpack", msgpack.packb(msgpack.ExtType(42, b"x"))), "unknown_extension", "42"),
        (Typed("msgpack", msgpack.packb([msgpack.ExtType(5, b"\x01")])), "unknown_extension", "5"),
        (Typed("msgpack", msgpack.packb(msgpack.ExtType(0, msgpack.packb([1, 2, 3])))), "unknown_extension", "0"),
        (Typed("msgpack", msgpack.packb(msgpack.Timestamp(1, 2))), "unknown_extension", "Timestamp"),
        (
            Typed("msgpack", msgpack.packb(msgpack.ExtType(6, msgpack.packb(["|O", [1], "C", b"12345678"])))),
            "unknown_extension",
            "6",
        ),
    ],
)
def test_what_cannot_be_json_exactly_is_refused(value: Typed, reason: str, detail: str) -> None:
    with pytest.raises(UnusableError) as caught:
        json_text(value)
    assert caught.value.reason == reason
    assert detail in caught.value.detail


def test_what_nests_deeper_than_can_be_read_is_refused_not_crashed_on() -> None:
    nested = b"\xc0"
    for _ in range(2000):
        nested = msgpack.packb(msgpack.ExtType(0, b"\x93\xa8builtins\xa3set" + nested))
    with pytest.raises(UnusableError):
        json_text(Typed("msgpack", nested))


def test_nothing_that_the_data_names_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named_by_the_data.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments: dict[int, list[Any]] = {
        0: [1],
        1: [[1]],
        2: [{"a": 1}],
        3: [1, "method"],
        4: [{"a": 1}],
        5: [{"a": 1}, "method"],
    }
    calls = {
        code: ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(["named_by_the_data", "run", *rest])))
        for code, rest in arguments.items()
    }
    for data in calls.values():
        assert json.loads(json_text(Typed("msgpack", data)))["$type"] == "named_by_the_data.run"
    json_text(Typed("json", b'{"lc":2,"type":"constructor","id":["named_by_the_data","run"],"args":[]}'))
    assert "named_by_the_data" not in sys.modules
    assert not (tmp_path / "ran").exists()
    # The data is such that LangGraph itself would.
    JsonPlusSerializer(allowed_msgpack_modules=True).loads_typed(("msgpack", calls[0]))
    assert (tmp_path / "ran").exists()


def back(form: Any) -> Any:  # noqa: PLR0911 - one for each type
    """The value that a form stands for."""
    if isinstance(form, list):
        return [back(item) for item in form]
    if not isinstance(form, dict):
        return form
    match form:
        case {"$type": "builtins.bytes", "$base64": text}:
            return b64decode(text)
        case {"$type": "builtins.dict", "$items": pairs}:
            return {hashable(back(key)): back(value) for key, value in pairs}
        case {"$type": "decimal.Decimal", "$value": text}:
            return Decimal(text)
        case {"$type": "uuid.UUID", "$value": text}:
            return uuid.UUID(text)
        case {"$type": "datetime.datetime", "$value": text}:
            return dt.datetime.fromisoformat(text)
        case {"$type": "builtins.frozenset", "$value": items}:
            return frozenset(hashable(back(item)) for item in items)
    assert "$type" not in form
    return {key: back(value) for key, value in form.items()}


def hashable(value: Any) -> Any:
    return tuple(map(hashable, value)) if isinstance(value, list) else value


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["$type", "$items", "$value"])
integers = st.integers(-(2**63), 2**64 - 1)
leaves = (
    st.none()
    | st.booleans()
    | integers
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary(max_size=8)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes(timezones=st.just(dt.UTC))
    | st.frozensets(texts | integers, max_size=3)
)
keys = texts | integers | st.binary(max_size=3) | st.tuples(texts, integers)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_every_value_can_be_had_back_from_its_form(value: Any) -> None:
    found = back(json.loads(json_text(stored(value))))
    assert found == value
    assert typed(found) == typed(value)  # to Python, 1 equals 1.0 and true


def typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {(type(key), key): typed(member) for key, member in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, frozenset):
        return {(type(item), item) for item in value}
    # Of a time that occurs twice, the serialiser itself does not say which one it is.
    return type(value), value.isoformat() if isinstance(value, dt.datetime) else repr(value)


@given(st.binary(max_size=60))
def test_any_bytes_are_either_json_or_refused(data: bytes) -> None:
    try:
        text = json_text(Typed("msgpack", data))
    except UnusableError as error:
        assert error.detail  # noqa: PT017 - either is right
    else:
        json.loads(text)
        assert text_of(tree(Typed("msgpack", data))) == text
