"""What an AG-UI store in files can say of itself cheaply, and whether it can take what is to be written; see `ports`."""
# ruff: noqa: PTH102, PTH105, PTH108 - pathlib takes no bytes

from __future__ import annotations

import os
import platform
import random
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.keyspace import span_of
from agui_pipelines.pace import Pace
from agui_pipelines.ports import Examination, Measurement, OnReject, Privilege, Reader
from agui_pipelines.records import Kind
from agui_pipelines.sizes import Sizes
from agui_pipelines.stores.file_layout import ASIDE, SUFFIX, Layout, name_problem
from agui_pipelines.stores.file_reader import FileReader

HISTORIES: Final = 200
"""States whose histories are sampled."""

_FILES: Final = 2_000
_READ: Final = 500
_SCRATCH: Final = ASIDE + b"scratch-"
"""How the names of folders in the base begin that are made for a moment, to see what may be done there."""
_SCRATCH_NAME: Final = re.compile(re.escape(_SCRATCH) + rb"[0-9a-f]{16}")
_LEFT_SECONDS: Final = 3600
_SEED: Final = 20
"""Of the choice of a sample, so that the same folder gives the same one."""


@dataclass(slots=True)
class FileGauge:
    """Looks at the files of one layout. May raise OSError for a folder."""

    layout: Layout
    reader: FileReader
    asked: int = 0
    """Files and folders that were looked at."""

    def measured(self, pace: Pace) -> Measurement:
        """Counts by the files' names; the sizes of states by their inodes, and not by opening them."""
        sizes, counts, estimated = Sizes(), dict[Kind, int | None](), []
        total, newest, cut_short = 0, 0, False
        for kind in Kind:
            folders = self.layout.folders(kind)
            counted: dict[bytes, int] = {}
            for folder in folders:
                there = 0
                entries = self.layout.entries(kind, folder)
                while found := _statistics(entries):
                    self.asked += len(found)
                    there += len(found)
                    total += sum(size for _, size, _ in found)
                    if kind is Kind.STATE:
                        newest = max(newest, *(moment for _, _, moment in found))
                        sizes.add([key for key, _, _ in found], [size for _, size, _ in found])
                    if not pace(len(found)):
                        cut_short = True
                        break
                if cut_short:
                    break
                counted[folder] = there
            counts[kind] = _in_all(folders, counted)
            if counts[kind] is not None and len(counted) < len(folders):
                estimated.append(f"{kind}s")
        return Measurement(
            system=f"{platform.system()} file system",
            states=counts[Kind.STATE],
            versions=counts[Kind.VERSION],
            snapshots=counts[Kind.SNAPSHOT],
            estimated=tuple(estimated),
            bytes=None if cut_short else total,
            bytes_of="all files of states, versions and snapshots",
            sizes=None if cut_short else sizes,
            details=_details(self.layout, newest),
            unmeasured={
                "reads and writes": "a file system counts neither; the ages of the states tell how often they are written",
                **({"bytes": "adding them up takes longer than a run may wait"} if cut_short else {}),
                **{
                    f"{kind}s": "counting takes longer than a run may wait, and not one folder could be counted in that"
                    for kind, count in counts.items()
                    if count is None
                },
            },
        )

    def sampled(
        self, reader: Reader, states: int, pace: Pace, on_reject: OnReject
    ) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        """States chosen at random by their names; histories only where there is time to tell whose each file is."""
        keys = self._chosen(states, pace)
        histories = sorted(keys[:HISTORIES]) if pace.left is None else []
        for start in range(0, len(keys), _READ):
            some = keys[start : start + _READ]
            self.asked += len(some)
            for batch in reader.read(Kind.STATE, span_of(some), on_reject):
                yield Kind.STATE, batch
        for kind in (Kind.VERSION, Kind.SNAPSHOT) if histories else ():
            for batch in reader.read(kind, span_of(histories), on_reject):
                self.asked += batch.num_rows
                yield kind, batch

    def history_lengths(self, ids: Sequence[str], pace: Pace) -> dict[Kind, list[int]]:
        """Whose a version is stands within its file, so that all have to be read."""
        if pace.left is not None:
            return {}
        # Folder by folder: of one that is being written to, nothing is remembered, and its files would be read for each id.
        places = [(self.layout.folder(id_), place) for place, id_ in enumerate(ids)]
        lengths = {kind: [0] * len(ids) for kind in (Kind.VERSION, Kind.SNAPSHOT)}
        for folder, group in groupby(sorted(places), key=itemgetter(0)):
            history = self.reader.history(folder)
            for _, place in group:
                for kind, found in lengths.items():
                    found[place] = len(history.keys(kind, ids[place].encode("utf-8", "surrogatepass")))
            self.asked += history.files
            pace(history.files)
        return lengths

    def holding(self, ids: Sequence[str]) -> list[str]:
        usable = [id_ for id_ in ids if name_problem(id_) is None]
        paths = self.layout.paths([id_.encode() for id_ in usable])
        return [id_ for id_, path in zip(usable, paths, strict=True) if os.path.lexists(path)]

    def _chosen(self, count: int, pace: Pace) -> list[bytes]:
        """Ids chosen at random from all, or from the shards that there is time to list."""
        chosen: list[bytes] = []
        chance = random.Random(_SEED)  # noqa: S311 - nothing secret
        seen = 0
        for folder in self.layout.folders(Kind.STATE):
            for key in self.layout.keys(Kind.STATE, folder):
                seen += 1
                if len(chosen) < count:
                    chosen.append(key)
                elif (place := chance.randrange(seen)) < count:
                    chosen[place] = key
                if not seen % _FILES and not pace(0) and chosen:
                    return chosen
        return chosen


def examined(layout: Layout, near: bytes, file_mode: int, *, trying: bool) -> Examination:
    """See `ports.Examined.examine`. `near`: the base, or the nearest folder above it that is there."""
    room = os.statvfs(near)
    return Examination(
        system=f"{platform.system()} file system",
        privileges=_tried(layout, near, file_mode) if trying else (),
        disk_free=room.f_bavail * room.f_frsize,
        files_free=room.f_favail if room.f_files else None,
        block=room.f_frsize,
    )


def _tried(layout: Layout, near: bytes, file_mode: int) -> tuple[Privilege, ...]:
    """What an import does, done in a scratch folder beside the trees, or where the base will be made."""
    _remove_left(layout.base)
    scratch = near + b"/" + _SCRATCH + secrets.token_hex(8).encode()
    aside, final = scratch + b"/aside", scratch + b"/file" + SUFFIX

    def written() -> None:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file_mode | 0o200), "wb") as file:
            file.write(b"{}")
            file.flush()
            os.fsync(file.fileno())

    steps: list[tuple[str, Any, bool]] = [
        ("make a folder", lambda: os.mkdir(scratch), True),
        ("write a file", written, True),
        ("set the time of a file", lambda: os.utime(aside, ns=(0, 0)), True),
        ("rename a file", lambda: os.replace(aside, final), True),
        ("remove a file", lambda: os.unlink(final), False),
    ]
    found = []
    try:
        for action, step, needed in steps:
            try:
                step()
            except OSError as error:
                remedy = f"Give the user of this process write permission on {os.fsdecode(near)}."
                found.append(Privilege(action, error.strerror or str(error), needed, remedy))
                break
            found.append(Privilege(action, needed=needed))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return tuple(found)


def _remove_left(base: bytes) -> None:
    """Remove scratch folders that a process left behind which was killed."""
    with suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            ours = _SCRATCH_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            if ours and entry.stat(follow_symlinks=False).st_mtime < time.time() - _LEFT_SECONDS:
                shutil.rmtree(entry.path, ignore_errors=True)


def _statistics(entries: Iterator[os.DirEntry[bytes]]) -> list[tuple[bytes, int, int]]:
    """Ids, sizes and times of the next files."""
    found = []
    for entry in islice(entries, _FILES):
        with suppress(FileNotFoundError):
            info = entry.stat(follow_symlinks=False)
            found.append((entry.name[: -len(SUFFIX)], info.st_size, info.st_mtime_ns))
    return found


def _in_all(folders: Sequence[bytes], counted: Mapping[bytes, int]) -> int | None:
    """Files of all folders by those that were counted: an id's shard is a hash of it, so that all hold about as many."""
    shards = [count for folder, count in counted.items() if folder]
    if len(counted) == len(folders):
        return sum(counted.values())
    return counted.get(b"", 0) + sum(shards) * sum(map(bool, folders)) // len(shards) if shards else None


def _details(layout: Layout, newest: int) -> dict[str, str]:
    told = {"base_dir": os.fsdecode(layout.base), "shards": str(layout.shards)}
    if newest:
        told["newest write"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(newest // 10**9))
    return told
