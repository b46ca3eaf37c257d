"""Which of the ids that a store was found to hold still have something under them when they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from agui_pipelines.keyspace import Span, owners
from agui_pipelines.records import Reject

_KEYS: Final = 50_000


class Listed:
    """The ids of a span, by hashes: 9 bytes of memory for each. Two that fall together, which is rare, count as one."""

    def __init__(self, span: Span) -> None:
        hashes = [_hashed(keys) for keys in span.keys(_KEYS)]
        self._hashes = np.unique(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)
        self._met = np.zeros(len(self._hashes), np.bool_)

    def meet(self, batch: pa.RecordBatch) -> None:
        """Records of any kind were read."""
        self._mark(pc.unique(batch.column("state_id")).cast(pa.binary()).to_pylist())

    def meet_reject(self, reject: Reject) -> None:
        """Something was read that is no record."""
        self._mark(owners(reject.id))

    @property
    def vanished(self) -> int:
        """Ids under which nothing was read."""
        return len(self._met) - int(np.count_nonzero(self._met))

    def _mark(self, ids: Iterable[bytes]) -> None:
        if not self._met.all():
            found = _hashed(ids)
            at = np.minimum(np.searchsorted(self._hashes, found), len(self._hashes) - 1)
            self._met[at[self._hashes[at] == found]] = True


def _hashed(ids: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    return np.fromiter(map(xxh3_64_intdigest, ids), np.uint64)
