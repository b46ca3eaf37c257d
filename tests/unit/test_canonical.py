"""The reference here is the standard library's parser with number tokens kept as text, and exact integer arithmetic."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agui_pipelines.canonical import MAX_DEPTH, UNUSABLE, Digests, Trait, canonical_number, digest
from agui_pipelines.canonical.forms import exact_form, form

quick = settings(max_examples=150, deadline=None)
thorough = settings(max_examples=350, deadline=None)

NUMBER = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?")


# The reference ---------------------------------------------------------------------------------------------------------


def refuse(name: str) -> Any:
    raise ValueError(name)


def parsed(document: bytes) -> Any:
    """The document as nested tuples, its numbers as ``("number", token)``; ValueError if it is not strict JSON."""
    number = lambda token: ("number", token)  # noqa: E731 - used twice, right here
    text = document.decode("utf-8", "strict")
    return json.loads(text, parse_int=number, parse_float=number, parse_constant=refuse)


def reduced(token: str) -> tuple[str, str, int]:
    """Sign, digits and exponent of a number: equal exactly for equal decimal values."""
    match = NUMBER.fullmatch(token)
    assert match is not None, token
    sign, whole, fraction, exponent = match.groups("")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return ("", "0", 0)
    stripped = digits.rstrip("0")
    return (sign, stripped, int(exponent or "0") - len(fraction) + len(digits) - len(stripped))


def value_of(tree: Any, *, spelled: bool = False) -> Any:
    """Something that compares equal exactly for equal JSON values (or, `spelled`, also equally spelled numbers)."""
    match tree:
        case ("number", token):
            return ("number", token if spelled else reduced(token))
        case dict():
            return ("object", frozenset((key, value_of(item, spelled=spelled)) for key, item in tree.items()))
        case list():
            return ("array", tuple(value_of(item, spelled=spelled) for item in tree))
        case str():
            return ("string", tree)
        case _:
            return ("literal", repr(tree))


def is_strict_json(document: bytes) -> bool:
    try:
        parsed(document)
    except ValueError:
        return False
    return True


# What documents are made of --------------------------------------------------------------------------------------------

NASTY_NUMBERS = [
    *("0", "-0", "0.0", "-0.0", "0e0", "0e5", "-0E-400", "0e99999"),
    *("1", "1.0", "1.00", "10e-1", "0.1e1", "1e0", "1E+0", "1e-0", "-1", "-1.0"),
    *("100000", "1e5", "1E5", "1e+5", "1e05", "100000.0", "10e4", "1000e2"),
    *("0.1", "0.10", "1e-1", "0.1000000000000000055", "0.1000000000000000055511151231257827", "0.09999999999999999"),
    *("1e-400", "1e-401", "1e400", "1e401", "2e-400", "-1e400", "1e999999", "1e1000000", "1.0e999999"),
    *("123456789012345678901234567890", "123456789012345678901234567891", "1.2345678901234567890123456789e29"),
    *("9007199254740991", "9007199254740992", "9007199254740993", "9007199254740992.0", "9007199254740993.0"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809"),
    *("18446744073709551615", "18446744073709551616", "18446744073709551617", "1.8446744073709552e19"),
    *("1e15", "1e16", "1e17", "1e21", "1e22", "9999999999999998", "9999999999999999", "10000000000000000"),
    *("1e-5", "0.00001", "0.000010", "1e-6", "0.000001", "1.5e-5", "0.000015", "9.999999999999999e-6"),
    *("1234567890123456.7", "12345678901234567.8", "1.2345678901234567e16", "0.000012345678901234567"),
    *("5e-324", "4.9e-324", "2.2250738585072014e-308", "1.7976931348623157e308", "1.7976931348623159e308"),
    *("1" + "0" * 29, "1" + "0" * 30, "1" + "0" * 31, "1e29", "1e30", "1e31"),
    *("0." + "0" * 29 + "1", "0." + "0" * 30 + "1", "1e-30", "1e-31", "1.1e-30", "11e-31"),
    *("3.141592653589793", "3.1415926535897931", "2.718281828459045", "0.30000000000000004", "0.3"),
]

digits = st.text("0123456789", min_size=1, max_size=34).map(lambda text: text.lstrip("0") or "0")
tokens = st.one_of(
    st.sampled_from(NASTY_NUMBERS),
    st.integers(-5, 5).flatmap(lambda d: st.sampled_from([2**53 + d, 2**63 + d, 2**64 + d, -(2**63) + d])).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.one_of(st.floats(1e-7, 1e-4), st.floats(1e15, 1e18), st.floats(1e20, 1e23)).map(repr),
    st.builds(
        lambda sign, whole, fraction, exponent: f"{sign}{whole}{'.' if fraction else ''}{fraction}{exponent}",
        st.sampled_from(["", "-"]),
        digits,
        st.text("0123456789", max_size=25),
        st.one_of(
            st.just(""),
            st.builds(
                lambda e, sign, value: f"{e}{sign}{value}",
                st.sampled_from("eE"),
                st.sampled_from(["", "+", "-"]),
                st.one_of(st.integers(0, 40), st.integers(0, 10**9)).map(str),
            ),
        ),
    ),
)


class Token(str):
    """A number as it is to be spelled."""

    __slots__ = ()


NASTY_CHARACTERS = (
    'ab"\\/<>&\b\f\n\r\t\x00\x01\x1f\x7f\x80éß\u2028\u2029\u3042\ud7ff\ue000\ufeff\uffff\U00010000😀\U0010ffff'
    "\ud800\ud83d\udbff\udc00\ude00\udfff"
)
LOOK_ALIKES = ["x.0,", "1.0]", ".0}", "-0.0", "e+5,", "1e-5}", '",1.0,"', '\\"', "\\u0000", "{}", "[1.0, 1e5]", "a b"]
"""What looks like a number, an escape or an end of a string, and is text."""
strings = st.one_of(
    st.text(st.sampled_from(NASTY_CHARACTERS), max_size=5), st.text(max_size=8), st.sampled_from(LOOK_ALIKES)
)
keys = st.text(st.sampled_from("ab\x00\ue000\uffff\U00010000😀\ud800"), max_size=2)
leaves = st.one_of(tokens.map(Token), strings, st.booleans(), st.none())
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(keys, inner), max_size=4),
    max_leaves=10,
)
"""Objects are lists of pairs, so that a key can be repeated."""


def is_object(tree: Any) -> bool:
    return isinstance(tree, list) and bool(tree) and isinstance(tree[0], tuple)


def respelled(token: str, rng: random.Random) -> str:
    """The same number, spelled in another way."""
    sign, mantissa, exponent = reduced(token)
    if mantissa == "0":
        return rng.choice(["0", "-0", "0.0", "-0.00", "0e7", "0E-3"])
    mantissa += "0" * rng.randrange(3)
    exponent -= len(mantissa) - len(mantissa.rstrip("0"))
    if exponent == 0 and rng.random() < 0.5:
        return sign + mantissa
    point = rng.randrange(1, len(mantissa) + 1)
    exponent += len(mantissa) - point
    fraction = f".{mantissa[point:]}" if mantissa[point:] else ""
    power = f"{rng.choice('eE')}{'-' if exponent < 0 else rng.choice(['', '+'])}{rng.choice(['', '0'])}{abs(exponent)}"
    return sign + mantissa[:point] + fraction + power


def written_string(text: str, rng: random.Random) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "/": "\\/"}
    parts = []
    for character in text:
        units = character.encode("utf-16-be", "surrogatepass")
        escape = "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
        escape = escape.upper().replace("\\U", "\\u") if rng.random() < 0.3 else escape
        choices = [escape]
        if character in short:
            choices.append(short[character])
        if character not in '"\\' and character >= " " and not "\ud800" <= character <= "\udfff":
            choices += [character] * 3
        parts.append(rng.choice(choices))
    return '"' + "".join(parts) + '"'


def written(tree: Any, rng: random.Random, *, respell: bool = False, spaced: bool = True) -> str:
    """JSON text of a tree in some random formatting: white space, escapes, order of (distinct) keys."""
    space = (lambda: "".join(rng.choices(" \t\n\r", k=rng.choice([0, 0, 1, 3])))) if spaced else (lambda: "")
    if isinstance(tree, Token):
        return respelled(tree, rng) if respell and rng.random() < 0.5 else str(tree)
    if isinstance(tree, str):
        return written_string(tree, rng)
    if is_object(tree):
        pairs = list(dict(tree).items()) if rng.random() < 0.5 else list(tree)
        if len(dict(pairs)) == len(pairs):
            rng.shuffle(pairs)
        members = [
            f"{space()}{written_string(key, rng)}{space()}:{space()}{written(item, rng, respell=respell, spaced=spaced)}{space()}"
            for key, item in pairs
        ]
        return "{" + (",".join(members) or space()) + "}"
    if isinstance(tree, list):
        items = [f"{space()}{written(item, rng, respell=respell, spaced=spaced)}{space()}" for item in tree]
        return "[" + (",".join(items) or space()) + "]"
    return {None: "null", True: "true", False: "false"}[tree]


def changed(tree: Any, rng: random.Random) -> Any:
    """A tree that mostly differs a little: one leaf is another one, or one item or member is gone."""
    if isinstance(tree, list) and tree:
        at = rng.randrange(len(tree))
        if rng.random() < 0.1:
            return tree[:at] + tree[at + 1 :]
        item = tree[at]
        other = (item[0], changed(item[1], rng)) if isinstance(item, tuple) else changed(item, rng)
        return [*tree[:at], other, *tree[at + 1 :]]
    if isinstance(tree, Token):
        return Token(rng.choice(NASTY_NUMBERS))
    if isinstance(tree, str):
        return tree + rng.choice(NASTY_CHARACTERS)
    return rng.choice([None, True, False, Token("0"), Token("1"), "", [], "null", "0", "1"])


seeds = st.integers(0, 2**32).map(random.Random)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two documents: the same value in two spellings, or values that differ in a detail, each in some formatting."""
    tree = draw(trees)
    rng = draw(seeds)
    other = changed(tree, rng) if draw(st.booleans()) else tree
    respell = draw(st.booleans())
    first = written(tree, rng, spaced=draw(st.booleans()))
    second = written(other, rng, respell=respell, spaced=draw(st.booleans()))
    return f'{{"a":{first}}}'.encode(), f'{{"a":{second}}}'.encode()


documents = st.builds(lambda tree, rng, spaced: written(tree, rng, spaced=spaced).encode(), trees, seeds, st.booleans())


# Equality --------------------------------------------------------------------------------------------------------------


@thorough
@given(pairs())
def test_canonical_digests_are_equal_exactly_when_the_values_are(pair: tuple[bytes, bytes]) -> None:
    first, second = pair
    equal = value_of(parsed(first)) == value_of(parsed(second))
    assert (digest(first).canonical == digest(second).canonical) == equal


@thorough
@given(pairs())
def test_spelling_digests_are_equal_exactly_when_values_and_number_tokens_are(pair: tuple[bytes, bytes]) -> None:
    first, second = pair
    equal = value_of(parsed(first), spelled=True) == value_of(parsed(second), spelled=True)
    assert (digest(first).spelling == digest(second).spelling) == equal


@thorough
@given(tokens, tokens, seeds)
def test_two_numbers_have_one_digest_exactly_when_they_are_one_decimal_value(
    a: str, b: str, rng: random.Random
) -> None:
    for other in (b, respelled(a, rng)):
        equal = reduced(a) == reduced(other)
        assert (canonical_number(a) == canonical_number(other)) == equal
        assert (digest(f'{{"n":{a}}}'.encode()).canonical == digest(f'{{"n":{other}}}'.encode()).canonical) == equal


@pytest.mark.parametrize("token", NASTY_NUMBERS)
def test_a_nasty_number_is_told_from_every_other_one(token: str) -> None:
    same = {t for t in NASTY_NUMBERS if digest(f"[{t}]".encode()).canonical == digest(f"[{token}]".encode()).canonical}
    assert same == {t for t in NASTY_NUMBERS if reduced(t) == reduced(token)}


@quick
@given(documents)
def test_the_fast_path_and_the_exact_path_agree(document: bytes) -> None:
    assert form(document) == exact_form(document)


tricky_strings = st.lists(
    st.sampled_from(["\\", '"', "1.0", ".0", "-0.0", ",", "]", "}", ":", "e+5", "e-5", "1e5", " ", "a", "\x00", "é"]),
    max_size=5,
).map("".join)


@thorough
@given(
    st.dictionaries(
        tricky_strings,
        st.one_of(tricky_strings, st.sampled_from([1.0, -0.0, 0.0, 2.5, 1e16, 1e-7, 100000.0, 7, -1.0])),
        max_size=5,
    ),
    st.sampled_from([(",", ":"), (" , ", " : ")]),
)
def test_text_that_looks_like_numbers_or_ends_of_strings_does_not_mislead_the_fast_path(
    value: dict[str, Any], separators: tuple[str, str]
) -> None:
    for document in (
        orjson.dumps(value),
        json.dumps(value, separators=separators).encode(),
        json.dumps(value, separators=separators, ensure_ascii=False).replace('\\"', "\\u0022").encode(),
    ):
        assert form(document) == exact_form(document)


@quick
@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.floats(1e-7, 1e-3), st.floats(1e14, 1e19)))
def test_a_double_has_one_canonical_digest_in_the_notations_of_python_orjson_and_printf(number: float) -> None:
    tokens_ = {orjson.dumps(number).decode(), repr(number), f"{float(repr(number)):.17e}", f"{number:f}"}
    same = {t for t in tokens_ if reduced(t) == reduced(repr(number))}
    assert len({digest(f'{{"n":{token}}}'.encode()).canonical for token in same}) == 1


@quick
@given(documents, documents)
def test_the_digest_of_a_member_does_not_depend_on_the_order_of_keys(first: bytes, second: bytes) -> None:
    one = b'{"\xee\x80\x80":' + first + b',"\xf0\x90\x80\x80":' + second + b"}"
    other = b'{"\\ud800\\udc00":' + second + b', "\\uE000":' + first + b"}"
    assert digest(one).canonical == digest(other).canonical
    assert digest(one).spelling == digest(other).spelling


def test_keys_that_utf8_and_utf16_order_differently_are_sorted_alike_on_all_paths() -> None:
    # U+FFFF sorts before U+10000 as UTF-8 and after it as UTF-16. The last two take the exact path; the last one is
    # written by hand, as it holds a lone surrogate, and must only differ by that.
    fast = digest('{"\uffff":1,"\U00010000":2}'.encode())
    exact = digest('{"\U00010000":2, "\\uffff":1}'.encode())
    assert fast == exact
    by_hand = digest(b'{"\\ud800\\udc00":2,"\\uffff":1,"x":"\\ud800"}')
    assert by_hand.canonical == digest('{"x":"\\ud800","\uffff":1,"\U00010000":2}'.encode()).canonical
    assert by_hand.canonical != fast.canonical


def test_of_repeated_keys_the_last_one_counts() -> None:
    assert digest(b'{"a":1,"a":2}').canonical == digest(b'{"a":2}').canonical
    assert digest(b'{"a":1,"\\u0061":2}').canonical == digest(b'{"a":2}').canonical
    assert digest(b'{"a":1,"a":2}').canonical != digest(b'{"a":1}').canonical


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b'{"a":1}', b'{"a":"1"}'),
        (b'{"a":null}', b"{}"),
        (b'{"a":null}', b'{"a":"null"}'),
        (b'{"a":true}', b'{"a":1}'),
        (b'{"a":false}', b'{"a":0}'),
        (b'{"a":[]}', b'{"a":{}}'),
        (b'{"a":[1,2]}', b'{"a":[2,1]}'),
        (b'{"a":[[1],2]}', b'{"a":[1,[2]]}'),
        (b'{"a":"\\u0000"}', b'{"a":""}'),
        (b'{"a":"\\\\u0000"}', b'{"a":"\\u0000"}'),
        ('{"a":"é"}'.encode(), '{"a":"e\u0301"}'.encode()),
        (b'{"a":"\\ud800"}', b'{"a":"\\udc00"}'),
        (b'{"a":"\\ud800"}', b'{"a":"\\\\ud800"}'),
        (b'{"a":"\\udc00\\ud800"}', b'{"a":"\\ud800\\udc00"}'),
        (b'{"a":" b"}', b'{"a":"b"}'),
        (b'{"a b":1}', b'{"ab":1}'),
    ],
)
def test_values_that_look_alike_are_told_apart(first: bytes, second: bytes) -> None:
    assert digest(first).canonical != digest(second).canonical


def test_a_surrogate_pair_is_the_character_that_it_stands_for() -> None:
    assert digest(b'{"a":"\\ud83d\\ude00"}') == digest('{"a":"😀"}'.encode())
    assert digest(b'{"a":"\\uD83D\\uDE00","b":"\\ud800"}') == digest('{"a":"😀","b":"\\uD800"}'.encode())


def go_escaped(text: str) -> str:
    return re.sub("[<>&\u2028\u2029]", lambda m: f"\\u{ord(m.group()):04x}", text)


@quick
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.one_of(
                st.none(),
                st.booleans(),
                st.integers(),
                st.floats(allow_nan=False, allow_infinity=False),
                st.text(max_size=8),
                st.sampled_from(["<b>&", "\u2028\u2029", "a/b", "\x00"]),
            ),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_the_digests_do_not_depend_on_formatting(value: dict[str, Any]) -> None:
    compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    texts = [
        compact,
        json.dumps(value),
        json.dumps(value, indent=2),
        json.dumps(value, indent="\t", sort_keys=True),
        go_escaped(compact),
        f"\r\n\t {compact} \n",
    ]
    digests = {digest(text.encode()) for text in texts}
    assert len(digests) == 1, texts


def test_equal_spelling_and_canonical_digests_mean_that_every_number_is_canonically_spelled() -> None:
    plain, other = digest(b'{"a":1,"b":0.1,"c":100000}'), digest(b'{"a":1.0,"b":0.1,"c":1e5}')
    assert plain.canonical == plain.spelling == other.canonical
    assert other.spelling != other.canonical


@quick
@given(tokens)
def test_what_orjson_spells_without_an_exponent_is_canonical_already(token: str) -> None:
    # The fast path lets such numbers pass as they are, so their canonical spelling must be the same.
    try:
        spelled = orjson.dumps(orjson.loads(token)).decode()
    except orjson.JSONDecodeError:  # beyond a double
        spelled = "null"
    assume("e" not in spelled and not spelled.endswith(".0") and spelled != "null")
    assert canonical_number(spelled) == spelled


@pytest.mark.parametrize(
    ("token", "spelled"),
    [
        ("-0.0", "0"),
        ("1.50", "1.5"),
        ("1E+2", "100"),
        ("-12.30e1", "-123"),
        ("1e-3", "0.001"),
        ("1e29", "1" + "0" * 29),
        ("1e-30", "0." + "0" * 29 + "1"),
    ],
)
def test_canonical_numbers_are_plain_up_to_thirty_digits(token: str, spelled: str) -> None:
    assert canonical_number(token) == spelled


def test_leading_zeros_of_an_exponent_do_not_matter_however_many_there_are() -> None:
    for zeros in (1, 999, 1000, 1001, 5000):
        for sign in ("", "+", "-"):
            assert canonical_number(f"1e{sign}{'0' * zeros}5") == canonical_number(f"1e{sign}5")


def test_exponents_of_a_thousand_and_more_digits_are_told_apart() -> None:
    # No store holds such numbers, but a digest must not call different documents equal.
    digests = {digest(f'{{"n":1e{"9" * length}}}'.encode()).canonical for length in (999, 1000, 1001, 1002, 1003)}
    assert len(digests) == 5


@pytest.mark.timeout(30)
def test_exponents_of_a_million_digits_are_told_apart_and_do_not_hang_a_migration() -> None:
    documents_ = [f'{{"n":1e{"9" * 1_000_000}{last}}}'.encode() for last in (8, 9)]
    first, second = (digest(document) for document in documents_)
    assert first.canonical != second.canonical
    assert first.traits == Trait.EXTREME_NUMBER


# What is and is not JSON -----------------------------------------------------------------------------------------------


@settings(max_examples=600, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_get_a_digest_or_are_called_invalid_as_a_strict_parser_says(content: bytes) -> None:
    assert bool(digest(content).traits & Trait.INVALID) == (not is_strict_json(content))


FRAGMENTS = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b"\\u",
        b"\\ud800",
        b"0",
        b"-",
        b"+",
        b".",
        b"e",
        b"1e",
        b".5",
        b"01",
    ),
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"nul",
        b"True",
        b"'",
        b"//",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
    ),
    *(
        b"\x00",
        b"\x0b",
        b"\x0c",
        b"\xc2\xa0",
        b"\xe2\x80\xa8",
        b"\x1f",
        b"\t",
        b"\n",
        b"{}",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ),
]


@settings(max_examples=600, deadline=None)
@given(documents, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.sampled_from(FRAGMENTS)), max_size=3))
def test_damaged_json_is_called_invalid_exactly_when_a_strict_parser_refuses_it(
    document: bytes, damages: list[tuple[int, int, bytes]]
) -> None:
    for at, removed, inserted in damages:
        position = at % (len(document) + 1)
        document = document[:position] + inserted + document[position + removed :]
    found = digest(document)
    assert bool(found.traits & Trait.INVALID) == (not is_strict_json(document))
    assert bool(found.canonical) == bool(found.spelling) == (not found.traits & Trait.INVALID)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"{",
        b"{}{}",
        b"{} x",
        b'{"a":1,}',
        b"[1,]",
        b"{a:1}",
        b"{'a':1}",
        b'{"a":01}',
        b'{"a":1.}',
        b'{"a":.5}',
        b'{"a":+1}',
        b'{"a":0x10}',
        b'{"a":1e}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":"\n"}',
        b'{"a":"\x00"}',
        b'{"a":"\\x"}',
        b'{"a":"\\u12"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\xaf"}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"{}\x00",
        b"\x1f\x8b\x08",
        b"logged_out",
    ],
)
def test_what_is_not_json_in_utf8_is_invalid_and_has_no_digest(content: bytes) -> None:
    assert digest(content) == Digests(b"", b"", Trait.INVALID)


@pytest.mark.parametrize("content", [b"1", b"-1.5e3", b'"a"', b"null", b"true", b"[]", b'[{"a":1}]', b" [1] "])
def test_json_that_is_no_object_is_told_and_still_has_a_digest(content: bytes) -> None:
    found = digest(content)
    assert found.traits == Trait.NOT_OBJECT
    assert len(found.canonical) == len(found.spelling) == 16


@pytest.mark.parametrize("trait", [Trait.INVALID, Trait.NOT_OBJECT, Trait.TOO_DEEP])
def test_a_document_with_such_a_trait_cannot_be_a_state(trait: int) -> None:
    assert trait & UNUSABLE


# Depth -----------------------------------------------------------------------------------------------------------------

INNERMOST = [b"", b"1", b"1.0", b"1e400", b'"a"', b'"\\ud800"', b'"\\u0000"', b'"\\u0061"', b" ", b'{"a":1,"a":2}']


def nested(depth: int, innermost: bytes, *, objects: bool) -> bytes:
    """A document of `depth` levels."""
    own = 1 if innermost.startswith(b"{") else 0
    if objects:
        levels = depth - own
        return b'{"a":' * levels + (innermost.strip() or b"0") + b"}" * levels
    levels = depth - own - 1
    return b'{"a":' + b"[" * levels + innermost + b"]" * levels + b"}"


@pytest.mark.parametrize("innermost", INNERMOST)
@pytest.mark.parametrize("objects", [False, True], ids=["arrays", "objects"])
def test_documents_are_too_deep_beyond_254_levels_on_every_path(innermost: bytes, *, objects: bool) -> None:
    assert MAX_DEPTH == 254
    for depth in (253, 254):
        found = digest(nested(depth, innermost, objects=objects))
        assert not found.traits & UNUSABLE, depth
        assert len(found.canonical) == 16
    for depth in (255, 256, 1000, 100_000):
        assert digest(nested(depth, innermost, objects=objects)) == Digests(b"", b"", Trait.TOO_DEEP), depth


@pytest.mark.parametrize("depth", [253, 254, 255, 256])
@pytest.mark.parametrize("innermost", [b"1", b"1.0", b'"\\ud800"'])
def test_nested_documents_differ_by_their_innermost_value_or_are_too_deep(depth: int, innermost: bytes) -> None:
    document = nested(depth, innermost, objects=False)
    other = nested(depth, b"2", objects=False)
    spaced = document.replace(b"[", b"[ ")
    if depth > MAX_DEPTH:
        assert digest(document).traits == digest(spaced).traits == Trait.TOO_DEEP
    else:
        assert digest(document).canonical == digest(spaced).canonical != digest(other).canonical


# Traits ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "traits"),
    [
        (b'{"a":"\\u0000"}', Trait.NUL),
        (b'{"\\u0000":1}', Trait.NUL),
        (b'{"a":[{"b":["x\\u0000y"]}]}', Trait.NUL),
        (b'{"a":"\\u0000", "b":1.0}', Trait.NUL),
        (b'{"a":"\\\\u0000"}', Trait.NONE),
        (b'{"a":"\\\\\\u0000"}', Trait.NUL),
        (b'{"a":"\\\\u0000", "b":1.0}', Trait.NONE),
        (b'{"a":"\\ud800"}', Trait.LONE_SURROGATE),
        (b'{"\\udfff":1}', Trait.LONE_SURROGATE),
        (b'{"a":"\\ud800\\u0000"}', Trait.LONE_SURROGATE | Trait.NUL),
        (b'{"a":"\\ud800","b":"\\u0000"}', Trait.LONE_SURROGATE | Trait.NUL),
        (b'{"a":"\\ud83d\\ude00"}', Trait.NONE),
        (b'{"a":"\\ude00\\ud83d"}', Trait.LONE_SURROGATE),
        (b'{"a":"\\\\ud800"}', Trait.NONE),
        (b'{"a":1,"a":1}', Trait.DUPLICATE_KEYS),
        (b'{"a":1,"\\u0061":1}', Trait.DUPLICATE_KEYS),
        (b'{"x":[{"a":1,"a":1}]}', Trait.DUPLICATE_KEYS),
        (b'{"a":1,"b":{"a":1}}', Trait.NONE),
        (b'{"a":1,"a":1,"b":"\\ud800"}', Trait.DUPLICATE_KEYS | Trait.LONE_SURROGATE),
        (b'{"a":1e131072,"a":1}', Trait.DUPLICATE_KEYS | Trait.EXTREME_NUMBER),
    ],
)
def test_what_is_remarkable_about_a_document_is_told(document: bytes, traits: int) -> None:
    assert digest(document).traits == traits


@pytest.mark.parametrize(
    ("document", "trait"),
    [
        (b'{"a":"\\u0000","a":1}', Trait.NUL),
        (b'{"a":{"\\u0000":1},"a":1}', Trait.NUL),
        (b'{"a":["\\ud800"],"a":1}', Trait.LONE_SURROGATE),
        (b'{"a":{"b":"\\ud800","b":2}}', Trait.LONE_SURROGATE),
    ],
)
def test_strings_that_a_later_duplicate_hides_still_count_as_postgresql_refuses_them_too(
    document: bytes, trait: int
) -> None:
    assert digest(document).traits == trait | Trait.DUPLICATE_KEYS


# Each was tried on PostgreSQL 18: a number is extreme exactly if casting it to jsonb failed there.
HELD = [
    *("1e131071", "1e-16383", "0e-16383", "0e200000", "0e1073741823", "1." + "0" * 16383, "123e-16383"),
    *("1" * 131_072, "9.99e131071", "0.01e131073", "0." + "0" * 140_000 + "1e140001", "1." + "1" * 16_384 + "e100"),
    *("1" * 140_000 + "e-10000", "1e" + "0" * 1001 + "5", "1e-" + "0" * 1001 + "5"),
]
REFUSED = [
    *("1e131072", "1e-16384", "0e-16384", "10e-16384", "1.5e-16383", "1.0e-16383", "1." + "0" * 16384, "1" * 131_073),
    *("99e131071", "0.01e131074", "1e" + "9" * 1001, "1e-" + "9" * 1001, "0e1073741824", "0.0e99999999999"),
    *("1e+" + "0" * 1001 + "200000", "-1e131072"),
]


@pytest.mark.parametrize("token", HELD, ids=lambda token: token[:20])
def test_a_number_that_postgresql_holds_is_not_extreme(token: str) -> None:
    assert digest(f'{{"n":{token}}}'.encode()).traits == Trait.NONE


@pytest.mark.parametrize("token", REFUSED, ids=lambda token: token[:20])
def test_a_number_that_postgresql_refuses_is_extreme(token: str) -> None:
    assert digest(f'{{"n":{token}}}'.encode()).traits == Trait.EXTREME_NUMBER


@quick
@given(documents)
def test_nul_and_lone_surrogates_are_told_exactly_when_a_string_holds_them(document: bytes) -> None:
    found = digest(document)
    assume(not found.traits & Trait.DUPLICATE_KEYS)
    held = "".join(strings_in(parsed(document)))
    assert bool(found.traits & Trait.NUL) == ("\x00" in held)
    assert bool(found.traits & Trait.LONE_SURROGATE) == any("\ud800" <= character <= "\udfff" for character in held)


def strings_in(tree: Any) -> list[str]:
    match tree:
        case str():
            return [tree]
        case ("number", _):
            return []
        case dict():
            return [text for key, item in tree.items() for text in (key, *strings_in(item))]
        case list():
            return [text for item in tree for text in strings_in(item)]
        case _:
            return []
