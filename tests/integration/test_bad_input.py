"""What no store could hold, or nobody could read: told by name with its raw bytes, never lost, never outside the base."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
import redis

from agui_pipelines.errors import BackupError, CollisionError, RejectLimitError, StoreError
from agui_pipelines.ports import Version
from agui_pipelines.records import SCHEMAS, Kind
from agui_pipelines.stores.file_layout import Layout

TIME = "2025-07-14T09:30:15Z"
NOBODY = 65534


def at(base, kind, state_id, name):
    """Where the file of a record of a state belongs, by the name that it is to have."""
    folder = Path(base) / kind / Layout(b"", 16).folder(state_id).decode()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def tree(folder):
    """Every path below a folder, with its content or what it is instead."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = os.fsencode(path.relative_to(folder))
        found[name] = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def version_file(version_id, **members):
    body = {"ID": version_id, "Timestamp": TIME, "State": {}, "Delta": None, "Metadata": None, "ParentID": ""}
    return json.dumps({**body, **members}).encode()


def states_of(store):
    return {state_id: json.loads(store.get_state(state_id)) for state_id in store.list_states()}


@pytest.fixture
def base(tmp_path):
    return tmp_path / "first"


@pytest.fixture
def damaged(base, tmp_path):
    """A file store in which a good deal went wrong; gives what is to be told of it: reason and raw bytes by id."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_bytes(b'{"secret":1}')
    at(base, "states", "good", "good.json").write_bytes(b'{"n":1}')
    at(base, "states", "packed", "packed.json").write_bytes(gzip.compress(b'{"n":2}'))
    at(base, "states", "good", "good.json.backup").write_bytes(b'{"n":0}')
    at(base, "states", "gone", "gone.json.backup").write_bytes(b'{"n":0}')
    at(base, "states", "good", ".agui-1-2-3.tmp").write_bytes(b'{"n":')
    at(base, "states", "good", "notes.txt").write_bytes(b"ours")
    at(base, "versions", "good", "v1.json").write_bytes(version_file("v1", StateID="good"))
    at(base, "states", "half", "half.json").write_bytes(b'{"n":1,"text":"half a sen')
    at(base, "states", "void", "void.json").write_bytes(b"")
    at(base, "states", "list", "list.json").write_bytes(b"[1]")
    at(base, "states", "latin", "latin.json").write_bytes(b'{"n":"\xe9"}')
    at(base, "states", "torn", "torn.json").write_bytes(gzip.compress(b'{"n":2}', mtime=0)[:-6])
    at(base, "states", "linked", "linked.json").symlink_to(outside / "secret.json")
    at(base, "states", "round", "round.json").symlink_to("round.json")
    at(base, "states", "folder", "folder.json").mkdir()
    at(base, "states", "a", "a").mkdir()
    at(base, "states", "a", "a").joinpath("b.json").write_bytes(b'{"n":3}')
    at(base, "states", "\udcff", os.fsdecode(b"\xff.json")).write_bytes(b'{"n":4}')
    at(base, "states", "", ".json").write_bytes(b'{"n":5}')
    at(base, "versions", "good", "v2.json").write_bytes(b'{"ID":"v2","State":{"n":')
    at(base, "versions", "good", "v3.json").write_bytes(version_file("other"))
    at(base, "versions", "list", "v4.json").write_bytes(version_file("v4", State={"whose": "?"}))
    at(base, "versions", "good", "v5.json").symlink_to(outside / "secret.json")
    at(base, "snapshots", "good", "s1.json").write_bytes(b"\x1f\x8bdamaged")
    return {
        b"half": ("undecodable", b'{"n":1,"text":"half a sen'),
        b"void": ("undecodable", b""),
        b"list": ("not_an_object", b"[1]"),
        b"latin": ("undecodable", b'{"n":"\xe9"}'),
        b"torn": ("gzip_damaged", gzip.compress(b'{"n":2}', mtime=0)[:-6]),
        b"linked": ("symlink_outside", None),
        b"round": ("symlink_dangling", None),
        b"folder": ("not_a_file", None),
        b"a/b": ("nested", b'{"n":3}'),
        b"\xff": ("id_not_utf8", b'{"n":4}'),
        b"": ("empty_id", b'{"n":5}'),
        b"v2": ("undecodable", b'{"ID":"v2","State":{"n":'),
        b"v3": ("id_mismatch", version_file("other")),
        b"v4": ("unattributed", version_file("v4", State={"whose": "?"})),
        b"v5": ("symlink_outside", None),
        b"s1": ("gzip_damaged", b"\x1f\x8bdamaged"),
    }


@pytest.mark.parametrize("destination", ["file", "redis", "postgresql"])
def test_a_damaged_file_store_is_refused_by_name_and_the_rest_moves_once_that_is_accepted(
    migration, config, opened, tmp_path, base, damaged, destination
):
    second = config(destination, "second")
    move = migration(source=config("file", "first"), target=second)
    before = tree(tmp_path / "first"), tree(tmp_path / "outside")

    with pytest.raises(RejectLimitError) as refused:
        move.run()

    assert refused.value.data["rejected"] == len(damaged)
    assert {id_: (reason, raw) for id_, (_, reason, raw) in move.rejects().items()} == damaged
    if destination == "file":
        assert not (tmp_path / "second").exists()

    outcome = move.but(limits={"max_rejects": len(damaged)}).run()

    assert outcome.validation.passed
    assert outcome.validation.rejected == len(damaged)
    target = opened(second)
    assert states_of(target) == {"good": {"n": 1}, "packed": {"n": 2}}
    assert [v.version_id for v in target.get_version_history("good")] == ["v1"]
    assert (tree(tmp_path / "first"), tree(tmp_path / "outside")) == before


@pytest.mark.parametrize("destination", ["file", "redis", "postgresql"])
def test_a_damaged_redis_store_is_refused_by_name_and_the_rest_moves_once_that_is_accepted(
    migration, config, opened, destination
):
    first, second = config("redis", "first"), config(destination, "second")
    opened(first).set_state("good", b'{"n":1}')
    opened(first).save_version(Version("v1", "good", TIME, b'{"n":1}'))
    with redis.Redis.from_url(first["connection_url"]) as client:
        client.set("ag-ui:state:state:half", b'{"n":')
        client.hset("ag-ui:state:state:hash", "n", "1")
        client.set(b"ag-ui:state:state:\xff", b"{}")
        client.zadd("ag-ui:state:versions:good", {"dangling": 1, "half": 1})
        client.set("ag-ui:state:version:good:half", b'{"ID":')
        client.set("ag-ui:state:version:good:unlisted", version_file("unlisted"))
        client.set("ag-ui:state:version:gone:unlisted", version_file("unlisted"))
        client.set("ag-ui:state:snapshots:good", b"no sorted set")
        client.set("ag-ui:state:snapshot:good:s1", b"{}")
    expected = {
        b"half": ("undecodable", b'{"n":'),
        b"hash": ("wrong_type", None),
        b"\xff": ("id_not_utf8", b"{}"),
        b"good/dangling": ("missing_body", None),
        b"good/half": ("undecodable", b'{"ID":'),
        b"good/unlisted": ("unlisted", version_file("unlisted")),
        b"gone/unlisted": ("unlisted", version_file("unlisted")),
        b"good": ("wrong_type", None),
        b"good/s1": ("unlisted", b"{}"),
    }
    move = migration(source=first, target=second)

    with pytest.raises(RejectLimitError) as refused:
        move.run()

    assert refused.value.data["rejected"] == len(expected)
    assert {id_: (reason, raw) for id_, (_, reason, raw) in move.rejects().items()} == expected

    assert move.but(limits={"max_rejects": len(expected)}).run().validation.passed

    assert states_of(opened(second)) == {"good": {"n": 1}}
    assert [v.version_id for v in opened(second).get_version_history("good")] == ["v1"]


@contextmanager
def without_privilege(folder):
    """Work as a user for whom permissions count; the tests may run as root, for whom they do not."""
    if os.geteuid() != 0:
        yield
        return
    for path in (Path(folder), *Path(folder).rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def readable_by_all():
    """A folder that another user can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="agui-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_file_that_may_not_be_read_is_rejected_by_name(opened, migration, config, readable_by_all):
    base = readable_by_all / "base"
    at(base, "states", "open", "open.json").write_bytes(b"{}")
    at(base, "states", "closed", "closed.json").write_bytes(b'{"n":1}')
    at(base, "versions", "open", "v1.json").write_bytes(version_file("v1", StateID="open"))
    for path in (at(base, "states", "closed", "closed.json"), at(base, "versions", "open", "v1.json")):
        path.chmod(0)
    move = migration(
        source={"type": "file", "file_options": {"base_dir": str(base)}},
        target=config("redis", "second"),
        workspace=str(readable_by_all / "workspace"),
    )
    (readable_by_all / "workspace").mkdir()

    with without_privilege(readable_by_all):
        with pytest.raises(RejectLimitError, match="Permission denied"):
            move.run()
        assert {id_: reason for id_, (_, reason, _) in move.rejects().items()} == {
            b"closed": "unreadable",
            b"v1": "unreadable",
        }


def test_a_folder_that_may_not_be_read_is_an_error_and_no_empty_store(opened, migration, config, readable_by_all):
    base = readable_by_all / "base"
    folder = at(base, "states", "closed", "closed.json").parent
    (folder / "closed.json").write_bytes(b"{}")
    (readable_by_all / "workspace").mkdir()
    move = migration(
        source={"type": "file", "file_options": {"base_dir": str(base)}},
        target=config("redis", "second"),
        workspace=str(readable_by_all / "workspace"),
    )
    with without_privilege(readable_by_all):
        folder.chmod(0)
        with pytest.raises(StoreError, match="Permission denied"):
            move.run()
        folder.chmod(0o755)


@pytest.mark.parametrize("name", ["states", "versions", "states/shard_3"])
def test_a_target_of_which_a_folder_leads_elsewhere_is_refused_before_anything_is_read(
    migration, config, opened, tmp_path, name
):
    first, second = config("redis", "first"), config("file", "second")
    opened(first).set_state("user-1", b"{}")
    (tmp_path / "outside").mkdir()
    link = tmp_path / "second" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "outside")
    move = migration(source=first, target=second)

    with pytest.raises(StoreError, match="symbolic link"):
        move.run()

    assert tree(tmp_path / "outside") == {}
    assert not (move.workspace / "snapshots").exists()


def test_a_source_of_which_a_folder_leads_elsewhere_is_refused(migration, config, tmp_path, base):
    at(base, "states", "user-1", "user-1.json").write_bytes(b"{}")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "user-2.json").write_bytes(b'{"secret":1}')
    (base / "versions").symlink_to(tmp_path / "outside")

    with pytest.raises(StoreError, match="symbolic link"):
        migration(source=config("file", "first"), target=config("redis", "second")).run()


@pytest.mark.parametrize("safe", [True, False])
def test_what_a_link_in_the_target_leads_to_stays(migration, config, opened, tmp_path, safe):
    first, second = config("redis", "first"), config("file", "second")
    opened(first).set_state("user-1", b'{"n":1}')
    outside = tmp_path / "precious"
    outside.write_bytes(b'{"n":0}')
    at(tmp_path / "second", "states", "user-1", "user-1.json").symlink_to(outside)

    move = migration(source=first, target=second, backup={"before_import": safe})

    if safe:
        with pytest.raises(BackupError, match="user-1"):  # what the link leads to is not the store's
            move.run()
    else:
        assert move.run().validation.passed
        assert states_of(opened(second)) == {"user-1": {"n": 1}}

    assert outside.read_bytes() == b'{"n":0}'


@pytest.mark.parametrize(("safe", "name"), [(True, "user-1"), (False, r"user-1\.json")])
def test_a_folder_in_the_place_of_a_targets_file_is_an_error_that_names_it(
    migration, config, opened, tmp_path, safe, name
):
    first, second = config("redis", "first"), config("file", "second")
    opened(first).set_state("user-1", b'{"n":1}')
    at(tmp_path / "second", "states", "user-1", "user-1.json").joinpath("x").mkdir(parents=True)

    with pytest.raises(BackupError if safe else StoreError, match=name):
        migration(source=first, target=second, backup={"before_import": safe}).run()

    assert [name for name in tree(tmp_path / "second") if b".agui" in name] == []


HOSTILE = {
    b"../../x": "unsafe_id",
    b"../../../../tmp/x": "unsafe_id",
    b"/etc/x": "unsafe_id",
    b"a/b": "unsafe_id",
    b".": "unsafe_id",
    b"..": "unsafe_id",
    b"": "empty_id",
    b"nul\x00": "unsafe_id",
    b"x" * 300: "id_too_long",
    "é".encode() * 130: "id_too_long",
    b"\xff\xfe": "id_not_utf8",
}


def put_version(client, state_id, version_id, body):
    client.set(b"ag-ui:state:version:%b:%b" % (state_id, version_id), body)
    client.zadd(b"ag-ui:state:versions:" + state_id, {version_id: 1})


def put_states(client):
    for id_ in HOSTILE:
        client.set(b"ag-ui:state:state:" + id_, b'{"n":2}')
    return HOSTILE


def put_versions_of_states(client):
    """Their files do not bear the names of their states, so only what is no id anywhere is rejected."""
    for number, id_ in enumerate(HOSTILE):
        put_version(client, id_, b"v%d" % number, version_file(f"v{number}"))
    return {b"%b/v%d" % (id_, n): HOSTILE[id_] for n, id_ in enumerate(HOSTILE) if id_ in (b"", b"\xff\xfe")}


def put_versions(client):
    """The empty one is the name of a file, if a strange one."""
    for id_ in HOSTILE:
        put_version(client, b"good", id_, version_file(id_.decode("utf-8", "replace")))
    return {b"good/" + id_: reason for id_, reason in HOSTILE.items() if id_}


@pytest.mark.parametrize("put", [put_states, put_versions_of_states, put_versions])
def test_ids_that_name_no_file_are_rejected_before_anything_is_written(migration, config, opened, tmp_path, put):
    first, second = config("redis", "first"), config("file", "second")
    opened(first).set_state("good", b'{"n":1}')
    with redis.Redis.from_url(first["connection_url"]) as client:
        expected = put(client)
    move = migration(source=first, target=second)

    with pytest.raises(RejectLimitError):
        move.run()

    assert {id_: reason for id_, (_, reason, _) in move.rejects().items()} == expected
    assert [path.name for path in tmp_path.iterdir()] == [".agui"]

    assert move.but(limits={"max_rejects": len(expected)}).run().validation.passed

    assert states_of(opened(second)) == {"good": {"n": 1}}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".agui", "second"]


@pytest.mark.parametrize("twins", [("Ada", "ada"), ("é", "e\u0301")])
def test_ids_that_a_case_folding_file_system_takes_for_one_are_refused_before_anything_is_written(
    migration, config, opened, tmp_path, monkeypatch, twins
):
    first, second = config("redis", "first"), config("file", "second")
    for id_ in (*twins, "Bob"):
        opened(first).set_state(id_, b"{}")
    second["file_options"]["enable_sharding"] = False
    monkeypatch.setattr(Layout, "folds_case", lambda _: True)

    with pytest.raises(CollisionError) as refused:
        migration(source=first, target=second).run()

    assert sorted(refused.value.data["ids"]) == sorted(twins)
    assert not (tmp_path / "second").exists()


SHARED = {
    "file": (("user-1", "v1"), ("user-30", "v1")),
    "postgresql": (("a", "v1"), ("b", "v1")),
}
"""Versions that Redis keeps apart and others do not."""


@pytest.mark.parametrize("destination", SHARED)
def test_versions_of_two_states_that_would_take_one_place_are_refused_before_anything_is_written(
    migration, config, opened, destination
):
    first, second = config("redis", "first"), config(destination, "second")
    for state_id, version_id in SHARED[destination]:
        opened(first).set_state(state_id, b"{}")
        opened(first).save_version(Version(version_id, state_id, TIME, b"{}"))
    move = migration(source=first, target=second, ranges=2, batch_size=1)

    for attempt in (move.run, move.dry_run):
        with pytest.raises(CollisionError) as refused:
            attempt()
        assert refused.value.data["ids"] == ["/".join(pair) for pair in SHARED[destination]]

    assert not opened(second).exists()


def test_versions_whose_keys_would_fall_together_in_redis_are_refused_before_anything_is_written(
    migration, config, opened
):
    first, second = config("file", "first"), config("redis", "second")
    source = opened(first)
    rows = [("a", "b:c"), ("a:b", "c")]
    batch = [{"state_id": s, "version_id": v, "timestamp": TIME, "data": b"{}", "parent_id": ""} for s, v in rows]
    source.write(Kind.VERSION, pa.RecordBatch.from_pylist(batch, schema=SCHEMAS[Kind.VERSION]))

    with pytest.raises(CollisionError, match="a/b:c and a:b/c"):
        migration(source=first, target=second, ranges=2).run()

    assert list(opened(second).keys()) == []
