"""An import that is killed, whatever its target, is finished by the next run: one batch is done twice, with no effect.

The source is an AG-UI store with histories, so that batches are of states, of versions and of snapshots.
"""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import psycopg
import pytest
import redis

from agui_pipelines.errors import StagingError
from agui_pipelines.phases.backup import find, restore
from agui_pipelines.ports import Snapshot, Version
from tests.cases import chiefly, thinned
from tests.integration.forker import Forker

BACKENDS = ["file", "redis", "postgresql"]
STATES = 60
BATCH = 10
RANGES = 2
RECORDS = STATES * 4  # with two versions and a snapshot each
FIRST, IN_THE_MIDDLE, IN_THE_VERSIONS, LAST = 1, 2, 7, RECORDS // BATCH
"""Numbers of writes: each of two ranges has about three batches of states, six of versions and three of snapshots."""


@pytest.fixture(scope="module")
def forker():
    forker = Forker()
    yield forker
    forker.close()


def documents():
    return {f"{i:03}": {"number": i, "text": "é" * (i % 30)} for i in range(STATES)}


@pytest.fixture
def source(config, opened):
    """An AG-UI store on Redis: states, two versions and a snapshot of each."""
    place = config("redis", "source")
    store = opened(place)
    with store.transaction() as transaction:
        for state_id, document in documents().items():
            data = json.dumps(document, ensure_ascii=False).encode()
            transaction.set_state(state_id, data)
            for age in range(2):
                parent = f"v0-{state_id}" if age else ""
                at = f"2025-07-14T09:30:1{age}Z"
                delta = b'[{"op":"add","path":"/number","value":1}]' if age else None
                transaction.save_version(Version(f"v{age}-{state_id}", state_id, at, data, delta, None, parent))
            transaction.save_snapshot(
                Snapshot(f"s-{state_id}", state_id, "2025-07-14T09:31:00Z", data, f"v1-{state_id}", b'{"a":1}')
            )
    return place


@pytest.fixture
def to(migration, source, config):
    """Makes a migration of the source into an empty store of a kind."""

    def make(backend):
        return migration(
            source=source, target=config(backend, "target"), ranges=RANGES, batch_size=BATCH, parallelism=1
        )

    return make


def held(store):
    """Every record of a store, as values."""

    def values(*texts):
        return [None if text is None else json.loads(text) for text in texts]

    return {
        state_id: (
            values(store.get_state(state_id)),
            [(v.version_id, v.parent_id, *values(v.data, v.delta)) for v in store.get_version_history(state_id)],
            [(s.snapshot_id, s.version_id, *values(s.data, s.metadata)) for s in store.list_snapshots(state_id)],
        )
        for state_id in store.list_states()
    }


def marks(target):
    """Something for each record of the target that would change if it were written again with an effect."""
    if target["type"] == "file":
        base = Path(target["file_options"]["base_dir"])
        files = [path for path in base.rglob("*.json") if path.is_file()]
        return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
    if target["type"] == "redis":
        with redis.Redis.from_url(target["connection_url"]) as client:
            strings = [key for key in client.scan_iter("*", _type="string") if b":meta:" not in key]
            sets = client.scan_iter("*", _type="zset")
            return {key: client.get(key) for key in strings} | {
                (key, member): score for key in sets for member, score in client.zrange(key, 0, -1, withscores=True)
            }
    found = {}
    with psycopg.connect(target["connection_url"]) as connection:
        for table in ("ag_states", "ag_versions", "ag_snapshots"):
            if connection.execute("SELECT to_regclass(%s)", (table,)).fetchone() != (None,):
                rows = connection.execute(f"SELECT xmin::text, ctid::text, {table}::text FROM {table}")
                found |= {(table, row[-1]): row for row in rows}
    return found


def killed(forker, move, point):
    assert forker.end(forker.start(move, point)) == -signal.SIGKILL


def resumed(move, target, opened, there):
    """Run the migration again; the number of records that it wrote although they were there."""
    outcome = move.run()

    assert outcome.plan.resumed
    assert outcome.validation.passed
    assert {kind: found.extra.count for kind, found in outcome.validation.kinds.items()} == {
        "state": 0,
        "version": 0,
        "snapshot": 0,
    }
    assert held(opened(target)) == held(opened(move.text["source"]))
    after = marks(target)
    assert {name: after.get(name) for name in there} == there
    written = outcome.imported.written
    assert written.total == RECORDS
    assert written.updated == 0
    return written.unchanged


SENT = [
    pytest.param("half", IN_THE_MIDDLE, id="a batch half sent"),
    pytest.param("half", IN_THE_VERSIONS, id="a batch of a history half sent"),
    pytest.param("sent", FIRST, id="a batch sent"),
    pytest.param("sent", IN_THE_VERSIONS, id="a batch of a history sent"),
    pytest.param("written", IN_THE_VERSIONS, id="a batch of a history committed"),
    pytest.param("written", LAST, id="the last batch committed"),
]


@pytest.mark.parametrize(("backend", "when", "number"), thinned(BACKENDS, SENT))
def test_an_import_killed_in_a_batch_does_that_batch_again_and_no_other(to, opened, forker, backend, when, number):
    move = to(backend)
    target = move.text["target"]
    killed(forker, move, f"{when} {number}")
    there = marks(target)

    again = resumed(move, target, opened, there)

    assert again <= BATCH
    assert again == BATCH or when != "written"


RECORDED = [
    pytest.param("after progress/*", 0, id="a batch recorded"),
    pytest.param("before ledger/*-import_segment-*", BATCH, id="a segment written, not in the ledger"),
    pytest.param("after ledger/*-import_segment-*", 0, id="a segment in the ledger"),
    pytest.param("before ledger/*-import-00.json", 0, id="a range written, not in the ledger", marks=pytest.mark.long),
    pytest.param("after reports/*", 0, id="report there, not in the ledger", marks=pytest.mark.long),
]
"""Where a run is killed, and how many records at most the next one then finds unchanged."""


@pytest.mark.parametrize(("backend", "point", "most"), thinned(BACKENDS, RECORDED))
def test_an_import_killed_between_batches_does_what_is_recorded_never_again(to, opened, forker, backend, point, most):
    move = to(backend)
    target = move.text["target"]
    killed(forker, move, point)

    assert resumed(move, target, opened, marks(target)) <= most


@pytest.mark.parametrize("when", chiefly("half", ["half", "sent", "written"]))
def test_a_batch_that_changes_what_is_there_is_put_or_not_put_as_a_whole(to, opened, forker, when):
    """PostgreSQL upserts it in a transaction; the migration before has filled the target with other documents."""
    move = to("postgresql")
    target = move.text["target"]
    earlier = move.but(transforms=[{"set_fields": {"old": True}}], accept_losses=["history"])
    assert earlier.run().validation.passed
    killed(forker, move, f"{when} {IN_THE_MIDDLE}")
    with psycopg.connect(target["connection_url"]) as connection:
        [(new,)] = connection.execute("SELECT count(*) FROM ag_states WHERE NOT data ? 'old'").fetchall()
    assert new in ({"half": {BATCH}, "sent": {BATCH, 2 * BATCH}, "written": {2 * BATCH}}[when])

    outcome = move.run()

    assert outcome.validation.passed
    assert held(opened(target)) == held(opened(move.text["source"]))
    assert outcome.imported.written.unchanged <= BATCH
    assert outcome.imported.written.total == RECORDS


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_resumed_import_may_cut_its_batches_otherwise(to, opened, forker, backend):
    move = to(backend)
    target = move.text["target"]
    killed(forker, move, f"written {IN_THE_MIDDLE}")
    there = marks(target)

    assert resumed(move.but(batch_size=7), target, opened, there) == BATCH


def test_a_killed_import_leaves_no_trace_in_the_workspace_once_it_is_finished(to, forker):
    move = to("redis")
    killed(forker, move, "after progress/*")
    assert list(move.workspace.glob("progress/*"))

    move.run()

    assert list(move.workspace.glob("progress/*")) == []


def test_a_damaged_record_of_the_progress_is_told_and_can_be_removed(to, forker):
    move = to("redis")
    killed(forker, move, "after progress/*")
    [file] = move.workspace.glob("progress/*")
    file.write_bytes(file.read_bytes()[:-3])

    with pytest.raises(StagingError, match=r"progress/.*\.json is damaged") as told:
        move.run()

    assert "Remove it" in told.value.remedy
    file.unlink()
    assert move.run().imported.written.unchanged == BATCH


def test_what_a_restore_took_back_is_imported_again(to, opened, forker):
    move = to("redis")
    target = move.text["target"]
    killed(forker, move, "after progress/*")
    session = move.session()
    restore(session, find(session, None))
    assert held(opened(target)) == {}

    outcome = move.run()

    assert outcome.plan.resumed
    assert outcome.validation.passed
    assert outcome.imported.written.inserted == RECORDS
    assert held(opened(target)) == held(opened(move.text["source"]))


SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))]


@pytest.mark.parametrize("backend", chiefly("file", BACKENDS))
@pytest.mark.parametrize("seed", SEEDS)
def test_runs_killed_at_random_moments_come_to_the_same_end(to, opened, forker, backend, seed):
    chance = random.Random(seed)
    move = to(backend).but(parallelism=2)
    target = move.text["target"]

    codes = list(forker.killed_at_random(move, chance, 0.05))

    assert codes.count(-signal.SIGKILL) >= 2
    assert set(codes) <= {0, -signal.SIGKILL}
    assert held(opened(target)) == held(opened(move.text["source"]))
    assert move.validate().passed
