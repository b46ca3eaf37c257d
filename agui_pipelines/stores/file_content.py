"""What a file of the store holds: read without leaving the store's folder, unpacked, and laid out for writing."""
# ruff: noqa: PTH114 - pathlib does not take bytes, and ids need not be text

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import stat
import zlib
from typing import Final, NamedTuple, NoReturn

import msgspec

MAX_BYTES: Final = 512 * 1024 * 1024
"""Largest file that is read, and largest document that a compressed one may unpack to: Redis holds no larger string."""

_GZIP: Final = b"\x1f\x8b"
_GZIP_FORMAT: Final = 31
# O_NONBLOCK, because opening a pipe that somebody named like a state would wait for ever; files do not mind.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+', re.DOTALL)
_OBJECT: Final = re.compile(rb"[ \t\r\n]*+\{")
_INDENT: Final = b"  "
_CHUNK: Final = 1024 * 1024


class Content(NamedTuple):
    """The bytes of a file and when they were last changed (nanoseconds since the epoch)."""

    data: bytes
    mtime_ns: int


class UnreadableError(Exception):
    """A file that is there and cannot become a record; never leaves the file store.

    `reason` is a stable code, `detail` a sentence, `raw` what could be read.
    """

    def __init__(self, reason: str, detail: str, raw: bytes | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.raw = raw


def read(path: bytes, base: bytes) -> Content | None:
    """A file's content, unpacked if it is compressed; None if there is no file.

    A symbolic link is followed only to a place within `base`. Raises `UnreadableError`.
    """
    content = read_raw(path, base)
    if content is not None and content.data.startswith(_GZIP):
        return Content(_unpacked(content.data, path), content.mtime_ns)
    return content


def read_raw(path: bytes, base: bytes) -> Content | None:
    """As `read`, but a compressed file as it is."""
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        if os.path.islink(path):
            return _read_linked(path, base)
        _unreadable(path, error)
    try:
        return _read_open(descriptor, path)
    except OSError as error:
        _unreadable(path, error)
    finally:
        os.close(descriptor)


def indented(document: bytes | memoryview) -> bytes:
    """A JSON object laid out as Go's ``json.MarshalIndent`` with two spaces does; not one token of it is changed.

    Raises ValueError if the document is not one JSON object in UTF-8.
    """
    if _OBJECT.match(document) is None:
        raise ValueError("it is not a JSON object")
    if isinstance(document, memoryview):
        _require_utf8(document)
    elif not document.isascii():
        document.decode("utf-8")
    try:
        return msgspec.json.format(document, indent=2)
    except (msgspec.DecodeError, RecursionError):  # it refuses lone surrogates and deep documents, which may be JSON
        return _indented_by_token(bytes(document))


def _require_utf8(document: memoryview) -> None:
    """Chunk by chunk, as the text would take up to four times as much memory. Raises `UnicodeDecodeError`."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(document), _CHUNK):
        decoder.decode(document[start : start + _CHUNK])
    decoder.decode(b"", final=True)


def _indented_by_token(document: bytes) -> bytes:
    try:
        # Number tokens stay text: nothing is computed, and no limit of Python's numbers applies.
        json.loads(document.decode("utf-8"), parse_int=str, parse_float=str, parse_constant=_not_json)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    out: list[bytes] = []
    depth = 0
    previous = b""
    for token in _TOKEN.findall(document):
        if token in (b"]", b"}"):
            depth -= 1
            if previous not in (b"[", b"{"):
                out.append(b"\n" + _INDENT * depth)
        elif previous in (b"[", b"{", b","):
            out.append(b"\n" + _INDENT * depth)
        out.append(b": " if token == b":" else token)
        depth += token in (b"[", b"{")
        previous = token
    return b"".join(out)


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_open(descriptor: int, path: bytes) -> Content:
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode):
        raise UnreadableError("not_a_file", f"{_name(path)} is not a file.")
    size = info.st_size
    if size > MAX_BYTES:
        raise UnreadableError("too_large", f"{_name(path)} has {size:,} bytes; the limit is {MAX_BYTES:,}.")
    data = os.read(descriptor, size + 1)
    if len(data) != size:  # it is being written; take what is there now
        parts = [data]
        while part := os.read(descriptor, 1 << 20):
            parts.append(part)
        data = b"".join(parts)
    return Content(data, info.st_mtime_ns)


def _read_linked(path: bytes, base: bytes) -> Content:
    target = os.path.realpath(path)
    if os.path.commonpath((base, target)) != base:
        raise UnreadableError(
            "symlink_outside", f"{_name(path)} is a symbolic link that leads out of the store's folder."
        )
    # What is still a link after all links were followed leads back to itself.
    content = None if os.path.islink(target) else read_raw(target, base)
    if content is None:
        raise UnreadableError("symlink_dangling", f"{_name(path)} is a symbolic link to nothing.")
    return content


def _unpacked(data: bytes, path: bytes) -> bytes:
    """All members of a gzip file, one after the other."""
    parts: list[bytes] = []
    left = MAX_BYTES
    packed = data
    try:
        while packed:
            unpacking = zlib.decompressobj(_GZIP_FORMAT)
            parts.append(unpacking.decompress(packed, left + 1))
            left -= len(parts[-1])
            if left < 0:
                detail = f"{_name(path)} unpacks to more than the limit of {MAX_BYTES:,} bytes."
                raise UnreadableError("too_large", detail, data)
            if not unpacking.eof:
                raise UnreadableError("gzip_damaged", f"{_name(path)} is a gzip file that ends too early.", data)
            packed = unpacking.unused_data.lstrip(b"\0")
    except zlib.error as error:
        detail = f"{_name(path)} begins like a gzip file but cannot be unpacked: {error}."
        raise UnreadableError("gzip_damaged", detail, data) from error
    return b"".join(parts)


def _unreadable(path: bytes, error: OSError) -> NoReturn:
    raise UnreadableError("unreadable", f"{_name(path)} cannot be read: {error.strerror}.") from error


def _name(path: bytes) -> str:
    return f"The file {path.decode('utf-8', 'backslashreplace')}"
