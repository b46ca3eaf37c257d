from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from agui_pipelines.canonical import Trait, digest
from agui_pipelines.records import (
    DIGESTED,
    REJECT,
    SCHEMAS,
    SNAPSHOT,
    STATE,
    VERSION,
    Kind,
    Reject,
    digested,
    id_columns,
    instant,
    reject_batch,
    sliced,
)

quick = settings(max_examples=150, deadline=None)

DEEP = b'{"a":' * 300 + b"1" + b"}" * 300


def states(*documents: bytes) -> pa.RecordBatch:
    rows = [{"state_id": f"s{i}", "data": document} for i, document in enumerate(documents)]
    return pa.RecordBatch.from_pylist(rows, schema=STATE)


def version(**changes: Any) -> dict[str, Any]:
    row = {"state_id": "s", "version_id": "v", "timestamp": "2025-07-14T09:30:15Z", "data": b"{}", "parent_id": ""}
    return {**row, "delta": None, "metadata": None, "extra": None, **changes}


def snapshot(**changes: Any) -> dict[str, Any]:
    row = {"state_id": "s", "snapshot_id": "x", "timestamp": "2025-07-14T09:30:15Z", "data": b"{}", "version_id": ""}
    return {**row, "metadata": None, "extra": None, **changes}


def digests_of(kind: Kind, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    batch, unusable = digested(kind, pa.RecordBatch.from_pylist(list(rows), schema=SCHEMAS[kind]))
    assert unusable == []
    return [
        {**row, "spelling": row["spelling"] if row["spelling"] is not None else row["canonical"]}
        for row in batch.select(["canonical", "spelling", "traits"]).to_pylist()
    ]


# States ----------------------------------------------------------------------------------------------------------------


def test_a_state_gets_the_digests_size_and_traits_of_its_document() -> None:
    documents = [b'{"a":1}', b'{ "a" : 1.0 }', b'{"a":"\\u0000"}', b'{"a":1,"a":2}']
    batch, unusable = digested(Kind.STATE, states(*documents))
    assert unusable == []
    assert batch.schema == DIGESTED[Kind.STATE]
    for row, document in zip(batch.to_pylist(), documents, strict=True):
        expected = digest(document)
        assert row["raw_digest"] == xxh3_128_digest(document)
        assert row["canonical"] == expected.canonical
        assert row["spelling"] == (None if expected.spelling == expected.canonical else expected.spelling)
        assert row["traits"] == expected.traits
        assert row["size"] == len(document)


def test_the_columns_of_a_bare_batch_are_carried_on_unchanged() -> None:
    expiry = datetime(2030, 1, 1, 0, 0, 0, 1000, UTC)
    row = {"state_id": "é", "data": b"{}", "created_at": "x", "updated_at": None, "expires_at": expiry}
    bare = pa.RecordBatch.from_pylist([row], schema=STATE)
    batch, _ = digested(Kind.STATE, bare)
    assert batch.select(STATE.names).equals(bare)


def test_unusable_rows_are_left_out_and_named_with_their_traits() -> None:
    documents = [b"[]", b'{"a":1}', b"\xff", b'{"b":2}', DEEP, b"", b"null"]
    batch, unusable = digested(Kind.STATE, states(*documents))
    assert batch.column("data").to_pylist() == [b'{"a":1}', b'{"b":2}']
    assert batch.column("state_id").to_pylist() == ["s1", "s3"]
    assert batch.column("canonical").to_pylist() == [digest(b'{"a":1}').canonical, digest(b'{"b":2}').canonical]
    assert [row for row, _ in unusable] == [0, 2, 4, 5, 6]
    assert [traits for _, traits in unusable] == [
        Trait.NOT_OBJECT,
        Trait.INVALID,
        Trait.TOO_DEEP,
        Trait.INVALID,
        Trait.NOT_OBJECT,
    ]


@pytest.mark.parametrize("kind", list(Kind))
def test_an_empty_batch_stays_empty(kind: Kind) -> None:
    batch, unusable = digested(kind, pa.RecordBatch.from_pylist([], schema=SCHEMAS[kind]))
    assert (batch.num_rows, batch.schema, unusable) == (0, DIGESTED[kind], [])


@pytest.mark.parametrize("kind", list(Kind))
def test_a_batch_of_nothing_but_unusable_rows_leaves_an_empty_batch(kind: Kind) -> None:
    row = {
        Kind.STATE: {"state_id": "s", "data": b""},
        Kind.VERSION: version(data=b""),
        Kind.SNAPSHOT: snapshot(data=b""),
    }
    batch, unusable = digested(kind, pa.RecordBatch.from_pylist([row[kind]], schema=SCHEMAS[kind]))
    assert (batch.num_rows, batch.schema, unusable) == (0, DIGESTED[kind], [(0, Trait.INVALID)])


def test_a_slice_of_a_batch_is_digested_like_a_batch_of_its_own() -> None:
    whole = states(b'{"a":1}', b"x", b'{"a":3}', b'{"a":4}')
    of_slice, unusable = digested(Kind.STATE, whole.slice(1, 2))
    assert unusable == [(0, Trait.INVALID)]
    assert of_slice.column("canonical").to_pylist() == [digest(b'{"a":3}').canonical]


# Versions and snapshots ------------------------------------------------------------------------------------------------

ids = st.sampled_from(["", "a", "b", "ab", "é"])
timestamps = st.sampled_from(
    [
        "2025-07-14T09:30:15Z",
        "2025-07-14T09:30:15.000Z",
        "2025-07-14T05:30:15-04:00",
        "2025-07-14T09:30:15.000001Z",
        "yesterday",
        "",
    ]
)
objects = st.sampled_from([b"{}", b'{"a":1}', b'{"a":1.0}', b'{"a": 1}', b'{"a":"1"}', b'{"b":1}'])
parts = st.sampled_from([None, b"null", b"[]", b"{}", b'""', b'{"a":1}', b'{"a":1e0}', b'[{"op":"add"}]', b"1", b"1.0"])

versions = st.fixed_dictionaries(
    {
        "state_id": ids,
        "version_id": ids,
        "timestamp": timestamps,
        "data": objects,
        "delta": parts,
        "metadata": parts,
        "parent_id": ids,
        "extra": parts,
    }
)
snapshots = st.fixed_dictionaries(
    {
        "state_id": ids,
        "snapshot_id": ids,
        "timestamp": timestamps,
        "data": objects,
        "version_id": ids,
        "metadata": parts,
        "extra": parts,
    }
)


@st.composite
def two_rows(draw: st.DrawFn, rows: st.SearchStrategy[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two rows that often differ in one field, or hold the same contents in other fields."""
    first, second = draw(rows), draw(rows)
    match draw(st.sampled_from(["independent", "one field", "swapped"])):
        case "one field":
            name = draw(st.sampled_from(sorted(first)))
            return first, {**first, name: second[name]}
        case "swapped":
            groups = (
                ["delta", "metadata", "extra", "data"],
                ["state_id", "version_id", "parent_id", "snapshot_id"],
            )
            names = [name for name in draw(st.sampled_from(groups)) if name in first]
            one, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
            swapped = {**first, one: first[other], other: first[one]}
            return first, swapped if isinstance(swapped["data"], bytes) and swapped["data"][:1] == b"{" else first
        case _:
            return first, second


def meaning(row: dict[str, Any], *, spelled: bool) -> tuple[Any, ...]:
    """What must be equal for two rows to be equal, by value or as they are spelled."""
    found = []
    for name in sorted(row):
        value = row[name]
        if name == "timestamp":
            found.append(value if spelled or value in ("yesterday", "") else datetime.fromisoformat(value))
        elif isinstance(value, bytes):
            digests = digest(value)
            found.append(digests.spelling if spelled else digests.canonical)
        else:
            found.append(value)
    return tuple(found)


@pytest.mark.parametrize(("kind", "rows"), [(Kind.VERSION, versions), (Kind.SNAPSHOT, snapshots)])
def test_the_digests_of_a_whole_record_are_equal_exactly_when_all_its_fields_are(
    kind: Kind, rows: st.SearchStrategy[dict[str, Any]]
) -> None:
    @settings(max_examples=250, deadline=None)
    @given(two_rows(rows))
    def holds(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
        first, second = digests_of(kind, *pair)
        for name, spelled in (("canonical", False), ("spelling", True)):
            equal = meaning(pair[0], spelled=spelled) == meaning(pair[1], spelled=spelled)
            assert (first[name] == second[name]) == equal, name

    holds()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"delta": b"{}", "metadata": None}, {"delta": None, "metadata": b"{}"}),
        ({"metadata": b"{}", "extra": None}, {"metadata": None, "extra": b"{}"}),
        ({"delta": b"[]"}, {"delta": None}),
        ({"delta": b"[]"}, {"delta": b"{}"}),
        ({"delta": b"null"}, {"delta": None}),
        ({"metadata": b'""'}, {"metadata": None}),
        ({"state_id": "ab", "version_id": "c"}, {"state_id": "a", "version_id": "bc"}),
        ({"state_id": "a", "version_id": ""}, {"state_id": "", "version_id": "a"}),
        ({"version_id": "v", "parent_id": ""}, {"version_id": "", "parent_id": "v"}),
        ({"timestamp": "x", "parent_id": ""}, {"timestamp": "", "parent_id": "x"}),
        ({"data": b'{"a":1}', "metadata": b"{}"}, {"data": b"{}", "metadata": b'{"a":1}'}),
    ],
)
def test_moving_content_between_the_fields_of_a_version_changes_its_digests(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = digests_of(Kind.VERSION, version(**one), version(**other))
    assert first["canonical"] != second["canonical"]
    assert first["spelling"] != second["spelling"]


def test_one_moment_in_two_spellings_differs_in_spelling_only() -> None:
    first, second, third = digests_of(
        Kind.VERSION,
        version(timestamp="2025-07-14T09:30:15.12-04:00"),
        version(timestamp="2025-07-14T13:30:15.120Z"),
        version(timestamp="2025-07-14T13:30:15.121Z"),
    )
    assert first["canonical"] == second["canonical"] != third["canonical"]
    assert first["spelling"] != second["spelling"]


def test_the_digest_of_a_version_is_not_that_of_its_document() -> None:
    (found,) = digests_of(Kind.VERSION, version(data=b'{"a":1}'))
    assert found["canonical"] != digest(b'{"a":1}').canonical


def test_the_raw_digest_and_size_of_a_version_are_those_of_its_document() -> None:
    document = b'{ "a": 1.0 }'
    batch, _ = digested(Kind.VERSION, pa.RecordBatch.from_pylist([version(data=document)], schema=VERSION))
    assert batch.column("raw_digest").to_pylist() == [xxh3_128_digest(document)]
    assert batch.column("size").to_pylist() == [len(document)]


@pytest.mark.parametrize("part", ["delta", "metadata", "extra"])
@pytest.mark.parametrize(
    ("content", "traits"),
    [
        (b'{"a":"\\u0000"}', Trait.NUL),
        (b'{"a":"\\ud800"}', Trait.LONE_SURROGATE),
        (b'{"a":1,"a":2}', Trait.DUPLICATE_KEYS),
        (b'{"a":1e200000}', Trait.EXTREME_NUMBER),
        (b"[]", Trait.NONE),
    ],
)
def test_the_traits_of_a_version_are_those_of_all_its_parts(part: str, content: bytes, traits: int) -> None:
    (found,) = digests_of(Kind.VERSION, version(**{part: content}))
    assert found["traits"] == traits


@pytest.mark.parametrize("part", ["delta", "metadata", "extra"])
@pytest.mark.parametrize(
    ("content", "trait"),
    [(b"nonsense", Trait.INVALID), (b'{"a":"\xff"}', Trait.INVALID), (b"", Trait.INVALID), (DEEP, Trait.TOO_DEEP)],
    ids=["text", "invalid utf-8", "empty", "too deep"],
)
def test_a_version_with_a_part_that_is_not_usable_json_is_unusable(part: str, content: bytes, trait: int) -> None:
    rows = [version(), version(**{part: content}), version(version_id="w")]
    batch, unusable = digested(Kind.VERSION, pa.RecordBatch.from_pylist(rows, schema=VERSION))
    assert batch.column("version_id").to_pylist() == ["v", "w"]
    assert [(row, traits & trait) for row, traits in unusable] == [(1, trait)]


@pytest.mark.parametrize("kind", [Kind.VERSION, Kind.SNAPSHOT])
def test_unusable_rows_do_not_shift_the_digests_of_the_others(kind: Kind) -> None:
    make = version if kind is Kind.VERSION else snapshot
    good = [make(data=b'{"a":1}'), make(data=b'{"a":2}')]
    rows = [make(data=b"["), good[0], make(data=b"1"), good[1]]
    batch, unusable = digested(kind, pa.RecordBatch.from_pylist(rows, schema=SCHEMAS[kind]))
    assert [row for row, _ in unusable] == [0, 2]
    assert batch.column("canonical").to_pylist() == [d["canonical"] for d in digests_of(kind, *good)]


# Times -----------------------------------------------------------------------------------------------------------------


@quick
@given(
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),  # noqa: DTZ001 - given an offset below
    st.integers(-23 * 60, 23 * 60),
    st.integers(-23 * 60, 23 * 60),
)
def test_one_moment_is_one_text_in_whatever_offset(moment: datetime, one: int, other: int) -> None:
    first = moment.replace(tzinfo=timezone(timedelta(minutes=one)))
    second = first.astimezone(timezone(timedelta(minutes=other)))
    assert instant(first.isoformat()) == instant(second.isoformat())


@quick
@given(
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.just(UTC)),  # noqa: DTZ001 - the bounds must be naive
    st.timedeltas(timedelta(microseconds=1), timedelta(days=1)),
)
def test_moments_a_microsecond_or_more_apart_are_different_texts(moment: datetime, later: timedelta) -> None:
    assert instant(moment.isoformat()) != instant((moment + later).isoformat())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2025-07-14T09:30:15Z", "2025-07-14T09:30:15z"),
        ("2025-07-14T09:30:15Z", "2025-07-14 09:30:15+00:00"),
        ("2025-07-14T09:30:15Z", "2025-07-14t09:30:15.000000000-00:00"),
        ("2025-07-14T09:30:15.1Z", "2025-07-14T09:30:15.100000Z"),
        ("2025-07-14T09:30:15.123456Z", "2025-07-14T09:30:15.123456000Z"),
        ("2024-12-31T23:59:59-01:00", "2025-01-01T00:59:59Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
    ],
)
def test_spellings_of_one_moment(one: str, other: str) -> None:
    assert instant(one) == instant(other)


def test_the_year_of_a_moment_has_four_digits() -> None:
    # The zero time of the reference store, and one that its offset takes into an earlier year.
    assert instant("0001-01-01T00:00:00Z") == "0001-01-01T00:00:00.000000Z"
    assert instant("1000-01-01T00:00:00+01:00") == "0999-12-31T23:00:00.000000Z"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2025-07-14",
        "2025-07-14T09:30:15",
        "2025-13-14T09:30:15Z",
        "2025-07-14T09:30:60Z",
        "2025-07-14T09:30:15+99:00",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "1752485415",
        "２０２５-07-14T09:30:15Z",
    ],
)
def test_what_is_no_moment_stays_as_it_is(text: str) -> None:
    assert instant(text) == text


# Batches and rejects ---------------------------------------------------------------------------------------------------


@quick
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 120))
def test_slices_hold_all_rows_in_order_and_no_more_than_the_limit_or_one_row(lengths: list[int], limit: int) -> None:
    batch = states(*(b"x" * length for length in lengths))
    pieces = list(sliced(batch, limit))
    assert [row for piece in pieces for row in piece.to_pylist()] == batch.to_pylist()
    for piece in pieces:
        held = sum(len(document) for document in piece.column("data").to_pylist())
        assert held <= limit or piece.num_rows == 1
        assert piece.num_rows or not lengths


def test_a_batch_below_the_limit_is_one_slice() -> None:
    batch = states(b"{}", b"{}")
    assert [piece.num_rows for piece in sliced(batch, 1_000_000)] == [2]


def test_a_column_with_nulls_can_be_what_slices_are_measured_by() -> None:
    rows = [version(delta=None), version(delta=b"x" * 10), version(delta=b"x" * 10), version(delta=None)]
    batch = pa.RecordBatch.from_pylist(rows, schema=VERSION)
    assert [piece.num_rows for piece in sliced(batch, 10, column="delta")] == [2, 2]


def test_rejects_become_a_batch_that_keeps_every_byte() -> None:
    rejects = [
        Reject(Kind.STATE, b"\xff\x00", b"\x1f\x8b", "export", "undecodable", "no JSON"),
        Reject(Kind.VERSION, b"a/b", None, "transform", "refused", ""),
    ]
    batch = reject_batch(rejects)
    assert batch.schema == REJECT
    assert [Reject(**{**row, "kind": Kind(row["kind"])}) for row in batch.to_pylist()] == rejects


def test_a_reject_has_a_printable_name_whatever_bytes_its_id_holds() -> None:
    assert Reject(Kind.STATE, b"a\xffb", None, "", "", "").name == "a\\xffb"
    assert Reject(Kind.STATE, "é".encode(), None, "", "", "").name == "é"


def test_a_record_is_named_by_its_state_and_its_own_id() -> None:
    assert id_columns(Kind.STATE) == ("state_id",)
    assert id_columns(Kind.VERSION) == ("state_id", "version_id")
    assert id_columns(Kind.SNAPSHOT) == ("state_id", "snapshot_id")
    for kind in Kind:
        assert all(not SCHEMAS[kind].field(name).nullable for name in id_columns(kind))


def test_the_schema_of_a_snapshot_record_has_no_delta() -> None:
    assert "delta" not in SNAPSHOT.names
    assert DIGESTED[Kind.SNAPSHOT].names[: len(SNAPSHOT.names)] == SNAPSHOT.names
