"""Digests of whole columns of documents, in this process or in worker processes.

Digesting a document holds the interpreter's lock, and takes longer than reading it and writing it to Parquet together. A
`DigestPool` therefore sends columns to a few worker processes, through pipes, as the buffers that Arrow holds; a worker is
this module run as a script (`processes`), which loads no Arrow and so starts in a tenth of a second.
"""

from __future__ import annotations

import gc
import queue
import struct
import subprocess
import sys
from array import array
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from types import TracebackType
from typing import IO, TYPE_CHECKING, Final, NamedTuple, Self

from xxhash import xxh3_128_digest

from agui_pipelines import processes
from agui_pipelines.canonical import digest
from agui_pipelines.errors import StagingError

if TYPE_CHECKING:
    import pyarrow as pa

WIDTH: Final = 16
"""Bytes of a digest."""

_ABSENT: Final = bytes(WIDTH)
_HEADER: Final = struct.Struct("<IQ")  # documents, bytes of documents


class DigestColumn(NamedTuple):
    """Digests of a column of documents, one after the other: 16 bytes each, and a byte of `canonical.Trait` each."""

    raw: bytes
    canonical: bytes
    spelling: bytes
    traits: bytes


def digest_documents(documents: Iterable[bytes | memoryview]) -> DigestColumn:
    """Digest documents in this process. The canonical and spelling digests of an invalid document are zero bytes."""
    raw, canonical, spelling, traits = [], [], [], bytearray()
    for document in documents:
        found = digest(document)
        raw.append(xxh3_128_digest(document))
        canonical.append(found.canonical or _ABSENT)
        spelling.append(found.spelling or _ABSENT)
        traits.append(found.traits)
    return DigestColumn(b"".join(raw), b"".join(canonical), b"".join(spelling), bytes(traits))


def digest_values(values: pa.BinaryArray) -> DigestColumn:
    """Digest an Arrow column without nulls in this process."""
    return digest_documents(documents_in(values))


def documents_in(values: pa.BinaryArray) -> Sequence[bytes | memoryview]:
    """The values of a column without nulls. One that travels alone may be very large, and is not copied."""
    if len(values) != 1:
        documents: list[bytes] = values.to_pylist()
        return documents
    return [only_value(values) or b""]


def only_value(values: pa.BinaryArray) -> memoryview | None:
    """The value of a column that has one, not copied as Arrow's own way to it does; None if it is null."""
    if values.null_count:
        return None
    _, offsets, data = values.buffers()
    first, last = memoryview(offsets).cast("B")[values.offset * 4 : values.offset * 4 + 8].cast("i")
    return memoryview(data).cast("B")[first:last] if data else memoryview(b"")


class DigestPool:
    """Up to `workers` processes that digest columns, started when they are first needed. A context manager.

    Call it from several threads: a call waits until a worker is idle.
    """

    def __init__(self, workers: int) -> None:
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, values: pa.BinaryArray) -> DigestColumn:
        """Digest a column without nulls in a worker. Raises `StagingError` if the worker died."""
        worker = self._idle.get()
        try:
            worker = worker or self._start()
            column = _ask(worker, values)
        except BaseException as error:
            # A worker whose answer was not read would give it to the next one who asks.
            self._idle.put(None)
            if worker is not None:
                worker.kill()
            if not isinstance(error, OSError):
                raise
            raise StagingError(
                "A digesting worker process ended unexpectedly.",
                why="Without digests nothing can be proven.",
                remedy="Look whether the system ran out of memory, then run the same command again: it resumes.",
            ) from error
        self._idle.put(worker)
        return column

    def _start(self) -> subprocess.Popen[bytes]:
        worker = processes.start(__name__)
        self._stack.callback(processes.end, worker)
        return worker


def _ask(worker: subprocess.Popen[bytes], values: pa.BinaryArray) -> DigestColumn:
    if worker.stdin is None or worker.stdout is None:
        raise OSError("the worker has no pipes")
    rows = len(values)
    _, offsets, data = values.buffers()
    bounds = memoryview(offsets)[values.offset * 4 : (values.offset + rows + 1) * 4] if rows else memoryview(bytes(4))
    integers = bounds.cast("B").cast("i")
    first, last = integers[0], integers[-1]
    worker.stdin.write(_HEADER.pack(rows, last - first))
    worker.stdin.write(bounds)
    if last > first:
        worker.stdin.write(memoryview(data)[first:last])
    worker.stdin.flush()
    return DigestColumn(*(_read(worker.stdout, rows * width) for width in (WIDTH, WIDTH, WIDTH, 1)))


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise OSError("the stream ended early")
    return data


def _serve(requests: IO[bytes], responses: IO[bytes]) -> None:
    """A worker's life: answer columns of documents with their digests until the input ends."""
    while header := requests.read(_HEADER.size):
        rows, size = _HEADER.unpack(header)
        bounds = array("i")
        bounds.frombytes(_read(requests, (rows + 1) * 4))
        data = memoryview(_read(requests, size))
        base = bounds[0]
        responses.writelines(
            digest_documents(bytes(data[start - base : end - base]) for start, end in pairwise(bounds))
        )
        responses.flush()


if __name__ == "__main__":
    gc.disable()  # parsed documents hold no cycles, and are dropped one by one
    processes.ignore_interrupts()
    with processes.until_left():
        _serve(sys.stdin.buffer, sys.stdout.buffer)
