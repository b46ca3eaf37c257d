"""A document that is digested in pieces has the digest that it has as a whole, whatever the size of the pieces."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines.canonical import LARGE, MAX_DEPTH, Trait, digest, large
from agui_pipelines.canonical.forms import digest_whole
from agui_pipelines.canonical.large import digest_in_pieces

thorough = settings(max_examples=150, deadline=None)

PIECES = st.sampled_from([1, 7, 40, 300, 5000])

words = st.text(st.sampled_from('ab1.0e+5-,:]}[{" \\\x00\x1fé中😀\u2028\x7f'), max_size=12)
strings = st.one_of(words, st.builds(lambda word, times: word * times, words, st.integers(0, 120)))
numbers = st.sampled_from(
    ["0", "-0.0", "1.0", "1e5", "2.50", "1e-7", "123456789012345678901234567890", "0.1", "7", "1E400"]
)


class Number(str):
    """A number as it is to be written."""

    __slots__ = ()


leaves = st.one_of(st.none(), st.booleans(), numbers.map(Number), strings)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=12), st.dictionaries(words, inner, max_size=8)),
    max_leaves=60,
)
objects = st.dictionaries(words, trees, max_size=8)


def written(tree: Any, rng: random.Random, *, spaced: bool) -> str:
    """A JSON text of a tree, in one of its many spellings."""
    gap = lambda: rng.choice(["", "", " ", "\n\t "]) if spaced else ""  # noqa: E731 - used all over the next lines
    match tree:
        case Number():
            return str(tree)
        case str():
            return json.dumps(tree, ensure_ascii=rng.random() < 0.5)
        case dict():
            names = rng.sample(list(tree), len(tree))
            parts = [f"{gap()}{written(n, rng, spaced=False)}{gap()}:{gap()}" for n in names]
            values = [written(tree[n], rng, spaced=spaced) for n in names]
            members = [f"{part}{value}{gap()}" for part, value in zip(parts, values, strict=True)]
            return "{" + (",".join(members) or gap()) + "}"
        case list():
            return "[" + (",".join(gap() + written(i, rng, spaced=spaced) + gap() for i in tree) or gap()) + "]"
        case _:
            return json.dumps(tree)


documents = st.builds(
    lambda tree, rng, spaced: written(tree, rng, spaced=spaced).encode(),
    st.one_of(objects, objects, trees),
    st.randoms(use_true_random=False),
    st.booleans(),
)


@thorough
@given(documents, PIECES)
def test_the_pieces_have_the_digest_of_the_whole(document: bytes, piece: int) -> None:
    assert digest_in_pieces(document, piece) == digest_whole(document)


@thorough
@given(documents, PIECES, st.data())
def test_what_is_no_json_is_found_out_in_pieces_too(document: bytes, piece: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(document)))
    length = data.draw(st.integers(0, 3))
    put = data.draw(
        st.sampled_from([b"", b",", b'"', b"]", b"}", b"{", b"[", b":", b"\\", b"1", b"\xe9", b"\x00", b" "])
    )
    broken = document[:at] + put + document[at + length :]
    assert digest_in_pieces(broken, piece) == digest_whole(broken)


@thorough
@given(objects, st.randoms(use_true_random=False), st.booleans(), PIECES)
def test_a_document_that_is_sound_is_not_digested_as_a_whole(
    tree: dict[str, Any], rng: random.Random, spaced: bool, piece: int
) -> None:
    document = written(tree, rng, spaced=spaced).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "digest_whole", None)
        found = digest_in_pieces(document, piece)
    assert found == digest_whole(document)


ODDITIES = [
    *(
        b"",
        b" ",
        b"1",
        b'"a"',
        b"[]",
        b"{}",
        b" { } ",
        b"{}{}",
        b"{} {}",
        b"{}1",
        b"1{}",
        b"{},",
        b",{}",
        b"\xef\xbb\xbf{}",
    ),
    *(
        b"[1,2,3]",
        b'{"a":1,}',
        b'{,"a":1}',
        b'{"a":[1,]}',
        b'{"a":[,1]}',
        b'{"a":[1,,2]}',
        b'{"a":[1 2]}',
        b'{"a":[[1][2]]}',
    ),
    *(
        b'{"a":{"b":1}{"c":2}}',
        b'{"a":[1}',
        b'{"a":1]',
        b'{"a":[1]',
        b'{"a"}',
        b'{"a":}',
        b"{:1}",
        b"{1:1}",
        b'{"a" "b":1}',
    ),
    *(
        b'{"a":"\\',
        b'{"a":"\\"}',
        b'{"a":"\\u12"}',
        b'{"a":"\\x"}',
        b'{"a":"\n"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
    ),
    *(b'{"a":"\\ud83d\\ude00"}', b'{"a":"\\ud83d"}', b'{"a":"\\ude00"}', b'{"a":"\\ud83d\\u0041"}', b'{"\\ud83d":1}'),
    *(b'{"a":1,"a":2}', b'{"a":[1],"a":[2]}', b'{"b":[1],"a":[2]}', b'{"a":{"z":"\\u0000"},"a":1}', b'{"\\u0000":[1]}'),
    *(b'{"a":' + b"[" * n + b"1" + b"]" * n + b"}" for n in (MAX_DEPTH - 2, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1)),
    *(b"[" * 100_000, b'{"a":' * 1000 + b"1" + b"}" * 1000),
    b'{"a":"' + b"\\u4e2d" * 200 + b'"}',
    b'{"a":"' + b"\\ud83d\\ude00" * 200 + b'"}',
    b'{"a":"' + "中😀é".encode() * 200 + b'"}',
    b'{"a":"' + b"\\\\" * 1000 + b'"}',
    b'{"a":"' + b"\\\\" * 1000 + b'\\"}',
    b'{"a":"' + b"\x80" * 600 + b'"}',
    b'{"' + b"k" * 1000 + b'":1}',
]


@pytest.mark.parametrize("piece", [1, 16, 300])
@pytest.mark.parametrize("document", ODDITIES, ids=lambda document: repr(document[:30]))
def test_odd_documents(document: bytes, piece: int) -> None:
    assert digest_in_pieces(document, piece) == digest_whole(document)


def test_large_documents_go_in_pieces_and_digest_like_small_ones_of_the_same_value() -> None:
    value = {"a": ["x" * 1000, 1.5, {"n": None}] * 5000, "b": "y" * LARGE, "c": {f"k{i:06}": i for i in range(100_000)}}
    compact, spaced = orjson.dumps(value), json.dumps(value, indent=1).encode()
    assert len(compact) > LARGE
    assert digest(compact) == digest_whole(compact)
    assert digest(memoryview(spaced)) == digest(compact)
    changed = re.sub(rb"99999}", b"99998}", compact)
    assert changed != compact
    assert digest(changed).canonical != digest(compact).canonical
    assert digest(compact[:-1]).traits == Trait.INVALID
