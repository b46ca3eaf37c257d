from __future__ import annotations

import io
import random
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines.errors import InterruptedConnectionError
from agui_pipelines.keyspace import (
    CATALOGUE,
    MAX_RANGES,
    KeyRange,
    Span,
    adjacent,
    cut,
    interruptions_told,
    range_names,
    single_spans,
    sorted_on_disk,
    write_catalogue,
)

quick = settings(max_examples=150, deadline=None)


def batch(keys: list[bytes], weights: list[int] | None = None) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"key": keys, "weight": weights or [1] * len(keys)}, schema=CATALOGUE)


def catalogue(weights: dict[bytes, int], *, row_group: int = 7) -> io.BytesIO:
    """A catalogue as `write_catalogue` leaves it, with small row groups."""
    keys = sorted(weights)
    file = io.BytesIO()
    pq.write_table(pa.table(batch(keys, [weights[key] for key in keys])), file, row_group_size=row_group)
    file.seek(0)
    return file


binary_keys = st.binary(max_size=4) | st.text("ab\x00é", max_size=3).map(str.encode)
weighted_keys = st.dictionaries(
    binary_keys, st.one_of(st.just(1), st.integers(0, 5), st.integers(1, 10**12)), max_size=60
)
counts = st.one_of(st.integers(1, 20), st.integers(1, MAX_RANGES))


def holds(key_range: KeyRange, key: bytes) -> bool:
    """As a reader that goes by the bounds has it."""
    above = key_range.lower is None or key >= key_range.lower
    return above and (key_range.upper is None or key < key_range.upper)


# Cutting ---------------------------------------------------------------------------------------------------------------


@quick
@given(weighted_keys, counts)
def test_ranges_cover_every_row_exactly_once_in_order(weights: dict[bytes, int], count: int) -> None:
    ranges = cut(catalogue(weights), count)
    assert [r.name for r in ranges] == list(range_names(count))
    row = 0
    for key_range in ranges:
        assert key_range.first_row == row
        row += key_range.keys
    assert row == len(weights)


@quick
@given(weighted_keys, counts, binary_keys)
def test_every_possible_key_lies_within_the_bounds_of_exactly_one_range(
    weights: dict[bytes, int], count: int, other: bytes
) -> None:
    ranges = cut(catalogue(weights), count)
    for key in (*weights, other, b"", b"\xff" * 10):
        assert sum(holds(key_range, key) for key_range in ranges) == 1


@quick
@given(weighted_keys, counts)
def test_the_rows_of_a_range_are_the_keys_within_its_bounds(weights: dict[bytes, int], count: int) -> None:
    keys = sorted(weights)
    for key_range in cut(catalogue(weights), count):
        rows = keys[key_range.first_row : key_range.first_row + key_range.keys]
        assert rows == [key for key in keys if holds(key_range, key)]
        assert key_range.weight == sum(weights[key] for key in rows)


@quick
@given(weighted_keys, counts)
def test_no_range_is_heavier_than_its_share_by_more_than_one_key(weights: dict[bytes, int], count: int) -> None:
    share = sum(weights.values()) / count
    heaviest = max(weights.values(), default=0)
    assert all(r.weight <= share + heaviest for r in cut(catalogue(weights), count))


@quick
@given(weighted_keys, counts)
def test_an_empty_range_between_others_holds_no_key_at_all(weights: dict[bytes, int], count: int) -> None:
    ranges = cut(catalogue(weights), count)
    for key_range in ranges[1:] if weights else []:
        if key_range.keys == 0:
            assert key_range.lower is not None
            assert key_range.lower == key_range.upper
            assert key_range.weight == 0


def test_equal_weights_are_cut_into_equal_parts() -> None:
    ranges = cut(catalogue({b"%05d" % i: 1 for i in range(1600)}, row_group=500), 16)
    assert [r.keys for r in ranges] == [100] * 16


def test_a_range_ends_behind_a_key_that_fills_it_alone() -> None:
    ranges = cut(catalogue({b"a": 1, b"b": 1_000_000, b"c": 1, b"d": 1}), 3)
    assert [(r.lower, r.upper, r.keys) for r in ranges if r.keys] == [(None, b"c", 2), (b"c", None, 2)]


def test_with_fewer_keys_than_ranges_every_key_of_equal_weight_gets_one() -> None:
    ranges = cut(catalogue({b"a": 1, b"b": 1, b"c": 1}), 5)
    assert sorted(r.keys for r in ranges) == [0, 0, 1, 1, 1]


def test_a_place_without_keys_has_one_range_that_holds_everything_and_others_that_hold_nothing() -> None:
    first, *others = cut(catalogue({}), 4)
    assert (first.lower, first.upper, first.keys) == (None, None, 0)
    assert all(not holds(r, key) for r in others for key in (b"", b"a", b"\xff"))


@pytest.mark.parametrize(
    ("count", "first", "last"),
    [(1, "00", "00"), (16, "00", "15"), (100, "00", "99"), (101, "000", "100"), (256, "000", "255")],
)
def test_ranges_are_named_by_number_with_equal_width(count: int, first: str, last: str) -> None:
    names = range_names(count)
    assert (names[0], names[-1], len(names)) == (first, last, count)
    assert list(names) == sorted(set(names))


@pytest.mark.parametrize("count", [0, -1, 257])
def test_there_are_between_1_and_256_ranges(count: int) -> None:
    with pytest.raises(ValueError, match="256"):
        range_names(count)


# Spans -----------------------------------------------------------------------------------------------------------------


@quick
@given(weighted_keys, st.integers(1, 30), st.integers(1, 25), st.one_of(st.integers(1, 4), st.integers(1, 100)))
def test_a_span_lists_exactly_the_keys_of_its_range_in_order(
    weights: dict[bytes, int], count: int, row_group: int, size: int
) -> None:
    file = catalogue(weights, row_group=row_group)
    keys = sorted(weights)
    for key_range in cut(file, count):
        span = Span(key_range, pq.ParquetFile(file))
        lists = list(span.keys(size))
        assert [key for part in lists for key in part] == [key for key in keys if holds(key_range, key)]
        assert all(len(part) == size for part in lists[:-1])
        assert all(part for part in lists)
        assert len(span) == key_range.keys
        assert (span.lower, span.upper) == (key_range.lower, key_range.upper)


# Sorting on disk -------------------------------------------------------------------------------------------------------


def written(*batches: pa.RecordBatch) -> list[tuple[bytes, int]]:
    file = io.BytesIO()
    write_catalogue(batches, file)
    table = pq.read_table(file)
    assert table.schema.equals(CATALOGUE)
    return list(zip(table["key"].to_pylist(), table["weight"].to_pylist(), strict=True))


def test_keys_are_sorted_by_their_bytes_and_listed_once() -> None:
    keys = [
        b"b",
        b"",
        b"\x00",
        b"a\x00",
        b"a",
        b"\xff\xfe",
        b"\xff",
        b"\x80",
        "é".encode(),
        b"b",
        b"",
        b"\x00\x00",
        b"A",
    ]
    assert [key for key, _ in written(batch(keys[:5]), batch(keys[5:]))] == sorted(set(keys))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=20), st.integers(0, 2**40)), max_size=50))
def test_a_repeated_key_counts_once_with_its_largest_weight(pairs: list[tuple[bytes, int]]) -> None:
    expected: dict[bytes, int] = {}
    for key, weight in pairs:
        expected[key] = max(weight, expected.get(key, 0))
    found = written(batch([key for key, _ in pairs], [weight for _, weight in pairs]))
    assert found == sorted(expected.items())


def test_a_place_without_keys_has_an_empty_catalogue() -> None:
    assert written() == []
    assert written(batch([])) == []


def test_keys_by_the_hundred_thousand_stay_in_order_and_can_be_read_range_by_range() -> None:
    rng = random.Random(1)
    keys = [rng.randbytes(rng.randrange(1, 12)) for _ in range(160_000)]
    file = io.BytesIO()
    write_catalogue((batch(keys[i : i + 10_000]) for i in range(0, len(keys), 10_000)), file)
    ranges = cut(file, 7)
    found = [key for r in ranges for part in Span(r, pq.ParquetFile(file)).keys(1000) for key in part]
    assert found == sorted(set(keys))


def scratch_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("agui-sort-*"))


def test_leaving_a_sort_early_leaves_no_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = sorted_on_disk([batch([b"%06d" % i for i in range(120_000)])], CATALOGUE, "SELECT * FROM rows ORDER BY key")
    assert next(rows).num_rows
    assert scratch_folders()
    rows.close()  # type: ignore[attr-defined]
    assert not scratch_folders()


def test_an_error_of_the_source_is_raised_as_it_is_and_leaves_no_scratch_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def interrupted() -> Iterator[pa.RecordBatch]:
        yield batch([b"a"])
        raise InterruptedConnectionError("The server went away.")

    with pytest.raises(InterruptedConnectionError, match=r"^The server went away\.$"):
        write_catalogue(interrupted(), io.BytesIO())
    assert not scratch_folders()


def test_single_spans_hold_one_key_each_and_bound_nothing_else() -> None:
    keys = [b"b", b"a", b"a\x02", b"ab", b"a"]

    spans = single_spans(keys)

    assert [span.key_set() for span in spans] == [{b"a"}, {b"a\x02"}, {b"ab"}, {b"b"}]
    for span in spans:
        assert [key for key in sorted(set(keys)) if span.lower <= key < span.upper] == sorted(span.key_set())
    assert single_spans([]) == []


def test_an_interruption_while_keys_arrive_is_raised_as_what_it_is() -> None:
    def arriving() -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist([{"key": b"a", "weight": 1}], CATALOGUE)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(sorted_on_disk(arriving(), CATALOGUE, "SELECT * FROM rows"))


def test_an_interruption_while_duckdb_works_is_raised_as_what_it_is() -> None:
    with duckdb.connect() as connection, pytest.raises(KeyboardInterrupt), interruptions_told():
        timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
        timer.start()
        connection.execute("SELECT count(*) FROM range(20000) a, range(20000) b WHERE a.range * b.range % 7 = 1")


def test_other_errors_are_not_taken_for_interruptions() -> None:
    with pytest.raises(RuntimeError, match="mine"), interruptions_told():
        raise RuntimeError("mine")


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        ([], []),
        (["02"], [["02"]]),
        (["07", "00", "01", "03"], [["00", "01"], ["03"], ["07"]]),
        (["01", "02", "03"], [["01", "02", "03"]]),
    ],
)
def test_ranges_that_follow_each_other_go_together(names, groups):
    assert adjacent(names, range_names(8)) == groups
