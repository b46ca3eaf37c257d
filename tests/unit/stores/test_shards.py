from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agui_pipelines.stores.file_layout import Layout, as_text, name_problem, shard, shards

# store-format.md, section 2: what the reference computes.
TABLE = [
    ("", 0, (0, 0, 0)),
    ("default", 91739117121, (1, 1, 1)),
    ("user-1", 3458935471, (15, 1, 5)),
    ("session:abc:v1", -5547948195521498633, (9, 3, 6)),
    ("thread-8c954fea-b40c-468d-8fcb-5fdad9d74920", -6253523634900117811, (3, 1, 4)),
    ("ユーザー", 385373788, (12, 8, 2)),
    ("😀", 128512, (0, 2, 6)),
]


def reference(points: list[int], count: int) -> int:
    """The reference, step by step: wraps at every step, truncates the remainder as Go does."""
    h = 0
    for point in points:
        h = (h * 31 + point + 2**63) % 2**64 - 2**63
    remainder = abs(h) % count * (-1 if h < 0 else 1)
    return abs(remainder)


@pytest.mark.parametrize(("state_id", "value", "expected"), TABLE)
def test_the_table_of_the_format_holds(state_id: str, value: int, expected: tuple[int, int, int]) -> None:
    assert tuple(shard(state_id, count) for count in (16, 10, 7)) == expected
    # A divisor beyond the value shows the value itself, but for its sign.
    assert shard(state_id, 2**63) == abs(value)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400), st.integers(1, 5000))
@example("\x00" * 3 + "a", 16)
@example("a" * 300, 16)
def test_any_id_has_the_shard_of_the_reference(state_id: str, count: int) -> None:
    assert shard(state_id, count) == reference([ord(c) for c in state_id], count)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80)), st.integers(1, 300))
@example(["", "", ""], 16)
@example(["", "user-1", "a" * 255], 16)
@example(["session:abc:v1", "default"], 7)
def test_many_ids_at_once_have_the_same_shards(ids: list[str], count: int) -> None:
    assert shards([i.encode() for i in ids], count) == [shard(i, count) for i in ids]


@given(st.lists(st.text(st.characters(max_codepoint=127), max_size=260)), st.integers(1, 300))
def test_many_ascii_ids_at_once_have_the_same_shards(ids: list[str], count: int) -> None:
    assert shards([i.encode() for i in ids], count) == [shard(i, count) for i in ids]


@pytest.mark.parametrize(
    ("key", "points"),
    [
        (b"\xff", [0xFFFD]),
        (b"a\xe2\x82b", [97, 0xFFFD, 0xFFFD, 98]),  # Go counts each byte of a broken sequence
        (b"\xed\xa0\x80", [0xFFFD] * 3),  # a surrogate in UTF-8
        (b"\xf0\x9f\x98", [0xFFFD] * 3),
        ("é".encode() + b"\x80", [0xE9, 0xFFFD]),
    ],
)
def test_a_byte_that_is_not_utf8_counts_as_the_replacement_character(key: bytes, points: list[int]) -> None:
    assert shard(as_text(key), 1 << 40) == reference(points, 1 << 40)
    assert shards([key, b"x"], 16)[0] == reference(points, 16)


def test_without_sharding_everything_lies_in_the_tree_itself() -> None:
    assert Layout(b"/base", 0).folder("user-1") == b""
    assert Layout(b"/base", 0).paths([b"user-1"]) == [b"/base/states/user-1.json"]
    assert Layout(b"/base", 16).paths([b"user-1", b"default"]) == [
        b"/base/states/shard_15/user-1.json",
        b"/base/states/shard_1/default.json",
    ]


@pytest.mark.parametrize(
    "id_", ["", "a", "a b", "..a", "...", "a:b", "😀", "con", ".hidden", "a.json", "x" * 250, "é" * 125]
)
def test_ids_that_can_name_a_file(id_: str) -> None:
    assert name_problem(id_) is None


@pytest.mark.parametrize(
    ("id_", "reason"),
    [
        (".", "unsafe_id"),
        ("..", "unsafe_id"),
        ("/", "unsafe_id"),
        ("../../x", "unsafe_id"),
        ("a/b", "unsafe_id"),
        ("a\x00b", "unsafe_id"),
        ("\ud800", "unsafe_id"),
        ("x" * 251, "id_too_long"),
        ("é" * 126, "id_too_long"),
    ],
)
def test_ids_that_cannot_name_a_file(id_: str, reason: str) -> None:
    problem = name_problem(id_)
    assert problem is not None
    assert problem[0] == reason


def test_room_for_the_name_of_a_backup_is_reserved() -> None:
    assert name_problem("x" * 243, reserve=7) is None
    assert name_problem("x" * 244, reserve=7) is not None
