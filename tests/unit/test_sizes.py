"""Sizes of documents, counted in bounded memory."""

from __future__ import annotations

import random

import pytest

from agui_pipelines.sizes import LARGEST, Sizes


def test_nothing_has_no_size():
    assert Sizes().to_dict() == {
        **dict.fromkeys(("count", "total", "average", "p50", "p95", "p99", "maximum"), 0),
        "largest": [],
    }


def test_one_document_is_every_percentile():
    sizes = Sizes()
    sizes.add(["a"], [1234])
    assert {sizes.percentile(percent) for percent in (1, 50, 99, 100)} == {1234}


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_exact_to_within_a_hundredth(seed):
    chance = random.Random(seed)
    values = [int(chance.lognormvariate(8, 2)) for _ in range(5000)]
    sizes = Sizes()
    for start in range(0, 5000, 700):
        part = values[start : start + 700]
        sizes.add([str(start + i) for i in range(len(part))], part)
    ordered = sorted(values)
    assert (sizes.count, sizes.total, sizes.greatest) == (5000, sum(values), ordered[-1])
    for percent in (50, 95, 99):
        assert sizes.percentile(percent) == pytest.approx(ordered[5000 * percent // 100 - 1], rel=0.01, abs=1)
    by_size = sorted(zip(values, map(str, range(5000)), strict=True), key=lambda pair: (-pair[0], pair[1]))
    assert [size for _, size in sizes.largest] == [size for size, _ in by_size[:LARGEST]]


def test_a_larger_document_that_is_found_later_is_named_once():
    sizes = Sizes()
    sizes.add(["a", b"\xff"], [1, 2])
    sizes.name("z", 10**9)
    sizes.name("z", 10**9)
    assert sizes.largest == [("z", 10**9), ("\\xff", 2), ("a", 1)]
    assert (sizes.count, sizes.greatest) == (2, 10**9)
