"""What was found out about folders, remembered for as long as they do not change.

A migration opens a store for every key range. To read the histories of one range, one must know of every history file
whose it is, which takes reading them all; this way that is done once for all ranges, as long as nobody writes.
"""
# ruff: noqa: PTH116 - pathlib does not take bytes

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

T = TypeVar("T")

SETTLED_NS: Final = 2_000_000_000
"""A folder changed more recently than this is looked at again: a later change may bear the same time (FAT: 2 s)."""

_FOLDERS: Final = 4096


class FolderMemory(Generic[T]):
    """One value per group of folders, computed anew when one of them gained, lost or renamed a file.

    Safe to use from several threads; they wait for each other. Forgets the groups used longest ago beyond 4,096.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[int | bytes, ...], tuple[tuple[int, ...], T]] = OrderedDict()

    def get(self, folders: Sequence[bytes], compute: Callable[[], T], *, given: int = 0) -> T:
        """The value for these folders; `given` is what else it depends on."""
        key: tuple[int | bytes, ...] = (given, *folders)
        with self._lock:
            before = tuple(_changed(folder) for folder in folders)
            known = self._known.get(key)
            if known is not None and known[0] == before:
                self._known.move_to_end(key)
                return known[1]
            value = compute()
            self._known.pop(key, None)
            if max(before) < time.time_ns() - SETTLED_NS:
                self._known[key] = (before, value)
            while len(self._known) > _FOLDERS:
                self._known.popitem(last=False)
            return value


def _changed(folder: bytes) -> int:
    """When the folder's list of names last changed, nanoseconds since the epoch; 0 if there is no such folder."""
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return 0
