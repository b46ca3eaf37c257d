"""Moving batches between threads, bounded by bytes.

Reading a source, digesting, and writing Parquet each take about a third of an export; drivers and Arrow release the
interpreter's lock, so a thread for each lets them overlap without holding more than a few batches.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, Self

import pyarrow as pa

QUEUE_BYTES: Final = 4 * 1024 * 1024


class _Queue:
    """A queue of batches that blocks the producer while more than `limit` bytes wait. Closing it wakes both sides."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[pa.RecordBatch] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, batch: pa.RecordBatch) -> bool:
        """Whether the batch was taken; False once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._items or self._bytes < self._limit)
            if self._closed:
                return False
            self._items.append(batch)
            self._bytes += batch.nbytes
            self._changed.notify_all()
            return True

    def get(self) -> pa.RecordBatch | None:
        """The next batch, or None when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            if not self._items:
                return None
            batch = self._items.popleft()
            self._bytes -= batch.nbytes
            self._changed.notify_all()
            return batch

    def close(self, *, discard: bool = False) -> None:
        with self._changed:
            self._closed = True
            if discard:
                self._items.clear()
            self._changed.notify_all()


def ahead(batches: Iterable[pa.RecordBatch], *, limit: int = QUEUE_BYTES) -> Iterator[pa.RecordBatch]:
    """Iterate over `batches` in a thread of its own, at most `limit` bytes ahead of the caller.

    An error of the iterable is raised here. Leaving the loop early ends the thread before the generator is closed, so the
    caller may then safely close the connection that the iterable reads from.
    """
    queue = _Queue(limit)
    failure: list[BaseException] = []

    def produce() -> None:
        try:
            for batch in batches:
                if not queue.put(batch):
                    return
        except BaseException as error:  # noqa: BLE001 - carried to the consuming thread and raised there
            failure.append(error)
        finally:
            queue.close()

    thread = threading.Thread(target=produce, name="agui-read-ahead", daemon=True)
    thread.start()
    try:
        while (batch := queue.get()) is not None:
            yield batch
        if failure:
            raise failure[0]
    finally:
        queue.close(discard=True)
        thread.join()


class Behind:
    """Calls `consume` for each batch in a thread of its own, at most `limit` bytes behind the caller."""

    def __init__(self, consume: Callable[[pa.RecordBatch], None], *, limit: int = QUEUE_BYTES) -> None:
        self._queue = _Queue(limit)
        self._consume = consume
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="agui-write-behind", daemon=True)
        self._thread.start()

    def put(self, batch: pa.RecordBatch) -> None:
        if not self._queue.put(batch) and self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while (batch := self._queue.get()) is not None:
                self._consume(batch)
        except BaseException as error:  # noqa: BLE001 - carried to the producing thread and raised there
            self._failure = error
            self._queue.close(discard=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.close(discard=error is not None)
        self._thread.join()
        if error is None and self._failure is not None:
            raise self._failure
