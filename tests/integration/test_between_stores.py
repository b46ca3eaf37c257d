"""Between AG-UI stores: what is found to be lost or changed, and what is refused; test_nine_routes.py proves the rest."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
import redis

from agui_pipelines.errors import SamePlaceError, StoreError
from agui_pipelines.ports import Snapshot
from agui_pipelines.state_manager import StateManager

BACKENDS = ["file", "redis", "postgresql"]
STATES = {
    "user-1": [{"n": 1}, {"n": 2, "text": "<b>&\u2028😀"}, {"n": 3}],
    "a:b:c": [{"big": 123456789012345678901234567890}],
    "ユーザー": [{"deep": {"list": [1, [2, [3]], {"x": None}]}}, {}],
}
ONLY_A_STATE = ("no-history", b'{"quiet":true}')


def fill(store):
    """States with a history, made as users of the guide make them, a snapshot, and a state without any history."""
    store.prepare()
    manager = StateManager(store)
    for state_id, documents in STATES.items():
        context = manager.create_context(state_id, {"source": "test"})
        for document in documents:
            version = manager.update_state(context, state_id, document)
        store.save_snapshot(
            Snapshot(
                snapshot_id=f"snapshot of {state_id}",
                state_id=state_id,
                timestamp="2025-07-14T09:30:15.123456Z",
                data=json.dumps(documents[-1]).encode(),
                version_id=version.version_id,
                metadata=b'{"reason":"test","labels":[]}',
            )
        )
    store.set_state(*ONLY_A_STATE)


def parsed(text):
    return None if text is None else json.loads(text)


def content(store):
    """Everything in a store, as values."""
    ids = sorted(store.list_states())
    return {
        state_id: (
            parsed(store.get_state(state_id)),
            [
                (
                    v.version_id,
                    datetime.fromisoformat(v.timestamp),
                    parsed(v.data),
                    parsed(v.delta),
                    parsed(v.metadata),
                    v.parent_id,
                )
                for v in store.get_version_history(state_id)
            ],
            [
                (s.snapshot_id, datetime.fromisoformat(s.timestamp), parsed(s.data), s.version_id, parsed(s.metadata))
                for s in store.list_snapshots(state_id)
            ],
        )
        for state_id in ids
    }


@pytest.mark.parametrize("destination", BACKENDS)
def test_a_lost_state_and_a_changed_snapshot_are_named(migration, config, opened, destination):
    first, second = config("redis", "first"), config(destination, "second")
    fill(opened(first))
    there = migration(source=first, target=second)
    assert there.run().validation.passed
    store = opened(second)
    [snapshot] = store.list_snapshots("user-1")
    store.save_snapshot(
        Snapshot("snapshot of user-1", "user-1", snapshot.timestamp, b'{"n":4}', snapshot.version_id, snapshot.metadata)
    )
    store.delete_state("a:b:c")

    kinds = there.validate().kinds

    assert kinds["snapshot"].corrupted.ids == ("user-1/snapshot of user-1",)
    assert kinds["state"].missing.ids == ("a:b:c",)
    assert kinds["version"].missing.count == kinds["version"].corrupted.count == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_store_is_not_moved_into_itself(migration, config, opened, backend):
    place = config(backend, "place")
    fill(opened(place))
    before = content(opened(place))

    with pytest.raises(SamePlaceError):
        migration(source=place, target=place).run()

    assert content(opened(place)) == before


@pytest.mark.parametrize("backend", ["file", "postgresql"])
def test_a_source_that_is_not_there_is_no_empty_source(migration, config, opened, backend):
    absent, target = config(backend, "absent"), config("redis", "target")

    with pytest.raises(StoreError):
        migration(source=absent, target=target).run()

    opened(absent).prepare()
    assert migration(source=absent, target=target).run().validation.passed


def test_a_transform_changes_the_ids_of_histories_too(migration, config, opened):
    first, second = config("redis", "first"), config("postgresql", "second")
    fill(opened(first))
    moved = migration(source=first, target=second, transforms=[{"strip_prefix": {"prefix": "user-"}}])

    assert moved.run().validation.passed

    store = opened(second)
    assert "1" in set(store.list_states())
    assert len(store.get_version_history("1")) == 3
    assert len(store.list_snapshots("1")) == 1
    assert store.get_version_history("user-1") == []


def test_an_expiry_is_kept_by_a_store_that_can(legacy, move, config):
    legacy.set("session:x", b"{}", px=3_600_000)
    expires = legacy.execute_command("PEXPIRETIME", "session:x")
    target = config("redis", "target")

    report = move.but(target=target).run().validation

    assert report.losses == {}
    with redis.Redis.from_url(target["connection_url"]) as client:
        assert abs(client.execute_command("PEXPIRETIME", "ag-ui:state:state:x") - expires) <= 100
