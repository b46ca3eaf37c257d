from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agui_pipelines.stores import file_content
from agui_pipelines.stores.file_content import UnreadableError, indented, read, read_raw

digits = st.text("0123456789", min_size=1, max_size=40)
numbers = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.one_of(st.just("0"), st.builds("{}{}".format, st.sampled_from("123456789"), digits)),
    st.one_of(st.just(""), digits.map(".{}".format)),
    st.one_of(st.just(""), st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), digits)),
)
characters = st.one_of(
    st.characters(min_codepoint=0x20, exclude_characters='"\\', exclude_categories=["Cs"]),
    st.sampled_from(
        ['\\"', "\\\\", "\\/", "\\n", "\\u0000", "\\ud83d\\ude00", "\\ud800", "\\uDFFF", "\\u003c", "[", "}", ",", ":"]
    ),
)
strings = st.lists(characters, max_size=12).map(lambda parts: '"' + "".join(parts) + '"')
scalars = st.one_of(numbers, strings, st.sampled_from(["null", "true", "false"]))


def containers(values: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """Values as lists of tokens, so that the tests know every token without parsing."""
    arrays = st.lists(values, max_size=4).map(lambda items: ["[", *with_commas(items), "]"])
    return st.one_of(arrays, objects(values))


def objects(values: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    members = st.tuples(strings, values).map(lambda member: [member[0], ":", *member[1]])
    return st.lists(members, max_size=4).map(lambda items: ["{", *with_commas(items), "}"])


def with_commas(items: list[list[str]]) -> list[str]:
    return [token for i, item in enumerate(items) for token in ([","] if i else []) + item]


values = st.recursive(scalars.map(lambda s: [s]), containers, max_leaves=20)
white_space = st.sampled_from(["", " ", "\n", "\t\r\n  "])


def by_hand(tokens: list[str]) -> bytes:
    """Go's MarshalIndent, from tokens."""
    out, depth = "", 0
    for i, token in enumerate(tokens):
        if token in ("]", "}"):
            depth -= 1
            if tokens[i - 1] not in ("[", "{"):
                out += "\n" + "  " * depth
        elif i and tokens[i - 1] in ("[", "{", ","):
            out += "\n" + "  " * depth
        out += ": " if token == ":" else token
        if token in ("[", "{"):
            depth += 1
    return out.encode()


@given(objects(values), st.randoms(use_true_random=False))
@example(["{", '"a"', ":", "1e99999999999999999999", ",", '"a"', ":", "-0.0", ",", '"\\ud800"', ":", "1.0", "}"], None)
@example(["{", '"a"', ":", "1E+5", ",", '"b"', ":", "[", "]", ",", '"c"', ":", "{", "}", "}"], None)
def test_indenting_keeps_every_token_as_it_is(tokens: list[str], random) -> None:
    spaced = "".join(token + (random.choice(["", " ", "\n\t"]) if random else "") for token in tokens)
    expected = by_hand(tokens)
    assert indented(spaced.encode()) == expected
    assert indented(expected) == expected


@given(objects(values))
def test_both_ways_of_indenting_agree(tokens: list[str]) -> None:
    document = "".join(tokens).encode()
    assert file_content._indented_by_token(document) == by_hand(tokens)


def test_the_layout_is_that_of_go() -> None:
    document = b'{"a":[1,{"b":[]}],"c":{},"d":null}'
    assert indented(document) == json.dumps(json.loads(document), indent=2).encode()


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"a":1}x',
        b'{"a":01}',
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\x01"}',
        b'{"a":"\\q"}',
        b'{"a":"\\ud800",}',
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_json_object_is_told(document: bytes) -> None:
    with pytest.raises(ValueError):
        indented(document)


def test_reading_gives_the_bytes_and_the_time(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b" {}\n")
    os.utime(file, ns=(1, 1752485415_123456789))
    assert read(bytes(file), bytes(tmp_path)) == (b" {}\n", 1752485415_123456789)
    assert read(bytes(tmp_path / "b.json"), bytes(tmp_path)) is None
    assert read(bytes(tmp_path / ("x" * 300)), bytes(tmp_path)) is None


def test_compressed_files_are_unpacked_and_can_be_read_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    packed = gzip.compress(b'{"a":') + gzip.compress(b"1}") + b"\0\0"
    file.write_bytes(packed)
    content, raw = read(bytes(file), bytes(tmp_path)), read_raw(bytes(file), bytes(tmp_path))
    assert content is not None
    assert raw is not None
    assert (content.data, raw.data) == (b'{"a":1}', packed)


@pytest.mark.parametrize(
    "packed",
    [b"\x1f\x8b", b"\x1f\x8bnonsense!", gzip.compress(b"{}" * 99)[:-9], gzip.compress(b"{}") + b"x"],
    ids=["begun", "nonsense", "cut off", "followed by more"],
)
def test_a_damaged_compressed_file_is_told_with_its_bytes(tmp_path: Path, packed: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(packed)
    with pytest.raises(UnreadableError) as caught:
        read(bytes(file), bytes(tmp_path))
    assert (caught.value.reason, caught.value.raw) == ("gzip_damaged", packed)


def test_what_is_too_large_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_content, "MAX_BYTES", 1000)
    packed, plain, fits = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"
    packed.write_bytes(gzip.compress(b" " * 1001))
    plain.write_bytes(b" " * 1001)
    fits.write_bytes(gzip.compress(b" " * 600) + gzip.compress(b" " * 400))
    for file in (packed, plain):
        with pytest.raises(UnreadableError) as caught:
            read(bytes(file), bytes(tmp_path))
        assert caught.value.reason == "too_large"
    content = read(bytes(fits), bytes(tmp_path))
    assert content is not None
    assert content.data == b" " * 1000


def test_links_are_followed_only_within_the_base(tmp_path: Path) -> None:
    base, outside = tmp_path / "base", tmp_path / "outside"
    base.mkdir()
    outside.write_bytes(b'{"secret":1}')
    (base / "real").write_bytes(b"{}")
    for name, target in (
        ("in", "real"),
        ("chain", "in"),
        ("out", outside),
        ("up", "../outside"),
        ("none", "x"),
        ("loop", "loop"),
    ):
        (base / name).symlink_to(target)
    for name in ("in", "chain"):
        content = read(bytes(base / name), bytes(base))
        assert content is not None
        assert content.data == b"{}"
    for name, reason in (
        ("out", "symlink_outside"),
        ("up", "symlink_outside"),
        ("none", "symlink_dangling"),
        ("loop", "symlink_dangling"),
    ):
        with pytest.raises(UnreadableError) as caught:
            read(bytes(base / name), bytes(base))
        assert (caught.value.reason, caught.value.raw) == (reason, None)


def test_a_pipe_or_folder_named_like_a_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json"):
        with pytest.raises(UnreadableError) as caught:
            read(bytes(tmp_path / name), bytes(tmp_path))
        assert caught.value.reason == "not_a_file"
