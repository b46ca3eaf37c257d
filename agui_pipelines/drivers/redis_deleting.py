"""Deleting keys of a Redis only if they still hold what they did: they are watched, read, and deleted in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import pyarrow as pa

from agui_pipelines.drivers.redis import Burst, RedisWire
from agui_pipelines.drivers.redis_lock import Fence
from agui_pipelines.ports import Removal
from agui_pipelines.sameness import Sameness

_ATTEMPTS: Final = 4
"""How often a batch is looked at again as one of its keys has changed in between, before it is divided."""


class _ContendedError(Exception):
    """Some of the keys keep changing."""


def remove_unchanged(
    wire: RedisWire,
    fence: Fence,
    batch: pa.RecordBatch,
    *,
    keys: Callable[[pa.RecordBatch], Sequence[bytes]],
    look: Callable[[pa.RecordBatch], Sameness],
    deleting: Callable[[pa.RecordBatch], Burst],
) -> Removal:
    """Delete the records of a batch that are the same as when it was read.

    `keys` names what is watched for them, `look` reads them, and `deleting` has the commands that delete a batch. Nothing else
    may use transactions of `wire` meanwhile. Raises `LockLostError`.
    """
    attempts = 0
    found = Sameness((), 0)

    def decided() -> list[Burst]:
        nonlocal attempts, found
        attempts += 1
        if attempts > _ATTEMPTS:
            raise _ContendedError
        wire.run(Burst.of((b"WATCH", *keys(batch))))
        found = look(batch)
        return [deleting(batch.take(pa.array(found.same, pa.int64())))] if found.same else []

    if not batch.num_rows:
        return Removal()
    try:
        fence.transaction(decided)
    except _ContendedError:
        wire.call(b"UNWATCH")
        if batch.num_rows == 1:  # somebody writes to it all the time
            return Removal(changed=1)
        half = batch.num_rows // 2
        parts = (batch.slice(0, half), batch.slice(half))
        return sum(
            (remove_unchanged(wire, fence, part, keys=keys, look=look, deleting=deleting) for part in parts), Removal()
        )
    return Removal.of(batch.num_rows, found)
