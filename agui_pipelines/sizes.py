"""The sizes of any number of documents in a few kilobytes of memory, with the largest by name."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

LARGEST: Final = 10
"""Documents that are named."""

_PER_OCTAVE: Final = 64
"""Classes within each doubling: percentiles are exact to within 0.6 per cent."""
_CLASSES: Final = _PER_OCTAVE * 48


@dataclass(slots=True)
class Sizes:
    """Sizes in bytes; count, total, least and greatest are exact, percentiles to within 0.6 per cent."""

    count: int = 0
    total: int = 0
    least: int = 0
    greatest: int = 0
    _largest: list[tuple[int, str]] = field(default_factory=list)
    _classes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_CLASSES, np.int64))

    def add(self, ids: Sequence[str | bytes], sizes: Sequence[int]) -> None:
        """Count some documents, whose ids may be bytes that are no text."""
        if not len(sizes):
            return
        array = np.asarray(sizes, np.int64)
        least, greatest = int(array.min()), int(array.max())
        self.least = min(self.least, least) if self.count else least
        self.greatest = max(self.greatest, greatest)
        self.count += len(array)
        self.total += int(array.sum())
        classes = np.minimum((np.log2(np.maximum(array, 1)) * _PER_OCTAVE).astype(np.int64), _CLASSES - 1)
        self._classes += np.bincount(classes, minlength=_CLASSES)
        floor = self._largest[0][0] if len(self._largest) == LARGEST else -1
        for row in np.flatnonzero(array > floor).tolist():
            self.name(ids[row], int(array[row]))

    def name(self, id_: str | bytes, size: int) -> None:
        """Take a document among the largest, if it is one of them, without counting it."""
        text = id_ if isinstance(id_, str) else id_.decode("utf-8", "backslashreplace")
        if any(named == text for _, named in self._largest):
            return
        heapq.heappush(self._largest, (size, text))
        if len(self._largest) > LARGEST:
            heapq.heappop(self._largest)
        self.greatest = max(self.greatest, size)

    @property
    def average(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def largest(self) -> list[tuple[str, int]]:
        """The largest documents with their sizes, the largest first."""
        return [(id_, size) for size, id_ in sorted(self._largest, key=lambda item: (-item[0], item[1]))]

    def percentile(self, percent: float) -> int:
        """The size that so many per cent of the documents do not exceed."""
        if not self.count:
            return 0
        rank = max(1, math.ceil(self.count * percent / 100))
        found = int(np.searchsorted(np.cumsum(self._classes), rank))
        return int(min(max(round(2 ** ((found + 0.5) / _PER_OCTAVE)), self.least), self.greatest))

    def to_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "total": self.total,
            "average": round(self.average),
            "p50": self.percentile(50),
            "p95": self.percentile(95),
            "p99": self.percentile(99),
            "maximum": self.greatest,
            "largest": [{"id": id_, "bytes": size} for id_, size in self.largest],
        }
