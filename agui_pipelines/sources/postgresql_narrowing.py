"""Key ranges of ids that are not text, as conditions that an index on the column itself can serve.

Key ranges are cut in the order of the ids' texts, in which 10 comes before 9. Of integers, all that have a sign and a number
of digits in common are nevertheless in one order both ways, so that a range of texts is a few intervals of numbers; uuids
are in one order altogether. Such a condition is put beside the one on the texts, which goes on deciding.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from psycopg import sql

_BITS: Final = {"int2": 16, "int4": 32, "int8": 64}
_UUID: Final = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def narrowed(type_: str, column: sql.Composable, lower: bytes | None, upper: bytes | None) -> sql.Composable | None:
    """What is true of every value of the column whose text lies between the bounds; None if nothing useful is known."""
    if lower is None and upper is None:
        return None
    if type_ in _BITS:
        return _in_intervals(column, list(intervals(_BITS[type_], lower, upper)))
    if type_ == "uuid":
        return _between(column, lower, upper)
    return None


def intervals(bits: int, lower: bytes | None, upper: bytes | None) -> Iterator[tuple[int, int]]:
    """First and last of the runs of signed integers whose decimal text t has ``lower <= t < upper``, compared as bytes."""
    for sign, end in ((1, 1 << (bits - 1)), (-1, (1 << (bits - 1)) + 1)):
        start = 0 if sign > 0 else 1
        for digits in range(1, len(str(end)) + 1):
            sizes = range(start if digits == 1 else 10 ** (digits - 1), min(10**digits, end))

            def text(size: int, sign: int = sign) -> bytes:
                return str(sign * size).encode()

            first = 0 if lower is None else bisect_left(sizes, lower, key=text)
            last = (len(sizes) if upper is None else bisect_left(sizes, upper, key=text)) - 1
            if first <= last:
                yield tuple(sorted((sign * sizes[first], sign * sizes[last])))  # type: ignore[misc] # two of them


def _in_intervals(column: sql.Composable, found: list[tuple[int, int]]) -> sql.Composable:
    if not found:
        return sql.SQL("false")
    conditions = [
        sql.SQL("{} BETWEEN {} AND {}").format(column, sql.Literal(first), sql.Literal(last)) for first, last in found
    ]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(conditions))


def _between(column: sql.Composable, lower: bytes | None, upper: bytes | None) -> sql.Composable | None:
    conditions = [
        comparison.format(column, sql.Literal(bound.decode()))
        for comparison, bound in ((sql.SQL("{} >= {}::uuid"), lower), (sql.SQL("{} < {}::uuid"), upper))
        if bound is not None and _UUID.fullmatch(bound)
    ]
    return sql.SQL(" AND ").join(conditions) if conditions else None
