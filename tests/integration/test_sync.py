"""Sync: what changes at the source after an import comes to the target, and what is gone goes; see `phases.sync`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from agui_pipelines.errors import CollisionError, RefusedError, RejectLimitError
from agui_pipelines.phases.backup import backups
from agui_pipelines.phases.changes import changes_since, fingerprint_of_source
from agui_pipelines.phases.cursor import current_cursor, record
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.rollback import rollback
from agui_pipelines.phases.sync import SyncReport, seed_cursor, sync
from agui_pipelines.phases.validate import validate
from agui_pipelines.ports import Snapshot, Store, Version
from agui_pipelines.records import Kind
from tests.integration.conftest import Move, PostgresTarget

pytestmark = pytest.mark.usefixtures("without_suites")


def document(number: int) -> bytes:
    return json.dumps({"n": number}).encode()


def synced(move: Move, **options: Any) -> SyncReport:
    return sync(move.session(), **options)


def test_changes_of_keys_come_to_the_target_and_nothing_else_is_touched(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    for number in range(20):
        legacy.set(f"session:{number}", document(number))
    move.run()
    assert synced(move).round_id == ""

    legacy.set("session:1", document(101))
    legacy.set("session:new", document(7))
    legacy.delete("session:2")
    report = synced(move)
    assert (report.created, report.updated, report.deleted, report.changed) == (1, 1, 1, 3)
    found = target.documents()
    assert {id_: json.loads(text) for id_, text in found.items()} == {
        **{str(number): {"n": number} for number in range(20) if number not in (1, 2)},
        "1": {"n": 101},
        "new": {"n": 7},
    }
    again = synced(move)
    assert (again.changes, again.checked, again.complete) == (0, 20, True)


Config = Callable[[str, str], dict[str, Any]]
Opened = Callable[[dict[str, Any]], Store]


def version(state: str, number: int, parent: str = "") -> Version:
    stamp = f"2025-07-14T09:30:{number:02}.5Z"
    return Version(
        f"{state}-v{number}", state, stamp, document(number), b'[{"op":"add","path":"/x"}]', b'{"m":1}', parent
    )


def snapshot(state: str, number: int) -> Snapshot:
    return Snapshot(f"{state}-s{number}", state, "2025-07-14T09:30:15Z", document(number), f"{state}-v{number}", b"{}")


def held(store: Store) -> dict[str, Any]:
    """Everything that a store holds, by value."""
    found: dict[str, Any] = {}
    for id_ in sorted(store.list_states()):
        found[id_] = (
            json.loads(store.get_state(id_) or b"null"),
            sorted((v.version_id, v.parent_id, json.loads(v.data)) for v in store.get_version_history(id_)),
            sorted((s.snapshot_id, json.loads(s.data)) for s in store.list_snapshots(id_)),
        )
    return found


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("redis", "postgresql"),
        pytest.param("postgresql", "file", marks=pytest.mark.long),
        pytest.param("file", "redis", marks=pytest.mark.long),
        pytest.param("redis", "redis", marks=pytest.mark.long),
    ],
)
def test_states_with_their_histories_are_kept_equal_between_stores(
    source: str, target: str, migration: Callable[..., Move], config: Config, opened: Opened
) -> None:
    from_, to = config(source, "source"), config(target, "target")
    move = migration(source=from_, target=to)
    here, there = opened(from_), opened(to)
    here.prepare()
    for number in range(8):
        here.set_state(f"s{number}", document(number))
        here.save_version(version(f"s{number}", 1))
    here.save_snapshot(snapshot("s1", 1))
    move.run()
    there.set_state("another's", b'{"mine":1}')

    here.set_state("s0", document(100))
    here.save_version(version("s3", 2, "s3-v1"))
    here.save_snapshot(snapshot("s4", 1))
    here.set_state("s9", document(9))
    here.save_version(version("s9", 1))
    remove(here, "version", "s5", "s5-v1")
    remove(here, "snapshot", "s1", "s1-s1")
    here.delete_state("s6")
    remove(here, "version", "s6", "s6-v1")
    report = synced(move, accept_deletes=True)
    assert held(there) == {**held(here), "another's": ({"mine": 1}, [], [])}
    assert report.deleted == 4
    assert synced(move).changes == 0


def remove(store: Store, kind: str, state: str, other: str = "") -> None:
    row = {"state_id": state, **({f"{kind}_id": other} if other else {})}
    assert store.remove(Kind(kind), pa.RecordBatch.from_pylist([row])) == 1


def test_expiries_that_change_come_too(migration: Callable[..., Move], fresh_redis: Callable[[], str]) -> None:
    urls = fresh_redis(), fresh_redis()
    move = migration(
        source={"type": "redis_keys", "connection_url": urls[0], "match": "*"},
        target={"type": "redis", "connection_url": urls[1]},
    )
    with redis.Redis.from_url(urls[0]) as source, redis.Redis.from_url(urls[1]) as target:
        for name in ("kept", "set", "moved", "dropped"):
            source.set(name, document(1))
        source.pexpireat("moved", 4_000_000_000_000)
        source.pexpireat("dropped", 4_000_000_000_000)
        move.run()
        source.pexpireat("set", 4_000_000_000_000)
        source.pexpireat("moved", 4_100_000_000_000)
        source.persist("dropped")
        report = synced(move)
        assert (report.updated, report.changed) == (3, 3)
        expiries = [
            target.execute_command("PEXPIRETIME", f"ag-ui:state:state:{n}") for n in ("kept", "set", "moved", "dropped")
        ]
        assert expiries == [-1, 4_000_000_000_000, 4_100_000_000_000, -1]


@pytest.mark.long
def test_what_has_expired_counts_as_no_loss(
    migration: Callable[..., Move], fresh_redis: Callable[[], str], target: PostgresTarget
) -> None:
    url = fresh_redis()
    move = migration(source={"type": "redis_keys", "connection_url": url, "match": "*"}, target=target.config)
    with redis.Redis.from_url(url) as source:
        source.set("stays", document(1))
        for number in range(5):
            source.set(f"goes{number}", document(1), px=2_500)
        move.run()
        while source.dbsize() > 1:
            time.sleep(0.05)
        report = synced(move)
    assert report.deleted == 5
    assert set(target.documents()) == {"stays"}


def test_a_flushed_source_never_empties_the_target(move: Move, legacy: redis.Redis, target: PostgresTarget) -> None:
    for number in range(5):
        legacy.set(f"session:{number}", document(number))
    move.run()
    legacy.flushdb()
    with pytest.raises(RefusedError, match=r"The source is empty; it held 5 ids.*--accept-deletes"):
        synced(move)
    assert len(target.documents()) == 5
    assert synced(move, accept_deletes=True).deleted == 5
    assert target.documents() == {}


@pytest.mark.long
def test_a_source_of_which_much_is_gone_is_refused_until_that_is_accepted(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    for number in range(10):
        legacy.set(f"session:{number}", document(number))
    move.run()
    legacy.delete("session:0", "session:1", "session:2")
    with pytest.raises(
        RefusedError, match=r"Of 10 ids that the source held, 3 are gone, or have lost their state \(30%\): 'session:0'"
    ):
        synced(move)
    assert len(target.documents()) == 10
    assert synced(move.but(sync={"max_delete_fraction": 0.3})).deleted == 3
    legacy.delete("session:3")
    assert synced(move).deleted == 1


@pytest.mark.long
def test_another_server_is_refused(move: Move, legacy: redis.Redis) -> None:
    legacy.set("session:1", document(1))
    move.run()
    synced(move)
    session = move.session()
    current = current_cursor(session)
    assert current is not None
    record(session, replace(current, server="another"))  # as a server that is started again gets another run id
    with pytest.raises(RefusedError, match="another server answers than before"):
        synced(move)
    synced(move, accept_deletes=True)
    synced(move)


@pytest.mark.long
def test_nothing_is_synced_before_an_import_was_proven(move: Move, legacy: redis.Redis, target: PostgresTarget) -> None:
    legacy.set("session:1", document(1))
    with pytest.raises(RefusedError, match="has not been validated"):
        synced(move)
    session, made = move.stage()
    import_(session, made, [r.name for r in made.ranges])
    with pytest.raises(RefusedError, match="has not been validated"):
        synced(move)
    move.validate()
    synced(move)
    with pytest.raises(RefusedError, match="migration file has changed"):
        synced(move.but(transforms=[]))


CONFLICT = "UPDATE ag_states SET data = '{\"by\": \"hand\"}' WHERE state_id = 's1'"


def conflicting(move: Move, legacy: redis.Redis, target: PostgresTarget) -> None:
    """A record that somebody changed on both sides, and one that changed at the source only."""
    for number in range(3):
        legacy.set(f"session:s{number}", document(number))
    move.run()
    target.execute(CONFLICT)
    legacy.set("session:s1", document(11))
    legacy.set("session:s2", document(22))


def test_a_record_that_somebody_changed_in_the_target_stops_a_sync_before_it_writes(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    conflicting(move, legacy, target)
    before = target.documents()
    with pytest.raises(RefusedError, match=r"1 record of the target was changed by somebody else.*'s1'") as caught:
        synced(move)
    assert caught.value.data["conflicts"] == ["s1"]
    assert target.documents() == before
    legacy.set("session:s1", document(1))  # as it was: nothing of it is to be written any more
    assert synced(move).changes == 1


@pytest.mark.long
def test_the_source_can_be_given_precedence(move: Move, legacy: redis.Redis, target: PostgresTarget) -> None:
    conflicting(move, legacy, target)
    report = synced(move.but(sync={"on_conflict": "source"}))
    assert (report.updated, report.conflicts.ids) == (2, ("s1",))
    assert json.loads(target.documents()["s1"]) == {"n": 11}
    assert synced(move).changes == 0


@pytest.mark.long
def test_the_target_can_be_given_precedence_and_is_named_each_time(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    conflicting(move, legacy, target)
    keeping = move.but(sync={"on_conflict": "target"})
    report = synced(keeping)
    assert (report.updated, report.conflicts.ids) == (1, ("s1",))
    assert json.loads(target.documents()["s1"]) == {"by": "hand"}
    assert json.loads(target.documents()["s2"]) == {"n": 22}
    again = synced(keeping)
    assert (again.changes, again.conflicts.ids) == (0, ("s1",))


@pytest.mark.long
@pytest.mark.parametrize("change", ["DELETE FROM ag_states WHERE state_id = 's1'", CONFLICT])
def test_what_is_gone_at_the_source_but_was_changed_in_the_target_is_a_conflict(
    change: str, move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    for number in range(6):
        legacy.set(f"session:s{number}", document(number))
    move.run()
    target.execute(change)
    legacy.delete("session:s1")
    if change == CONFLICT:
        with pytest.raises(RefusedError, match="'s1'"):
            synced(move)
    else:  # gone on both sides, which is no conflict
        assert synced(move).deleted == 0
        assert synced(move).changed == 0


@pytest.mark.long
def test_an_id_that_is_new_at_the_source_and_taken_in_the_target_is_a_conflict(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    legacy.set("session:1", document(1))
    move.run()
    target.execute("INSERT INTO ag_states (state_id, data) VALUES ('2', '{\"mine\": 1}')")
    legacy.set("session:2", document(2))
    with pytest.raises(RefusedError, match="'2'"):
        synced(move)
    assert json.loads(target.documents()["2"]) == {"mine": 1}


@pytest.mark.long
def test_two_syncs_within_one_second_bring_both_changes(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    legacy.set("session:1", document(1))
    move.run()
    for number in (2, 3, 4):
        legacy.set("session:1", document(number))
        assert synced(move).updated == 1
        assert json.loads(target.documents()["1"]) == {"n": number}


@pytest.mark.long
def test_the_fingerprint_of_a_source_changes_with_whatever_is_written(
    migration: Callable[..., Move], config: Config, opened: Opened
) -> None:
    from_ = config("redis", "source")
    move = migration(source=from_, target=config("file", "target"))
    store = opened(from_)
    store.set_state("a", document(1))
    store.save_version(version("a", 1))

    def fingerprint() -> str:
        return fingerprint_of_source(move.session())

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    store.set_state("b", document(1))
    seen.append(fingerprint())
    store.set_state("b", document(2))
    seen.append(fingerprint())
    store.save_version(version("a", 2))
    seen.append(fingerprint())
    with redis.Redis.from_url(from_["connection_url"]) as client:
        client.pexpireat("ag-ui:state:state:b", 4_000_000_000_000)
        seen.append(fingerprint())
        client.persist("ag-ui:state:state:b")
        assert fingerprint() == seen[-2]
    remove(store, "version", "a", "a-v2")
    assert fingerprint() == seen[2]
    assert len(set(seen)) == len(seen)


@pytest.mark.long
def test_changes_are_told_without_being_brought(move: Move, legacy: redis.Redis) -> None:
    for number in range(3):
        legacy.set(f"session:{number}", document(number))
    move.run()
    synced(move)
    session = move.session()
    current = current_cursor(session)
    assert current is not None
    assert changes_since(session, current).none
    legacy.set("session:0", document(5))
    legacy.delete("session:1")
    found = changes_since(session, current)
    assert (found.changed.ids, found.gone.ids, found.checked) == (("session:0",), ("session:1",), 2)
    assert not found.none


def test_a_record_that_changes_again_while_it_is_synced_is_brought_as_it_was_read_and_then_as_it_is(
    move: Move, legacy: redis.Redis, target: PostgresTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the export, and again after that; what was gone at the look is back at the export."""
    for number in range(10):
        legacy.set(f"session:{number}", document(number))
    move.run()
    legacy.set("session:1", document(11))
    legacy.delete("session:2")

    def busy(*arguments: Any) -> Any:
        legacy.set("session:1", document(12))
        legacy.set("session:2", document(22))
        exported = export(*arguments)
        legacy.set("session:1", document(13))
        return exported

    monkeypatch.setattr("agui_pipelines.phases.sync.export", busy)
    assert synced(move).deleted == 0
    assert [json.loads(target.documents()[id_]) for id_ in ("1", "2")] == [{"n": 12}, {"n": 22}]
    monkeypatch.undo()
    monkeypatch.setattr("agui_pipelines.phases.sync.expect_exported", lambda *_: ())
    monkeypatch.setattr("agui_pipelines.phases.sync.expect_staged", lambda *_: ())
    assert synced(move).updated == 1
    assert json.loads(target.documents()["1"]) == {"n": 13}


@pytest.mark.long
def test_ids_that_a_transform_renames_are_followed_and_never_fall_together(
    move: Move, legacy: redis.Redis, target: PostgresTarget, tmp_path: Path
) -> None:
    (tmp_path / "shortened.py").write_text(
        "def shorten(state_id, document):\n    return state_id.removeprefix('session:').lower(), document\n"
    )
    renaming = move.but(transforms=[{"python": "shortened:shorten"}])
    for name in "ABCDEFGH":
        legacy.set(f"session:{name}", document(1))
    renaming.run()
    legacy.set("session:A", document(2))
    legacy.delete("session:B")
    report = synced(renaming)
    assert (report.updated, report.deleted) == (1, 1)
    assert {id_: json.loads(text)["n"] for id_, text in target.documents().items()} == {
        "a": 2,
        **dict.fromkeys("cdefgh", 1),
    }
    legacy.set("session:c", document(3))
    with pytest.raises(CollisionError, match=r"'c'"):
        synced(renaming)
    assert json.loads(target.documents()["c"]) == {"n": 1}


def test_a_record_that_is_rejected_stops_a_sync_or_leaves_what_the_target_has(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    for number in range(10):
        legacy.set(f"session:{number}", document(number))
    move.run()
    legacy.set("session:1", b'{"nul": "\\u0000"}')  # which PostgreSQL holds in no document
    legacy.set("session:2", document(22))
    with pytest.raises(RejectLimitError, match="session:1"):
        synced(move)
    assert json.loads(target.documents()["2"]) == {"n": 2}
    lenient = move.but(limits={"max_rejects": 1})
    report = synced(lenient)
    assert (report.updated, report.rejected, report.deleted) == (1, 1, 0)
    assert json.loads(target.documents()["1"]) == {"n": 1}
    assert synced(lenient).changed == 0
    legacy.delete("session:1")
    assert synced(lenient).deleted == 1
    assert "1" not in target.documents()


@pytest.mark.long
def test_values_that_are_no_documents_do_not_look_changed_each_time(move: Move, legacy: redis.Redis) -> None:
    legacy.set("session:text", "plain")
    legacy.set("session:brace", "{not json")
    legacy.rpush("session:list", "a", "b")
    legacy.set("session:document", document(1))
    move.run()
    assert synced(move).changed == 0
    legacy.rpush("session:list", "c")
    legacy.set("session:text", "other")
    legacy.set("session:brace", "{other")
    assert synced(move).updated == 3


@pytest.mark.long
def test_a_source_that_can_only_be_scanned_is_scanned_for_each_round(
    migration: Callable[..., Move], target: PostgresTarget, tmp_path: Path
) -> None:
    file = tmp_path / "states.jsonl"

    def write(**states: int) -> None:
        file.write_text("".join(json.dumps({"id": id_, "n": n}) + "\n" for id_, n in states.items()))

    write(a=1, b=2, c=3)
    move = migration(
        source={"type": "jsonl", "path": str(file), "id": "id"},
        target=target.config,
        sync={"max_delete_fraction": 0.5},
    )
    move.run()
    assert synced(move).changed == 0
    write(a=1, b=22, d=4)
    report = synced(move)
    assert (report.created, report.updated, report.deleted) == (1, 1, 1)
    assert set(target.documents()) == {"a", "b", "d"}
    assert synced(move).changed == 0
    target.execute("UPDATE ag_states SET data = '{}' WHERE state_id = 'a'")
    write(a=11, b=23, d=4)
    left = synced(move.but(sync={"on_conflict": "target"}))
    assert (left.updated, left.conflicts.ids) == (1, ("a",))
    assert synced(move.but(sync={"on_conflict": "target"})).conflicts.ids == ("a",)
    assert len(move.session().workspace.names("spools")) == 1  # that of the plan


@pytest.mark.long
def test_a_round_can_be_taken_back_and_is_then_found_again(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    for number in range(10):
        legacy.set(f"session:{number}", document(number))
    move.run()
    before = target.documents()
    legacy.set("session:1", document(11))
    legacy.set("session:new", document(1))
    legacy.delete("session:2")
    synced(move)
    after = target.documents()
    rollback(move.session())
    assert target.documents() == before
    report = synced(move)
    assert (report.created, report.updated, report.deleted) == (1, 1, 1)
    assert target.documents() == after


@pytest.mark.long
def test_what_a_new_import_does_not_move_any_more_is_found_to_be_gone_by_the_next_sync(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    for number in range(10):
        legacy.set(f"session:{number}", document(number))
    move.run()
    synced(move)
    legacy.set("session:1", document(11))
    synced(move)
    legacy.delete("session:2")
    move.run()
    assert "2" in target.documents()
    assert synced(move).deleted == 1
    assert "2" not in target.documents()


@pytest.mark.long
def test_what_rounds_keep_in_the_workspace_does_not_grow(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    legacy.set("session:1", document(1))
    few = move.but(backup={"keep": 1})
    few.run()
    for number in range(4):
        legacy.set("session:1", document(number + 2))
        synced(few)
    workspace = few.session().workspace
    assert len(workspace.names("cursors")) == 2
    assert not [name for name in workspace.names("catalogues") if name.startswith("sync-")]
    made = backups(few.session())
    assert len(made) == 2  # of the import, and of the newest round


@pytest.mark.long
def test_the_cursor_of_the_other_direction_is_made_without_an_import(
    migration: Callable[..., Move], config: Config, opened: Opened
) -> None:
    one, two = config("redis", "one"), config("postgresql", "two")
    here, there = opened(one), opened(two)
    for number in range(8):
        here.set_state(f"s{number}", document(number))
    migration(source=one, target=two).run()
    back = migration(name="story-back", source=two, target=one)
    seeded = seed_cursor(back.session())
    assert (seeded.ids, seeded.records, seeded.seeded) == (8, 8, True)
    assert synced(back).changed == 0
    there.set_state("s1", document(11))
    there.delete_state("s2")
    report = synced(back, complete=True)  # by a watermark nobody sees what is gone
    assert (report.updated, report.deleted) == (1, 1)
    assert held(here) == held(there)


def test_what_was_exported_before_a_sync_is_not_imported_after_it(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    for number in range(20):
        legacy.set(f"session:{number}", document(number))
    made = move.run().plan
    legacy.set("session:1", document(101))
    legacy.delete("session:2")
    synced(move)
    before = target.documents()

    with pytest.raises(RefusedError, match="is older than what the target was synced to"):
        import_(move.session(), made, [r.name for r in made.ranges])
    with pytest.raises(RefusedError, match="is older than what the target was synced to"):
        validate(move.session(), made)

    assert target.documents() == before
    assert move.run().validation.passed
