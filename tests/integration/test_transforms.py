"""Transforms in a migration file, from files to files: composed, undone, and refused where they would lose something."""

from __future__ import annotations

import json

import pytest
import yaml

from agui_pipelines.errors import CollisionError, RejectLimitError, SpecError
from agui_pipelines.phases.transform import staged_ranges
from agui_pipelines.ports import Snapshot, Version

TIME = "2025-07-14T09:30:15.123456Z"
BIG = b"123456789012345678901234567890"
OLD = b'{ "version" : "1.0", "data" : {"n": %b, "price": 1.50}, "metadata": {"source": "web"}, "tmp": 1 }' % BIG
NEW = (
    b'{"version":"2.0","body":{"n":%b,"price":1.50},"meta_source":"web","schema_version":"2.0.0",'
    b'"tenant":"acme","log":["moved"]}' % BIG
)
CHAIN = """
  - rename_ids: {pattern: "session:(?P<user>.+)", template: "t1/{user}"}
  - percent_encode
  - format_1_to_2
  - rename_fields: {payload: body}
  - flatten_metadata
  - drop_fields: [tmp]
  - set_fields: {tenant: acme}
  - jsonpatch: [{op: add, path: /log, value: []}, {op: add, path: /log/-, value: moved}]
  - json_schema: body.schema.json
"""
SCHEMA = {"properties": {"body": {"properties": {"n": {"type": "integer", "maximum": int(BIG)}}}}, "required": ["body"]}


@pytest.fixture
def ends(config, opened):
    """Configurations of two file stores, and the first of them, opened."""
    first, second = config("file", "first"), config("file", "second")
    store = opened(first)
    store.prepare()
    return first, second, store


@pytest.fixture
def moved(migration, ends):
    """Makes the migration of a file with these transforms."""
    first, second, _ = ends

    def made(transforms, **more):
        text = yaml.safe_load(f"transforms:\n{transforms}")
        return migration(source=first, target=second, **text, **more)

    return made


def remember(store, state_id, document):
    """A state with a version and a snapshot that recorded the same document."""
    store.set_state(state_id, document)
    store.save_version(
        Version(
            version_id=f"v-{state_id.encode().hex()}",
            state_id=state_id,
            timestamp=TIME,
            data=document,
            delta=b'[{"op":"add","path":"/data/n","value":1}]',
            metadata=b'{"by":"test"}',
        )
    )
    store.save_snapshot(
        Snapshot(
            snapshot_id=f"x-{state_id.encode().hex()}",
            state_id=state_id,
            timestamp=TIME,
            data=document,
            metadata=b"{}",
        )
    )


def content(store, exact):
    """Every document of a store, as exact values, by state id."""
    return {
        state_id: (
            exact(store.get_state(state_id)),
            [(v.version_id, exact(v.data), exact(v.delta)) for v in store.get_version_history(state_id)],
            [(s.snapshot_id, exact(s.data)) for s in store.list_snapshots(state_id)],
        )
        for state_id in store.list_states()
    }


def test_a_chain_of_steps_changes_states_and_their_history_alike(ends, moved, opened, exact):
    _, second, store = ends
    for user in ("ada", ".é%"):
        remember(store, f"session:{user}", OLD)
    move = moved(CHAIN)
    (move.folder / "body.schema.json").write_text(json.dumps(SCHEMA))

    outcome = move.run()

    assert outcome.validation.passed
    delta = exact(b'[{"op":"add","path":"/payload/n","value":1}]')  # where format 2.0 has it
    assert content(opened(second), exact) == {
        f"t1%2F{name}": (
            exact(NEW),
            [(f"v-{f'session:{user}'.encode().hex()}", exact(NEW), delta)],
            [(f"x-{f'session:{user}'.encode().hex()}", exact(NEW))],
        )
        for user, name in (("ada", "ada"), (".é%", ".é%25"))
    }


def test_a_chain_that_is_undone_gives_back_every_document(ends, moved, migration, config, opened, exact):
    _, second, store = ends
    ids = ["user-1", "a:b", "%2F", ".hidden", "東京"]
    for number, state_id in enumerate(ids):
        remember(store, state_id, b'{"metadata":{"k":[%d,0.10]},"n":%b,"z":1e400}' % (number, BIG))
    there = moved('  - add_prefix: "t1/"\n  - percent_encode\n  - flatten_metadata\n')
    assert there.run().validation.passed
    assert set(opened(second).list_states()) == {"t1%2F" + i.replace("%", "%25") for i in ids}

    third = config("file", "third")
    back = migration(
        name="back",
        source=second,
        target=third,
        transforms=["unflatten_metadata", {"percent_encode": {"decode": True}}, {"strip_prefix": "t1/"}],
    )
    assert back.run().validation.passed

    assert content(opened(third), exact) == content(store, exact)


def test_documents_of_postgresql_are_of_use_from_redis(migration, config, opened, exact):
    first, second = config("postgresql", "first"), config("redis", "second")
    store = opened(first)
    store.prepare()
    remember(store, "a", b'{"created_at":"2025-07-14 09:30:15.120+00","metadata":{"n":%b,"price":1.50}}' % BIG)
    remember(store, "b", b'{"metadata":"text","updated_at":null}')
    steps = ["postgres_to_redis", {"add_migration_metadata": {"migrated_at": "2026-11-22T10:00:00Z"}}]
    move = migration(source=first, target=second, transforms=steps, accept_losses=["timestamps"])

    assert move.run().validation.passed

    flat = b'{"created_at":"2025-07-14T09:30:15.120Z","meta_n":%b,"meta_price":1.50}' % BIG
    found = content(opened(second), exact)
    assert [(data, other) for _, data, _ in found["a"][1] for _, other in found["a"][2]] == [(exact(flat), exact(flat))]
    times = found["a"][0].pop("_migration")
    assert found["a"][0] == exact(flat)
    assert times.keys() == {"original_created_at", "original_updated_at", "migrated_at"}
    assert times["migrated_at"] == "2026-11-22T10:00:00Z"
    assert found["b"][1][0][1] == exact(b'{"metadata":"text","updated_at":null}')


def test_what_a_step_leaves_alone_arrives_byte_by_byte(ends, moved, opened):
    _, second, store = ends
    remember(store, "a", b'{"x":1e5,"y":-0.0}')
    steps = "  - rename_fields: {missing: there}\n  - flatten_metadata\n  - python: my_nothing:nothing\n"
    move = moved(steps)
    (move.folder / "my_nothing.py").write_text("def nothing(state_id, document): return document\n")

    outcome = move.run()

    assert outcome.validation.passed
    read = [
        (found.get_state("a"), [v.data for v in found.get_version_history("a")]) for found in (store, opened(second))
    ]
    assert read[0] == read[1]


def test_rejects_have_the_id_and_the_bytes_of_the_source_whatever_was_changed_before(ends, moved):
    _, _, store = ends
    remember(store, "session:ada", b'{"a":1}')
    store.set_state("session:bob", b'{"a":2,"b":0}')
    store.set_state("session:" + "x" * 200, b'{"a":3}')
    steps = """
  - strip_prefix: "session:"
  - rename_fields: {a: b}
  - set_fields: {z: 1}
  - json_schema: {schema: {properties: {b: {minimum: 2}}}}
  - add_prefix: "0123456789012345678901234567890123456789012345678901234567890123456789"
"""
    move = moved(steps)

    with pytest.raises(RejectLimitError) as refused:
        move.run()

    stored = {name: store.get_state(name) for name in store.list_states()}
    history = [f"session:ada/{kind}-{b'session:ada'.hex()}".encode() for kind in "vx"]
    version = store.get_version_history("session:ada")[0].data
    assert move.rejects() == {
        b"session:ada": ("transform", "schema_violation", stored["session:ada"]),
        history[0]: ("transform", "schema_violation", version),
        history[1]: ("transform", "schema_violation", store.list_snapshots("session:ada")[0].data),
        b"session:bob": ("transform", "member_exists", stored["session:bob"]),
        b"session:" + b"x" * 200: ("transform", "id_too_long", stored["session:" + "x" * 200]),
    }
    assert refused.value.data["rejected"] == 5


def test_rejects_within_the_limit_are_left_behind_and_the_rest_arrives(ends, moved, opened):
    _, second, store = ends
    store.set_state("session:ada", b"{}")
    store.set_state("cart", b"{}")
    move = moved('  - rename_ids: {pattern: "session:(?P<u>.+)", template: "{u}"}\n', limits={"max_rejects": 1})

    assert move.run().validation.passed

    assert list(opened(second).list_states()) == ["ada"]
    assert move.rejects().keys() == {b"cart"}


def test_two_ids_that_become_one_are_both_named_and_nothing_is_written(ends, moved, opened):
    _, second, store = ends
    for state_id in ("a:1", "a-1", "b:1", "c"):
        store.set_state(state_id, b"{}")
    move = moved('  - rename_ids: {pattern: "(?P<x>.)[:-](?P<y>.)", template: "{x}_{y}", unmatched: keep}\n')

    with pytest.raises(CollisionError) as refused:
        move.run()

    assert refused.value.data["sources"] == {"a_1": ["a-1", "a:1"]}
    assert "different source ids want the same id: 'a_1' (from 'a-1', 'a:1')." in str(refused.value)
    assert not list(opened(second).list_states())


def test_a_history_without_its_state_is_not_merged_into_another_one(ends, moved):
    _, _, store = ends
    remember(store, "a:1", b"{}")
    store.delete_state("a:1")
    remember(store, "a-1", b"{}")

    with pytest.raises(CollisionError) as refused:
        moved('  - rename_ids: {pattern: "(?P<first>.).*", template: "{first}"}\n').run()

    assert refused.value.data["sources"] == {"a": ["a-1", "a:1"]}


def test_an_id_that_becomes_one_that_is_there_already_is_refused(ends, moved):
    _, _, store = ends
    store.set_state("p:a", b"{}")
    store.set_state("a", b"{}")

    with pytest.raises(CollisionError, match="'a' \\(from 'a', 'p:a'\\)"):
        moved('  - strip_prefix: "p:"\n').run()


def test_a_range_is_staged_again_when_the_schema_has_changed_and_only_then(ends, moved):
    _, _, store = ends
    store.set_state("a", b'{"n":1}')
    move = moved("  - json_schema: s.json\n")
    schema = move.folder / "s.json"
    schema.write_text('{"required": ["n"]}')
    first = staged_ids(*move.stage())
    same = staged_ids(*move.stage())
    schema.write_text('{"required": ["n"], "minProperties": 1}')
    again = staged_ids(*move.stage())

    assert same == first
    assert not set(first) & set(again)


def staged_ids(session, plan):
    return [reader.manifest.snapshot_id for reader in staged_ranges(session, plan).values()]


def test_a_step_that_makes_no_sense_is_refused_before_anything_is_read(ends, moved):
    move = moved("  - rename_fields: [a, b]\n")

    with pytest.raises(SpecError, match=r"rename_fields: \{msgs: messages"):
        move.run()

    assert not (move.workspace / "snapshots").exists()
