"""What documents carry of what a target has no place for comes out again as it went in."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from agui_pipelines import documents
from agui_pipelines.records import STATE
from agui_pipelines.transforms.kept import MEMBER, carried, restored

TIME = "2025-07-14T09:30:15.123456789+02:00"
EXPIRES = datetime(2100, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
EVERY = ("timestamps", "expiry")


def states(*rows: dict[str, object]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"state_id": str(i), **row} for i, row in enumerate(rows)], schema=STATE)


def losing(batch: pa.RecordBatch) -> dict[str, pa.BooleanArray]:
    """As a store that has no place for anything."""
    rows = batch.to_pylist()
    return {
        "timestamps": pa.array(
            [row["created_at"] is not None or row["updated_at"] is not None for row in rows], pa.bool_()
        ),
        "expiry": pa.array([row["expires_at"] is not None for row in rows], pa.bool_()),
    }


def without_times(batch: pa.RecordBatch) -> pa.RecordBatch:
    """As it comes back from such a store."""
    nothing = {
        name: pa.nulls(batch.num_rows, STATE.field(name).type) for name in ("created_at", "updated_at", "expires_at")
    }
    columns = {name: nothing.get(name, batch.column(name)) for name in STATE.names}
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=STATE)


def test_times_are_carried_under_the_names_of_the_guide() -> None:
    batch = states(
        {"data": b'{"n": 1 }', "created_at": TIME, "expires_at": EXPIRES}, {"data": b" { } ", "updated_at": TIME}
    )
    carrying, encoded = carried(batch, losing(batch), EVERY)
    assert carrying.column("data").to_pylist() == [
        b'{"n": 1,"_migration":{"original_created_at":"%b","original_expires_at":"2100-01-02T03:04:05.678Z"}}'
        % TIME.encode(),
        b' {"_migration":{"original_updated_at":"%b"}}' % TIME.encode(),
    ]
    assert {name: mask.to_pylist() for name, mask in encoded.items()} == {
        "timestamps": [True, True],
        "expiry": [True, False],
    }


def test_only_what_is_asked_for_is_carried() -> None:
    batch = states({"data": b"{}", "created_at": TIME, "expires_at": EXPIRES})
    assert carried(batch, losing(batch), ())[0].equals(batch)
    carrying, encoded = carried(batch, losing(batch), ("expiry",))
    assert json.loads(carrying.column("data")[0].as_py())[MEMBER] == {"original_expires_at": "2100-01-02T03:04:05.678Z"}
    assert list(encoded) == ["expiry"]


def test_what_a_document_carries_already_is_the_older_truth() -> None:
    old = {"original_created_at": "2001-01-01T00:00:00Z", "by": "the guide"}
    batch = states(
        {"data": json.dumps({MEMBER: old}).encode(), "created_at": TIME, "updated_at": TIME},
        {"data": b'{"_migration": 7}', "created_at": TIME},
        {"data": b'{"\\u005fmigration": {"by": "an escape"}}', "created_at": TIME},
    )
    carrying, _ = carried(batch, losing(batch), EVERY)
    found = [json.loads(document)[MEMBER] for document in carrying.column("data").to_pylist()]
    assert found == [
        {**old, "original_updated_at": TIME},
        {"original_created_at": TIME, "value": 7},
        {"original_created_at": TIME, "by": "an escape"},
    ]
    back = restored(without_times(carrying))
    assert [json.loads(document) for document in back.column("data").to_pylist()] == [
        {MEMBER: {"by": "the guide"}},
        {MEMBER: {"value": 7}},
        {MEMBER: {"by": "an escape"}},
    ]
    assert back.column("created_at").to_pylist() == [old["original_created_at"], TIME, TIME]


def test_what_is_no_time_is_somebody_elses() -> None:
    data = [
        b'{"_migration":{"original_created_at":"tomorrow"}}',
        b'{"_migration":{"original_created_at":5}}',
        b'{"_migration":"original_created_at"}',
        b'{"deep":{"_migration":{"original_created_at":"2001-01-01T00:00:00Z"}}}',
        b'{"text":"\\"_migration\\":{\\"original_created_at\\":\\"2001-01-01T00:00:00Z\\"}}"}',
    ]
    batch = states(*({"data": document} for document in data))
    assert restored(batch).to_pylist() == batch.to_pylist()


def test_the_moment_of_migration_goes_with_what_it_is_about() -> None:
    member = b'{"migrated_at":"2025-01-01T00:00:00Z","original_created_at":"2001-01-01T00:00:00Z"}'
    batch = restored(states({"data": b'{"n": 1e5, "_migration": %b}' % member}))
    assert documents.loads(batch.column("data")[0].as_py()) == {"n": 100000}
    assert batch.column("created_at").to_pylist() == ["2001-01-01T00:00:00Z"]


MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9998, 1, 1))  # noqa: DTZ001 - made aware below
TIMES = st.none() | MOMENTS.map(lambda m: m.isoformat() + "Z")
EXPIRIES = st.none() | MOMENTS.map(lambda m: m.replace(microsecond=m.microsecond // 1000 * 1000, tzinfo=UTC))
WHITE = st.sampled_from(["", " ", "\n\t"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just(MEMBER),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
DOCUMENTS = st.tuples(st.dictionaries(st.text(), JSON, max_size=4), WHITE, WHITE).map(
    lambda parts: (parts[1] + json.dumps(parts[0], ensure_ascii=bool(parts[2])) + parts[2]).encode("utf-8", "replace")
)


@given(
    st.lists(
        st.fixed_dictionaries({"data": DOCUMENTS, "created_at": TIMES, "updated_at": TIMES, "expires_at": EXPIRIES})
    )
)
def test_every_time_comes_back_and_no_document_changes(rows: list[dict[str, object]]) -> None:
    batch = states(*rows)
    carrying, _ = carried(batch, losing(batch), EVERY)
    back = restored(without_times(carrying)).to_pylist()
    for before, after in zip(batch.to_pylist(), back, strict=True):
        assert {k: v for k, v in after.items() if k != "data"} == {k: v for k, v in before.items() if k != "data"}
        assert json.loads(after["data"]) == json.loads(before["data"])


def test_an_untouched_document_keeps_every_byte_but_its_outer_white_space() -> None:
    document = '{ "n" : 1.0, "n": 1e5,\n "text": "\\u00e9\\ud800 é" }'.encode()
    batch = states({"data": document, "created_at": TIME}, {"data": document})
    carrying, _ = carried(batch, losing(batch), EVERY)
    assert restored(without_times(carrying)).column("data").to_pylist() == [document[:-2] + b"}", document]


def test_a_moment_that_no_calendar_has_is_no_expiry() -> None:
    batch = states({"data": b'{"_migration":{"original_expires_at":"9999-12-31T23:59:59-23:00"}}'})
    assert restored(batch).to_pylist() == batch.to_pylist()
