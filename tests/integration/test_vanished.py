"""Ids of a store that were listed and held nothing any more when they were read are counted, and no others."""

from __future__ import annotations

import pytest

from agui_pipelines.phases.export import export
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.transform import transform
from agui_pipelines.records import Kind
from tests.integration.test_backup import BACKENDS, version, written


@pytest.fixture
def listed(migration, config, opened):
    """A store that has been listed: ten states, the first three with a history; its migration and what it is."""

    def make(backend):
        source = opened(first := config(backend, "first"))
        source.prepare()
        written(source, Kind.STATE, *({"state_id": f"id{n}", "data": b'{"n":1}'} for n in range(10)))
        written(source, Kind.VERSION, *(version(f"id{n}", f"v{n}-{m}") for n in range(3) for m in range(3)))
        session = migration(source=first, target=config("file" if backend != "file" else "redis", "second")).session()
        return source, session, plan(session)

    return make


def vanished(session, made):
    names = [r.name for r in made.ranges]
    found = export(session, made, names).vanished
    assert transform(session, made, names).vanished == found
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_has_vanished_where_all_is_there(listed, backend):
    _, session, made = listed(backend)

    assert vanished(session, made) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_deleted_is_counted_although_as_much_was_added(listed, backend):
    source, session, made = listed(backend)
    for number in (4, 5):
        source.delete_state(f"id{number}")
    written(source, Kind.STATE, *({"state_id": f"id4{n}", "data": b"{}"} for n in range(5)))

    assert vanished(session, made) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_whose_history_is_there_has_not_vanished(listed, backend):
    source, session, made = listed(backend)
    source.delete_state("id1")

    remaining = source.get_version("id1", "v1-0") is not None
    assert vanished(session, made) == (0 if remaining else 1)


def test_what_cannot_be_read_has_not_vanished(listed, tmp_path):
    _, session, made = listed("file")
    files = list((tmp_path / "first").glob("states/*/*.json"))
    assert len(files) == 10
    files[0].write_bytes(b"no json")

    assert vanished(session, made) == 0


@pytest.mark.parametrize("backend", ["redis", "postgresql"])
def test_ids_with_slashes_are_told_apart(migration, config, opened, backend):
    source = opened(first := config(backend, "first"))
    source.prepare()
    written(source, Kind.STATE, *({"state_id": id_, "data": b"{}"} for id_ in ("a", "a/b", "a/b/c")))
    session = migration(source=first, target=config("redis", "second")).session()
    made = plan(session)
    source.delete_state("a/b")

    assert vanished(session, made) == 1
