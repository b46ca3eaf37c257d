"""The webserver and the daemon over real servers, told what to do as the UI tells them.

One story, as Dagster takes some ten seconds to start, and its daemon looks for backfills and ended runs every half a minute.
"""

from __future__ import annotations

import json
import time

import psycopg
import pytest
import redis

from agui_pipelines.embedded.workload import fill
from tests.conftest import MEASURED
from tests.e2e.operated import ENDED, awaited, operated
from tests.partitions import RANGES

ALL = (RANGES[0], RANGES[-1])
RANGED = ("exported_snapshot", "staged_snapshot", "target_backup", "target_states")
SLOW = """
    CREATE TABLE ag_states (state_id varchar(255) PRIMARY KEY, data jsonb NOT NULL,
        created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
    CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$;
    CREATE TRIGGER dawdle BEFORE INSERT ON ag_states FOR EACH ROW EXECUTE FUNCTION dawdle()
"""


@pytest.fixture
def slow(fresh_postgres, written, text, tmp_path):
    """A second migration of the same sessions, into a database that takes a second for each; and what one asks that."""
    url = fresh_postgres()
    file = tmp_path / "slow.yaml"
    written({**text, "name": "slow", "batch_size": 1, "target": {**text["target"], "connection_url": url}}).rename(file)

    def rows(statement="SELECT count(*) FROM ag_states"):
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None

    rows(SLOW)
    return file, rows


@pytest.fixture
def target(postgres_url):
    """Carries out a statement on the target."""

    def carry_out(statement, *values):
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(statement, values)

    return carry_out


def terminated(ui, file, rows):
    """The id of a run that was terminated while it imported, and has let go of the target's lock."""
    run = ui.launch("migrate", ALL, {"resources": {"migration": {"config": {"migration_file": str(file)}}}})
    awaited(lambda: rows() or ui.status(run) in ENDED)
    assert ui.status(run) == "STARTED"
    assert rows("SELECT to_regclass('ag_locks')::text") == "ag_locks"
    ui.terminate(run)
    assert ui.ended(run) == "CANCELED"
    return run


def taken_back(ui, run):
    """The rollback that was launched after a run and came to its end. One that finds the lock taken fails, and is tried again."""
    mine = [{"key": "agui/rollback_of", "value": run}]
    return [found for found in ui.runs(tags=mine) if found["status"] == "SUCCESS"]


@pytest.mark.timeout(900)
def test_a_migration_is_operated_from_the_ui(agui_migrate, legacy, written, text, slow, documents, target, tmp_path):
    slow_file, rows = slow
    with operated(written(text), tmp_path / "home") as ui:
        too_early = ui.tick("incremental_sync")
        ui.succeeded(ui.launch("migrate", ALL))
        moved = documents()
        due = ui.tick("incremental_sync")

        for id_ in ("00", "20"):  # of the first key range, and of the third
            target("DELETE FROM ag_states WHERE state_id = %s", id_)
        backfill = ui.backfill(RANGED, (RANGES[0], RANGES[2]))
        run = terminated(ui, slow_file, rows)
        [rollback] = awaited(lambda: taken_back(ui, run))
        left = rows()
        repairs = ui.backfilled(backfill)
        repaired = documents()
    rows("DROP TRIGGER dawdle ON ag_states")
    resumed = agui_migrate("run", slow_file, "--json")

    assert (bool(too_early["skipReason"]), too_early["runRequests"]) == (True, [])
    assert (due["skipReason"], len(due["runRequests"])) == (None, 1)
    assert moved == {f"{number:02}": {"number": number} for number in range(30)}
    assert repairs == {(RANGES[0], RANGES[0]), (RANGES[2], RANGES[2])}  # as the two are no neighbours
    assert repaired == moved
    assert (rollback["jobName"], left) == ("rollback", 0)
    assert resumed.code == 0
    assert "Resumed" in resumed.err
    assert rows() == 30
    assert rows("SELECT to_regclass('ag_locks')::text") is None


@pytest.mark.long  # the daemon's schedules tick at full minutes
@pytest.mark.timeout(900)
def test_a_schedule_that_is_switched_on_syncs(legacy, written, text, documents, tmp_path):
    def synced(ui):
        return [
            run
            for tick in ui.ticks("incremental_sync")
            for run in tick["runIds"]
            if tick["status"] == "SUCCESS" and ui.ended(run) == "SUCCESS"
        ]

    with operated(written({**text, "schedules": {"sync": "* * * * *"}}), tmp_path / "home") as ui:
        ui.switch_on("incremental_sync")
        skipped = awaited(lambda: [tick for tick in ui.ticks("incremental_sync") if tick["status"] == "SKIPPED"])
        ui.succeeded(ui.launch("migrate", ALL))
        legacy.set("session:30", json.dumps({"number": 30}))
        awaited(lambda: synced(ui) and len(documents()) == 31)

    assert skipped[0]["skipReason"]


@pytest.mark.long  # two migrations of 20,000 states
@pytest.mark.timeout(900)
def test_a_run_from_the_ui_takes_little_longer_than_one_of_the_command_line(
    agui_migrate, redis_url, fresh_postgres, written, text, tmp_path, record_property
):
    """Of 20,000 states, both with the default number of key ranges. The figures are in the summary of the tests."""
    with redis.Redis.from_url(redis_url) as client:
        fill(client, 20_000)
    files = {}
    for name in ("command", "ui"):
        files[name] = tmp_path / f"{name}.yaml"
        store = {**text["target"], "connection_url": fresh_postgres()}
        written({**text, "name": name, "ranges": 16, "target": store}).rename(files[name])

    began = time.monotonic()
    said = agui_migrate("run", files["command"], "--json")
    of_command = time.monotonic() - began
    with operated(files["ui"], tmp_path / "home") as ui:
        began = time.monotonic()
        ui.succeeded(ui.launch("migrate", ("00", "15")))
        of_ui = time.monotonic() - began

    record_property(
        MEASURED, f"20,000 states: {of_command:.1f} s from the command line, {of_ui:.1f} s from a click in the UI"
    )
    assert said.code == 0
    assert of_ui - of_command < 15
