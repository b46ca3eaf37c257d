"""Where the file store keeps what: shards, file names, and the folders below its base (store-format.md, section 2).

Ids need not be text that the locale can express, so every path here is bytes.
"""
# ruff: noqa: PTH108, PTH110, PTH112, PTH121 - pathlib does not take bytes

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from agui_pipelines.errors import StoreError
from agui_pipelines.records import Kind

TREES: Final = {Kind.STATE: b"states", Kind.VERSION: b"versions", Kind.SNAPSHOT: b"snapshots"}
SUFFIX: Final = b".json"
BACKUP: Final = b".backup"
"""Follows the name of a state's file; that file holds the one previous content."""

ASIDE: Final = b".agui-"
"""How the names of files begin that are being written. They do not end in `SUFFIX`, so they pass for no record."""

LOCK: Final = ASIDE + b"lock"
"""The name of the file in the base that says who writes to the store."""
PROBE: Final = LOCK + b"-"
"""How the names of files in the base begin that are made for a moment, to be told the time."""

NAME_MAX: Final = 255
"""Bytes in a file name, on every file system that matters."""

_SHARD: Final = b"shard_"
_CHUNK: Final = 64
_NAMES: Final = 1000
_WRAP: Final = 1 << 64
_SURROGATES: Final = range(0xD800, 0xE000)
_REPLACEMENT: Final = 0xFFFD


def shard(state_id: str, count: int) -> int:
    """The shard of a state: ``h = h*31 + code point`` in a signed 64-bit integer, then ``abs(h % count)`` as in Go.

    Surrogates stand for bytes that are not UTF-8, as `as_text` makes them, and count as U+FFFD each.
    """
    value = 0
    for i, character in enumerate(state_id, 1):
        point = ord(character)
        value = value * 31 + (_REPLACEMENT if point in _SURROGATES else point)
        if not i % _CHUNK:  # wrapping at every step would cost more than the longer integers do
            value %= _WRAP
    value %= _WRAP
    # Go's remainder takes the sign of the dividend, and abs drops it.
    return (value if value < _WRAP // 2 else _WRAP - value) % count


def shards(keys: Sequence[bytes], count: int) -> list[int]:
    """The shards of many states; ten times as fast as `shard` where all ids are short and ASCII, as they mostly are."""
    width = max(map(len, keys), default=0)
    if not 0 < width <= NAME_MAX or not b"".join(keys).isascii():
        return [shard(as_text(key), count) for key in keys]
    # Leading zeros do not change the hash, so the ids become rows of one width.
    rows = b"".join([key.rjust(width, b"\0") for key in keys])
    columns = np.frombuffer(rows, np.uint8).reshape(len(keys), width).T.astype(np.uint64)
    values = np.zeros(len(keys), np.uint64)
    for column in columns:
        values *= np.uint64(31)
        values += column
    wrapped = np.where(values < np.uint64(_WRAP // 2), values, np.uint64(0) - values)
    result: list[int] = (wrapped % np.uint64(count)).tolist()
    return result


def as_text(key: bytes) -> str:
    """An id as text, whatever bytes it holds; for `shard` and for messages, not for records."""
    return key.decode("utf-8", "surrogateescape")


def name_problem(id_: str, *, reserve: int = 0) -> tuple[str, str] | None:
    """Why an id cannot name a file, as a stable code and a sentence, or None if it can.

    `reserve` is how many bytes must be left for what follows ``<id>.json``.
    """
    try:
        name = id_.encode()
    except UnicodeEncodeError:
        return "unsafe_id", f"The id {id_!r} holds a lone surrogate, so it has no UTF-8 form."
    if b"/" in name or b"\0" in name or name in (b".", b".."):
        return "unsafe_id", f"The id {id_!r} is no safe file name: it is '.' or '..', or holds '/' or NUL."
    longest = NAME_MAX - len(SUFFIX) - reserve
    if len(name) > longest:
        return "id_too_long", f"The id {id_[:40]!r}… has {len(name):,} bytes; as a file name it may have {longest}."
    return None


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one store. `base` is a real path; `shards` is 0 where the trees have no shard folders."""

    base: bytes
    shards: int

    def folder(self, state_id: str) -> bytes:
        """The folder within each tree in which everything of a state belongs; empty for the tree itself."""
        return _SHARD + str(shard(state_id, self.shards)).encode() if self.shards else b""

    def folders_of(self, keys: Sequence[bytes]) -> list[bytes]:
        """The folders in which everything of some states belongs; see `folder`."""
        if not self.shards:
            return [b""] * len(keys)
        return [_SHARD + str(number).encode() for number in shards(keys, self.shards)]

    def tree(self, kind: Kind, folder: bytes = b"") -> bytes:
        """The path of a tree, or of a folder in it."""
        tree = self.base + b"/" + TREES[kind]
        return tree + b"/" + folder if folder else tree

    def path(self, kind: Kind, folder: bytes, key: bytes) -> bytes:
        """The path of the file of a record."""
        return self.tree(kind, folder) + b"/" + key + SUFFIX

    def paths(self, keys: Sequence[bytes]) -> list[bytes]:
        """Where the files of states belong."""
        prefixes = [self.tree(Kind.STATE, _SHARD + str(n).encode()) + b"/" for n in range(self.shards)]
        if not prefixes:
            prefix = self.tree(Kind.STATE) + b"/"
            return [prefix + key + SUFFIX for key in keys]
        return [prefixes[n] + key + SUFFIX for key, n in zip(keys, shards(keys, self.shards), strict=True)]

    def state_paths(self, key: bytes) -> list[bytes]:
        """Where the file of a state can lie: first where it belongs, then in every other folder that exists."""
        folders = dict.fromkeys([self.folder(as_text(key)), *self.folders(Kind.STATE)])
        return [self.path(Kind.STATE, folder, key) for folder in folders]

    def folders(self, kind: Kind) -> list[bytes]:
        """The folders of a tree that exist, whether or not the configured layout has them, the tree itself first.

        Raises `StoreError` for one that is a symbolic link out of the base.
        """
        tree = self.tree(kind)
        try:
            with os.scandir(tree) as entries:
                shards = sorted(e.name for e in entries if e.name.startswith(_SHARD) and e.is_dir())
        except FileNotFoundError:
            return []
        for path in (tree, *(tree + b"/" + name for name in shards)):
            self.refuse_outside(path)
        return [b"", *shards]

    def refuse_outside(self, path: bytes) -> None:
        """Raises `StoreError` if a folder, by way of symbolic links, does not lie in the base."""
        target = os.path.realpath(path)
        if os.path.commonpath((self.base, target)) != self.base:
            raise StoreError(
                f"The folder {os.fsdecode(path)} is a symbolic link to {os.fsdecode(target)}.",
                why="It leads out of the store's base_dir, and nothing outside of that is read or written.",
                remedy="Mount that folder in its place, or move it there.",
            )

    def entries(self, kind: Kind, folder: bytes) -> Iterator[os.DirEntry[bytes]]:
        """What may be records in a folder: files and symbolic links that are named like one."""
        try:
            with os.scandir(self.tree(kind, folder)) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX) and (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                        yield entry
        except FileNotFoundError:
            return

    def misplaced(self, kind: Kind) -> Iterator[tuple[bytes, bytes, str]]:
        """What somebody may take for records of a tree and the format does not: an id, a path, and what is wrong with it.

        That are ``*.json`` that are no files (``not_a_file``), and files in folders that are no shards (``nested``). A link
        to a folder is named, and not followed.
        """
        for folder in self.folders(kind):
            pending = [b""]
            while pending:
                below = pending.pop()
                with os.scandir(self.tree(kind, folder) + b"/" + below) as entries:
                    for entry in entries:
                        name, is_folder = below + entry.name, entry.is_dir(follow_symlinks=False)
                        key = name.removesuffix(SUFFIX)
                        if is_folder and (folder or below or not entry.name.startswith(_SHARD)):
                            pending.append(name + b"/")
                        if below:
                            if not is_folder and key != name:
                                yield key, entry.path, "nested"
                        elif key != name and not (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                            yield key, entry.path, "not_a_file"
                        elif key == name and entry.is_symlink() and entry.is_dir() and not name.startswith(_SHARD):
                            yield key, entry.path, "nested"

    def keys(self, kind: Kind, folder: bytes) -> Iterator[bytes]:
        """The ids of the records in a folder, as the file names have them."""
        for entry in self.entries(kind, folder):
            yield entry.name[: -len(SUFFIX)]

    def backed_up(self, folder: bytes) -> set[bytes]:
        """The ids of the states of which a folder holds the previous content, whether or not they are still there."""
        ending = SUFFIX + BACKUP
        try:
            with os.scandir(self.tree(Kind.STATE, folder)) as entries:
                return {entry.name[: -len(ending)] for entry in entries if entry.name.endswith(ending)}
        except FileNotFoundError:
            return set()

    def strays(self, folder: bytes) -> tuple[bytes, ...]:
        """The ids of the states in `folder` that belong into another one."""
        if self.shards == 0 and not folder:
            return ()
        tree = self.tree(Kind.STATE, folder) + b"/"
        keys = self.keys(Kind.STATE, folder)
        found: list[bytes] = []
        while some := list(islice(keys, _NAMES)):
            found.extend(k for k, path in zip(some, self.paths(some), strict=True) if path != tree + k + SUFFIX)
        return tuple(found)

    def folds_case(self) -> bool | None:
        """Whether names that differ in case only are one for the file system; None while there is no folder to ask."""
        try:
            return os.path.samefile(self.tree(Kind.STATE), self.base + b"/" + TREES[Kind.STATE].upper())
        except FileNotFoundError:
            return False if os.path.isdir(self.tree(Kind.STATE)) else None

    def will_fold_case(self, above: bytes) -> bool:
        """As `folds_case`; while there is no folder to ask, `above`, which exists, is asked in its place."""
        folds = self.folds_case()
        if folds is None:
            parent, _, name = above.rpartition(b"/")
            other = parent + b"/" + name.swapcase()
            folds = other != above and os.path.exists(other) and os.path.samefile(above, other)
        return folds

    def remove_leftovers(self, *, before_ns: int) -> None:
        """Remove files that were being written when a process ended, where that was before a moment."""
        for path in (self.base, *(self.tree(kind, folder) for kind in TREES for folder in self.folders(kind))):
            with os.scandir(path) as entries:
                aside = [e for e in entries if e.name.startswith(ASIDE) and e.name != LOCK]
                old = [e.path for e in aside if _is_older(e, before_ns)]
            for leftover in old:
                os.unlink(leftover)


def _is_older(entry: os.DirEntry[bytes], moment_ns: int) -> bool:
    """Whether a file was last touched before a moment; by its ctime, as the mtime is that of the record."""
    info = entry.stat(follow_symlinks=False)
    return stat.S_ISREG(info.st_mode) and info.st_ctime_ns < moment_ns and not entry.name.endswith(SUFFIX)
