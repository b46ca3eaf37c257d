"""A rehearsal moves samples through the whole pipeline and leaves nothing behind, on every backend."""

from __future__ import annotations

import json
import signal

import pytest

from agui_pipelines.ledger import Entry
from agui_pipelines.owner import Owner
from agui_pipelines.phases import rehearse as rehearse_module
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.proposal import compose, propose
from agui_pipelines.phases.rehearse import Rehearsal, rehearse
from agui_pipelines.phases.timeline import BETWEEN, TIMED
from agui_pipelines.ports import Version
from agui_pipelines.stores import open_store, scratch
from tests.cases import chiefly
from tests.integration.forker import Forker

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


@pytest.mark.parametrize("kind", chiefly("postgresql", STORES))
def test_samples_of_two_sizes_go_through_every_phase_and_nothing_is_left(kind, migration, places, opened):
    source, target = places(kind)
    session = migration(source=source, target=target).session()

    found = rehearsed(session)

    assert found.failure == ""
    assert [r.keys for r in found.rounds] == [1, 10, 40, 10, 40]
    assert all(r.records["state"] == r.keys == r.records["version"] for r in found.rounds)
    assert all(set(r.seconds) == {*TIMED, BETWEEN} - {"plan"} for r in found.rounds)
    assert scratches(session) == {}
    assert session.workspace.names("rehearsals") == []
    assert held(opened, target) == {"mine": {"n": 1}}


@pytest.mark.parametrize("kind", chiefly("file", STORES))
def test_what_a_killed_rehearsal_left_is_removed_and_what_a_living_one_uses_is_not(kind, migration, places, opened):
    source, target = places(kind)
    session = migration(source=source, target=target).session()
    config, folder = session.migration.target, session.migration.folder
    killed, living = Owner.here("story"), Owner.here("story")
    names = [scratch.new_name(), scratch.new_name()]
    with scratch.scratch_places(config, folder) as places_:
        # On Redis there is one at a time.
        for name, owner in list(zip(names, (killed, living), strict=True))[: 1 if kind == "redis" else 2]:
            opened_ = open_store(places_.make(name, owner), folder)
            fill(opened_, 3)
            opened_.close()
            session.workspace.write(f"rehearsals/{name}/owner.json", owner.to_json())
            session.workspace.write(f"rehearsals/{name}/ledger/1-x.json", b"{}")
    killed.leave()

    found = rehearsed(session)

    left = {} if kind == "redis" else {names[1]: living}
    assert found.failure == ""
    assert scratches(session) == left
    assert session.workspace.names("rehearsals") == list(left)
    assert held(opened, target) == {"mine": {"n": 1}}


@pytest.mark.long
@pytest.mark.parametrize("kind", STORES)
def test_a_rehearsal_that_was_killed_is_tidied_up_by_the_next(kind, migration, places, opened):
    source, target = places(kind)
    move = migration(source=source, target=target)
    session = move.session()
    forker = Forker()
    try:
        assert forker.end(forker.start(move, "batches 2", "rehearse")) == -signal.SIGKILL
    finally:
        forker.close()
    assert len(scratches(session)) == len(session.workspace.names("rehearsals")) == 1
    assert held(opened, target) == {"mine": {"n": 1}}

    found = rehearsed(session)

    assert (found.failure, found.left) == ("", "")
    assert scratches(session) == {}
    assert session.workspace.names("rehearsals") == []
    assert held(opened, target) == {"mine": {"n": 1}}


def test_a_rehearsal_that_another_one_keeps_off_says_so_and_leaves_it_alone(migration, places):
    source, target = places("redis")
    session = migration(source=source, target=target).session()
    name, owner = scratch.new_name(), Owner.here("other")
    with scratch.scratch_places(session.migration.target, session.migration.folder) as places_:
        places_.make(name, owner)

        found = rehearsed(session)

        assert "another rehearsal" in found.failure
        assert found.rounds == ()
        assert places_.existing() == {name: owner}


@pytest.mark.parametrize("kind", STORES)
def test_a_rehearsal_that_breaks_off_leaves_nothing_behind(kind, migration, places, opened, monkeypatch):
    source, target = places(kind)
    session = migration(source=source, target=target).session()
    made = plan(session)

    def interrupted(*_):
        assert scratches(session)
        raise KeyboardInterrupt

    monkeypatch.setattr(rehearse_module, "validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rehearse(session, made, large=40)

    assert scratches(session) == {}
    assert session.workspace.names("rehearsals") == []
    assert held(opened, target) == {"mine": {"n": 1}}


def test_a_phase_that_fails_on_a_sample_is_told_as_the_reason(migration, places):
    source, target = places("postgresql")
    transforms = [{"rename_ids": {"pattern": "(?P<kind>[a-z]+)-.*", "template": "{kind}"}}]
    session = migration(source=source, target=target, transforms=transforms).session()

    found = rehearsed(session)

    assert "'state'" in found.failure
    assert scratches(session) == {}


def test_without_the_privilege_to_make_a_schema_the_plan_says_that_it_has_no_timeline(
    migration, config, opened, target, legacy
):
    source = config("redis", "source")
    fill(opened(source))
    target.execute("CREATE ROLE agui_restricted LOGIN")
    try:
        target.execute("GRANT CREATE, USAGE ON SCHEMA public TO agui_restricted")
        url = target.url.replace("//postgres@", "//agui_restricted@")
        session = migration(source=source, target={**target.config, "connection_url": url}).session()

        values = propose(session, plan(session))

        assert values["timeline"]["measured"] is False
        assert "permission denied" in values["timeline"]["why_not"]
        assert "Not measured" in session.workspace.read(f"plans/{values['plan_id']}.md").decode()
        assert "There is no measured timeline." in [risk["risk"] for risk in values["risks"]]
        assert target.tables() == set()
    finally:
        target.execute("DROP OWNED BY agui_restricted")
        target.execute("DROP ROLE agui_restricted")


@pytest.mark.long
def test_a_rehearsal_rolls_nothing_of_the_migration_on(migration, places):
    """Neither its ledger nor its snapshots know of a rehearsal."""
    source, target = places("file")
    session = migration(source=source, target=target).session()
    made = plan(session)
    before = session.ledger.entries()

    rehearse(session, made, large=40)

    assert session.ledger.entries() == before
    assert session.workspace.names("snapshots") == []


def test_an_empty_source_and_one_state_can_be_planned(migration, config, opened):
    source = config("redis", "source")
    target = config("file", "target")
    empty = migration(source=source, target=target).session()
    nothing = propose(empty, plan(empty))
    opened(source).set_state("only", b"{}")
    one = migration(source=source, target=target).session()

    single = propose(one, plan(one, fresh=True))

    assert "empty" in nothing["timeline"]["why_not"]
    assert single["timeline"]["measured"] is True
    assert {each["keys"] for each in single["timeline"]["rehearsal"]["rounds"]} == {1}


@pytest.mark.long
def test_a_scanned_source_is_rehearsed_from_its_spool(migration, config, tmp_path):
    file = tmp_path / "states.jsonl"
    file.write_text("".join(f'{{"id":"state-{number:03}"}}\n' for number in range(50)))
    move = migration(source={"type": "jsonl", "path": str(file), "id": "id"}, target=config("file", "target"))
    session = move.session()

    found = rehearsed(session)

    assert found.failure == ""
    assert [r.records["state"] for r in found.rounds] == [1, 10, 40, 10, 40]


def test_large_documents_make_samples_smaller(migration, config, opened, monkeypatch):
    source = config("postgresql", "source")
    store = opened(source)
    store.prepare()
    for number in range(30):
        store.set_state(f"state-{number:02}", json.dumps({"text": f"{number:02}" * 500}).encode())
    session = migration(source=source, target=config("file", "target")).session()
    monkeypatch.setattr(rehearse_module, "SAMPLE_BYTES", 10_000)

    found = rehearse(session, plan(session), large=30)

    assert found.failure == ""
    assert max(r.bytes for r in found.rounds) <= 10_000
    assert max(r.keys for r in found.rounds) == 9


def test_a_quick_look_does_not_hide_what_a_thorough_one_has_counted(migration, places):
    source, target = places("file")
    session = migration(source=source, target=target).session()
    for unit, rate in (("assess", 50.0), ("migrate", 2.0)):
        outputs = {"public": {"updates_per_second": rate}}
        session.ledger.record(Entry("assess", "", unit, session.migration.fingerprint, outputs=outputs))

    document = compose(session, plan(session), Rehearsal(failure="none"))

    assert document["volume"]["updates_per_second"] == 50.0
