"""`agui-migrate validate`: what people and scripts are told of mismatches, and that a sample never passes for a proof."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from tests.e2e.conftest import migrated

CANARY = "canary-9d02"


@pytest.fixture
def done(text, written):
    """A migration that is done; gives its file."""
    file = written(text)
    migrated(file)
    return file


def test_a_sample_is_called_one_and_leaves_the_migration_unproven(command, text, written, legacy):
    file = written(text)
    assert command("run", file, "--dry-run").code == 0
    assert command("validate", file, "--sample", 5).code == 1  # nothing has been imported

    migrated(file)
    said = command("validate", file, "--sample", 5)

    assert said.code == 0
    assert "sample of 5 of 30 ids" in said.out
    assert "not a proof" in said.out
    assert "proven equal" not in said.out
    report = command("validate", file, "--sample", 5, "--seed", 7, "--json").json
    assert (report["passed"], report["proven"]) == (True, False)
    assert report["sample"] == {"ids": 5, "of": 30, "seed": 7}
    assert report["total_states"] == 5
    assert json.loads(command("validate", file, "--json").out)["proven"]


@pytest.mark.parametrize("options", [["--sample", 0], ["--sample", -1], ["--seed", 1]], ids=str)
def test_a_sample_that_makes_no_sense_is_a_usage_error(command, written, text, options):
    assert command("validate", written(text), *options).code == 2


def test_a_mismatch_is_told_by_id_and_pointer_and_in_full_in_the_report(command, done, postgres_url, legacy):
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE ag_states SET data = %s WHERE state_id = '07'", (f'{{"number":"{CANARY}"}}',))
    legacy.set("session:07", '{"number":8}')

    said = command("validate", done)

    assert said.code == 1
    assert "'07' at /number" in said.error
    assert "Of 1 mismatching states, 1 have changed at the source" in said.error
    assert CANARY not in said.out + said.err
    report = command("validate", done, "--json").json
    assert report["differences"]["state"]["corrupted"] == [{"id": "07", "paths": ["/number"]}]
    assert report["changed_at_source"] == ["07"]
    assert CANARY not in json.dumps(report)
    [path] = Path(done).parent.glob(".agui/moved/reports/*-validation.json")
    [difference] = json.loads(path.read_text())["differences"]["state"]["corrupted"]
    assert difference["patch"] == [{"op": "replace", "path": "/number", "value": CANARY}]
    assert path.stat().st_mode & 0o777 == 0o600
