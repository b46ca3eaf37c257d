"""A random sample of the target beside what the import and the syncs have left there."""

from __future__ import annotations

import json
import time

import pytest
import redis

from agui_pipelines.errors import LockedError, RefusedError
from agui_pipelines.ledger import Entry
from agui_pipelines.phases import backup as backup_module
from agui_pipelines.phases.backup import backups
from agui_pipelines.phases.rollback import rollback
from agui_pipelines.phases.spot_check import spot_check
from agui_pipelines.phases.steps import PHASE as CUTOVER
from agui_pipelines.phases.sync import sync
from agui_pipelines.ports import Version
from tests.integration.test_sync import remove

pytestmark = pytest.mark.usefixtures("without_suites")

TIME = "2025-07-14T09:30:15Z"
STATES = 12


def document(number):
    return json.dumps({"n": number}).encode()


@pytest.fixture
def ends(config, opened):
    from_, to = config("redis", "source"), config("redis", "target")
    source, target = opened(from_), opened(to)
    for number in range(STATES):
        source.set_state(f"s{number:02}", document(number))
    return from_, to, source, target


@pytest.fixture
def source(ends):
    return ends[2]


@pytest.fixture
def target(ends):
    return ends[3]


@pytest.fixture
def move(migration, ends):
    return migration(source=ends[0], target=ends[1])


def test_only_the_sample_is_looked_at(move, target):
    move.run()
    for number in range(STATES):
        target.set_state(f"s{number:02}", b"{}")

    report = spot_check(move.session(), 3, seed=7)

    assert (len(report.sample.ids), report.sample.of, report.to_dict()["records"]) == (3, STATES, 3)
    assert report.findings["corrupted_states"].ids == tuple(id_.decode() for id_ in report.sample.ids)


def test_a_version_that_is_gone_and_an_expiry_that_is_another_are_found(move, ends, source, target):
    with redis.Redis.from_url(ends[0]["connection_url"]) as client:
        client.pexpireat("ag-ui:state:state:s03", round(time.time() * 1000) + 3_600_000)
    source.save_version(Version("v1", "s05", TIME, b"{}"))
    move.run()
    assert spot_check(move.session(), STATES).passed
    with redis.Redis.from_url(ends[1]["connection_url"]) as client:
        client.persist("ag-ui:state:state:s03")
    remove(target, "version", "s05", "v1")

    found = spot_check(move.session(), STATES).findings

    assert {name: names.ids for name, names in found.items()} == {
        "untimely_states": ("s03",),
        "missing_versions": ("s05/v1",),
    }


def test_nobody_writes_to_the_target_meanwhile(migration, move, ends):
    move.run()
    other = migration(name="other", source=ends[0], target=ends[1])
    with other.session().exclusive(), pytest.raises(LockedError, match="'other'"):
        spot_check(move.session(), STATES)


def test_what_applications_write_to_is_not_looked_at(move):
    move.run()
    session = move.session()
    session.ledger.record(Entry(CUTOVER, "plan", "cutover", outputs={"live": "target", "outcome": "done"}))

    with pytest.raises(RefusedError, match="live since its cutover"):
        spot_check(session, STATES)


def test_no_sample_is_looked_at_until_a_rollback_was_finished(move, source, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    move.run()
    sync(move.session())
    source.set_state("s01", document(100))
    sync(move.session())
    newest = backups(move.session())[-1]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(backup_module, "_write_back", killed)
        rollback(move.session(), newest.backup_id)

    with pytest.raises(RefusedError, match="A rollback was ended while it wrote"):
        spot_check(move.session(), 100)


def test_what_the_target_may_change_is_told_by_a_sample_and_is_no_mistake(migration, ends, source, target):
    move = migration(source=ends[0], target=ends[1], sync={"on_conflict": "target"})
    move.run()
    source.set_state("s01", document(100))
    target.set_state("s01", document(555))
    sync(move.session())

    report = spot_check(move.session(), 100)

    assert (report.passed, report.findings["corrupted_states"].ids) == (True, ("s01",))
    target.delete_state("s02")
    assert not spot_check(move.session(), 100).passed
