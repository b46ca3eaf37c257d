"""A run that is terminated in the UI releases its lock, is taken back by a sensor, and is resumed by the next one."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import psycopg
import pytest

from tests.partitions import RANGES

SLOW = """
    CREATE TABLE ag_states (state_id varchar(255) PRIMARY KEY, data jsonb NOT NULL,
        created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
    CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$;
    CREATE TRIGGER dawdle BEFORE INSERT ON ag_states FOR EACH ROW EXECUTE FUNCTION dawdle()
"""
LAUNCH = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"
RUNS = """query ($filter: RunsFilter!) { runsOrError(filter: $filter) {
    ... on Runs { results { runId jobName status } } } }"""
READY = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"


class Ui:
    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/graphql"

    def ask(self, query, **variables):
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(self.url, data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]

    def repository(self):
        try:
            nodes = self.ask(READY)["repositoriesOrError"].get("nodes")
        except (urllib.error.URLError, ConnectionError):
            return None
        return nodes[0] if nodes else None

    def runs(self, **filter_):
        return self.ask(RUNS, filter=filter_)["runsOrError"]["results"]


def awaited(what, seconds=120):
    """The first true value of a function."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(0.3)
    raise AssertionError("it never happened")


@pytest.fixture
def served(start, free_port):
    """Starts the UI, and ends it as a service manager would, which is when Dagster ends its own processes."""
    begun = []

    def serve(*arguments, **options):
        begun.append(start(*arguments, **options))
        return Ui(free_port)

    yield serve
    for process in begun:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.long  # Dagster starts five processes, and its sensors look every half a minute
def test_a_run_terminated_in_the_ui_is_taken_back_and_can_be_resumed(
    served, agui_migrate, free_port, written, text, postgres_url, tmp_path
):
    def rows(statement="SELECT count(*) FROM ag_states"):
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None

    rows(SLOW)
    file = written({**text, "batch_size": 1})
    ui = served("ui", file, "--port", free_port, cwd=tmp_path)
    repository = awaited(ui.repository)
    params = {
        "selector": {
            "repositoryName": repository["name"],
            "repositoryLocationName": repository["location"]["name"],
            "jobName": "migrate",
        },
        "runConfigData": {"resources": {"migration": {"config": {"migration_file": str(file)}}}},
        "executionMetadata": {
            "tags": [
                {"key": "dagster/asset_partition_range_start", "value": RANGES[0]},
                {"key": "dagster/asset_partition_range_end", "value": RANGES[-1]},
            ]
        },
    }
    launched = ui.ask(LAUNCH, params=params)["launchRun"]
    run_id = launched["run"]["runId"]
    awaited(rows)
    assert rows("SELECT to_regclass('ag_locks')::text") == "ag_locks"

    ui.ask(TERMINATE, id=run_id)

    awaited(lambda: ui.runs(runIds=[run_id])[0]["status"] == "CANCELED")
    mine = [{"key": "agui/rollback_of", "value": run_id}]
    awaited(lambda: [run for run in ui.runs(tags=mine) if run["status"] in ("SUCCESS", "FAILURE", "CANCELED")])
    assert [(run["jobName"], run["status"]) for run in ui.runs(tags=mine)] == [("rollback", "SUCCESS")]
    assert rows() == 0
    assert rows("SELECT to_regclass('ag_locks')::text") is None
    rows("DROP TRIGGER dawdle ON ag_states")
    said = agui_migrate("run", file, "--json")
    assert said.code == 0
    assert "Resumed" in said.err
    assert rows() == 30
