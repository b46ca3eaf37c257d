"""Digests of documents so large that neither their value nor their canonical form is to be held in memory.

The document is cut into pieces of about a megabyte: runs of neighbouring elements or members, and parts of long strings.
Each becomes canonical by itself, and the digest is fed with the pieces and what stands between them. It is the digest that
the whole document has; where the pieces cannot tell (members that are not sorted from piece to piece, lone surrogates,
anything that is no JSON), the whole document is digested.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

import msgspec
import orjson
from xxhash import xxh3_128

from agui_pipelines.canonical.forms import Digests, digest_whole, form
from agui_pipelines.canonical.traits import MAX_DEPTH, Trait

PIECE: Final = 1024 * 1024
"""Bytes of elements or of a string that become canonical at once."""

_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{},]', re.DOTALL)
_BLANK: Final = re.compile(rb"[ \t\r\n]*+")
_NAME: Final = re.compile(rb'[ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*+:[ \t\r\n]*+', re.DOTALL)
_QUOTE, _COMMA, _ARRAY, _OBJECT = b'",[{'
_CLOSING: Final = {_ARRAY: b"]", _OBJECT: b"}"}
_CONTINUING: Final = range(0x80, 0xC0)
"""Bytes of UTF-8 that do not begin a character."""
_PLAIN: Final = 256
_UNCLEAR: Final = Trait.INVALID | Trait.TOO_DEEP | Trait.LONE_SURROGATE
_Names: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def digest_in_pieces(document: bytes | memoryview, piece: int = PIECE) -> Digests:
    """What `forms.digest_whole` gives."""
    try:
        return _Walk(document, piece).digests()
    except _UnclearError:
        return digest_whole(document)


class _UnclearError(Exception):
    """The pieces do not tell what the whole is."""


@dataclass(slots=True)
class _Container:
    """An array or object whose end was not met yet."""

    bracket: int
    start: int
    """Where its content begins."""
    element: int
    """Where its newest element, or member, begins."""
    is_written: bool = False
    """Whether something of its content was."""
    is_complete: bool = False
    """Whether the newest element was written, so that only white space may follow before the next one."""
    last_name: str | None = None
    """Of an object: the last name that was written."""


class _Walk:
    """One pass over a document's tokens. The first `_entered` of the open containers are being written."""

    def __init__(self, document: bytes | memoryview, piece: int) -> None:
        self._document = memoryview(document)
        self._piece = piece
        self._canonical, self._spelling = xxh3_128(), xxh3_128()
        self._traits: int = Trait.NONE
        self._open: list[_Container] = []
        self._entered = 0
        self._position = 0
        """Everything before it was written."""

    def digests(self) -> Digests:
        document, containers = self._document, self._open
        for token in _TOKEN.finditer(document):
            start, end = token.span()
            byte = document[start]
            if not containers and (byte != _OBJECT or self._position):
                raise _UnclearError  # not one object and nothing else
            if byte == _QUOTE:
                if end - start > self._piece:
                    self._string(start, end)
            elif byte == _COMMA:
                self._comma(start, end)
            elif byte in _CLOSING:
                containers.append(_Container(byte, end, end))
                if len(containers) == 1:
                    self._enter()
                elif len(containers) > MAX_DEPTH:
                    raise _UnclearError
            else:
                self._close(start, end)
        if containers or not self._position:
            raise _UnclearError
        self._require_blank(self._position, len(document))
        return Digests(self._canonical.digest(), self._spelling.digest(), self._traits)

    def _comma(self, start: int, end: int) -> None:
        while len(self._open) > self._entered and start - self._position >= 2 * self._piece:
            self._enter()
        container = self._open[-1]
        if len(self._open) == self._entered and (container.is_complete or start - self._position >= self._piece):
            self._finish(container, start, end)
        container.element = end

    def _close(self, start: int, end: int) -> None:
        container = self._open[-1]
        closing = self._document[start:end]
        if _CLOSING[container.bracket] != closing:
            raise _UnclearError
        if len(self._open) == self._entered:
            is_empty = not container.is_written and self._is_blank(self._position, start)
            if not is_empty:
                self._finish(container, start, end)
            self._write(closing)
            self._position = end
            self._entered -= 1
            if self._entered:
                self._open[-2].is_complete = True
        self._open.pop()

    def _string(self, start: int, end: int) -> None:
        """A value so long that it is cut as well."""
        while len(self._open) > self._entered:
            self._enter()
        container = self._open[-1]
        self._begin(container, start)
        self._write(b'"')
        self._position = start + 1
        pieces = _string_pieces(self._piece)
        while self._position < end - 1:
            found = pieces.match(self._document, self._position, end - 1)
            cut = found.end() if found else end - 1
            while cut < end - 1 and self._document[cut] in _CONTINUING:
                cut -= 1  # not within a character
            self._write(*self._formed(b'{"":"', cut, b'"}'))
            self._position = cut
        self._write(b'"')
        self._position = end
        container.is_complete = True

    def _enter(self) -> None:
        """Begin to write one more of the open containers, with those of its elements that are whole."""
        container = self._open[self._entered]
        if self._entered:
            self._begin(self._open[self._entered - 1], container.start - 1)
        else:
            self._require_blank(0, container.start - 1)
        self._write(bytes([container.bracket]))
        self._position = container.start
        self._entered += 1
        if container.element > container.start:
            self._finish(container, container.element - 1, container.element)

    def _begin(self, container: _Container, end: int) -> None:
        """Write what stands before the value that begins at `end`: the elements before it, and its name."""
        if container.is_complete:
            raise _UnclearError  # a value behind a value
        if self._position < container.element:
            self._finish(container, container.element - 1, container.element)
        if container.bracket == _ARRAY:
            self._require_blank(container.element, end)
            self._separate(container)
            return
        found = _NAME.fullmatch(self._document, container.element, end)
        if found is None:
            raise _UnclearError
        try:
            name = orjson.loads(found[1])
        except orjson.JSONDecodeError:
            raise _UnclearError from None
        self._follow(container, name, name)
        self._traits |= Trait.NUL if "\x00" in name else Trait.NONE
        self._separate(container)
        self._write(orjson.dumps(name) + b":")

    def _finish(self, container: _Container, end: int, after: int) -> None:
        """Write the elements up to `end`. Only the innermost of the entered containers can be asked for."""
        if container.is_complete:
            self._require_blank(self._position, end)
            container.is_complete = False
        else:
            # As deep as in the document, as something may be too deep, and in an object, as others are formed slowly.
            outer = b'{"":' + b"[" * (self._entered - 2) if self._entered > 1 else b""
            inner = b"]" * (self._entered - 2) + b"}" if self._entered > 1 else b""
            closing = _CLOSING[container.bracket]
            canonical, spelling = self._formed(outer + bytes([container.bracket]), end, closing + inner)
            if not canonical:
                raise _UnclearError  # nothing before a comma, or behind the last one
            if container.bracket == _OBJECT:
                names = list(_Names.decode(b"{%b}" % canonical))
                self._follow(container, names[0], names[-1])
            self._separate(container)
            self._write(canonical, spelling)
        self._position = after

    def _formed(self, before: bytes, end: int, after: bytes) -> tuple[bytes, bytes]:
        """The two forms of what comes next, up to `end`, seen between `before` and `after`, which are canonical."""
        found = form(b"".join((before, self._document[self._position : end], after)))
        if found.traits & _UNCLEAR:
            raise _UnclearError
        self._traits |= found.traits
        inside = slice(len(before), -len(after))
        canonical = found.canonical[inside]
        return canonical, canonical if found.spelling is found.canonical else found.spelling[inside]

    def _follow(self, container: _Container, first: str, last: str) -> None:
        """Members are digested in order (that of UTF-8, which is that of code points), and each name once."""
        if container.last_name is not None and first <= container.last_name:
            raise _UnclearError
        container.last_name = last

    def _separate(self, container: _Container) -> None:
        if container.is_written:
            self._write(b",")
        container.is_written = True

    def _write(self, canonical: bytes | memoryview, spelling: bytes | None = None) -> None:
        self._canonical.update(canonical)
        self._spelling.update(canonical if spelling is None else spelling)

    def _is_blank(self, start: int, end: int) -> bool:
        return _BLANK.fullmatch(self._document, start, end) is not None

    def _require_blank(self, start: int, end: int) -> None:
        if not self._is_blank(start, end):
            raise _UnclearError


@cache
def _string_pieces(size: int) -> re.Pattern[bytes]:
    """Matches about `size` bytes of a string's content, but no part of an escape, nor one of a pair of surrogates."""
    pair = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    once = rb"[^\\]{1,%d}+|%b|\\u[0-9a-fA-F]{4}|\\." % (_PLAIN, pair)
    return re.compile(rb"(?:%b){1,%d}+" % (once, max(1, size // _PLAIN)), re.DOTALL)
