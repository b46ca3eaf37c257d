from __future__ import annotations

import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines import documents
from agui_pipelines.canonical import digest
from agui_pipelines.errors import UnstorableRecordError, UsageError
from agui_pipelines.spec import FileConfig, FileOptions
from agui_pipelines.state_manager import StateManager, _patch
from agui_pipelines.stores.file import FileStore


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    made = FileStore(FileConfig(type="file", file_options=FileOptions(base_dir=tmp_path, durable=False)))
    made.prepare()
    return made


@pytest.fixture
def manager(store: FileStore) -> StateManager:
    return StateManager(store)


def test_a_context_is_a_uuid4_and_writes_nothing(manager: StateManager, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    one, other = manager.create_context("s"), manager.create_context("s")
    assert one != other
    assert uuid.UUID(one).version == 4
    assert sorted(tmp_path.rglob("*")) == before


def test_a_context_needs_a_state_id(manager: StateManager) -> None:
    with pytest.raises(UsageError, match="needs a state id"):
        manager.create_context("")


def test_nothing_is_done_without_a_context(manager: StateManager, store: FileStore) -> None:
    for attempt in (
        lambda: manager.get_state("unknown", "s"),
        lambda: manager.update_state("unknown", "s", {"a": 1}),
        lambda: manager.delete_state("unknown", "s"),
    ):
        with pytest.raises(UsageError, match="There is no context 'unknown'"):
            attempt()
    assert list(store.list_states()) == []


def test_a_context_belongs_to_the_manager_that_opened_it(manager: StateManager, store: FileStore) -> None:
    context = manager.create_context("s")
    with pytest.raises(UsageError):
        StateManager(store).get_state(context, "s")


def test_a_state_that_is_not_there_is_none(manager: StateManager) -> None:
    assert manager.get_state(manager.create_context("s"), "s") is None


def test_the_first_version_of_a_state_has_no_delta_and_no_parent(manager: StateManager) -> None:
    context = manager.create_context("s")
    version = manager.update_state(context, "s", {"a": 1})
    assert (version.delta, version.parent_id, version.metadata) == (None, "", None)
    assert (version.state_id, version.data) == ("s", b'{"a":1}')
    assert len(version.version_id) == 32
    assert set(version.version_id) <= set("0123456789abcdef")
    assert version.timestamp.endswith("Z")
    assert manager.get_state(context, "s") == {"a": 1}


def test_each_version_has_the_one_before_as_parent_and_the_patch_to_it(manager: StateManager) -> None:
    context = manager.create_context("s")
    first = manager.update_state(context, "s", {"a": 1, "b": [1, 2]})
    second = manager.update_state(context, "s", {"a": 2, "b": [1, 2, 3]})
    third = manager.update_state(context, "s", {})
    assert [v.version_id for v in manager.get_state_history("s")] == [v.version_id for v in (third, second, first)]
    assert (second.parent_id, third.parent_id) == (first.version_id, second.version_id)
    assert second.delta is not None
    assert documents.loads(second.delta) == [
        {"op": "replace", "path": "/a", "value": 2},
        {"op": "add", "path": "/b/2", "value": 3},
    ]
    assert [v.version_id for v in manager.get_state_history("s", limit=1)] == [third.version_id]


def test_a_version_is_kept_even_if_nothing_changed(manager: StateManager) -> None:
    context = manager.create_context("s")
    manager.update_state(context, "s", {"a": 1})
    version = manager.update_state(context, "s", {"a": 1})
    assert version.delta == b"[]"
    assert len(manager.get_state_history("s")) == 2


def test_the_metadata_of_the_context_goes_into_its_versions(manager: StateManager) -> None:
    context = manager.create_context("s", {"source": "migration", "n": 2**70})
    version = manager.update_state(context, "s", {})
    assert version.metadata == b'{"source":"migration","n":1180591620717411303424}'
    assert manager.get_state_history("s")[0].metadata is not None


def test_metadata_is_that_of_the_moment_when_the_context_was_opened(manager: StateManager) -> None:
    metadata = {"a": 1}
    context = manager.create_context("s", metadata)
    metadata["a"] = 2
    assert manager.update_state(context, "s", {}).metadata == b'{"a":1}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": Decimal("1.5")}, {"a": Decimal("2.5")}),
        ({"a": 0.1}, {"a": Decimal("0.1000000000000000055")}),
        ({"a": 123456789012345678901234567890}, {"a": 123456789012345678901234567891}),
        ({"a": 1}, {"a": True}),
        ({"a": [0, 1]}, {"a": [False, True]}),
        ({"a": Decimal("1e-400")}, {"a": 0}),
        ({"a": [Decimal("1.5"), {"b": Decimal("2.5")}]}, {"a": [{"b": Decimal("2.5")}, Decimal("1.5")]}),
        ({"a": "\ud800"}, {"a": "\ud801"}),
        ({"a/b": 1, "m~n": 2, "": 3}, {"a/b": 2, "m~n": 3, "": 4}),
    ],
)
def test_numbers_keep_every_digit_through_updates_and_their_deltas(
    manager: StateManager, before: dict[str, Any], after: dict[str, Any]
) -> None:
    context = manager.create_context("s")
    manager.update_state(context, "s", before)
    version = manager.update_state(context, "s", after)
    assert version.delta not in (None, b"[]")
    patched = jsonpatch.apply_patch(documents.loads(documents.dumps(before)), documents.loads(version.delta or b""))
    assert digest(documents.dumps(patched)).canonical == digest(documents.dumps(after)).canonical
    assert digest(version.data).canonical == digest(documents.dumps(after)).canonical
    assert digest(documents.dumps(manager.get_state(context, "s"))).canonical == digest(version.data).canonical


def test_a_double_is_taken_as_it_is_written(manager: StateManager) -> None:
    context = manager.create_context("s")
    manager.update_state(context, "s", {"a": 0.1})
    assert manager.get_state(context, "s") == {"a": Decimal("0.1")}


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([Decimal("1.0"), Decimal(0), Decimal("1.5"), Decimal("1e400"), 2**70, "a", "", "é", "\ud800"]),
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "", "a/b", "~1"]), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), values), st.dictionaries(st.sampled_from("abc"), values))
def test_a_delta_applied_to_the_parent_gives_the_new_document(before: dict[str, Any], after: dict[str, Any]) -> None:
    old, new = documents.dumps(before), documents.dumps(after)
    patch = documents.loads(documents.dumps(_patch(old, new)))
    patched = jsonpatch.apply_patch(documents.loads(old), patch)
    assert digest(documents.dumps(patched)).canonical == digest(new).canonical


def test_deleting_a_state_keeps_its_history(manager: StateManager) -> None:
    context = manager.create_context("s")
    manager.update_state(context, "s", {"a": 1})
    assert manager.delete_state(context, "s")
    assert not manager.delete_state(context, "s")
    assert manager.get_state(context, "s") is None
    assert len(manager.get_state_history("s")) == 1


def test_states_are_listed_sorted(manager: StateManager) -> None:
    context = manager.create_context("x")
    for state_id in ("b", "é", "a", "B"):
        manager.update_state(context, state_id, {})
    assert manager.list_states() == ["B", "a", "b", "é"]


@pytest.mark.parametrize("document", [{"a": float("nan")}, {"a": {1}}, {1: 2}, {"a": b""}])
def test_a_document_that_is_no_json_changes_nothing(manager: StateManager, document: dict[Any, Any]) -> None:
    context = manager.create_context("s")
    manager.update_state(context, "s", {"a": 1})
    with pytest.raises((TypeError, ValueError)):
        manager.update_state(context, "s", document)
    assert manager.get_state(context, "s") == {"a": 1}
    assert len(manager.get_state_history("s")) == 1


def test_a_state_that_the_store_cannot_hold_leaves_no_version_behind(manager: StateManager, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    context = manager.create_context("s")
    with pytest.raises(UnstorableRecordError):
        manager.update_state(context, "a/b", {})
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
