"""What the file store alone promises; what all stores promise is in tests/contract."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agui_pipelines.errors import ConnectionFailedError, StoreError, UnstorableRecordError
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.owner import Owner
from agui_pipelines.ports import BATCH_BYTES, Snapshot, Store, Version, Written
from agui_pipelines.records import SCHEMAS, Kind, Reject, digested
from agui_pipelines.spec import FileConfig
from agui_pipelines.stores import open_store
from agui_pipelines.stores.file import FileStore
from agui_pipelines.stores.file_layout import Layout
from agui_pipelines.stores.file_memory import FolderMemory
from agui_pipelines.stores.file_writer import Folders

TIME = "2025-07-14T09:30:15.123456789Z"


def opened(base: Path, **options: Any) -> FileStore:
    return FileStore(FileConfig.model_validate({"type": "file", "file_options": {"base_dir": base, **options}}))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base"


@pytest.fixture
def store(base: Path) -> FileStore:
    store = opened(base)
    store.prepare()
    return store


def states(*rows: tuple[str, bytes], **columns: Any) -> pa.RecordBatch:
    return batch(Kind.STATE, [{"state_id": id_, "data": data, **columns} for id_, data in rows])


def batch(kind: Kind, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMAS[kind])


def version_row(state_id: str, version_id: str, **columns: Any) -> dict[str, Any]:
    return {
        "state_id": state_id,
        "version_id": version_id,
        "timestamp": TIME,
        "data": b"{}",
        "parent_id": "",
        **columns,
    }


def everything(store: Store, kind: Kind, ranges: int = 3) -> tuple[list[dict[str, Any]], list[Reject]]:
    """All rows of a kind, read range by range, and what was rejected."""
    file = io.BytesIO()
    write_catalogue(store.keys(), file)
    rejects: list[Reject] = []
    rows: list[dict[str, Any]] = []
    for key_range in cut(file, ranges):
        for found in store.read(kind, Span(key_range, pq.ParquetFile(file)), rejects.append):
            assert found.schema == SCHEMAS[kind]
            rows.extend(found.to_pylist())
    return rows, rejects


def documents(store: Store) -> dict[str, bytes]:
    rows, rejects = everything(store, Kind.STATE)
    assert rejects == []
    return {row["state_id"]: row["data"] for row in rows}


def owners(store: Store, kind: Kind) -> dict[str, str]:
    """The states of versions or snapshots, by their ids."""
    id_ = f"{kind}_id"
    return {row[id_]: row["state_id"] for row in everything(store, kind)[0]}


def reasons(rejects: list[Reject]) -> list[tuple[str, str]]:
    return sorted((reject.name, reject.reason) for reject in rejects)


def files(base: Path) -> list[str]:
    return sorted(str(path.relative_to(base)) for path in base.rglob("*") if not path.is_dir())


def as_reference(base: Path, kind: str, shard: str, id_: str, **members: Any) -> None:
    """A history file as the reference writes it: it does not say whose it is."""
    folder = base / kind / shard
    folder.mkdir(parents=True, exist_ok=True)
    body = {"ID": id_, "Timestamp": TIME, "State": {}, "Delta": None, "Metadata": None, "ParentID": "", **members}
    if kind == "snapshots":
        body = {"ID": id_, "Timestamp": TIME, "State": {}, "Version": "", "Metadata": None, **members}
    (folder / f"{id_}.json").write_text(json.dumps(body, indent=2))


# user-1 and user-30 are in shard 15, default in shard 1 (of 16).
assert (Layout(b"", 16).folder("user-1"), Layout(b"", 16).folder("user-30")) == (b"shard_15", b"shard_15")


# Layout


def test_files_lie_and_look_as_the_format_says(base: Path, store: FileStore) -> None:
    store.set_state("user-1", b'{"b":{"x":[1.0,1e400,{}]},"a":"\\u003c"}')
    store.save_version(Version("v1", "user-1", TIME, b'{"n":1}', b"[]", None, "v0", b'{"Extra":1}'))
    store.save_snapshot(Snapshot("s1", "user-1", TIME, b"{}", "v1", b"{}"))
    assert files(base) == [
        "snapshots/shard_15/s1.json",
        "states/shard_15/user-1.json",
        "versions/shard_15/v1.json",
    ]
    assert (base / "states/shard_15/user-1.json").read_bytes() == (
        b'{\n  "b": {\n    "x": [\n      1.0,\n      1e400,\n      {}\n    ]\n  },\n  "a": "\\u003c"\n}'
    )
    assert (base / "versions/shard_15/v1.json").read_bytes() == (
        b'{\n  "ID": "v1",\n  "Timestamp": "2025-07-14T09:30:15.123456789Z",\n  "State": {\n    "n": 1\n  },\n  "Delta": [],\n'
        b'  "Metadata": null,\n  "ParentID": "v0",\n  "Extra": 1,\n  "StateID": "user-1"\n}'
    )
    assert (base / "snapshots/shard_15/s1.json").read_bytes() == (
        b'{\n  "ID": "s1",\n  "Timestamp": "2025-07-14T09:30:15.123456789Z",\n  "State": {},\n  "Version": "v1",\n'
        b'  "Metadata": {},\n  "StateID": "user-1"\n}'
    )


def test_without_sharding_there_are_no_shard_folders(base: Path) -> None:
    store = opened(base, enable_sharding=False)
    store.set_state("user-1", b"{}")
    store.save_version(Version("v1", "user-1", TIME, b"{}"))
    assert files(base) == ["states/user-1.json", "versions/v1.json"]
    assert documents(store) == {"user-1": b"{}"}
    assert [v.version_id for v in store.get_version_history("user-1")] == ["v1"]


def test_the_number_of_shards_is_configurable(base: Path) -> None:
    store = opened(base, shard_count=7)
    store.write(Kind.STATE, states(("user-1", b"{}"), ("😀", b"{}"), ("", b"{}")))
    assert files(base) == ["states/shard_0/.json", "states/shard_5/user-1.json", "states/shard_6/😀.json"]


def test_modes_are_the_configured_ones_whatever_the_umask(base: Path) -> None:
    store = opened(base, file_mode=0o664)
    before = os.umask(0o022)
    try:
        store.set_state("user-1", b"{}")
        opened(base).set_state("default", b"{}")
    finally:
        os.umask(before)
    modes = {str(p.relative_to(base)): stat.S_IMODE(p.stat().st_mode) for p in [base, *base.rglob("*")]}
    assert modes == {
        ".": 0o755,
        "states": 0o755,
        "states/shard_15": 0o755,
        "states/shard_15/user-1.json": 0o664,
        "states/shard_1": 0o755,
        "states/shard_1/default.json": 0o600,
    }


def test_a_relative_base_dir_counts_from_the_folder_of_the_migration_file(tmp_path: Path) -> None:
    store = open_store(FileConfig.model_validate({"type": "file", "file_options": {"base_dir": "here/base"}}), tmp_path)
    store.set_state("default", b"{}")
    assert (tmp_path / "here/base/states/shard_1/default.json").exists()
    absolute = FileConfig.model_validate({"type": "file", "file_options": {"base_dir": tmp_path / "here/base"}})
    assert open_store(absolute, Path("/elsewhere")).get_state("default") == b"{}"


# Times


def test_updated_at_is_kept_as_the_time_of_the_file(base: Path, store: FileStore) -> None:
    store.write(Kind.STATE, states(("user-1", b"{}"), updated_at="2025-07-14T09:30:15.12-04:00"))
    assert (base / "states/shard_15/user-1.json").stat().st_mtime_ns == 1752499815_120000000
    [row], _ = everything(store, Kind.STATE)
    assert row == {
        "state_id": "user-1",
        "data": b"{}",
        "created_at": None,
        "updated_at": "2025-07-14T13:30:15.12Z",
        "expires_at": None,
    }


def test_the_same_content_with_another_time_is_an_update(store: FileStore) -> None:
    assert store.write(Kind.STATE, states(("user-1", b"{}"), updated_at=TIME)) == Written(inserted=1)
    assert store.write(Kind.STATE, states(("user-1", b" { } "), updated_at=TIME)) == Written(unchanged=1)
    assert store.write(Kind.STATE, states(("user-1", b"{}"))) == Written(unchanged=1)
    assert store.write(Kind.STATE, states(("user-1", b"{}"), updated_at="2025-01-01T00:00:00Z")) == Written(updated=1)
    assert everything(store, Kind.STATE)[0][0]["updated_at"] == "2025-01-01T00:00:00Z"


def rows_lost(store: FileStore, kind: Kind, records: pa.RecordBatch) -> dict[str, int]:
    """How many rows lose what."""
    return {name: mask.true_count for name, mask in store.losses(kind, records).items()}


def test_losses_are_expiries_and_times_that_a_file_cannot_keep(store: FileStore) -> None:
    rows = [
        {"state_id": "a", "data": b"{}", "updated_at": TIME},
        {"state_id": "b", "data": b"{}", "created_at": TIME, "updated_at": TIME},
        {"state_id": "c", "data": b"{}", "expires_at": 1},
        {"state_id": "d", "data": b"{}", "updated_at": "0001-01-01T00:00:00Z"},
        {"state_id": "e", "data": b"{}", "updated_at": "yesterday"},
        {"state_id": "f", "data": b"{}"},
    ]
    assert rows_lost(store, Kind.STATE, batch(Kind.STATE, rows)) == {"expiry": 1, "timestamps": 3}
    assert store.losses(Kind.STATE, batch(Kind.STATE, [rows[0], rows[5]])) == {}
    assert store.losses(Kind.VERSION, batch(Kind.VERSION, [version_row("a", "v")])) == {}
    store.write(Kind.STATE, batch(Kind.STATE, rows))
    read = {row["state_id"]: row for row in everything(store, Kind.STATE)[0]}
    kept = {id_ for id_, row in read.items() if row["updated_at"] == TIME}
    assert kept == {"a", "b"}


# Replacing


def test_a_replaced_state_leaves_its_previous_content_as_backup(base: Path, store: FileStore) -> None:
    backup = base / "states/shard_15/user-1.json.backup"
    store.set_state("user-1", b'{"n":1}')
    store.set_state("user-1", b'{"n":1}')
    assert not backup.exists()
    store.set_state("user-1", b'{"n":2}')
    assert backup.read_bytes() == b'{\n  "n": 1\n}'
    store.write(Kind.STATE, states(("user-1", b'{"n":3}')))
    assert backup.read_bytes() == b'{\n  "n": 2\n}'
    assert documents(store) == {"user-1": b'{\n  "n": 3\n}'}
    assert store.stats().states == 1


def test_no_backups_are_made_where_they_are_not_wanted(base: Path) -> None:
    store = opened(base, enable_backups=False)
    store.set_state("user-1", b'{"n":1}')
    store.set_state("user-1", b'{"n":2}')
    assert files(base) == ["states/shard_15/user-1.json"]


def test_history_has_no_backups(base: Path, store: FileStore) -> None:
    store.save_version(Version("v1", "user-1", TIME, b'{"n":1}'))
    store.save_version(Version("v1", "user-1", TIME, b'{"n":2}'))
    assert files(base) == ["versions/shard_15/v1.json"]


def test_deleting_leaves_history_and_backup(base: Path, store: FileStore) -> None:
    store.set_state("user-1", b'{"n":1}')
    store.set_state("user-1", b'{"n":2}')
    store.save_version(Version("v1", "user-1", TIME, b"{}"))
    assert store.delete_state("user-1")
    assert files(base) == ["states/shard_15/user-1.json.backup", "versions/shard_15/v1.json"]
    assert owners(store, Kind.VERSION) == {"v1": "user-1"}


def test_files_that_are_being_written_are_no_records(base: Path, store: FileStore) -> None:
    with store.transaction() as transaction:
        transaction.set_state("user-1", b"{}")
        [aside] = files(base)
        assert aside.startswith("states/shard_15/.agui-")
        assert list(store.list_states()) == []
        assert documents(store) == {}
        assert store.stats().states == 0
    assert files(base) == ["states/shard_15/user-1.json"]


def test_a_failed_batch_changes_nothing_and_leaves_nothing(base: Path, store: FileStore) -> None:
    store.set_state("user-1", b'{"n":1}')
    with pytest.raises(UnstorableRecordError):
        store.write(Kind.STATE, states(("user-1", b'{"n":2}'), ("default", b"{}"), ("a/b", b"{}")))
    assert files(base) == ["states/shard_15/user-1.json"]
    assert store.get_state("user-1") == b'{\n  "n": 1\n}'


def test_a_commit_that_fails_in_the_middle_leaves_no_half_written_files(base: Path, store: FileStore) -> None:
    (base / "states/shard_1/default.json/x").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"default\.json"), store.transaction() as transaction:
        transaction.set_state("user-1", b"{}")
        transaction.set_state("default", b"{}")
        transaction.set_state("user-30", b"{}")
    assert files(base) == ["states/shard_15/user-1.json"]


def test_a_full_file_system_is_told_and_leaves_the_store_as_it_was(base: Path, store: FileStore) -> None:
    store.set_state("user-1", b'{"n":1}')
    with file_size_limit(4096), pytest.raises(StoreError, match="File too large") as caught:
        store.write(Kind.STATE, states(("default", b"{}"), ("user-1", b'{"n":"' + b"x" * 5000 + b'"}')))
    assert "Free space" in caught.value.remedy
    assert files(base) == ["states/shard_15/user-1.json"]
    assert store.get_state("user-1") == b'{\n  "n": 1\n}'


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_last_change_of_a_path_within_a_transaction_counts(base: Path, store: FileStore) -> None:
    store.set_state("user-1", b'{"n":1}')
    with store.transaction() as transaction:
        transaction.set_state("user-1", b'{"n":2}')
        transaction.set_state("user-1", b'{"n":1}')
        transaction.set_state("default", b"{}")
        transaction.delete_state("default")
        transaction.delete_state("user-30")
        transaction.set_state("user-30", b"{}")
    assert files(base) == ["states/shard_15/user-1.json", "states/shard_15/user-30.json"]
    assert store.get_state("user-1") == b'{\n  "n": 1\n}'


def test_a_version_set_back_to_what_it_was_within_a_transaction_stays(base: Path, store: FileStore) -> None:
    versions = [Version("v1", "user-1", TIME, b'{"n":%d}' % n) for n in (1, 2, 1)]
    store.save_version(versions[0])
    with store.transaction() as transaction:
        transaction.save_version(versions[1])
        transaction.save_version(versions[2])
    assert files(base) == ["versions/shard_15/v1.json"]
    [version] = store.get_version_history("user-1")
    assert version.data == b'{\n    "n": 1\n  }'


def test_an_error_of_the_caller_passes_through_a_transaction(store: FileStore) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), store.transaction() as transaction:
        transaction.set_state("user-1", b"{}")
        raise FileNotFoundError("mine")
    assert store.get_state("user-1") is None


def test_prepare_clears_away_only_old_leftovers(base: Path, store: FileStore) -> None:
    folder = base / "states/shard_15"
    folder.mkdir()
    for name in (".agui-1-0-1.tmp", ".agui-user.json", "other.tmp"):
        (folder / name).write_bytes(b"{}")
    store.prepare()
    assert len(files(base)) == 3
    tomorrow = (folder / "other.tmp").stat().st_ctime_ns + 1
    Layout(bytes(base), 16).remove_leftovers(before_ns=tomorrow)
    assert files(base) == ["states/shard_15/.agui-user.json", "states/shard_15/other.tmp"]


def test_prepare_clears_away_what_a_crash_left_of_a_look_at_the_clock(base: Path, store: FileStore) -> None:
    store.prepare()
    lease = store.lock(Owner.here("story"), 60)
    probe = base / ".agui-lock-0123456789ab"
    probe.touch()
    store.prepare()
    assert files(base) == [".agui-lock", ".agui-lock-0123456789ab"]
    Layout(bytes(base), 16).remove_leftovers(before_ns=probe.stat().st_ctime_ns + 1)
    assert files(base) == [".agui-lock"]
    lease.release()


def test_a_lock_that_cannot_be_removed_is_told_as_an_error_of_the_store(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.prepare()
    lease = store.lock(Owner.here("story"), 60)

    unlink = os.unlink

    def forbidden(path: bytes) -> None:
        if path.endswith(b"/.agui-lock"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        unlink(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", forbidden)
        with pytest.raises(StoreError, match=r"\.agui-lock: Permission denied"):
            lease.release()
    lease.release()


def test_documents_that_are_no_json_objects_are_refused(base: Path, store: FileStore) -> None:
    for document in (b"", b"[]", b'"x"', b"{", b'{"a":NaN}', b'{"a":"\xff"}'):
        with pytest.raises(UnstorableRecordError):
            store.set_state("user-1", document)
    assert files(base) == []


# Ids


@pytest.mark.parametrize("id_", ["../../x", "..", ".", "/etc/passwd", "a/b", "a\x00b", "x" * 244, "é" * 122, "\ud800"])
def test_ids_that_name_no_file_are_refused_and_never_leave_the_base(base: Path, store: FileStore, id_: str) -> None:
    outside = base.parent / "x.json"
    outside.write_bytes(b'{"secret":1}')
    with pytest.raises(UnstorableRecordError):
        store.set_state(id_, b"{}")
    with pytest.raises(UnstorableRecordError), store.transaction() as transaction:
        transaction.set_state(id_, b"{}")
    assert store.get_state(id_) is None
    assert not store.delete_state(id_)
    assert outside.read_bytes() == b'{"secret":1}'
    assert files(base.parent) == ["x.json"]


def test_history_ids_that_name_no_file_are_refused_and_never_leave_the_base(base: Path, store: FileStore) -> None:
    for id_ in ("../../../x", "/etc/passwd", "a\x00b", "x" * 251):
        with pytest.raises(UnstorableRecordError):
            store.save_version(Version(id_, "user-1", TIME, b"{}"))
        with pytest.raises(UnstorableRecordError):
            store.save_snapshot(Snapshot(id_, "user-1", TIME, b"{}"))
        assert store.get_version("user-1", id_) is None
        assert store.get_snapshot("user-1", id_) is None
    assert files(base.parent) == []


def test_refusals_are_the_rows_that_cannot_be_written(base: Path, store: FileStore) -> None:
    ids = ["ok", "a/b", "..", "", "a\x00b", "x" * 243, "x" * 244]
    rows, _ = digested(Kind.STATE, states(*((id_, b"{}") for id_ in ids)))
    refusals = store.refusals(Kind.STATE, rows)
    assert [(r.row, r.reason) for r in refusals] == [
        (1, "unsafe_id"),
        (2, "unsafe_id"),
        (4, "unsafe_id"),
        (6, "id_too_long"),
    ]
    assert opened(base, enable_backups=False).refusals(Kind.STATE, rows.slice(6)) == []
    for row, id_ in enumerate(ids):
        if row in {r.row for r in refusals}:
            with pytest.raises(UnstorableRecordError):
                store.write(Kind.STATE, rows.slice(row, 1))
        else:
            assert store.write(Kind.STATE, rows.slice(row, 1)).inserted == 1
            assert store.get_state(id_) == b"{}"


def test_a_key_of_another_place_is_passed_over(base: Path, store: FileStore) -> None:
    (base.parent / "x.json").write_bytes(b"{}")
    store.set_state("user-1", b"{}")
    keys = [b"../../x", b"a\x00b", b"gone", b"user-1", b"x" * 400, b"\xff"]
    file = io.BytesIO()
    write_catalogue([pa.RecordBatch.from_pydict({"key": keys, "weight": [1] * len(keys)})], file)
    [whole] = cut(file, 1)
    rejects: list[Reject] = []
    found = [b.to_pylist() for b in store.read(Kind.STATE, Span(whole, pq.ParquetFile(file)), rejects.append)]
    assert [row["state_id"] for rows in found for row in rows] == ["user-1"]
    assert rejects == []


def test_a_file_whose_name_is_not_utf8_is_rejected_by_name_with_its_content(base: Path, store: FileStore) -> None:
    folder = base / "states" / os.fsdecode(Layout(b"", 16).folder("\udcff-1"))
    folder.mkdir()
    (folder / os.fsdecode(b"\xff-1.json")).write_bytes(b'{"n":1}')
    store.set_state("user-1", b"{}")
    rows, rejects = everything(store, Kind.STATE)
    assert [row["state_id"] for row in rows] == ["user-1"]
    assert [(r.id, r.raw, r.reason) for r in rejects] == [(b"\xff-1", b'{"n":1}', "id_not_utf8")]
    assert list(store.list_states()) == ["user-1"]


# Reading


def test_documents_are_carried_as_the_file_has_them(base: Path, store: FileStore) -> None:
    file = base / "states/shard_15/user-1.json"
    file.parent.mkdir()
    for content in (b'{"a": 1.0}\n', b"", b"not json", b"\xff"):
        file.write_bytes(content)
        assert documents(store) == {"user-1": content}
    file.write_bytes(gzip.compress(b'{"a":1}'))
    assert documents(store) == {"user-1": b'{"a":1}'}
    assert store.get_state("user-1") == b'{"a":1}'


def test_a_file_that_cannot_be_read_is_rejected_by_name(base: Path, store: FileStore) -> None:
    outside = base.parent / "secret"
    outside.write_bytes(b'{"secret":1}')
    store.set_state("user-1", b"{}")
    folder = base / "states/shard_15"
    (folder / "user-30.json").symlink_to(outside)
    (folder / "user-41.json").symlink_to("nothing")
    (folder / "user-52.json").write_bytes(b"\x1f\x8bdamaged")
    (folder / "user-63.json").symlink_to("user-1.json")
    rows, rejects = everything(store, Kind.STATE)
    assert sorted(row["state_id"] for row in rows) == ["user-1", "user-63"]
    assert reasons(rejects) == [
        ("user-30", "symlink_outside"),
        ("user-41", "symlink_dangling"),
        ("user-52", "gzip_damaged"),
    ]
    assert {r.name: r.raw for r in rejects} == {"user-30": None, "user-41": None, "user-52": b"\x1f\x8bdamaged"}
    with pytest.raises(StoreError, match="user-30"):
        store.get_state("user-30")


def test_what_is_no_file_is_no_record_whatever_its_name_and_is_told_once(base: Path, store: FileStore) -> None:
    store.set_state("user-1", b"{}")
    (base / "states/shard_15/user-30.json").mkdir()
    os.mkfifo(base / "states/shard_15/user-41.json")
    (base / "versions/shard_15/v1.json").mkdir(parents=True)
    for ranges in (1, 3, 16):
        rows, rejects = everything(store, Kind.STATE, ranges)
        assert [row["state_id"] for row in rows] == ["user-1"]
        assert reasons(rejects) == [("user-30", "not_a_file"), ("user-41", "not_a_file")]
        assert reasons(everything(store, Kind.VERSION, ranges)[1]) == [("v1", "not_a_file")]
    assert store.stats().states == 1
    assert list(store.list_states()) == ["user-1"]


def test_files_that_lie_deeper_than_the_format_keeps_any_are_rejected_by_name_with_their_content(
    base: Path, store: FileStore
) -> None:
    store.set_state("user-1", b"{}")
    outside = base.parent / "outside"
    outside.mkdir()
    (outside / "x.json").write_bytes(b'{"secret":1}')
    for name in (
        "states/shard_15/a/b.json",
        "states/a/b/c.json",
        "states/shard_15/d.json/e.json",
        "snapshots/f/g.json",
    ):
        (base / name).parent.mkdir(parents=True)
        (base / name).write_bytes(b'{"n":1}')
    (base / "states/shard_15/a/notes.txt").write_bytes(b"no record")
    (base / "states/shard_15/link").symlink_to(outside)
    (base / "states/shard_15/a/link.json").symlink_to(outside / "x.json")
    rows, rejects = everything(store, Kind.STATE)
    assert [row["state_id"] for row in rows] == ["user-1"]
    assert sorted((r.name, r.reason, r.raw) for r in rejects) == [
        ("a/b", "nested", b'{"n":1}'),
        ("a/b/c", "nested", b'{"n":1}'),
        ("a/link", "nested", None),
        ("d", "not_a_file", None),
        ("d.json/e", "nested", b'{"n":1}'),
        ("link", "nested", None),
    ]
    assert reasons(everything(store, Kind.SNAPSHOT)[1]) == [("f/g", "nested")]
    assert list(store.list_states()) == ["user-1"]


def test_writing_replaces_a_link_and_not_what_it_leads_to(base: Path, store: FileStore) -> None:
    outside = base.parent / "secret"
    outside.write_bytes(b'{"secret":1}')
    folder = base / "states/shard_15"
    folder.mkdir()
    (folder / "user-1.json").symlink_to(outside)
    store.set_state("user-1", b'{"n":1}')
    assert outside.read_bytes() == b'{"secret":1}'
    assert store.get_state("user-1") == b'{\n  "n": 1\n}'


@pytest.mark.parametrize("name", ["states", "states/shard_15"])
def test_a_folder_that_is_a_link_out_of_the_base_is_refused(base: Path, name: str) -> None:
    outside = base.parent / "outside"
    outside.mkdir()
    (outside / "user-1.json").write_bytes(b"{}")
    (base / name).parent.mkdir(parents=True)
    (base / name).symlink_to(outside)
    for attempt in (
        lambda s: s.check(),
        lambda s: list(s.keys()),
        lambda s: s.get_state("user-1"),
        lambda s: s.set_state("user-1", b'{"n":2}'),
        lambda s: s.delete_state("user-1"),
        lambda s: s.stats(),
    ):
        with pytest.raises(StoreError, match="symbolic link"):
            attempt(opened(base))
    assert (outside / "user-1.json").read_bytes() == b"{}"


def test_a_base_that_is_itself_a_link_is_fine(base: Path, store: FileStore) -> None:
    store.set_state("user-1", b"{}")
    (base.parent / "link").symlink_to(base)
    linked = opened(base.parent / "link")
    assert documents(linked) == {"user-1": b"{}"}
    assert linked.place() == store.place()


def test_states_are_found_whatever_the_layout_they_were_written_with(base: Path) -> None:
    ids = {f"user-{i}" for i in range(40)}
    opened(base).write(Kind.STATE, states(*((id_, b"{}") for id_ in ids)))
    for folder in (base / "states").iterdir():  # long enough ago for what is found out of it to be remembered
        os.utime(folder, ns=(0, 10**18))
    for store in (opened(base, shard_count=7), opened(base, enable_sharding=False), opened(base, shard_count=40)):
        assert documents(store).keys() == ids
        assert sorted(store.list_states()) == sorted(ids)
        assert store.get_state("user-1") == b"{}"
        assert store.get_state("user-99") is None


def test_a_state_that_lies_in_two_places_is_read_where_it_belongs_and_the_other_is_rejected(base: Path) -> None:
    opened(base, shard_count=7).set_state("user-1", b'{"old":1}')
    opened(base, enable_sharding=False).set_state("user-1", b'{"older":1}')
    store = opened(base)
    store.set_state("user-1", b'{"new":1}')
    rows, rejects = everything(store, Kind.STATE)
    assert [row["data"] for row in rows] == [b'{\n  "new": 1\n}']
    assert sorted((r.name, r.reason, r.raw) for r in rejects) == [
        ("user-1", "shadowed", b'{\n  "old": 1\n}'),
        ("user-1", "shadowed", b'{\n  "older": 1\n}'),
    ]
    assert list(store.list_states()) == ["user-1"]
    assert store.delete_state("user-1")
    assert store.get_state("user-1") is None
    assert list(store.list_states()) == []


def test_a_folder_that_does_not_exist_is_not_taken_for_an_empty_store(base: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        list(opened(base).keys())
    base.mkdir()
    assert documents(opened(base)) == {}


def test_large_documents_travel_alone(store: FileStore) -> None:
    small, large = b'{"a":"' + b"x" * (BATCH_BYTES * 2 // 5) + b'"}', b'{"a":"' + b"x" * (BATCH_BYTES + 1) + b'"}'
    for id_, document in (("a", small), ("b", small), ("c", large), ("d", small), ("e", small), ("f", small)):
        store.set_state(id_, document)
    file = io.BytesIO()
    write_catalogue(store.keys(), file)
    [whole] = cut(file, 1)
    batches = store.read(Kind.STATE, Span(whole, pq.ParquetFile(file)), lambda reject: pytest.fail(str(reject)))
    assert [found.column("state_id").to_pylist() for found in batches] == [["a", "b"], ["c"], ["d", "e"], ["f"]]


# Histories


def test_history_of_ours_belongs_to_the_state_it_names(base: Path, store: FileStore) -> None:
    for id_ in ("user-1", "user-30"):
        store.set_state(id_, b"{}")
        store.save_version(Version(f"v-{id_}", id_, TIME, b"{}"))
        store.save_snapshot(Snapshot(f"s-{id_}", id_, TIME, b"{}"))
    assert owners(store, Kind.VERSION) == {"v-user-1": "user-1", "v-user-30": "user-30"}
    assert owners(store, Kind.SNAPSHOT) == {"s-user-1": "user-1", "s-user-30": "user-30"}


def test_history_that_names_its_state_in_its_metadata_belongs_to_it(base: Path, store: FileStore) -> None:
    store.write(Kind.STATE, states(("user-1", b"{}"), ("user-30", b"{}")))
    as_reference(base, "versions", "shard_15", "v1", Metadata={"state_id": "user-30"})
    as_reference(base, "snapshots", "shard_15", "s1", Metadata={"state_id": "gone"})
    assert owners(store, Kind.VERSION) == {"v1": "user-30"}
    assert owners(store, Kind.SNAPSHOT) == {"s1": "gone"}


def test_history_belongs_to_the_only_state_of_its_shard(base: Path, store: FileStore) -> None:
    store.write(Kind.STATE, states(("user-1", b"{}"), ("default", b"{}")))
    as_reference(base, "versions", "shard_15", "v1", State={"n": 1})
    as_reference(base, "snapshots", "shard_1", "s1", State={"n": 2})
    assert owners(store, Kind.VERSION) == {"v1": "user-1"}
    assert owners(store, Kind.SNAPSHOT) == {"s1": "default"}
    assert [v.version_id for v in store.get_version_history("user-1")] == ["v1"]
    assert [s.snapshot_id for s in store.list_snapshots("default")] == ["s1"]


def test_the_only_state_of_a_shard_does_not_get_the_history_of_a_deleted_one(base: Path, store: FileStore) -> None:
    store.set_state("user-1", b'{"n":1}')
    as_reference(base, "versions", "shard_15", "v1", Metadata={"state_id": "user-30"})
    as_reference(base, "versions", "shard_15", "v2", ParentID="v1")
    as_reference(base, "versions", "shard_15", "v3")
    assert owners(store, Kind.VERSION) == {"v1": "user-30", "v2": "user-30"}


def test_the_chain_of_parents_tells_in_both_directions(base: Path, store: FileStore) -> None:
    store.write(Kind.STATE, states(("user-1", b'{"a":1}'), ("user-30", b'{"b":1}')))
    store.save_version(Version("v3", "user-1", TIME, b"{}", parent_id="v2"))
    for id_, parent in (("v1", ""), ("v2", "v1"), ("v4", "v3"), ("v5", "v4"), ("w1", ""), ("w2", "w1")):
        as_reference(base, "versions", "shard_15", id_, ParentID=parent)
    as_reference(base, "snapshots", "shard_15", "s1", Version="v5")
    assert owners(store, Kind.VERSION) == dict.fromkeys(["v1", "v2", "v3", "v4", "v5"], "user-1")
    assert owners(store, Kind.SNAPSHOT) == {"s1": "user-1"}


def test_a_version_that_equals_exactly_one_document_belongs_to_it_with_its_chain(base: Path, store: FileStore) -> None:
    documents_ = {"user-1": b'{"n":1.0,"m":2}', "user-30": b"{}", "user-41": b'{"x":1}', "user-52": b'{"x":1}'}
    store.write(Kind.STATE, states(*documents_.items()))
    # The first version of user-1 was empty, as user-30 is now: what is newest tells.
    as_reference(base, "versions", "shard_15", "v1", State={}, Timestamp="2025-01-01T00:00:00Z")
    as_reference(
        base, "versions", "shard_15", "v2", State={"m": 2, "n": 1}, ParentID="v1", Timestamp="2025-01-02T00:00:00Z"
    )
    as_reference(base, "versions", "shard_15", "w1", State={}, Timestamp="2024-01-01T00:00:00Z")
    as_reference(base, "versions", "shard_15", "x1", State={"x": 1})
    as_reference(base, "snapshots", "shard_15", "s1", State={})
    assert owners(store, Kind.VERSION) == {"v1": "user-1", "v2": "user-1", "w1": "user-30"}
    assert owners(store, Kind.SNAPSHOT) == {"s1": "user-30"}
    _, rejects = everything(store, Kind.VERSION)
    assert reasons(rejects) == [("x1", "unattributed")]


def test_the_state_that_a_file_names_itself_goes_before_its_metadata_and_its_chain(
    base: Path, store: FileStore
) -> None:
    store.write(Kind.STATE, states(("user-1", b'{"a":1}'), ("user-30", b'{"b":1}')))
    store.save_version(Version("v1", "user-1", TIME, b"{}"))
    as_reference(base, "versions", "shard_15", "v2", StateID="user-30", Metadata={"state_id": "user-1"}, State={"a": 1})
    as_reference(base, "versions", "shard_15", "v3", Metadata={"state_id": "user-30"}, ParentID="v1", State={"a": 1})
    as_reference(base, "versions", "shard_15", "v4", ParentID="v1", State={"b": 1})
    assert owners(store, Kind.VERSION) == {"v1": "user-1", "v2": "user-30", "v3": "user-30", "v4": "user-1"}


def test_a_state_in_metadata_that_is_no_text_does_not_tell(base: Path, store: FileStore) -> None:
    store.write(Kind.STATE, states(("user-1", b'{"a":1}'), ("user-30", b'{"b":1}')))
    for id_, metadata in (("v1", {"state_id": 1}), ("v2", {"deep": {"state_id": "user-1"}}), ("v3", ["state_id"])):
        as_reference(base, "versions", "shard_15", id_, Metadata=metadata, State={"c": id_})
    rows, rejects = everything(store, Kind.VERSION)
    assert rows == []
    assert reasons(rejects) == [(id_, "unattributed") for id_ in ("v1", "v2", "v3")]


def test_a_backup_without_its_state_shows_that_the_shard_had_another_state(base: Path, store: FileStore) -> None:
    for id_ in ("user-1", "user-30"):
        store.set_state(id_, b'{"n":1}')
        store.set_state(id_, b'{"n":2}')
    as_reference(base, "versions", "shard_15", "v1", State={"whose": "?"})
    as_reference(base, "versions", "shard_15", "v2", State={"n": 2})
    store.delete_state("user-30")
    rows, rejects = everything(store, Kind.VERSION)
    assert [row["version_id"] for row in rows] == ["v2"]
    assert reasons(rejects) == [("v1", "unattributed")]
    (base / "states/shard_15/user-30.json.backup").unlink()
    assert owners(store, Kind.VERSION) == {"v1": "user-1", "v2": "user-1"}


def test_a_chain_that_is_connected_to_two_states_belongs_to_neither(base: Path, store: FileStore) -> None:
    store.write(Kind.STATE, states(("user-1", b'{"a":1}'), ("user-30", b'{"b":1}')))
    store.save_version(Version("a", "user-1", TIME, b"{}", parent_id="v2"))
    store.save_version(Version("b", "user-30", TIME, b"{}", parent_id="v2"))
    as_reference(base, "versions", "shard_15", "v1", State={"a": 1})
    as_reference(base, "versions", "shard_15", "v2", ParentID="v1")
    as_reference(base, "snapshots", "shard_15", "s1", Version="v2", State={"c": 1})
    rows, rejects = everything(store, Kind.VERSION)
    assert sorted(row["version_id"] for row in rows) == ["a", "b"]
    assert reasons(rejects) == [("v1", "unattributed"), ("v2", "unattributed")]
    assert "'user-1' and 'user-30'" in rejects[0].detail
    assert reasons(everything(store, Kind.SNAPSHOT)[1]) == [("s1", "unattributed")]


def test_a_circle_of_parents_is_one_chain(base: Path, store: FileStore) -> None:
    store.write(Kind.STATE, states(("user-1", b'{"a":1}'), ("user-30", b'{"b":1}')))
    as_reference(base, "versions", "shard_15", "v1", ParentID="v2", State={"b": 1})
    as_reference(base, "versions", "shard_15", "v2", ParentID="v1", State={"c": 1}, Timestamp="2024-01-01T00:00:00Z")
    as_reference(base, "versions", "shard_15", "v3", ParentID="v3", State={"c": 1})
    assert owners(store, Kind.VERSION) == {"v1": "user-30", "v2": "user-30"}
    assert reasons(everything(store, Kind.VERSION)[1]) == [("v3", "unattributed")]


def test_the_empty_document_that_histories_begin_with_does_not_tell_whose_they_are(
    base: Path, store: FileStore
) -> None:
    store.write(Kind.STATE, states(("user-1", b'{"a":1}'), ("user-30", b"{}")))
    as_reference(base, "versions", "shard_15", "v1", State={})
    as_reference(base, "versions", "shard_15", "v2", State={"of": "a state that was deleted"}, ParentID="v1")
    rows, rejects = everything(store, Kind.VERSION)
    assert rows == []
    assert reasons(rejects) == [("v1", "unattributed"), ("v2", "unattributed")]


def test_an_older_version_tells_by_its_content_only_where_no_other_chain_holds_the_like(
    base: Path, store: FileStore
) -> None:
    store.write(Kind.STATE, states(("user-1", b'{"a":1}'), ("user-30", b'{"first":1}')))
    # A crash between version and state leaves the head one version behind.
    as_reference(base, "versions", "shard_15", "v1", State={"first": 1}, Timestamp="2025-01-01T00:00:00Z")
    as_reference(base, "versions", "shard_15", "v2", State={"a": 1}, ParentID="v1", Timestamp="2025-01-02T00:00:00Z")
    as_reference(base, "versions", "shard_15", "v3", State={"a": 2}, ParentID="v2", Timestamp="2025-01-03T00:00:00Z")
    as_reference(base, "versions", "shard_15", "w1", State={"first": 1}, Timestamp="2025-01-01T00:00:00Z")
    as_reference(base, "versions", "shard_15", "x1", State={"first": 1}, Timestamp="2025-01-01T00:00:00Z")
    as_reference(base, "versions", "shard_15", "x2", State={"x": 1}, ParentID="x1", Timestamp="2025-01-02T00:00:00Z")
    assert owners(store, Kind.VERSION) == {"v1": "user-1", "v2": "user-1", "v3": "user-1", "w1": "user-30"}
    assert reasons(everything(store, Kind.VERSION)[1]) == [("x1", "unattributed"), ("x2", "unattributed")]


def test_what_belongs_to_no_state_is_rejected_once_with_its_bytes(base: Path, store: FileStore) -> None:
    store.write(Kind.STATE, states(("user-1", b'{"a":1}'), ("user-30", b'{"b":1}'), ("default", b"{}")))
    as_reference(base, "versions", "shard_15", "v1", State={"c": 1})
    as_reference(base, "snapshots", "shard_3", "s1", State={"c": 1})
    for ranges in (1, 3, 16):
        _, rejects = everything(store, Kind.VERSION, ranges)
        assert reasons(rejects) == [("v1", "unattributed")]
        assert rejects[0].raw == (base / "versions/shard_15/v1.json").read_bytes()
        assert reasons(everything(store, Kind.SNAPSHOT, ranges)[1]) == [("s1", "unattributed")]
    version = store.get_version("user-1", "v1")
    assert version is not None  # whoever knows the id is given it, as by the reference
    assert store.get_version_history("user-1") == []


def test_history_files_that_are_no_records_are_rejected_by_name(base: Path, store: FileStore) -> None:
    store.set_state("user-1", b"{}")
    as_reference(base, "versions", "shard_15", "v1")
    folder = base / "versions/shard_15"
    (folder / "v1 (copy).json").write_bytes((folder / "v1.json").read_bytes())
    (folder / "v2.json").write_bytes(b'{"ID":"v2"')
    (folder / "v3.json").write_bytes(b'{"ID":3}')
    (folder / "v4.json").symlink_to("/etc/hostname")
    rows, rejects = everything(store, Kind.VERSION)
    assert [row["version_id"] for row in rows] == ["v1"]
    assert reasons(rejects) == [
        ("v1 (copy)", "id_mismatch"),
        ("v2", "undecodable"),
        ("v3", "undecodable"),
        ("v4", "symlink_outside"),
    ]
    assert {r.name: r.raw for r in rejects}["v2"] == b'{"ID":"v2"'


def test_a_version_that_lies_in_two_folders_is_read_where_it_belongs(base: Path, store: FileStore) -> None:
    for shard, n in (("", 0), ("shard_15", 1), ("shard_3", 2)):
        as_reference(base, "versions", shard, "v1", State={"n": n}, StateID="user-1")
    rows, rejects = everything(store, Kind.VERSION)
    assert [(row["state_id"], json.loads(row["data"])) for row in rows] == [("user-1", {"n": 1})]
    assert reasons(rejects) == [("user-1/v1", "shadowed")] * 2
    assert sorted(json.loads(r.raw or b"")["State"]["n"] for r in rejects) == [0, 2]


def test_the_history_of_a_state_whose_name_is_not_utf8_is_rejected_by_name(base: Path, store: FileStore) -> None:
    shard = os.fsdecode(Layout(b"", 16).folder("\udcff-1"))
    (base / "states" / shard).mkdir()
    (base / "states" / shard / os.fsdecode(b"\xff-1.json")).write_bytes(b"{}")
    as_reference(base, "versions", shard, "v1")
    rows, rejects = everything(store, Kind.VERSION)
    assert rows == []
    assert [(r.id, r.reason) for r in rejects] == [(b"\xff-1/v1", "id_not_utf8")]


def test_a_store_that_holds_nothing_but_stray_history_still_tells_of_it(base: Path, store: FileStore) -> None:
    as_reference(base, "versions", "shard_15", "v1")
    rows, rejects = everything(store, Kind.VERSION, 4)
    assert rows == []
    assert reasons(rejects) == [("v1", "unattributed")]


def test_the_version_of_another_state_is_not_given_away(base: Path, store: FileStore) -> None:
    store.write(Kind.STATE, states(("user-1", b'{"a":1}'), ("user-30", b'{"b":1}')))
    store.save_version(Version("ours", "user-30", TIME, b"{}"))
    as_reference(base, "versions", "shard_15", "theirs", State={"b": 1})
    for id_ in ("ours", "theirs"):
        assert store.get_version("user-1", id_) is None
        assert store.get_version("user-30", id_) is not None


def test_states_of_one_shard_do_not_overwrite_each_others_history(base: Path, store: FileStore) -> None:
    store.save_version(Version("v1", "user-1", TIME, b'{"n":1}'))
    with pytest.raises(UnstorableRecordError, match=r"'user-30'.*'user-1'"):
        store.save_version(Version("v1", "user-30", TIME, b'{"n":2}'))
    with pytest.raises(UnstorableRecordError):
        store.write(
            Kind.SNAPSHOT,
            batch(
                Kind.SNAPSHOT,
                [
                    {"state_id": id_, "snapshot_id": "s1", "timestamp": TIME, "data": b"{}", "version_id": ""}
                    for id_ in ("user-1", "user-30")
                ],
            ),
        )
    store.save_version(Version("v1", "default", TIME, b'{"n":3}'))
    assert files(base) == ["versions/shard_1/v1.json", "versions/shard_15/v1.json"]
    assert [v.data for v in store.get_version_history("user-1")] == [b'{\n    "n": 1\n  }']
    rows = batch(
        Kind.VERSION, [version_row("user-1", "v9"), version_row("user-30", "v9"), version_row("default", "v9")]
    )
    refusals = store.refusals(Kind.VERSION, digested(Kind.VERSION, rows)[0])
    assert [(r.row, r.reason) for r in refusals] == [(1, "shared_name")]


def test_a_file_that_names_no_state_is_replaced_by_its_own_state_only(base: Path, store: FileStore) -> None:
    store.write(Kind.STATE, states(("user-1", b'{"a":1}'), ("user-30", b'{"b":1}')))
    as_reference(base, "versions", "shard_15", "v1", State={"a": 1})
    as_reference(base, "versions", "shard_15", "v2", State={"c": 1})
    rows = [version_row("user-30", id_, data=b'{"b":1}') for id_ in ("v0", "v1")]
    with pytest.raises(UnstorableRecordError, match=r"'user-30'.*'user-1'"):
        store.write(Kind.VERSION, batch(Kind.VERSION, rows))
    assert owners(store, Kind.VERSION) == {"v1": "user-1"}
    assert store.write(Kind.VERSION, batch(Kind.VERSION, [version_row("user-1", "v1")])) == Written(updated=1)
    assert store.write(Kind.VERSION, batch(Kind.VERSION, [version_row("user-30", "v2")])) == Written(updated=1)
    assert owners(store, Kind.VERSION) == {"v1": "user-1", "v2": "user-30"}


def test_a_version_whose_extra_members_take_our_name_is_refused(store: FileStore) -> None:
    rows = batch(
        Kind.VERSION, [version_row("user-1", "v1", extra=b'{"StateID":"x"}'), version_row("a", "v2", extra=b'{"x":1}')]
    )
    assert [(r.row, r.reason) for r in store.refusals(Kind.VERSION, digested(Kind.VERSION, rows)[0])] == [
        (0, "reserved_member")
    ]


def test_history_written_after_it_was_read_is_seen(base: Path, store: FileStore) -> None:
    other = opened(base)
    for i in range(5):
        other.save_version(Version(f"v{i}", "user-1", TIME, b"{}"))
        assert len(store.get_version_history("user-1")) == i + 1
        assert len(owners(store, Kind.VERSION)) == i + 1


def test_an_id_that_has_history_only_is_a_key_too(store: FileStore) -> None:
    store.save_version(Version("v1", "gone", TIME, b"{}"))
    store.set_state("user-1", b"{}")
    batches = list(store.keys())
    assert {key for found in batches for key in found.column("key").to_pylist()} == {b"gone", b"user-1"}
    assert list(store.list_states()) == ["user-1"]


# What is remembered of folders


def test_a_folder_that_does_not_change_is_looked_at_once(tmp_path: Path) -> None:
    memory: FolderMemory[int] = FolderMemory()
    looked: list[int] = []

    def look(given: int = 0) -> int:
        def compute() -> int:
            looked.append(given)
            return len(looked)

        return memory.get([bytes(tmp_path)], compute, given=given)

    os.utime(tmp_path, ns=(0, 10**18))
    assert [look(), look(), look(7), look(7), look()] == [1, 1, 2, 2, 1]
    os.utime(tmp_path, ns=(0, 10**18 + 1))
    assert [look(), look()] == [3, 3]


def test_a_folder_that_changed_just_now_is_looked_at_again(tmp_path: Path) -> None:
    memory: FolderMemory[object] = FolderMemory()
    (tmp_path / "new").touch()
    assert memory.get([bytes(tmp_path)], object) is not memory.get([bytes(tmp_path)], object)


# Names that differ in case only


def test_twins_are_refused_where_the_file_system_folds_case(tmp_path: Path) -> None:
    (tmp_path / "states").mkdir()
    (tmp_path / "states/Ada.json").touch()
    folders = Folders(Layout(bytes(tmp_path), 0), _folds=True)
    folders.admit(Kind.STATE, b"", b"Ada")
    folders.admit(Kind.STATE, b"", b"bob")
    folders.admit(Kind.VERSION, b"", b"ada")
    for twin in (b"ada", b"BOB"):
        with pytest.raises(StoreError, match="differ in case only"):
            folders.admit(Kind.STATE, b"", twin)


def test_twins_are_both_kept_where_the_file_system_tells_them_apart(base: Path, store: FileStore) -> None:
    if Layout(bytes(base), 0).folds_case():
        pytest.skip("this file system folds case")
    store.write(Kind.STATE, states(("Ada", b'{"n":1}'), ("ada", b'{"n":2}')))
    assert documents(store) == {"Ada": b'{\n  "n": 1\n}', "ada": b'{\n  "n": 2\n}'}


# Where it is, and whether it can be used


def test_check_changes_nothing(base: Path) -> None:
    opened(base / "deep" / "er").check()
    assert not base.exists()


def test_check_refuses_what_is_no_folder(base: Path) -> None:
    base.write_bytes(b"")
    for store in (opened(base), opened(base / "below")):
        with pytest.raises(StoreError, match="is not a folder"):
            store.check()
    with pytest.raises(ConnectionFailedError):
        opened(base).ping()
    base.unlink()
    base.mkdir()
    (base / "versions").write_bytes(b"")
    with pytest.raises(StoreError, match="is not a folder"):
        opened(base).check()


def test_a_folder_that_cannot_be_written_to_is_told(base: Path, store: FileStore) -> None:
    base.chmod(0o500)
    try:
        if os.access(base, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(StoreError, match="cannot be written to"):
            store.check()
    finally:
        base.chmod(0o700)


def test_prepare_makes_the_trees_and_may_be_repeated(base: Path) -> None:
    store = opened(base)
    store.prepare()
    store.prepare()
    assert sorted(p.name for p in base.iterdir()) == ["snapshots", "states", "versions"]


def test_the_place_is_the_same_by_whichever_path_and_whether_or_not_it_exists(base: Path) -> None:
    before = opened(base).place()
    opened(base).prepare()
    assert opened(base).place() == opened(base.parent / "x" / ".." / "base").place() == before
    assert not before.overlaps(opened(base.parent / "other").place())


def test_counts_are_those_of_the_files(store: FileStore) -> None:
    store.write(Kind.STATE, states(("a", b"{}"), ("b", b"{}")))
    store.save_version(Version("v1", "a", TIME, b"{}"))
    stats = store.stats()
    assert (stats.states, stats.versions, stats.snapshots, stats.bytes) == (2, 1, 0, None)


def test_flushing_works_whether_or_not_the_store_is_durable(base: Path) -> None:
    for durable in (True, False):
        store = opened(base, durable=durable)
        store.set_state("user-1", b"{}")
        store.flush()
        assert store.get_state("user-1") == b"{}"
