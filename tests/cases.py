"""Which cases of a test the default suite runs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest

_Case = type(pytest.param())


def thinned(*axes: Iterable[Any]) -> list[Any]:
    """All combinations of some axes, for `pytest.mark.parametrize`, of which most are marked ``long``.

    The default suite has each value of each axis at least once: it goes along all axes at a time, and round the shorter ones.
    """
    values = [list(axis) for axis in axes]
    kept = {tuple(k % len(axis) for axis in values) for k in range(max(map(len, values)))}
    cases = []
    for at in product(*(range(len(axis)) for axis in values)):
        chosen = [
            value if isinstance(value := axis[i], _Case) else pytest.param(value)
            for axis, i in zip(values, at, strict=True)
        ]
        marks = [mark for each in chosen for mark in each.marks]
        marks += [] if at in kept else [pytest.mark.long]
        names = [str(each.id or each.values[0]) for each in chosen]
        cases.append(pytest.param(*(v for each in chosen for v in each.values), id="-".join(names), marks=marks))
    return cases


def chiefly(value: Any, values: Iterable[Any]) -> list[Any]:
    """All values, of which only one is none that is marked ``long``.

    For what is the same code for each of them, which other tests of the default suite run with the others.
    """
    return [each if each == value else pytest.param(each, marks=pytest.mark.long) for each in values]
