from __future__ import annotations

import gc
import resource
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines.errors import StagingError
from agui_pipelines.losses import Fate
from agui_pipelines.records import DIGESTED, ORIGIN, SCHEMAS, Kind, Reject, digested
from agui_pipelines.staging import Manifest, SnapshotReader, SnapshotWriter, Workspace, parts, snapshot


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path), "m")


@pytest.fixture(params=["path", "memory URL"])
def any_workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path) if request.param == "path" else f"memory://{uuid.uuid4().hex}", "m")


def writer(workspace: Workspace, stage: str = "exported") -> SnapshotWriter:
    return SnapshotWriter(workspace, stage=stage, plan_id="plan-1", range_="00")


def batch(kind: Kind, *rows: dict[str, Any]) -> pa.RecordBatch:
    usable, unusable = digested(kind, pa.RecordBatch.from_pylist(list(rows), schema=SCHEMAS[kind]))
    assert unusable == []
    return usable


def states(count: int, start: int = 0) -> pa.RecordBatch:
    return batch(Kind.STATE, *({"state_id": f"s{i:05}", "data": b'{"n":%d}' % i} for i in range(start, start + count)))


FULL_AND_EMPTY = {
    Kind.STATE: [
        {
            "state_id": "é",
            "data": b'{ "a" : 1.0 }',
            "created_at": "0001-01-01T00:00:00Z",
            "updated_at": "x",
            "expires_at": datetime(2030, 1, 2, 3, 4, 5, 6000, UTC),
        },
        {"state_id": "", "data": b"{}"},
    ],
    Kind.VERSION: [
        {
            "state_id": "s",
            "version_id": "v",
            "timestamp": "2025-07-14T09:30:15.123456789Z",
            "data": b'{"a":"\\ud800"}',
            "delta": b"[]",
            "metadata": b"{}",
            "parent_id": "p",
            "extra": b'{"x":1}',
        },
        {"state_id": "s", "version_id": "w", "timestamp": "", "data": b"{}", "parent_id": ""},
    ],
    Kind.SNAPSHOT: [
        {
            "state_id": "s",
            "snapshot_id": "x",
            "timestamp": "t",
            "data": b"{}",
            "version_id": "v",
            "metadata": b'{"k":null}',
            "extra": b"{}",
        },
        {"state_id": "s", "snapshot_id": "y", "timestamp": "", "data": b"{}", "version_id": ""},
    ],
}

REJECTS = [
    Reject(Kind.STATE, b"\xff\x00", b"\x1f\x8b\x00", "export", "undecodable", "no JSON"),
    Reject(Kind.VERSION, b"s/v", None, "transform", "refused", "é"),
]


def rows(reader: SnapshotReader, kind: Kind = Kind.STATE) -> list[dict[str, Any]]:
    return [row for piece in reader.batches(kind) for row in piece.to_pylist()]


def segment_files(workspace: Workspace, manifest: Manifest) -> list[Path]:
    return [Path(str(workspace.path(f"snapshots/{segment.path}"))) for segment in manifest.segments]


# Writing and reading ---------------------------------------------------------------------------------------------------


def test_records_of_all_kinds_come_back_as_they_were_written(any_workspace: Workspace) -> None:
    batches = {kind: batch(kind, *content) for kind, content in FULL_AND_EMPTY.items()}
    with writer(any_workspace) as out:
        for kind, content in batches.items():
            out.write(kind, content)
        manifest = out.seal()
    reader = SnapshotReader(any_workspace, manifest.snapshot_id)
    assert reader.manifest == manifest
    for kind, content in batches.items():
        found = pa.Table.from_batches(reader.batches(kind))
        assert found.schema.equals(DIGESTED[kind])
        assert found.equals(pa.Table.from_batches([content]))
        assert manifest.summary(kind).records == 2
        assert manifest.summary(kind).document_bytes == sum(len(row["data"]) for row in FULL_AND_EMPTY[kind])
    reader.verify()


def test_a_snapshot_without_records_can_be_sealed_and_read(any_workspace: Workspace) -> None:
    with writer(any_workspace) as out:
        out.write(Kind.STATE, states(0))
        manifest = out.seal()
    reader = SnapshotReader(any_workspace, manifest.snapshot_id)
    assert (manifest.segments, manifest.rejects, manifest.rejects_segment) == ((), 0, None)
    assert [rows(reader, kind) for kind in Kind] == [[], [], []]
    assert list(reader.rejects()) == []
    reader.verify()


def test_rejects_are_kept_with_their_raw_bytes(any_workspace: Workspace) -> None:
    with writer(any_workspace) as out:
        for reject in REJECTS:
            out.reject(reject)
        manifest = out.seal()
    reader = SnapshotReader(any_workspace, manifest.snapshot_id)
    assert manifest.rejects == 2
    assert list(reader.rejects()) == REJECTS
    assert (manifest.records, rows(reader)) == (0, [])
    reader.verify()


def origins(*pairs: tuple[str, str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"state_id": i, "source_id": s} for i, s in pairs], schema=ORIGIN)


def test_which_ids_became_which_is_kept(any_workspace: Workspace) -> None:
    with writer(any_workspace, "staged") as out:
        out.write(Kind.STATE, states(2))
        out.write_origins(origins())
        out.write_origins(origins(("s00000", "p:0"), ("é", "")))
        out.write_origins(origins(("s00001", "p:1")))
        sealed = out.seal()
    reader = SnapshotReader(any_workspace, sealed.snapshot_id)
    found = [tuple(row.values()) for each in reader.origins() for row in each.to_pylist()]
    assert found == [("s00000", "p:0"), ("é", ""), ("s00001", "p:1")]
    assert (sealed.records, sealed.document_bytes) == (2, 14)  # origins are no records


def test_where_no_origins_were_kept_each_id_is_its_own(any_workspace: Workspace) -> None:
    with writer(any_workspace) as out:
        for kind, content in FULL_AND_EMPTY.items():
            out.write(kind, batch(kind, *content))
        out.write_origins(origins())
        sealed = out.seal()
    reader = SnapshotReader(any_workspace, sealed.snapshot_id)
    found = [tuple(row.values()) for each in reader.origins() for row in each.to_pylist()]
    assert found == [(row["state_id"], row["state_id"]) for content in FULL_AND_EMPTY.values() for row in content]


def test_what_is_told_when_sealing_stands_in_the_manifest(workspace: Workspace) -> None:
    with writer(workspace) as parent:
        parent.write(Kind.STATE, states(2))
        exported = parent.seal(vanished=4)
    with writer(workspace, "staged") as out:
        out.write(Kind.STATE, states(1, 7))
        sealed = out.seal(
            parents=(exported.snapshot_id,),
            transform="t",
            fates={"expiry": Fate(2, 0, 1, ("a",))},
            referenced=exported.segments,
        )
    assert exported.vanished == 4
    found = SnapshotReader(workspace, sealed.snapshot_id).manifest
    assert (found.stage, found.plan_id, found.range) == ("staged", "plan-1", "00")
    assert (found.parents, found.transform, found.fates) == (
        (exported.snapshot_id,),
        "t",
        {"expiry": Fate(2, 0, 1, ("a",))},
    )


def test_segments_of_a_parent_are_read_as_the_snapshots_own(workspace: Workspace) -> None:
    with writer(workspace) as parent:
        parent.write(Kind.STATE, states(2))
        exported = parent.seal()
    with writer(workspace, "staged") as out:
        out.write(Kind.STATE, states(1, 7))
        sealed = out.seal(referenced=exported.segments)
    reader = SnapshotReader(workspace, sealed.snapshot_id)
    assert [row["state_id"] for row in rows(reader)] == ["s00000", "s00001", "s00007"]
    reader.verify()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "SEGMENT_RECORDS", 10)
    monkeypatch.setattr(snapshot, "ROW_GROUP_RECORDS", 4)


@pytest.mark.usefixtures("small_segments")
def test_many_records_fill_several_segments_and_keep_their_order(any_workspace: Workspace) -> None:
    with writer(any_workspace) as out:
        for start in range(0, 33, 3):
            out.write(Kind.STATE, states(3, start))
        out.write(Kind.VERSION, batch(Kind.VERSION, *FULL_AND_EMPTY[Kind.VERSION]))
        manifest = out.seal()
    reader = SnapshotReader(any_workspace, manifest.snapshot_id)
    assert [s.records for s in reader.segments(Kind.STATE)] == [12, 12, 9]
    assert len({s.path for s in manifest.segments}) == 4
    assert [row["state_id"] for row in rows(reader)] == [f"s{i:05}" for i in range(33)]
    assert len(rows(reader, Kind.VERSION)) == 2
    pieces = [piece.num_rows for piece in reader.segment_batches(reader.segments(Kind.STATE)[0])]
    assert len(pieces) > 1
    reader.verify()


def test_a_segment_is_closed_when_its_documents_are_large(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "SEGMENT_BYTES", 1000)
    large = batch(Kind.STATE, {"state_id": "s", "data": b'{"a":"' + b"x" * 1000 + b'"}'})
    with writer(workspace) as out:
        for _ in range(3):
            out.write(Kind.STATE, large)
        manifest = out.seal()
    assert [s.records for s in manifest.segments] == [1, 1, 1]


def test_only_the_columns_that_are_asked_for_are_read(workspace: Workspace) -> None:
    with writer(workspace) as out:
        out.write(Kind.STATE, states(2))
        manifest = out.seal()
    reader = SnapshotReader(workspace, manifest.snapshot_id)
    (piece,) = reader.batches(Kind.STATE, ["state_id", "size"])
    assert piece.schema.names == ["state_id", "size"]


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that take turns as often as they can, so that what is not guarded breaks."""
    previous = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(previous)


@pytest.mark.usefixtures("hasty_threads")
def test_rejects_may_come_from_another_thread_than_the_records(workspace: Workspace) -> None:
    with writer(workspace) as out:
        threads = [threading.Thread(target=lambda: [out.reject(REJECTS[0]) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for start in range(20):
            out.write(Kind.STATE, states(1, start))
        for thread in threads:
            thread.join()
        manifest = out.seal()
    reader = SnapshotReader(workspace, manifest.snapshot_id)
    assert (manifest.rejects, len(list(reader.rejects())), len(rows(reader))) == (200, 200, 20)


# What was not sealed ---------------------------------------------------------------------------------------------------


def left_files(workspace: Workspace) -> list[str]:
    root = Path(str(workspace.root))
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def fill(out: SnapshotWriter) -> None:
    for kind, content in FULL_AND_EMPTY.items():
        out.write(kind, batch(kind, *content))
    out.reject(REJECTS[0])
    out.write_origins(origins(("a", "p:a")))


def test_a_snapshot_left_without_seal_is_invisible_and_leaves_no_file(workspace: Workspace) -> None:
    with writer(workspace) as out:
        fill(out)
    gc.collect()  # nothing of Parquet's may complain later that its file is gone
    assert left_files(workspace) == []
    with pytest.raises(StagingError, match=r"manifest\.json is missing"):
        SnapshotReader(workspace, out.snapshot_id)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("boom"),
        KeyboardInterrupt(),
        InterruptedError("another range failed"),
        FileNotFoundError("of the source"),
        ConnectionResetError("by the source"),
        StagingError("of another snapshot"),
        StopIteration(),
        GeneratorExit(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_passes_unchanged_through_a_snapshot_with_several_open_files(
    workspace: Workspace, error: BaseException
) -> None:
    def attempt() -> None:
        with writer(workspace) as out:
            fill(out)
            raise error

    with pytest.raises(type(error)) as caught:
        attempt()
    assert caught.value is error
    gc.collect()
    assert left_files(workspace) == []


@pytest.mark.usefixtures("small_segments")
def test_segments_that_were_complete_before_an_error_are_named_by_no_manifest(any_workspace: Workspace) -> None:
    with writer(any_workspace) as out:
        out.write(Kind.STATE, states(12))
        out.write(Kind.STATE, states(3, 12))
    with pytest.raises(StagingError):
        SnapshotReader(any_workspace, out.snapshot_id)


def test_segments_that_no_manifest_names_are_ignored(workspace: Workspace) -> None:
    with writer(workspace) as out:
        out.write(Kind.STATE, states(3))
        manifest = out.seal()
    content = workspace.read(f"snapshots/{manifest.segments[0].path}")
    workspace.write(f"snapshots/{manifest.snapshot_id}/state-00001.parquet", content)
    workspace.write(f"snapshots/{manifest.snapshot_id}/version-00000.parquet", b"garbage")
    reader = SnapshotReader(workspace, manifest.snapshot_id)
    assert len(rows(reader)) == 3
    assert rows(reader, Kind.VERSION) == []
    reader.verify()


def test_a_full_disk_is_a_staging_error_and_leaves_nothing(workspace: Workspace) -> None:
    noise = batch(
        Kind.STATE,
        *({"state_id": uuid.uuid4().hex, "data": b'{"a":"%s"}' % uuid.uuid4().hex.encode()} for _ in range(2000)),
    )

    def attempt() -> None:
        with writer(workspace) as out:
            out.reject(REJECTS[0])
            out.write(Kind.VERSION, batch(Kind.VERSION, *FULL_AND_EMPTY[Kind.VERSION]))
            for _ in range(20):
                out.write(Kind.STATE, noise)
            out.seal()

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StagingError, match="Make room"):
            attempt()
        gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_files(workspace) == []


# Damage ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sealed(workspace: Workspace) -> Manifest:
    with writer(workspace) as out:
        fill(out)
        return out.seal()


def shortened(content: bytes) -> bytes:
    return content[:-1]


def lengthened(content: bytes) -> bytes:
    return content + b"\0"


def emptied(_: bytes) -> bytes:
    return b""


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def replaced(content: bytes) -> bytes:
    return bytes(len(content))


@pytest.mark.parametrize("damage", [shortened, lengthened, emptied, flipped, replaced], ids=lambda d: d.__name__)
def test_verify_finds_every_damaged_segment(
    workspace: Workspace, sealed: Manifest, damage: Callable[[bytes], bytes]
) -> None:
    assert sealed.rejects_segment is not None
    assert sealed.origins_segment is not None
    for segment in (*sealed.segments, sealed.rejects_segment, sealed.origins_segment):
        name = f"snapshots/{segment.path}"
        content = workspace.read(name)
        workspace.write(name, damage(content))
        with pytest.raises(StagingError, match=f"{segment.path} is damaged"):
            SnapshotReader(workspace, sealed.snapshot_id).verify()
        workspace.write(name, content)
    SnapshotReader(workspace, sealed.snapshot_id).verify()


@pytest.mark.parametrize("damage", [shortened, lengthened, emptied, flipped, replaced], ids=lambda d: d.__name__)
def test_nothing_is_read_from_a_damaged_segment(
    workspace: Workspace, sealed: Manifest, damage: Callable[[bytes], bytes]
) -> None:
    segment = sealed.segments[0]
    name = f"snapshots/{segment.path}"
    workspace.write(name, damage(workspace.read(name)))
    with pytest.raises(StagingError, match=f"{segment.path} is damaged"):
        next(SnapshotReader(workspace, sealed.snapshot_id).batches(Kind.STATE, ["state_id"]))


def test_a_missing_segment_is_a_staging_error(workspace: Workspace, sealed: Manifest) -> None:
    segment_files(workspace, sealed)[0].unlink()
    reader = SnapshotReader(workspace, sealed.snapshot_id)
    with pytest.raises(StagingError, match="is missing"):
        rows(reader)
    with pytest.raises(StagingError, match="is missing"):
        reader.verify()


def test_missing_rejects_are_a_staging_error(workspace: Workspace, sealed: Manifest) -> None:
    assert sealed.rejects_segment is not None
    Path(str(workspace.path(f"snapshots/{sealed.rejects_segment.path}"))).unlink()
    with pytest.raises(StagingError, match="is missing"):
        list(SnapshotReader(workspace, sealed.snapshot_id).rejects())


def test_a_segment_with_any_byte_changed_is_not_read(workspace: Workspace) -> None:
    with writer(workspace) as out:
        out.write(Kind.STATE, states(50))
        manifest = out.seal()
    (file,) = segment_files(workspace, manifest)
    content = file.read_bytes()

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, len(content) - 1), st.integers(1, 255))
    def holds(position: int, flip: int) -> None:
        file.write_bytes(content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :])
        with pytest.raises(StagingError, match="damaged"):
            rows(SnapshotReader(workspace, manifest.snapshot_id))

    holds()


# Large documents


@pytest.mark.parametrize("size", [0, 9, 10, 11, 20, 21, 95])
def test_a_document_that_is_written_in_parts_comes_back_whole_between_its_neighbours(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 20)
    large = {"state_id": "m", "data": b'{"a":"%b"}' % (b"x" * size), "updated_at": "then"}
    written = [states(2), batch(Kind.STATE, large), batch(Kind.STATE, {**large, "state_id": "n"}), states(3, start=5)]
    with writer(workspace) as out:
        for some in written:
            out.write(Kind.STATE, some)
        manifest = out.seal()

    read = SnapshotReader(workspace, manifest.snapshot_id)
    assert manifest.records == 7
    expected = pa.Table.from_batches(written).to_pylist()
    assert pa.Table.from_batches(read.batches(Kind.STATE)).to_pylist() == expected
    ids = pa.Table.from_batches(read.batches(Kind.STATE, ["state_id", "canonical"])).to_pylist()
    assert ids == [{"state_id": row["state_id"], "canonical": row["canonical"]} for row in expected]
    data = pa.Table.from_batches(read.batches(Kind.STATE, ["data"])).to_pylist()
    assert data == [{"data": row["data"]} for row in expected]


def test_a_large_reject_is_written_in_parts_too(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 20)
    found = [Reject(Kind.STATE, b"k", raw, "export", "why", "how") for raw in (b"small", bytes(range(256)), None, b"")]
    with writer(workspace) as out:
        for reject in found:
            out.reject(reject)
        manifest = out.seal()

    assert list(SnapshotReader(workspace, manifest.snapshot_id).rejects()) == found
