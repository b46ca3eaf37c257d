"""What every AG-UI store promises (`agui_pipelines.ports.Store`), tested on each of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agui_pipelines.canonical import digest
from agui_pipelines.errors import ConnectionFailedError, MigrationError, StoreError, UnstorableRecordError
from agui_pipelines.keyspace import CATALOGUE, Span, cut, write_catalogue
from agui_pipelines.ports import BATCH_BYTES, Snapshot, Store, Version, Written
from agui_pipelines.records import SCHEMAS, Kind, Reject, digested, id_columns
from agui_pipelines.stores.bodies import nanoseconds, snapshot_parts, version_parts
from tests.vectors import DOCUMENTS, IDS

if TYPE_CHECKING:
    from tests.contract.conftest import Backend

CANARY = "canary-5b1e"
TIME = "2025-07-14T09:30:15.123456Z"

# The three examples of store-format.md, section 1.
VERSION = rb'{"ID":"9f86d081884c7d659a2feaa0c55ad015","Timestamp":"2025-07-14T09:30:15.123456789Z","State":{"n":3,"t":"\u003cb\u003e\u0026","z":null},"Delta":[{"op":"add","path":"/user","value":{"name":"Ada"}},{"op":"replace","path":"/z"},{"op":"move","path":"/b","from":"/a"}],"Metadata":{"source":"migration"},"ParentID":"60303ae22b998861bce3b28f33eec1be"}'
FIRST = b'{"ID":"id0","Timestamp":"2025-07-14T09:30:15.12-04:00","State":{},"Delta":null,"Metadata":null,"ParentID":""}'
SNAPSHOT = b'{"ID":"s1","Timestamp":"2025-07-14T09:30:15Z","State":{"a":[],"b":{}},"Version":"9f86d081884c7d659a2feaa0c55ad015","Metadata":{}}'


def batch(kind: Kind, *rows: dict[str, Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=SCHEMAS[kind])


def state_row(state_id: str, data: bytes = b"{}", **columns: Any) -> dict[str, Any]:
    return {"state_id": state_id, "data": data, **columns}


def version_row(state_id: str, version_id: str, **columns: Any) -> dict[str, Any]:
    row = {"state_id": state_id, "version_id": version_id, "timestamp": TIME, "data": b"{}", "delta": None}
    return {**row, "metadata": None, "parent_id": "", "extra": None, **columns}


def snapshot_row(state_id: str, snapshot_id: str, **columns: Any) -> dict[str, Any]:
    row = {"state_id": state_id, "snapshot_id": snapshot_id, "timestamp": TIME, "data": b"{}", "version_id": ""}
    return {**row, "metadata": None, "extra": None, **columns}


def spans(store: Store, ranges: int) -> Iterator[Span]:
    """The key ranges of a store, as a plan cuts them."""
    file = io.BytesIO()
    write_catalogue(store.keys(), file)
    for key_range in cut(file, ranges):
        yield Span(key_range, pq.ParquetFile(file))


def everything(store: Store, kind: Kind, *, ranges: int = 3) -> list[dict[str, Any]]:
    """All records of a kind, read range by range. Fails if one comes twice, or anything is rejected."""
    rejects: list[Reject] = []
    rows = [
        row
        for span in spans(store, ranges)
        for found in store.read(kind, span, rejects.append)
        for row in checked(kind, found)
    ]
    assert rejects == []
    names = [tuple(row[c] for c in id_columns(kind)) for row in rows]
    assert len(set(names)) == len(names)
    return rows


def checked(kind: Kind, found: pa.RecordBatch) -> list[dict[str, Any]]:
    assert found.schema.equals(SCHEMAS[kind])
    found.validate(full=True)
    documents = sum(len(document) for document in found.column("data").to_pylist())
    assert found.num_rows == 1 or documents <= BATCH_BYTES
    return found.to_pylist()


def keys(store: Store) -> set[bytes]:
    batches = store.keys()
    return {key for found in batches for key in found.column("key").to_pylist()}


def states(store: Store) -> dict[str, bytes]:
    return {row["state_id"]: row["data"] for row in everything(store, Kind.STATE)}


def same(one: bytes | None, other: bytes | None) -> bool:
    """Whether two JSON texts are the same value, to the last digit; None is the same as None only."""
    if one is None or other is None:
        return one is other
    return digest(one).canonical == digest(other).canonical


def difference(kind: Kind, sent: dict[str, Any], got: dict[str, Any]) -> list[str]:
    """The columns in which two records differ; JSON counts by value, times as moments."""
    schema = SCHEMAS[kind]
    columns = [field.name for field in schema if not _equal(field, sent.get(field.name), got.get(field.name))]
    return [c for c in columns if c not in ("created_at", "updated_at")]


def _equal(field: pa.Field, one: Any, other: Any) -> bool:
    if pa.types.is_binary(field.type):
        return same(one, other)
    if field.name == "timestamp":
        return nanoseconds(one) == nanoseconds(other)
    return one == other


def as_row(record: Version | Snapshot) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


# One by one


def test_a_state_that_is_set_can_be_got_and_listed(store: Store, other: Store) -> None:
    store.set_state("user-1", b'{"n": 1}')
    assert same(store.get_state("user-1"), b'{"n":1}')
    assert same(other.get_state("user-1"), b'{"n":1}')
    assert list(other.list_states()) == ["user-1"]


def test_setting_a_state_again_replaces_its_document(store: Store) -> None:
    store.set_state("user-1", b'{"n":1,"old":true}')
    store.set_state("user-1", b'{"n":2}')
    assert same(store.get_state("user-1"), b'{"n":2}')
    assert list(store.list_states()) == ["user-1"]


def test_what_is_not_there_is_none(store: Store) -> None:
    store.set_state("user-1", b"{}")
    assert store.get_state("user-2") is None
    assert store.get_state("user") is None
    assert store.get_version("user-1", "v1") is None
    assert store.get_snapshot("user-1", "s1") is None
    assert list(store.get_version_history("user-1")) == []
    assert list(store.list_snapshots("user-1")) == []


def test_deleting_tells_whether_there_was_a_state_and_leaves_its_history(store: Store) -> None:
    store.set_state("user-1", b"{}")
    store.save_version(Version("v1", "user-1", TIME, b"{}"))
    store.save_snapshot(Snapshot("s1", "user-1", TIME, b"{}"))
    assert store.delete_state("user-1") is True
    assert store.delete_state("user-1") is False
    assert store.get_state("user-1") is None
    assert list(store.list_states()) == []
    assert [v.version_id for v in store.get_version_history("user-1")] == ["v1"]
    assert [s.snapshot_id for s in store.list_snapshots("user-1")] == ["s1"]


def test_versions_and_snapshots_are_got_as_they_were_saved(store: Store, other: Store) -> None:
    version = Version(
        "v2", "user-1", TIME, b'{"n":1.50}', b'[{"op":"add","path":"/n","value":1.50}]', b'{"by":"me"}', "v1"
    )
    snapshot = Snapshot("s1", "user-1", TIME, b'{"n":1.50}', "v2", b'{"by":"me"}')
    store.save_version(version)
    store.save_snapshot(snapshot)
    got_version, got_snapshot = other.get_version("user-1", "v2"), other.get_snapshot("user-1", "s1")
    assert got_version is not None
    assert got_snapshot is not None
    assert difference(Kind.VERSION, as_row(version), as_row(got_version)) == []
    assert difference(Kind.SNAPSHOT, as_row(snapshot), as_row(got_snapshot)) == []
    assert [difference(Kind.VERSION, as_row(version), as_row(v)) for v in other.get_version_history("user-1")] == [[]]
    assert [difference(Kind.SNAPSHOT, as_row(snapshot), as_row(s)) for s in other.list_snapshots("user-1")] == [[]]


def test_saving_a_version_or_snapshot_again_replaces_it(store: Store) -> None:
    for n in (1, 2):
        store.save_version(Version("v1", "user-1", TIME, b'{"n":%d}' % n, metadata=b'{"m":%d}' % n))
        store.save_snapshot(Snapshot("s1", "user-1", TIME, b'{"n":%d}' % n))
    [version], [snapshot] = store.get_version_history("user-1"), store.list_snapshots("user-1")
    assert same(version.data, b'{"n":2}')
    assert same(version.metadata, b'{"m":2}')
    assert same(snapshot.data, b'{"n":2}')


def test_a_version_belongs_to_its_state_only(store: Store) -> None:
    store.save_version(Version("v1", "user-1", TIME, b"{}"))
    store.save_snapshot(Snapshot("s1", "user-1", TIME, b"{}"))
    for another in ("user", "user-10", "user-2", "USER-1"):
        assert store.get_version(another, "v1") is None
        assert store.get_snapshot(another, "s1") is None
        assert list(store.get_version_history(another)) == []
        assert list(store.list_snapshots(another)) == []


MOMENTS = {
    "zero": "0001-01-01T00:00:00Z",
    "old": "1969-12-31T23:59:59.5Z",
    "a": "2025-07-14T09:30:15Z",
    "z": "2025-07-14T09:30:15.000001Z",
    "west": "2025-07-14T05:30:16-04:00",
    "b": "2025-07-14T09:30:16.999999Z",
    "east": "2025-07-14T15:15:17.5+05:45",
    "future": "2100-01-01T00:00:00Z",
}
NEWEST_FIRST = ["future", "east", "b", "west", "z", "a", "old", "zero"]


def test_the_newest_versions_and_snapshots_come_first(store: Store) -> None:
    assert sorted(MOMENTS, key=lambda id_: nanoseconds(MOMENTS[id_]), reverse=True) == NEWEST_FIRST
    for id_, moment in MOMENTS.items():
        store.save_version(Version(id_, "user-1", moment, b"{}"))
        store.save_snapshot(Snapshot(id_, "user-1", moment, b"{}"))
    assert [v.version_id for v in store.get_version_history("user-1")] == NEWEST_FIRST
    assert [s.snapshot_id for s in store.list_snapshots("user-1")] == NEWEST_FIRST


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 100])
def test_a_limit_keeps_the_newest_versions(store: Store, limit: int) -> None:
    store.write(Kind.VERSION, batch(Kind.VERSION, *(version_row("u", i, timestamp=t) for i, t in MOMENTS.items())))
    assert [v.version_id for v in store.get_version_history("u", limit)] == NEWEST_FIRST[:limit]


def test_a_long_history_is_complete(store: Store) -> None:
    rows = [
        version_row(state_id, f"v{i:04}-{state_id}", timestamp=f"2025-07-14T{i // 60:02}:{i % 60:02}:00Z")
        for i in range(1230)
        for state_id in ("busy", "calm")
        if state_id == "busy" or i < 2
    ]
    for first in range(0, len(rows), 500):
        store.write(Kind.VERSION, batch(Kind.VERSION, *rows[first : first + 500]))
    assert [v.version_id for v in store.get_version_history("busy")] == [f"v{i:04}-busy" for i in range(1229, -1, -1)]
    assert [v.version_id for v in store.get_version_history("busy", 3)] == [f"v{i:04}-busy" for i in (1229, 1228, 1227)]
    assert len(everything(store, Kind.VERSION)) == 1232


# Transactions


def test_what_a_transaction_writes_becomes_visible_together_at_its_end(store: Store, other: Store) -> None:
    store.set_state("gone", b"{}")
    with store.transaction() as transaction:
        transaction.set_state("user-1", b'{"n":1}')
        transaction.save_version(Version("v1", "user-1", TIME, b'{"n":1}'))
        transaction.save_snapshot(Snapshot("s1", "user-1", TIME, b'{"n":1}'))
        transaction.delete_state("gone")
        assert other.get_state("user-1") is None
        assert other.get_version("user-1", "v1") is None
        assert other.get_state("gone") is not None
    assert same(other.get_state("user-1"), b'{"n":1}')
    assert other.get_version("user-1", "v1") is not None
    assert other.get_snapshot("user-1", "s1") is not None
    assert other.get_state("gone") is None
    assert [v.version_id for v in store.get_version_history("user-1")] == ["v1"]


def test_nothing_of_a_transaction_that_fails_stays(store: Store, other: Store) -> None:
    store.set_state("kept", b'{"n":1}')
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        transaction.set_state("user-1", b"{}")
        transaction.set_state("kept", b'{"n":2}')
        transaction.delete_state("kept")
        transaction.save_version(Version("v1", "user-1", TIME, b"{}"))
        transaction.save_snapshot(Snapshot("s1", "user-1", TIME, b"{}"))
        raise ZeroDivisionError
    for view in (store, other):
        assert list(view.list_states()) == ["kept"]
        assert same(view.get_state("kept"), b'{"n":1}')
        assert list(view.get_version_history("user-1")) == []
        assert list(view.list_snapshots("user-1")) == []
        assert keys(view) == {b"kept"}


def test_a_store_can_be_used_after_a_transaction_failed(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        transaction.set_state("a", b"{}")
        raise ZeroDivisionError
    store.set_state("b", b"{}")
    with store.transaction() as transaction:
        transaction.set_state("c", b"{}")
    assert sorted(states(store)) == ["b", "c"]


def test_a_transaction_without_writes_is_nothing(store: Store) -> None:
    with store.transaction():
        pass
    assert states(store) == {}


def test_a_store_can_be_read_within_its_own_transaction(store: Store) -> None:
    store.set_state("user-1", b'{"n":1}')
    with store.transaction() as transaction:
        before = store.get_state("user-1")
        history = store.get_version_history("user-1", 1)
        transaction.set_state("user-1", b'{"n":2}')
        transaction.save_version(Version("v1", "user-1", TIME, before or b"{}"))
    assert list(history) == []
    assert same(store.get_state("user-1"), b'{"n":2}')
    [version] = store.get_version_history("user-1")
    assert same(version.data, b'{"n":1}')


# Batches


def test_writing_tells_what_is_new_changed_and_unchanged(store: Store) -> None:
    first = batch(Kind.STATE, *(state_row(f"user-{i}", b'{"n":%d}' % i) for i in range(10)))
    assert store.write(Kind.STATE, first) == Written(inserted=10)
    assert store.write(Kind.STATE, first) == Written(unchanged=10)
    second = batch(Kind.STATE, *(state_row(f"user-{i}", b'{"n":%d}' % (i % 6)) for i in range(4, 14)))
    assert store.write(Kind.STATE, second) == Written(inserted=4, updated=4, unchanged=2)
    assert store.write(Kind.STATE, second) == Written(unchanged=10)
    assert len(states(store)) == 14


@pytest.mark.parametrize("kind", [Kind.VERSION, Kind.SNAPSHOT])
def test_writing_history_tells_what_is_new_changed_and_unchanged(store: Store, kind: Kind) -> None:
    row = version_row if kind is Kind.VERSION else snapshot_row
    first = batch(kind, *(row(f"user-{i}", f"id-{i}", data=b'{"n":%d}' % i) for i in range(6)))
    assert store.write(kind, first) == Written(inserted=6)
    assert store.write(kind, first) == Written(unchanged=6)
    second = batch(
        kind, row("user-0", "id-0", data=b'{"n":9}'), row("user-1", "id-1", data=b'{"n":1}'), row("user-1", "id-9")
    )
    assert store.write(kind, second) == Written(inserted=1, updated=1, unchanged=1)
    assert len(everything(store, kind)) == 7


def test_bare_and_digested_batches_are_written_alike(store: Store) -> None:
    for kind, row in (
        (Kind.STATE, state_row("user-1", b'{"n":1}')),
        (Kind.VERSION, version_row("user-1", "v1", delta=b"[]")),
        (Kind.SNAPSHOT, snapshot_row("user-1", "s1", metadata=b"{}")),
    ):
        bare = batch(kind, row)
        full, _ = digested(kind, bare)
        assert store.write(kind, full) == Written(inserted=1)
        assert store.write(kind, bare) == Written(unchanged=1)


def test_an_empty_batch_writes_nothing(store: Store) -> None:
    for kind in Kind:
        assert store.write(kind, batch(kind)) == Written()
    assert list(store.list_states()) == []


def test_a_slice_of_a_batch_writes_just_that(store: Store) -> None:
    whole = batch(Kind.STATE, *(state_row(f"user-{i}", b'{"n":%d}' % i) for i in range(10)))
    assert store.write(Kind.STATE, whole.slice(3, 2)) == Written(inserted=2)
    found = states(store)
    assert sorted(found) == ["user-3", "user-4"]
    assert same(found["user-3"], b'{"n":3}')
    assert same(found["user-4"], b'{"n":4}')


def test_what_is_written_in_batches_is_got_one_by_one_and_the_other_way_round(store: Store) -> None:
    store.write(Kind.STATE, batch(Kind.STATE, state_row("a", b'{"n":1}')))
    store.write(Kind.VERSION, batch(Kind.VERSION, version_row("a", "v1", parent_id="v0")))
    store.write(Kind.SNAPSHOT, batch(Kind.SNAPSHOT, snapshot_row("a", "s1", version_id="v1")))
    store.set_state("b", b'{"n":2}')
    store.save_version(Version("v2", "b", TIME, b"{}"))
    store.save_snapshot(Snapshot("s2", "b", TIME, b"{}"))
    assert same(store.get_state("a"), b'{"n":1}')
    assert [(v.version_id, v.parent_id) for v in store.get_version_history("a")] == [("v1", "v0")]
    assert [(s.snapshot_id, s.version_id) for s in store.list_snapshots("a")] == [("s1", "v1")]
    assert sorted(states(store)) == ["a", "b"]
    assert {(r["state_id"], r["version_id"]) for r in everything(store, Kind.VERSION)} == {("a", "v1"), ("b", "v2")}
    assert {(r["state_id"], r["snapshot_id"]) for r in everything(store, Kind.SNAPSHOT)} == {("a", "s1"), ("b", "s2")}


def test_what_was_written_is_there_for_another_after_a_flush(store: Store, backend: Backend) -> None:
    store.write(Kind.STATE, batch(Kind.STATE, *(state_row(f"user-{i}") for i in range(50))))
    store.flush()
    with closing(backend.open()) as second:
        assert len(states(second)) == 50


# Key ranges


@pytest.mark.parametrize("ranges", [1, 4, 16, 64])
def test_the_ranges_together_hold_every_record_once(store: Store, ranges: int) -> None:
    ids = [f"user-{i * 7919 % 1000:03}" for i in range(40)] + IDS
    store.write(Kind.STATE, batch(Kind.STATE, *(state_row(id_) for id_ in ids)))
    store.write(Kind.VERSION, batch(Kind.VERSION, *(version_row(id_, f"v{i}") for i, id_ in enumerate(ids))))
    store.write(Kind.SNAPSHOT, batch(Kind.SNAPSHOT, *(snapshot_row(id_, f"s{i}") for i, id_ in enumerate(ids))))
    for kind in store.kinds:
        assert sorted(row["state_id"] for row in everything(store, kind, ranges=ranges)) == sorted(ids)


def test_every_record_lies_in_the_range_of_its_state(store: Store) -> None:
    store.write(Kind.STATE, batch(Kind.STATE, *(state_row(id_) for id_ in IDS)))
    store.write(Kind.VERSION, batch(Kind.VERSION, *(version_row(id_, f"v{i}") for i, id_ in enumerate(IDS))))
    for span in spans(store, 5):
        expected = {key.decode() for keys in span.keys(100) for key in keys}
        for kind in (Kind.STATE, Kind.VERSION):
            found = [row for b in store.read(kind, span, lambda r: pytest.fail(str(r))) for row in b.to_pylist()]
            assert {row["state_id"] for row in found} == expected
            assert all((span.lower or b"") <= row["state_id"].encode() for row in found)
            assert all(span.upper is None or row["state_id"].encode() < span.upper for row in found)


def test_keys_are_those_of_every_state_that_has_anything(store: Store) -> None:
    store.set_state("with-state", b"{}")
    store.save_version(Version("v1", "with-version", TIME, b"{}"))
    store.save_snapshot(Snapshot("s1", "with-snapshot", TIME, b"{}"))
    batches = list(store.keys())
    assert all(found.schema.equals(CATALOGUE) for found in batches)
    assert {key for found in batches for key in found.column("key").to_pylist()} == {
        b"with-state",
        b"with-version",
        b"with-snapshot",
    }
    assert all(weight >= 1 for found in batches for weight in found.column("weight").to_pylist())
    assert list(store.list_states()) == ["with-state"]
    assert len(everything(store, Kind.VERSION)) == 1
    assert len(everything(store, Kind.SNAPSHOT)) == 1


def test_an_empty_store_has_no_keys_and_no_records(store: Store) -> None:
    assert keys(store) == set()
    assert list(store.list_states()) == []
    for kind in store.kinds:
        assert everything(store, kind, ranges=16) == []
    stats = store.stats()
    assert (stats.states, stats.versions, stats.snapshots) == (0, 0, 0)


def test_a_key_that_vanished_since_the_catalogue_was_made_is_passed_over(store: Store) -> None:
    for id_ in ("a", "b", "c"):
        store.set_state(id_, b"{}")
    [span] = spans(store, 1)
    store.delete_state("b")
    rejects: list[Reject] = []
    found = [row["state_id"] for b in store.read(Kind.STATE, span, rejects.append) for row in b.to_pylist()]
    assert sorted(found) == ["a", "c"]
    assert rejects == []


def test_a_store_can_be_used_after_a_read_was_left_in_the_middle(store: Store) -> None:
    document = b'{"text":"' + b"x" * 1_000_000 + b'"}'
    store.write(Kind.STATE, batch(Kind.STATE, *(state_row(f"user-{i:02}", document) for i in range(40))))
    [span] = spans(store, 1)
    reading = iter(store.read(Kind.STATE, span, lambda r: pytest.fail(str(r))))
    assert 0 < next(reading).num_rows < 40
    reading.close()  # type: ignore[attr-defined]
    store.set_state("user-00", b"{}")
    assert same(store.get_state("user-00"), b"{}")
    assert len(states(store)) == 40


# Removing


def ids(kind: Kind, *rows: tuple[str, ...]) -> pa.RecordBatch:
    """A batch of nothing but ids."""
    names = id_columns(kind)
    schema = pa.schema([SCHEMAS[kind].field(name) for name in names])
    return pa.RecordBatch.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema)


def filled(store: Store) -> None:
    store.write(Kind.STATE, batch(Kind.STATE, *map(state_row, ("a", "a:b", "c"))))
    versions = [("a", "v1"), ("a", "v2"), ("a:b", "v3"), ("c", "v4")]
    store.write(Kind.VERSION, batch(Kind.VERSION, *(version_row(*owned) for owned in versions)))
    store.write(Kind.SNAPSHOT, batch(Kind.SNAPSHOT, snapshot_row("a", "s1"), snapshot_row("c", "s2")))


def test_states_that_are_removed_are_gone_and_their_history_stays(store: Store) -> None:
    filled(store)
    assert store.remove(Kind.STATE, ids(Kind.STATE, ("a",), ("gone",), ("a:b",))) == 2
    store.flush()
    assert set(states(store)) == {"c"}
    assert len(everything(store, Kind.VERSION)) == 4
    assert len(everything(store, Kind.SNAPSHOT)) == 2
    assert store.remove(Kind.STATE, ids(Kind.STATE, ("a",), ("gone",), ("a:b",))) == 0


def test_versions_and_snapshots_that_are_removed_are_gone_and_the_others_stay(store: Store) -> None:
    filled(store)
    named = ids(Kind.VERSION, ("a", "v2"), ("a:b", "v3"), ("a", "gone"), ("gone", "v1"), ("c", "v1"))
    assert store.remove(Kind.VERSION, named) == 2
    assert store.remove(Kind.SNAPSHOT, ids(Kind.SNAPSHOT, ("c", "s2"))) == 1
    assert {(row["state_id"], row["version_id"]) for row in everything(store, Kind.VERSION)} == {
        ("a", "v1"),
        ("c", "v4"),
    }
    assert [row["snapshot_id"] for row in everything(store, Kind.SNAPSHOT)] == ["s1"]
    assert store.get_version("a", "v2") is None
    assert [v.version_id for v in store.get_version_history("a")] == ["v1"]
    assert set(states(store)) == {"a", "a:b", "c"}
    assert store.remove(Kind.VERSION, named) == 0


def test_what_was_removed_can_be_written_again(store: Store) -> None:
    filled(store)
    for kind, row in ((Kind.STATE, ("a",)), (Kind.VERSION, ("a", "v1")), (Kind.SNAPSHOT, ("a", "s1"))):
        assert store.remove(kind, ids(kind, row)) == 1
    filled(store)
    assert set(states(store)) == {"a", "a:b", "c"}
    assert len(everything(store, Kind.VERSION)) == 4
    assert len(everything(store, Kind.SNAPSHOT)) == 2


@pytest.mark.parametrize("kind", Kind)
def test_removing_what_no_store_could_hold_or_nothing_at_all_removes_nothing(store: Store, kind: Kind) -> None:
    filled(store)
    assert store.remove(kind, ids(kind)) == 0
    odd = ("../a", "a\x00", "x" * 300, "")
    assert store.remove(kind, ids(kind, *((id_, "v1")[: len(id_columns(kind))] for id_ in odd))) == 0
    assert store.remove(kind, ids(kind, *(("a", id_)[-len(id_columns(kind)) :] for id_ in odd))) == 0
    assert len(everything(store, Kind.VERSION)) == 4


# Nothing is lost


@pytest.mark.parametrize("id_", ["", *IDS])
def test_any_usual_id_is_kept_as_it_is(store: Store, id_: str) -> None:
    store.set_state(id_, b'{"n":1}')
    store.save_version(Version(id_, id_, TIME, b"{}", parent_id=id_))
    store.save_snapshot(Snapshot(id_, id_, TIME, b"{}", version_id=id_))
    assert same(store.get_state(id_), b'{"n":1}')
    assert list(store.list_states()) == [id_]
    assert [(v.state_id, v.version_id, v.parent_id) for v in store.get_version_history(id_)] == [(id_, id_, id_)]
    assert [(s.state_id, s.snapshot_id, s.version_id) for s in store.list_snapshots(id_)] == [(id_, id_, id_)]
    version, snapshot = store.get_version(id_, id_), store.get_snapshot(id_, id_)
    assert (version and version.version_id, snapshot and snapshot.snapshot_id) == (id_, id_)
    assert [row["state_id"] for row in everything(store, Kind.STATE)] == [id_]
    assert [row["version_id"] for row in everything(store, Kind.VERSION)] == [id_]
    assert [row["snapshot_id"] for row in everything(store, Kind.SNAPSHOT)] == [id_]
    assert store.delete_state(id_)


def test_ids_that_look_alike_stay_apart(store: Store) -> None:
    store.write(Kind.STATE, batch(Kind.STATE, *(state_row(id_, b'{"n":%d}' % n) for n, id_ in enumerate(IDS))))
    assert {id_: digest(data).canonical for id_, data in states(store).items()} == {
        id_: digest(b'{"n":%d}' % n).canonical for n, id_ in enumerate(IDS)
    }
    for n, id_ in enumerate(IDS):
        assert same(store.get_state(id_), b'{"n":%d}' % n)


def test_documents_keep_their_value_to_the_last_digit(store: Store) -> None:
    store.write(Kind.STATE, batch(Kind.STATE, *(state_row(name, data) for name, data in DOCUMENTS.items())))
    found = states(store)
    assert {name for name, data in DOCUMENTS.items() if not same(found[name], data)} == set()
    for name, data in DOCUMENTS.items():
        assert same(store.get_state(name), data), name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_set_one_by_one_keep_their_value_too(store: Store, name: str) -> None:
    store.set_state(name, DOCUMENTS[name])
    store.save_version(Version("v1", name, TIME, DOCUMENTS[name], metadata=DOCUMENTS[name]))
    store.save_snapshot(Snapshot("s1", name, TIME, DOCUMENTS[name], metadata=DOCUMENTS[name]))
    [version], [snapshot] = store.get_version_history(name), store.list_snapshots(name)
    for got in (store.get_state(name), version.data, version.metadata, snapshot.data, snapshot.metadata):
        assert same(got, DOCUMENTS[name])


def test_large_documents_come_in_batches_of_bounded_size(store: Store) -> None:
    document = b'{"text":"' + b"x" * 5_000_000 + b'"}'
    rows = [state_row(f"user-{i}", document) for i in range(7)]
    for row in rows:
        store.write(Kind.STATE, batch(Kind.STATE, row))
    store.write(Kind.STATE, batch(Kind.STATE, state_row("larger", b'{"text":"' + b"y" * 18_000_000 + b'"}')))
    assert sorted(len(data) // 1_000_000 for data in states(store).values()) == [5] * 7 + [18]


def test_no_delta_and_an_empty_one_stay_distinct(store: Store) -> None:
    parts = {
        "none": (None, None),
        "empty-list": (b"[]", b"{}"),
        "empty-object": (b"{}", b"[]"),
        "filled": (b'[{"op":"remove","path":"/a"}]', b'{"a":null}'),
    }
    rows = [version_row("u", id_, delta=delta, metadata=metadata) for id_, (delta, metadata) in parts.items()]
    store.write(Kind.VERSION, batch(Kind.VERSION, *rows))
    store.write(Kind.SNAPSHOT, batch(Kind.SNAPSHOT, *(snapshot_row("u", i, metadata=m) for i, (_, m) in parts.items())))
    versions = {row["version_id"]: row for row in everything(store, Kind.VERSION)}
    snapshots = {row["snapshot_id"]: row for row in everything(store, Kind.SNAPSHOT)}
    for id_, (delta, metadata) in parts.items():
        one = store.get_version("u", id_)
        assert one is not None
        for got in (versions[id_]["delta"], one.delta):
            assert same(got, delta), id_
        for got in (versions[id_]["metadata"], one.metadata, snapshots[id_]["metadata"]):
            assert same(got, metadata), id_


def test_a_version_without_a_parent_has_an_empty_one(store: Store) -> None:
    store.write(Kind.VERSION, batch(Kind.VERSION, version_row("u", "v1"), version_row("u", "v2", parent_id="v1")))
    store.write(Kind.SNAPSHOT, batch(Kind.SNAPSHOT, snapshot_row("u", "s1"), snapshot_row("u", "s2", version_id="v1")))
    assert {r["version_id"]: r["parent_id"] for r in everything(store, Kind.VERSION)} == {"v1": "", "v2": "v1"}
    assert {r["snapshot_id"]: r["version_id"] for r in everything(store, Kind.SNAPSHOT)} == {"s1": "", "s2": "v1"}
    assert {v.version_id: v.parent_id for v in store.get_version_history("u")} == {"v1": "", "v2": "v1"}


@pytest.mark.parametrize("body", [VERSION, FIRST])
def test_the_versions_of_the_format_come_back_as_they_are(store: Store, body: bytes) -> None:
    version = version_parts(body).of("user-1")
    store.write(Kind.VERSION, batch(Kind.VERSION, as_row(version)))
    [row] = everything(store, Kind.VERSION)
    one = store.get_version("user-1", version.version_id)
    assert one is not None
    for got in (row, as_row(one)):
        assert not_lost(store, Kind.VERSION, as_row(version), got) == []


def test_the_snapshot_of_the_format_comes_back_as_it_is(store: Store) -> None:
    snapshot = snapshot_parts(SNAPSHOT).of("user-1")
    store.write(Kind.SNAPSHOT, batch(Kind.SNAPSHOT, as_row(snapshot)))
    [row] = everything(store, Kind.SNAPSHOT)
    one = store.get_snapshot("user-1", snapshot.snapshot_id)
    assert one is not None
    for got in (row, as_row(one)):
        assert not_lost(store, Kind.SNAPSHOT, as_row(snapshot), got) == []


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (Kind.VERSION, version_row("u", "v1", extra=b'{"Tag":1.50,"more":{"b":[],"a":null}}')),
        (Kind.SNAPSHOT, snapshot_row("u", "s1", extra=b'{"Tag":[]}')),
    ],
)
def test_members_that_the_format_does_not_know_are_kept_or_refused_or_counted_as_lost(
    store: Store, kind: Kind, row: dict[str, Any]
) -> None:
    full, _ = digested(kind, batch(kind, row))
    if store.refusals(kind, full):
        with pytest.raises(UnstorableRecordError):
            store.write(kind, full)
        assert everything(store, kind) == []
    else:
        store.write(kind, full)
        [got] = everything(store, kind)
        assert not_lost(store, kind, row, got) == []


# A property of `Store.losses`, and the columns that it is about.
LOSSES = {"expiry": {"expires_at"}, "timestamps": {"timestamp"}, "sub_microseconds": {"timestamp"}, "extra": {"extra"}}


def not_lost(store: Store, kind: Kind, sent: dict[str, Any], got: dict[str, Any]) -> list[str]:
    """The columns that came back changed although the store does not count them as lost."""
    lost = store.losses(kind, digested(kind, batch(kind, sent))[0])
    forgiven = {column for name in lost for column in LOSSES.get(name, {name})}
    return [column for column in difference(kind, sent, got) if column not in forgiven]


def test_times_of_states_are_kept_or_counted_as_lost(store: Store) -> None:
    plain = state_row("plain")
    assert store.losses(Kind.STATE, batch(Kind.STATE, plain)) == {}
    assert store.losses(Kind.VERSION, batch(Kind.VERSION, version_row("u", "v"))) == {}
    assert store.losses(Kind.SNAPSHOT, batch(Kind.SNAPSHOT, snapshot_row("u", "s"))) == {}
    rows = [
        state_row("created", created_at=TIME),
        state_row("updated", updated_at=TIME),
        state_row("both", created_at="2020-02-02T02:02:02Z", updated_at=TIME),
    ]
    store.write(Kind.STATE, batch(Kind.STATE, plain, *rows))
    found = {row["state_id"]: row for row in everything(store, Kind.STATE)}
    assert len(found) == 4
    for row in rows:
        lost = "timestamps" in store.losses(Kind.STATE, batch(Kind.STATE, row))
        got = found[row["state_id"]]
        kept = all(
            row.get(c) is None or (got[c] is not None and nanoseconds(got[c]) == nanoseconds(row[c]))
            for c in ("created_at", "updated_at")
        )
        assert lost == (not kept), row


def test_an_expiry_is_kept_or_counted_as_lost_and_goes_when_the_state_is_overwritten(store: Store) -> None:
    moment = datetime(2100, 1, 1, 0, 0, 0, 123_000, tzinfo=UTC)
    row = state_row("user-1", b'{"n":1}', expires_at=moment)
    lost = store.losses(Kind.STATE, batch(Kind.STATE, row, state_row("user-2")))
    assert {name: mask.to_pylist() for name, mask in lost.items()} in ({}, {"expiry": [True, False]})
    kept = None if lost else moment
    store.write(Kind.STATE, batch(Kind.STATE, row))
    assert [r["expires_at"] for r in everything(store, Kind.STATE)] == [kept]
    assert store.write(Kind.STATE, batch(Kind.STATE, row)) == Written(unchanged=1)
    written = store.write(Kind.STATE, batch(Kind.STATE, {**row, "expires_at": None}))
    assert written == (Written(unchanged=1) if lost else Written(updated=1))
    assert [r["expires_at"] for r in everything(store, Kind.STATE)] == [None]


def test_nothing_that_has_expired_comes_back(store: Store) -> None:
    row = state_row("user-1", expires_at=datetime(2001, 1, 1, tzinfo=UTC))
    if store.losses(Kind.STATE, batch(Kind.STATE, row)):
        pytest.skip("this store knows no expiry")
    store.write(Kind.STATE, batch(Kind.STATE, row))
    assert everything(store, Kind.STATE) == []
    assert store.get_state("user-1") is None


# What a store cannot hold

DIFFICULT = {
    "NUL in a string": state_row("a", b'{"t":"\\u0000"}'),
    "NUL in a key": state_row("a", b'{"\\u0000":1}'),
    "an escaped backslash before u0000": state_row("a", b'{"t":"\\\\u0000"}'),
    "a lone surrogate": state_row("a", b'{"t":"\\ud800"}'),
    "a lone surrogate in a key": state_row("a", b'{"\\udfff":1}'),
    "a surrogate pair": state_row("a", b'{"t":"\\ud83d\\ude00"}'),
    "a duplicate key": state_row("a", b'{"a":1,"a":2}'),
    "131,072 digits": state_row("a", b'{"n":1e131071}'),
    "131,073 digits": state_row("a", b'{"n":1e131072}'),
    "an enormous exponent": state_row("a", b'{"n":1e1000000}'),
    "16,383 fraction digits": state_row("a", b'{"n":1e-16383}'),
    "16,384 fraction digits": state_row("a", b'{"n":1e-16384}'),
    "254 levels": state_row("a", b'{"a":' * 254 + b"1" + b"}" * 254),
    "an id with a slash": state_row("a/b"),
    "an id that leads upwards": state_row("../../x"),
    "two dots": state_row(".."),
    "an id with NUL": state_row("a\x00b"),
    "an id of 243 bytes": state_row("x" * 243),
    "an id of 251 bytes": state_row("x" * 251),
    "an id of 255 characters": state_row("x" * 255),
    "an id of 256 characters": state_row("x" * 256),
    "an id of 255 wide characters": state_row("é" * 255),
    "an id of 100,000 characters": state_row("x" * 100_000),
}


@pytest.mark.parametrize("name", DIFFICULT)
def test_exactly_the_states_that_are_refused_cannot_be_kept(store: Store, name: str) -> None:
    row = DIFFICULT[name]
    full, unusable = digested(Kind.STATE, batch(Kind.STATE, row))
    assert unusable == []
    refusals = store.refusals(Kind.STATE, full)
    assert all((r.row, bool(r.reason), r.detail.endswith(".")) == (0, True, True) for r in refusals)
    assert bool(refusals) is not is_kept(store, Kind.STATE, full, row)


def is_kept(store: Store, kind: Kind, rows: pa.RecordBatch, sent: dict[str, Any]) -> bool:
    """Whether a row can be written and comes back as it was."""
    try:
        store.write(kind, rows)
    except StoreError:
        assert everything(store, kind) == []
        return False
    [got] = everything(store, kind)
    return difference(kind, sent, got) == []


@pytest.mark.parametrize("name", DIFFICULT)
def test_a_difficult_state_set_by_itself_is_kept_or_an_error(store: Store, name: str) -> None:
    row = DIFFICULT[name]
    store.set_state("before", b"{}")
    try:
        store.set_state(row["state_id"], row["data"])
    except StoreError:
        assert states(store).keys() == {"before"}
    else:
        assert same(store.get_state(row["state_id"]), row["data"])
    store.set_state("after", b"{}")


DIFFICULT_VERSIONS = {
    "NUL in the delta": version_row("u", "v", delta=b'[{"op":"add","path":"/a","value":"\\u0000"}]'),
    "a lone surrogate in the metadata": version_row("u", "v", metadata=b'{"t":"\\ud800"}'),
    "an enormous exponent in the state": version_row("u", "v", data=b'{"n":1e1000000}'),
    "a version id with a slash": version_row("u", "a/b"),
    "a version id with NUL": version_row("u", "a\x00b"),
    "a version id of 300 characters": version_row("u", "x" * 300),
    "a parent id of 300 characters": version_row("u", "v", parent_id="x" * 300),
    "a state id of 300 characters": version_row("x" * 300, "v"),
    "a version id with a colon": version_row("u", "a:b"),
    "an empty version id": version_row("u", ""),
}


@pytest.mark.parametrize("name", DIFFICULT_VERSIONS)
def test_exactly_the_versions_that_are_refused_cannot_be_kept(store: Store, name: str) -> None:
    row = DIFFICULT_VERSIONS[name]
    full, unusable = digested(Kind.VERSION, batch(Kind.VERSION, row))
    assert unusable == []
    assert bool(store.refusals(Kind.VERSION, full)) is not is_kept(store, Kind.VERSION, full, row)


def test_refusals_name_the_rows(store: Store) -> None:
    full, _ = digested(Kind.STATE, batch(Kind.STATE, state_row("a"), state_row("b"), state_row("c")))
    assert store.refusals(Kind.STATE, full) == []
    bad, _ = digested(
        Kind.STATE, batch(Kind.STATE, *(state_row(f"{i}", r["data"]) for i, r in enumerate(DIFFICULT.values())))
    )
    refused = {r.row for r in store.refusals(Kind.STATE, bad)}
    alone = {i for i in range(bad.num_rows) if store.refusals(Kind.STATE, bad.slice(i, 1))}
    assert refused == alone


# Two pairs of ids that share a key in one store or another: a Redis key joins them by ':', a file bears the second id
# only (and lies in the same shard), and a table has that one for its primary key.
CONFUSABLE = [(("a", "b:c"), ("a:b", "c")), (("user-1", "v1"), ("user-30", "v1"))]


@pytest.mark.parametrize(("one", "two"), CONFUSABLE)
@pytest.mark.parametrize("how", ["one by one", "in a transaction", "in two batches", "in one batch"])
def test_versions_whose_ids_could_be_confused_never_overwrite_each_other_in_silence(
    store: Store, one: tuple[str, str], two: tuple[str, str], how: str
) -> None:
    first, second = (Version(id_, state_id, TIME, b'{"of":"%s"}' % state_id.encode()) for state_id, id_ in (one, two))
    try:
        save_both(store, first, second, how)
    except StoreError:
        assert [(v.state_id, v.version_id) for v in store.get_version_history(second.state_id)] == []
        kept = [first] if how in ("one by one", "in two batches") else []
    else:
        kept = [first, second]
    for version in kept:
        [got] = store.get_version_history(version.state_id)
        assert same(got.data, version.data)


@pytest.mark.parametrize(("one", "two"), [*CONFUSABLE, (("a", "v1"), ("a", "v2")), (("a", "v1"), ("b", "v2"))])
def test_exactly_the_versions_that_cannot_both_be_kept_have_one_slot(
    store: Store, one: tuple[str, str], two: tuple[str, str]
) -> None:
    rows = [version_row(state_id, id_) for state_id, id_ in (one, two)]
    slots = store.slots(Kind.VERSION, batch(Kind.VERSION, *rows))
    assert slots is not None
    store.write(Kind.VERSION, batch(Kind.VERSION, rows[0]))
    if len(set(slots.to_pylist())) == 1:
        with pytest.raises(StoreError):
            store.write(Kind.VERSION, batch(Kind.VERSION, rows[1]))
    else:
        store.write(Kind.VERSION, batch(Kind.VERSION, rows[1]))
        assert len(everything(store, Kind.VERSION)) == 2


def save_both(store: Store, first: Version, second: Version, how: str) -> None:
    if how == "one by one":
        store.save_version(first)
        store.save_version(second)
    elif how == "in a transaction":
        with store.transaction() as transaction:
            transaction.save_version(first)
            transaction.save_version(second)
    elif how == "in two batches":
        store.write(Kind.VERSION, batch(Kind.VERSION, as_row(first)))
        store.write(Kind.VERSION, batch(Kind.VERSION, as_row(second)))
    else:
        store.write(Kind.VERSION, batch(Kind.VERSION, as_row(first), as_row(second)))


# Opening and closing


def test_preparing_may_be_repeated_and_keeps_what_is_there(store: Store, other: Store) -> None:
    store.set_state("user-1", b"{}")
    store.prepare()
    other.prepare()
    assert sorted(states(store)) == ["user-1"]


def test_checking_a_prepared_store_changes_nothing(store: Store) -> None:
    store.set_state("user-1", b"{}")
    store.check()
    store.check()
    assert sorted(states(store)) == ["user-1"]
    assert store.stats().states == 1


def test_stats_count_records(store: Store) -> None:
    store.write(Kind.STATE, batch(Kind.STATE, *(state_row(f"user-{i}") for i in range(5))))
    store.write(Kind.VERSION, batch(Kind.VERSION, *(version_row("user-1", f"v{i}") for i in range(3))))
    store.write(Kind.SNAPSHOT, batch(Kind.SNAPSHOT, snapshot_row("user-1", "s0"), snapshot_row("gone", "s1")))
    stats = store.stats()
    assert (stats.states, stats.versions, stats.snapshots) == (5, 3, 2)


def test_all_three_kinds_of_record_are_kept(store: Store) -> None:
    assert set(store.kinds) == set(Kind)


def test_a_place_is_told_apart_from_others_and_known_again(store: Store, other: Store, backend: Backend) -> None:
    with closing(backend.open(backend.fresh())) as elsewhere:
        assert store.place() == other.place()
        assert store.place().overlaps(other.place())
        assert not store.place().overlaps(elsewhere.place())


def test_two_places_do_not_see_each_other(store: Store, backend: Backend) -> None:
    store.set_state("user-1", b"{}")
    with closing(backend.open(backend.fresh())) as elsewhere:
        elsewhere.prepare()
        assert states(elsewhere) == {}


def test_ping_names_the_server(store: Store) -> None:
    assert store.ping().strip()


def test_closing_twice_is_fine(backend: Backend) -> None:
    store = backend.open()
    store.prepare()
    store.close()
    store.close()
    backend.open().close()


def test_a_server_that_does_not_answer_is_told(backend: Backend) -> None:
    with closing(backend.open(backend.unreachable)) as store, pytest.raises(ConnectionFailedError) as caught:
        store.ping()
    assert caught.value.message
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, Exception)


def test_opening_and_describing_a_store_does_not_connect(backend: Backend) -> None:
    with closing(backend.open(backend.unreachable)) as store:
        assert store.describe()
        assert store.refusals(Kind.STATE, digested(Kind.STATE, batch(Kind.STATE, state_row("a")))[0]) == []
        assert store.losses(Kind.STATE, batch(Kind.STATE, state_row("a"))) == {}


def test_a_password_is_shown_nowhere(backend: Backend) -> None:
    with closing(backend.open(backend.with_password)) as store:
        shown = [store.describe(), repr(store)]
        for attempt in (store.ping, store.check, store.place, store.prepare, lambda: list(store.keys())):
            try:
                attempt()
            except MigrationError as error:
                shown += [str(error), repr(error), repr(error.data)]
    assert len(shown) > 2
    assert not [text for text in shown if CANARY in text]


def test_a_version_can_be_moved_to_another_time(store: Store) -> None:
    version = Version("v1", "u", "2025-01-01T00:00:00Z", b"{}")
    store.save_version(version)
    store.save_version(Version("v2", "u", "2025-01-02T00:00:00Z", b"{}"))
    store.save_version(replace(version, timestamp="2025-01-03T00:00:00Z"))
    assert [v.version_id for v in store.get_version_history("u")] == ["v1", "v2"]
