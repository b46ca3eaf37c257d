"""A sync that is killed, wherever that is, leaves nothing that the next one does not put right."""

from __future__ import annotations

import json
import signal

import pyarrow as pa
import pytest

from agui_pipelines.cli.status import describe
from agui_pipelines.errors import RefusedError
from agui_pipelines.phases.spot_check import spot_check
from agui_pipelines.phases.sync import sync
from agui_pipelines.ports import Version
from agui_pipelines.records import Kind
from tests.cases import thinned
from tests.integration.forker import Forker
from tests.integration.test_sync import held

pytestmark = pytest.mark.usefixtures("without_suites")

POINTS = [
    pytest.param("before ledger/*-cursor.json", id="between data and cursor"),
    pytest.param("after ledger/*-cursor.json", id="between cursor and end", marks=pytest.mark.long),
    pytest.param("written 1", id="a batch written"),
    pytest.param("after ledger/*-sync_removed.json", id="deletes done", marks=pytest.mark.long),
    pytest.param("before ledger/*-sync_removed.json", id="deletes done, not in the ledger", marks=pytest.mark.long),
    pytest.param("after ledger/*-import_begun.json", id="about to write", marks=pytest.mark.long),
    pytest.param("after ledger/*-backup-*", id="backed up", marks=pytest.mark.long),
    pytest.param("after ledger/*-export-*", id="exported", marks=pytest.mark.long),
    pytest.param("after catalogues/sync-*", id="listed", marks=pytest.mark.long),
    pytest.param("before cursors/*/target.parquet", id="half a cursor", marks=pytest.mark.long),
    pytest.param("after ledger/*-sync.json", id="at its end", marks=pytest.mark.long),
]


@pytest.fixture(scope="module")
def forker():
    forker = Forker()
    yield forker
    forker.close()


def document(number):
    return json.dumps({"n": number}).encode()


@pytest.mark.parametrize(("backend", "point"), thinned(["file", "redis", "postgresql"], POINTS))
def test_what_was_not_finished_is_finished_although_the_source_went_on(
    migration, config, opened, forker, backend, point
):
    from_, to = config("redis", "source"), config(backend, "target")
    source, target = opened(from_), opened(to)
    move = migration(source=from_, target=to, sync={"max_delete_fraction": 0.5})
    for number in range(12):
        source.set_state(f"s{number}", document(number))
        source.save_version(Version(f"v{number}", f"s{number}", "2025-07-14T09:30:15Z", document(number)))
    move.run()
    source.set_state("s1", document(100))
    source.set_state("s2", document(200))
    source.set_state("new", document(1))
    source.delete_state("s3")
    source.remove(Kind.VERSION, pa.RecordBatch.from_pylist([{"state_id": "s3", "version_id": "v3"}]))

    assert forker.end(forker.start(move, point, "sync")) == -signal.SIGKILL
    source.set_state("s1", document(1))  # as it was before
    source.set_state("s2", document(201))
    source.set_state("s3", document(3))
    source.set_state("s4", document(400))

    sync(move.session())
    assert held(target) == held(source)
    assert sync(move.session()).changed == 0


def test_until_a_killed_sync_was_finished_that_is_told_and_no_sample_is_looked_at(migration, config, opened, forker):
    from_, to = config("redis", "source"), config("file", "target")
    source = opened(from_)
    move = migration(source=from_, target=to)
    for number in range(12):
        source.set_state(f"s{number}", document(number))
    move.run()
    source.set_state("s2", document(200))
    assert forker.end(forker.start(move, "written 1", "sync")) == -signal.SIGKILL

    state = describe(move.session().workspace, "story")
    assert "finish it with agui-migrate sync" in state["state"]
    assert state["sync"] is None
    with pytest.raises(RefusedError, match="ended while it wrote"):
        spot_check(move.session(), 12)

    sync(move.session())
    assert spot_check(move.session(), 12).passed
    source.set_state("s3", document(300))
    sync(move.session())
    state = describe(move.session().workspace, "story")
    assert state["state"] == "migrated and proven"
    assert (state["sync"]["created"], state["sync"]["updated"], state["sync"]["deleted"]) == (0, 1, 0)


def test_a_killed_round_is_not_finished_once_everything_was_imported_anew(migration, config, opened, forker):
    from_, to = config("redis", "source"), config("file", "target")
    source, target = opened(from_), opened(to)
    move = migration(source=from_, target=to)
    for number in range(12):
        source.set_state(f"s{number}", document(number))
    move.run()
    source.delete_state("s1")
    source.set_state("s2", document(200))
    assert forker.end(forker.start(move, "after ledger/*-import_begun.json", "sync")) == -signal.SIGKILL
    source.set_state("s1", document(1))
    source.set_state("s2", document(2))
    assert move.run().validation.passed

    sync(move.session())
    assert held(target) == held(source)
