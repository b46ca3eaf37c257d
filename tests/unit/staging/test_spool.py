"""What a scan yields is kept sorted, complete and exact, and is read by key range."""

from __future__ import annotations

import itertools
import random
import resource
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines.errors import StagingError
from agui_pipelines.keyspace import KeyRange
from agui_pipelines.ports import BATCH_BYTES
from agui_pipelines.records import STATE, VERSION, Kind, Reject
from agui_pipelines.staging import Workspace
from agui_pipelines.staging.spool import SpoolReader, has_spool, remove_spool, spools
from agui_pipelines.staging.spool_writer import SpoolWriter

EVERYTHING = KeyRange("00", None, None, 0, 0, 0)


def span(lower: bytes | None, upper: bytes | None) -> KeyRange:
    return KeyRange("00", lower, upper, 0, 0, 0)


def states(rows: Iterable[tuple[str, bytes]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"state_id": i, "data": d} for i, d in rows], schema=STATE)


def spooled(
    workspace: Workspace, batches: Iterable[tuple[Kind, pa.RecordBatch]], rejects: Iterable[Reject] = ()
) -> SpoolReader:
    with SpoolWriter(workspace, "plan-1") as writer:
        for kind, batch in batches:
            writer.write(kind, batch)
        for reject in rejects:
            writer.reject(reject)
        writer.seal("mark")
    return SpoolReader(workspace, "plan-1")


def rows(reader: SpoolReader, kind: Kind = Kind.STATE, range_: KeyRange = EVERYTHING) -> list[dict[str, object]]:
    return [row for batch in reader.read(kind, range_) for row in batch.to_pylist()]


def reject(id_: bytes, raw: bytes | None = b"raw") -> Reject:
    return Reject(Kind.STATE, id_, raw, "export", "broken", "It is broken.")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path), "m")


ids = st.text(max_size=6)
bound = st.none() | st.binary(max_size=4)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.tuples(ids, st.binary(max_size=20)), max_size=8), max_size=5),
    st.lists(st.binary(max_size=3), max_size=8),
    st.lists(st.binary(max_size=4), max_size=4),
)
def test_every_record_and_reject_is_in_one_range_and_ids_that_repeat_are_rejects(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[tuple[str, bytes]]],
    broken: list[bytes],
    cuts: list[bytes],
) -> None:
    workspace = Workspace(str(tmp_path_factory.mktemp("w")), "m")
    reader = spooled(workspace, [(Kind.STATE, states(b)) for b in batches], [reject(b) for b in broken])
    given_ = [pair for batch in batches for pair in batch]
    count = {i: sum(1 for other, _ in given_ if other == i) for i, _ in given_}
    bounds: list[bytes | None] = [None, *sorted(set(cuts)), None]
    found: list[tuple[object, object]] = []
    rejects: list[Reject] = []
    for lower, upper in itertools.pairwise(bounds):
        found += [(row["state_id"], row["data"]) for row in rows(reader, range_=span(lower, upper))]
        rejects += reader.rejects(span(lower, upper))
    assert found == sorted(((i, d) for i, d in given_ if count[i] == 1), key=lambda pair: pair[0].encode())
    twice = [(i.encode(), d, "duplicate_id") for i, d in given_ if count[i] > 1]
    assert sorted((r.id, r.raw, r.reason) for r in rejects) == sorted(
        [*twice, *((b, b"raw", "broken") for b in broken)]
    )
    assert reader.spool.records.get("state", 0) == len(found)
    assert reader.spool.rejects == len(rejects)
    keys = [key for batch in reader.keys() for key in batch.column("key").to_pylist()]  # noqa: SIM118 - no dict
    assert keys == [str(i).encode() for i, _ in found]


def test_all_columns_of_a_state_come_back_as_they_went(workspace: Workspace) -> None:
    row = {
        "state_id": "a\x00b",
        "data": b'{"n":1.10}',
        "created_at": "2024-01-01T00:00:00.123456789Z",
        "updated_at": None,
        "expires_at": pa.scalar(4_102_444_800_123, pa.timestamp("ms", "UTC")).as_py(),
    }
    reader = spooled(workspace, [(Kind.STATE, pa.RecordBatch.from_pylist([row], schema=STATE))])
    assert rows(reader) == [row]


def test_an_expiry_beyond_every_calendar_is_kept(workspace: Workspace) -> None:
    far = pa.array([2**62], pa.int64()).cast(pa.timestamp("ms", "UTC"))
    batch = states([("a", b"{}")]).set_column(4, STATE.field(4), far)
    [back] = spooled(workspace, [(Kind.STATE, batch)]).read(Kind.STATE, EVERYTHING)
    assert back.column("expires_at").cast(pa.int64()).to_pylist() == [2**62]


def test_versions_stay_with_their_state_and_only_the_same_version_twice_is_rejected(workspace: Workspace) -> None:
    def version(state: str, name: str, delta: bytes | None) -> dict[str, object]:
        return {
            "state_id": state,
            "version_id": name,
            "timestamp": "t",
            "data": b"{}",
            "delta": delta,
            "metadata": None,
            "parent_id": "",
            "extra": None,
        }

    made = [version("b", "1", None), version("a", "2", b"[]"), version("a", "1", b""), version("b", "1", b"[]")]
    reader = spooled(workspace, [(Kind.VERSION, pa.RecordBatch.from_pylist([row], schema=VERSION)) for row in made])
    assert rows(reader, Kind.VERSION) == [made[2], made[1]]
    assert [(r.kind, r.id, r.raw) for r in reader.rejects(EVERYTHING)] == [(Kind.VERSION, b"b/1", b"{}")] * 2
    assert rows(reader, Kind.STATE) == []


def test_repeated_ids_are_found_across_batches_of_the_sort(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agui_pipelines.keyspace._ROWS", 2048)
    names = [f"{i:05}" for i in range(9000)]
    repeated = [names[i] for i in (0, 2046, 2047, 2048, 2049, 4095, 4096, 8999)]
    shuffled = [*names, *repeated, *repeated]
    random.Random(1).shuffle(shuffled)
    reader = spooled(workspace, [(Kind.STATE, states((n, b"{}") for n in shuffled))])
    assert [row["state_id"] for row in rows(reader)] == [n for n in names if n not in repeated]
    assert sorted(r.id.decode() for r in reader.rejects(EVERYTHING)) == sorted(repeated * 3)


def test_a_row_group_holds_no_more_than_a_batch_of_documents_and_a_larger_one_alone(workspace: Workspace) -> None:
    sizes = {"a": BATCH_BYTES // 2, "b": BATCH_BYTES // 2, "c": 1, "d": BATCH_BYTES + 1, "e": 1, "f": 1}
    reader = spooled(workspace, [(Kind.STATE, states([(i, b"x" * n)])) for i, n in reversed(sizes.items())])
    batches = list(reader.read(Kind.STATE, EVERYTHING))
    assert all(b.num_rows == 1 or sum(map(len, b["data"].to_pylist())) <= BATCH_BYTES for b in batches)
    assert [batch.column("state_id").to_pylist() for batch in batches][:3] == [["a", "b"], ["c"], ["d"]]
    assert [(row["state_id"], len(row["data"])) for b in batches for row in b.to_pylist()] == list(sizes.items())


def test_a_range_reads_only_the_row_groups_it_needs(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agui_pipelines.staging.spool_writer.ROW_GROUP_RECORDS", 10)
    reader = spooled(workspace, [(Kind.STATE, states((f"{i:03}", b"{}") for i in range(100)))])
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, group: int, **options: object) -> pa.Table:
        read.append(group)
        return original(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    assert [row["state_id"] for row in rows(reader, range_=span(b"025", b"04"))] == [f"{i:03}" for i in range(25, 40)]
    assert read == [2, 3]


def test_ids_too_long_for_statistics_are_found(workspace: Workspace) -> None:
    long = "x" * 10_000
    reader = spooled(workspace, [(Kind.STATE, states([(long, b"{}"), ("y", b"{}")]))])
    assert [row["state_id"] for row in rows(reader, range_=span(b"w", b"y"))] == [long]


def test_a_scan_that_breaks_leaves_no_spool(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), SpoolWriter(workspace, "plan-1") as writer:
        writer.write(Kind.STATE, states([("a", b"{}")]))
        raise ZeroDivisionError
    assert not has_spool(workspace, "plan-1")
    assert list(tmp_path.joinpath("m").iterdir()) == []
    with pytest.raises(StagingError, match="missing"):
        SpoolReader(workspace, "plan-1")


def test_a_changed_byte_of_a_document_is_noticed(workspace: Workspace, tmp_path: Path) -> None:
    noise = random.Random(1)  # which does not compress, so that the middle of the file is in a document
    reader = spooled(workspace, [(Kind.STATE, states((f"{i}", noise.randbytes(1000)) for i in range(50)))])
    file = tmp_path / "m" / "spools" / "plan-1" / "state.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(StagingError, match="damaged"):
        rows(reader)


def test_a_spool_is_private_listed_and_removed_whole(workspace: Workspace, tmp_path: Path) -> None:
    spooled(workspace, [(Kind.STATE, states([("a", b"{}")]))], [reject(b"b")])
    folder = tmp_path / "m" / "spools" / "plan-1"
    assert {f.name for f in folder.iterdir()} == {"state.parquet", "rejects.parquet", "spool.json"}
    assert {f.stat().st_mode & 0o777 for f in folder.iterdir()} == {0o600}
    folder.joinpath(".state.parquet.1234.tmp").write_bytes(b"of a run that was killed")
    assert spools(workspace) == ["plan-1"]
    remove_spool(workspace, "plan-1")
    remove_spool(workspace, "plan-1")
    assert spools(workspace) == []


def test_an_object_store_holds_spools_too() -> None:
    workspace = Workspace("memory://spool-test", "m")
    reader = spooled(workspace, [(Kind.STATE, states([("b", b"{}"), ("a", b"{}")]))])
    assert [row["state_id"] for row in rows(reader)] == ["a", "b"]
    remove_spool(workspace, "plan-1")
    assert not has_spool(workspace, "plan-1")


@pytest.mark.parametrize(
    ("limit", "documents"),
    [
        pytest.param(100_000, 200, id="while documents arrive"),
        pytest.param(20_000, 24, id="with documents that are still buffered"),
    ],
)
def test_a_full_disk_is_told_and_leaves_nothing(
    workspace: Workspace, tmp_path: Path, limit: int, documents: int
) -> None:
    noise = random.Random(1)
    batches = [(Kind.STATE, states([(f"{i}", noise.randbytes(1000))])) for i in range(documents)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StagingError, match=r"resumes|Make room"):
            spooled(workspace, batches)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not has_spool(workspace, "plan-1")
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
