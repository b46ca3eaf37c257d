"""The two forms of a document that are digested, and their digests.

The way to both is guarded: orjson parses and dumps the document, and when the dump equals the document (but for white
space) nothing can have been lost, so the dump with sorted keys is the canonical form. Only what fails this test, or holds
a number that orjson spells in a non-canonical way, takes the slower exact path, in which the standard library's scanner
hands over number tokens as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import orjson
from xxhash import xxh3_128_digest

from agui_pipelines.canonical.numbers import PLAIN_DIGITS, canonical_number, is_extreme
from agui_pipelines.canonical.traits import MAX_DEPTH, Trait

# Numbers that orjson does not spell canonically: 1.0 (and -0.0) and 1e+16. The patterns begin with literals, because
# a scan for a set of first characters costs more than the whole parse; look-alikes inside strings only cost time.
_WHOLE_FLOAT: Final = re.compile(rb"\.0(?=[,\]}])")
_EXPONENT: Final = re.compile(rb"e(?:[+\-][0-9]|[0-9])[0-9]*[,\]}]")
_SIGNED_EXPONENTS: Final = orjson.dumps([1e16, 1e-7]) == b"[1e+16,1e-7]"
"""Whether this orjson gives every exponent a sign (older ones write 1e16)."""
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_WHITE_SPACE: Final = b" \t\r\n"
_SORTED: Final = orjson.OPT_SORT_KEYS
_NUL_ESCAPE: Final = b"\\u0000"


class Form(NamedTuple):
    """A document's canonical form and the same with numbers as they are spelled, and its `Trait` bits.

    Both forms are empty if it is invalid or too deep.
    """

    canonical: bytes
    spelling: bytes
    traits: int


class Digests(NamedTuple):
    """The two digests of one document, 16 bytes each (empty when it is invalid or too deep), and its `Trait` bits."""

    canonical: bytes
    spelling: bytes
    traits: int


def digest_whole(document: bytes | memoryview) -> Digests:
    """Digest one document, in memory several times its size. Never raises for its content."""
    canonical, spelling, traits = form(document)
    if not canonical:
        return Digests(b"", b"", traits)
    digest = xxh3_128_digest(canonical)
    return Digests(digest, digest if canonical is spelling else xxh3_128_digest(spelling), traits)


def form(document: bytes | memoryview) -> Form:
    """Never raises for the document's content."""
    try:
        value = orjson.loads(document)
        ordered = orjson.dumps(value, option=_SORTED)
        if ordered != document and not _same_tokens(orjson.dumps(value), bytes(document)):
            return exact_form(document)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return exact_form(document)
    if _has_exponent(ordered) or not isinstance(value, dict):
        return exact_form(document)
    canonical = ordered
    if _WHOLE_FLOAT.search(ordered):
        without = _whole_floats_shortened(ordered)
        if without is None:
            return exact_form(document)
        canonical = without
    traits = Trait.NUL if b"\\" in ordered and _NUL_ESCAPE in ordered and _holds_nul(value) else Trait.NONE
    return Form(canonical, ordered, traits)


def _same_tokens(dump: bytes, document: bytes) -> bool:
    """Whether parsing lost nothing: the dump and the document differ in white space and the spelling of strings only.

    Strings cannot be lost (what orjson cannot hold it refuses), so it is enough that all else is the same, byte for byte.
    """
    if dump == document:
        return True
    dump, document = dump.translate(None, _WHITE_SPACE), document.translate(None, _WHITE_SPACE)
    return dump == document or _outside_strings(dump) == _outside_strings(document)


def _outside_strings(text: bytes) -> list[bytes]:
    """What stands between the strings of a JSON text. Quotation marks alone tell, unless one is escaped."""
    if b'\\"' in text:
        text = _STRING.sub(b'""', text)
    return text.split(b'"')[::2]


def _has_exponent(dump: bytes) -> bool:
    """Whether a number may be written with an exponent. Searching for its two first bytes is cheaper than for all of it."""
    if _SIGNED_EXPONENTS and b"e-" not in dump and (b"+" not in dump or b"e+" not in dump):
        return False
    return _EXPONENT.search(dump) is not None


def _whole_floats_shortened(ordered: bytes) -> bytes | None:
    """A dump in which ``1.0`` is ``1``; None if that cannot be told from text in strings, or there is a ``-0.0``."""
    skeleton = b'"'.join(_outside_strings(ordered))
    if b"-0.0" in skeleton or len(_WHOLE_FLOAT.findall(skeleton)) != len(_WHOLE_FLOAT.findall(ordered)):
        return None
    return _WHOLE_FLOAT.sub(b"", ordered)


class _Number(str):
    """A number token."""

    __slots__ = ()


def _fragment(number: Any) -> orjson.Fragment:
    return orjson.Fragment(number.encode())


class _Scanner:
    """Parses a document with the number tokens kept as text, and notes its traits on the way."""

    def __init__(self, *, spelled: bool) -> None:
        self.traits = Trait.NONE
        self.respelled = False
        self._spelled = spelled
        self._escapes = False
        self._decoder = json.JSONDecoder(
            parse_int=self._number,
            parse_float=self._number,
            parse_constant=self._constant,
            object_pairs_hook=self._object,
        )

    def parse(self, text: str) -> Any:
        self._escapes = "\\u" in text
        return self._decoder.decode(text)

    def _number(self, token: str) -> _Number:
        if token.isdigit() and len(token) <= PLAIN_DIGITS:
            return _Number(token)  # an integer without a sign is canonical as it is; this is most numbers there are
        canonical = canonical_number(token)
        if canonical != token:
            self.respelled = True
        if is_extreme(token):
            self.traits |= Trait.EXTREME_NUMBER
        return _Number(token if self._spelled else canonical)

    def _constant(self, name: str) -> Any:
        raise ValueError(name)  # NaN, Infinity and -Infinity are not JSON, although Python's parser takes them

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            self.traits |= Trait.DUPLICATE_KEYS
            if self._escapes:  # jsonb refuses U+0000 even in a value that gives way to a later one
                self.traits |= _string_traits(pairs)
        return value


def exact_form(document: bytes | memoryview) -> Form:
    """What `form` gives, by the exact path whatever the document."""
    scanner = _Scanner(spelled=False)
    try:
        # The strict UTF-8 decoder refuses encoded surrogates; the scanner refuses a byte order mark.
        text = str(document, "utf-8")
        value = scanner.parse(text)
        canonical, traits = _dump(value)
        spelling = canonical
        if scanner.respelled:
            spelling, _ = _dump(_Scanner(spelled=True).parse(text))
    except (RecursionError, _TooDeepError):
        return Form(b"", b"", Trait.TOO_DEEP)
    except ValueError:
        return Form(b"", b"", Trait.INVALID)
    traits |= scanner.traits
    if not isinstance(value, dict):
        traits |= Trait.NOT_OBJECT
    return Form(canonical, spelling, traits)


class _TooDeepError(Exception):
    pass


def _dump(value: Any) -> tuple[bytes, int]:
    """A parsed document in canonical form, and the traits of its strings."""
    try:
        dump = orjson.dumps(value, default=_fragment, option=_SORTED | orjson.OPT_PASSTHROUGH_SUBCLASS)
    except orjson.JSONEncodeError:  # a lone surrogate, or too many levels
        parts: list[bytes] = []
        traits = _write(value, 1, parts.append)
        return b"".join(parts), traits
    return dump, Trait.NUL if _NUL_ESCAPE in dump and _holds_nul(value) else Trait.NONE


def _write(value: Any, depth: int, out: Callable[[bytes], None]) -> int:
    """Write what orjson refuses: the same form, but strings with lone surrogates in ASCII escapes."""
    if isinstance(value, _Number):
        out(value.encode())
        return Trait.NONE
    if isinstance(value, str):
        return _write_string(value, out)
    if not isinstance(value, (dict, list)):
        out(b"null" if value is None else b"true" if value else b"false")
        return Trait.NONE
    if depth > MAX_DEPTH:
        raise _TooDeepError
    traits = Trait.NONE
    opening, closing = (b"{", b"}") if isinstance(value, dict) else (b"[", b"]")
    out(opening)
    for i, item in enumerate(sorted(value, key=_utf8) if isinstance(value, dict) else value):
        if i:
            out(b",")
        if isinstance(value, dict):
            traits |= _write_string(item, out)
            out(b":")
            item = value[item]  # noqa: PLW2901 - the member behind the key
        traits |= _write(item, depth + 1, out)
    out(closing)
    return traits


def _write_string(text: str, out: Callable[[bytes], None]) -> int:
    traits = Trait.NUL if "\x00" in text else Trait.NONE
    try:
        out(orjson.dumps(text))
    except orjson.JSONEncodeError:
        out(json.dumps(text).encode("ascii"))
        traits |= Trait.LONE_SURROGATE
    return traits


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _holds_nul(value: Any) -> bool:
    """Whether any string or key of a parsed document holds U+0000; the escape alone may be text, behind a backslash."""
    return bool(_string_traits(value) & Trait.NUL)


def _string_traits(value: Any) -> int:
    """`Trait.NUL` and `Trait.LONE_SURROGATE`, if any string or key of a parsed document has them."""
    traits = Trait.NONE
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if "\x00" in item:
                traits |= Trait.NUL
            if not item.isascii() and _LONE_SURROGATE.search(item):
                traits |= Trait.LONE_SURROGATE
        elif isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, (list, tuple)):
            pending.extend(item)
    return traits
