"""A rehearsal moves samples through the whole pipeline and leaves nothing behind, on every backend."""

from __future__ import annotations

import json

import pytest

from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.rehearse import rehearse
from agui_pipelines.phases.timeline import BETWEEN, TIMED
from agui_pipelines.ports import Version
from agui_pipelines.stores import scratch

STORES = ("file", "redis", "postgresql")
STATES = 60


def fill(store, count=STATES):
    store.prepare()
    for number in range(count):
        state = f"state-{number:03}"
        store.set_state(state, json.dumps({"number": number}).encode())
        store.save_version(Version(f"v-{number}", state, "2025-07-14T09:30:15Z", b'{"number":0}'))


@pytest.fixture
def places(config, opened):
    """Makes two stores of a kind, the first of which is filled; their configurations and what tells all that both hold."""

    def make(kind):
        source, target = config("redis", "source"), config(kind, "target")
        fill(opened(source))
        opened(target).prepare()
        opened(target).set_state("mine", b'{"n":1}')
        return source, target

    return make


def held(opened, target):
    store = opened(target)
    return {id_: json.loads(store.get_state(id_)) for id_ in store.list_states()}


def scratches(session):
    with scratch.scratch_places(session.migration.target, session.migration.folder) as found:
        return found.existing()


def rehearsed(session):
    return rehearse(session, plan(session), large=40)


@pytest.mark.parametrize("kind", STORES)
def test_samples_of_two_sizes_go_through_every_phase_and_nothing_is_left(kind, migration, places, opened):
    source, target = places(kind)
    session = migration(source=source, target=target).session()

    found = rehearsed(session)

    assert found.failure == ""
    assert [r.keys for r in found.rounds] == [1, 4, 40, 4, 40]
    assert all(r.records["state"] == r.keys == r.records["version"] for r in found.rounds)
    assert all(set(r.seconds) == {*TIMED, BETWEEN} - {"plan"} for r in found.rounds)
    assert scratches(session) == {}
    assert session.workspace.names("rehearsals") == []
    assert held(opened, target) == {"mine": {"n": 1}}
