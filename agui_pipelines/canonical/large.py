"""Digests of documents so large that neither their value nor their canonical form is to be held in memory.

The document is cut into pieces of about a megabyte: neighbouring elements of an array, members of an object in the order
of their names, parts of long strings. Each piece becomes canonical by itself, and the digest is fed with the pieces and
with what stands between them, so it is the digest that the whole document has. Where the pieces cannot tell (repeated
names, lone surrogates, anything that is no JSON), the whole document is digested.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Final

import orjson
from xxhash import xxh3_128

from agui_pipelines.canonical.forms import Digests, digest_whole, form
from agui_pipelines.canonical.traits import Trait

PIECE: Final = 1024 * 1024
"""Bytes of elements or of a string that become canonical at once."""

_MAX_LEVELS: Final = 32
"""Levels of nesting at which something is larger than a piece: what is so large is gone through once for each."""

_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{},]', re.DOTALL)
_BLANK: Final = re.compile(rb"[ \t\r\n]*+")
_NAME: Final = re.compile(rb'[ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*+:', re.DOTALL)
_WHITE_SPACE: Final = b" \t\r\n"
_QUOTE, _COMMA, _ARRAY, _OBJECT = b'",[{'
_CLOSING: Final = {_ARRAY: ord("]"), _OBJECT: ord("}")}
_CONTINUING: Final = range(0x80, 0xC0)
"""Bytes of UTF-8 that do not begin a character."""
_PLAIN: Final = 256
_UNCLEAR: Final = Trait.INVALID | Trait.TOO_DEEP | Trait.LONE_SURROGATE


def digest_in_pieces(document: bytes | memoryview, piece: int = PIECE) -> Digests:
    """What `forms.digest_whole` gives."""
    try:
        return _Pieces(document, piece).digests()
    except _UnclearError:
        return digest_whole(document)


class _UnclearError(Exception):
    """The pieces do not tell what the whole is."""


class _Pieces:
    """Goes through a document. Positions are bytes from its beginning; a `depth` counts the containers around something."""

    def __init__(self, document: bytes | memoryview, piece: int) -> None:
        self._document = memoryview(document)
        self._piece = piece
        self._canonical, self._spelling = xxh3_128(), xxh3_128()
        self._traits: int = Trait.NONE
        self._levels = 0

    def digests(self) -> Digests:
        start, end = self._stripped(0, len(self._document))
        if self._document[start] != _OBJECT:
            raise _UnclearError
        self._container(start, end, 0)
        return Digests(self._canonical.digest(), self._spelling.digest(), self._traits)

    def _value(self, start: int, end: int, depth: int) -> None:
        """A value that is larger than a piece, or has a name that is, perhaps between white space."""
        start, end = self._stripped(start, end)
        first = self._document[start]
        if first == _QUOTE:
            self._string(start, end)
        elif first in _CLOSING:
            self._container(start, end, depth)
        else:
            self._formed(b'{"":', self._document[start:end], b"}")

    def _container(self, start: int, end: int, depth: int) -> None:
        if self._levels == _MAX_LEVELS:
            raise _UnclearError
        self._levels += 1
        bracket = self._document[start]
        children = self._children(start, end)
        self._write(self._document[start : start + 1])
        if bracket == _ARRAY:
            self._elements(children, depth + 1)
        else:
            self._members(children, depth + 1)
        self._write(self._document[end - 1 : end])
        self._levels -= 1

    def _elements(self, children: Iterable[tuple[int, int]], depth: int) -> None:
        """The elements of an array, the small ones together."""
        is_first = True
        run_start = run_end = -1

        def finish() -> None:
            nonlocal is_first
            if run_start >= 0:
                self._separate(is_first)
                self._small(self._document[run_start:run_end], b"[", b"]", depth)
                is_first = False

        for start, end in children:
            if end - start > self._piece:
                finish()
                self._separate(is_first)
                self._value(start, end, depth)
                is_first, run_start = False, -1
                continue
            if run_start < 0:
                run_start = start
            run_end = end
            if run_end - run_start > self._piece:
                finish()
                run_start = -1
        finish()

    def _members(self, children: Iterable[tuple[int, int]], depth: int) -> None:
        """The members of an object in the order of their names (that of code points, which is that of UTF-8)."""
        names: list[str] = []
        starts, ends = array("q"), array("q")
        for start, end in children:
            names.append(self._name_at(start, end)[0])
            starts.append(start)
            ends.append(end)
        order: Iterable[int] = range(len(names))
        if any(a >= b for a, b in pairwise(names)):
            order = sorted(order, key=names.__getitem__)
            if any(names[a] == names[b] for a, b in pairwise(order)):
                raise _UnclearError
        is_first = True
        run: list[memoryview] = []
        size = 0

        def finish() -> None:
            nonlocal is_first, size
            if run:
                self._separate(is_first)
                self._small(b",".join(run), b"{", b"}", depth)
                run.clear()
                is_first, size = False, 0

        for i in order:
            start, end = starts[i], ends[i]
            if end - start > self._piece:
                finish()
                self._separate(is_first)
                self._name(names[i])
                self._value(self._name_at(start, end)[1], end, depth)
                is_first = False
                continue
            run.append(self._document[start:end])
            size += end - start
            if size > self._piece:
                finish()
        finish()

    def _name_at(self, start: int, end: int) -> tuple[str, int]:
        """The name of a member, and where what stands behind its colon begins."""
        found = _NAME.match(self._document, start, end)
        if found is None:
            raise _UnclearError
        try:
            return orjson.loads(found[1]), found.end()
        except orjson.JSONDecodeError:
            raise _UnclearError from None

    def _name(self, name: str) -> None:
        self._traits |= Trait.NUL if "\x00" in name else Trait.NONE
        self._write(orjson.dumps(name) + b":")

    def _string(self, start: int, end: int) -> None:
        if end - start < 2 or _TOKEN.fullmatch(self._document, start, end) is None:  # noqa: PLR2004 - two quotation marks
            raise _UnclearError
        self._write(b'"')
        pieces = _string_pieces(self._piece)
        position, last = start + 1, end - 1
        while position < last:
            found = pieces.match(self._document, position, last)
            cut = found.end() if found else last
            while cut < last and self._document[cut] in _CONTINUING:
                cut -= 1  # not within a character
            if cut <= position:
                raise _UnclearError  # no character is that long
            self._formed(b'{"":"', self._document[position:cut], b'"}')
            position = cut
        self._write(b'"')

    def _small(self, content: bytes | memoryview, opening: bytes, closing: bytes, depth: int) -> None:
        """What is in a container that has `depth` levels with itself, or a part of it."""
        # Seen as deep as in the document, as something may be too deep; and in an object, as others are formed slowly.
        outer = depth - 2
        before, after = (b'{"":' + b"[" * outer, b"]" * outer + b"}") if outer >= 0 else (b"", b"")
        if not self._formed(before + opening, content, closing + after):
            raise _UnclearError  # nothing before a comma, or behind the last one

    def _formed(self, before: bytes, content: bytes | memoryview, after: bytes) -> bytes:
        """Write the form that something has between `before` and `after`, which are canonical."""
        found = form(b"".join((before, content, after)))
        if found.traits & _UNCLEAR:
            raise _UnclearError
        self._traits |= found.traits
        inside = slice(len(before), -len(after))
        canonical = found.canonical[inside]
        self._write(canonical, canonical if found.spelling is found.canonical else found.spelling[inside])
        return canonical

    def _children(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where the elements or members of a container begin and end, with the white space around them."""
        document = self._document
        brackets = [document[start]]
        child = start + 1
        for token in _TOKEN.finditer(document, start + 1, end):
            at = token.start()
            byte = document[at]
            if byte == _COMMA:
                if len(brackets) == 1:
                    yield child, at
                    child = at + 1
            elif byte in _CLOSING:
                brackets.append(byte)
            elif byte != _QUOTE and _CLOSING[brackets.pop()] != byte:
                raise _UnclearError
            if not brackets:
                break
        if brackets or at + 1 != end:
            raise _UnclearError  # no end, or something behind it
        if child > start + 1 or not self._is_blank(child, at):
            yield child, at

    def _separate(self, is_first: bool) -> None:
        if not is_first:
            self._write(b",")

    def _write(self, canonical: bytes | memoryview, spelling: bytes | None = None) -> None:
        self._canonical.update(canonical)
        self._spelling.update(canonical if spelling is None else spelling)

    def _is_blank(self, start: int, end: int) -> bool:
        return _BLANK.fullmatch(self._document, start, end) is not None

    def _stripped(self, start: int, end: int) -> tuple[int, int]:
        """Without the white space around it, of which there must be something else."""
        found = _BLANK.match(self._document, start, end)
        start = found.end() if found else start
        while end > start and self._document[end - 1] in _WHITE_SPACE:
            end -= 1
        if start == end:
            raise _UnclearError
        return start, end


@cache
def _string_pieces(size: int) -> re.Pattern[bytes]:
    """Matches about `size` bytes of a string's content, but no part of an escape, nor one of a pair of surrogates."""
    pair = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    once = rb"[^\\]{1,%d}+|%b|\\u[0-9a-fA-F]{4}|\\." % (_PLAIN, pair)
    return re.compile(rb"(?:%b){1,%d}+" % (once, max(1, size // _PLAIN)), re.DOTALL)
