"""What becomes of a target when a migration into it fails, and `agui-migrate rollback`."""

from __future__ import annotations

import json
import sys
from contextlib import suppress

import psutil
import psycopg
import pytest

from tests.e2e.conftest import migrated

TABLES = """
    CREATE TABLE ag_states (state_id varchar(255) PRIMARY KEY, data jsonb NOT NULL,
        created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
    INSERT INTO ag_states VALUES ('07', '{"was": "here"}', '2024-02-29', '2024-03-01'), ('other', '{}', now(), now())
"""
REFUSED = "RAISE EXCEPTION 'no more' USING ERRCODE = 'check_violation'; RETURN NEW;"
ALTERED = 'NEW.data := \'{"not": "what was sent"}\'; RETURN NEW;'


@pytest.fixture
def database(postgres_url):
    """A target with tables and two states of its own; runs statements on it."""

    def execute(statement):
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    execute(TABLES)
    return execute


def spoil(database, what, *, on="INSERT", when="NEW.state_id = '15'"):
    """From now on the target does something else to what is written."""
    name = on.lower()
    database(
        f"CREATE FUNCTION spoil_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what} END $$;"
        f"CREATE TRIGGER spoil_{name} BEFORE {on} ON ag_states FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION spoil_{name}()"
    )


def held(database):
    return dict(database("SELECT state_id, row(data, created_at, updated_at)::text FROM ag_states"))


@pytest.fixture
def file(written, text):
    return written({**text, "batch_size": 2})


@pytest.mark.parametrize(
    "what", [pytest.param(REFUSED, id="import", marks=pytest.mark.long), pytest.param(ALTERED, id="validation")]
)
def test_a_failure_puts_the_target_back_and_says_so(command, file, database, what):
    before = held(database)
    spoil(database, what)

    said = command("run", file)

    assert said.code == 1
    assert "put back as it was" in said.error
    assert held(database) == before
    assert command("status", file, "--json").json["state"].startswith("taken back")
    database("DROP TRIGGER spoil_insert ON ag_states")
    assert command("run", file).code == 0
    assert len(held(database)) == 31
    assert command("status", file, "--json").json["state"] == "migrated and proven"


def test_a_rolled_back_failure_is_in_the_json(command, file, database):
    spoil(database, ALTERED)

    said = command("run", file, "--json")

    rollback = said.json["failure"]["rollback"]
    assert rollback["status"] == "rolled_back"
    [restored] = rollback["restored"]
    assert restored["records"]["state"] == 1
    assert restored["removed"]["state"] == 29


def test_on_failure_keep_leaves_the_target_as_it_is_until_it_is_rolled_back(command, written, text, database):
    before = held(database)
    spoil(database, ALTERED)
    file = written({**text, "on_failure": "keep"})

    said = command("run", file)

    assert said.code == 1
    assert "on_failure: keep" in said.error
    assert len(held(database)) == 31
    told = command("rollback", file, "--yes")
    assert told.code == 0
    assert [line.split()[0] for line in told.err.splitlines() if line[:1].islower()] == [
        *("verify", "stop", "restore", "start", "validate"),
    ]
    assert held(database) == before
    assert "nothing to roll back" in command("rollback", file, "--yes").error


def test_a_failing_rollback_tells_both_errors_and_keeps_the_backup(command, file, database):
    before = held(database)
    spoil(database, ALTERED)
    spoil(
        database,
        "RAISE EXCEPTION 'nothing is deleted' USING ERRCODE = 'check_violation'; RETURN OLD;",
        on="DELETE",
        when="true",
    )

    said = command("run", file, "--json")

    failure = said.json["failure"]
    assert said.code == 1
    assert failure["error"] == "RollbackError"
    assert failure["cause"]["error"] == "ValidationFailedError"
    assert "corrupted" in failure["message"]
    assert "nothing is deleted" in failure["message"]
    [backup] = failure["backups"]
    assert command("backup", "verify", file, "--id", backup).code == 0
    database("DROP TRIGGER spoil_insert ON ag_states")
    database("DROP TRIGGER spoil_delete ON ag_states")
    assert command("rollback", backup, file, "--yes").code == 0
    assert held(database) == before


def test_what_is_refused_before_the_first_write_rolls_nothing_back(command, file, database, legacy):
    before = held(database)
    legacy.set("session:bad", rb'{"a":"\u0000"}')

    said = command("run", file)

    assert said.code == 3
    assert "put back" not in said.error
    assert held(database) == before
    assert command("backup", "list", file, "--json").json["backups"] == []


def hook(tmp_path, name, body="pass"):
    """A command that notes that it ran, with what the target held then."""
    script = tmp_path / f"{name}.py"
    script.write_text(
        "import os, pathlib\n"
        f"with open({str(tmp_path / 'hooks.log')!r}, 'a') as log: log.write(os.environ['AGUI_HOOK'] + '\\n')\n"
        f"{body}\n"
    )
    return [sys.executable, str(script)]


def test_hooks_run_around_the_restore(command, written, text, database, tmp_path):
    before = held(database)
    hooks = {"stop": hook(tmp_path, "stop"), "start": {"command": hook(tmp_path, "start"), "timeout": "30s"}}
    file = written({**text, "hooks": hooks})
    migrated(file)
    assert held(database) != before

    said = command("rollback", file, "--yes", "--json")

    assert (tmp_path / "hooks.log").read_text().split() == ["stop", "start"]
    assert [step["step"] for step in said.json["steps"]] == ["verify", "stop", "restore", "start", "validate"]
    assert held(database) == before


def test_what_is_written_after_the_start_hook_is_told_and_is_no_failure(
    command, written, text, database, tmp_path, postgres_url
):
    body = f"import psycopg\nwith psycopg.connect({postgres_url!r}) as c: c.execute(\"INSERT INTO ag_states VALUES ('03', '{{}}')\")"
    file = written({**text, "hooks": {"start": hook(tmp_path, "start", body)}})
    migrated(file)

    said = command("rollback", file, "--yes", "--json")

    assert said.code == 0
    assert "written to since the start hook" in said.json["steps"][-1]["detail"]


@pytest.mark.parametrize("name", ["stop", "start"])
def test_a_hook_that_fails_ends_the_rollback(command, written, text, database, tmp_path, name):
    before = held(database)
    file = written({**text, "hooks": {name: hook(tmp_path, name, "raise SystemExit('cannot do that')")}})
    migrated(file)
    after = held(database)

    said = command("rollback", file, "--yes")

    assert said.code == 1
    assert f"The {name} hook" in said.error
    assert "cannot do that" in said.error
    assert held(database) == (after if name == "stop" else before)


def test_a_hook_that_takes_too_long_is_ended_with_what_it_started(command, written, text, database, tmp_path):
    body = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    file = written({**text, "hooks": {"stop": {"command": hook(tmp_path, "stop", body), "timeout": "3s"}}})
    migrated(file)

    said = command("rollback", file, "--yes")

    assert "longer than 3 seconds" in said.error
    child = int((tmp_path / "child").read_text())
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(child).status() == psutil.STATUS_ZOMBIE  # not collected yet by whoever adopted it


def test_a_backup_that_does_not_verify_is_refused_before_anything_is_stopped(
    command, written, text, database, tmp_path
):
    file = written({**text, "hooks": {"stop": hook(tmp_path, "stop")}})
    migrated(file)
    after = held(database)
    [backup] = command("backup", "list", file, "--json").json["backups"]
    folder = tmp_path / ".agui" / "moved" / "snapshots"
    for segment in folder.glob("backup-*/state-*.parquet"):
        segment.write_bytes(segment.read_bytes()[:-1] + b"?")

    said = command("rollback", backup["backup_id"], file, "--yes")

    assert said.code == 1
    assert not (tmp_path / "hooks.log").exists()
    assert held(database) == after


def test_a_rollback_asks_first_and_refuses_a_backup_of_the_source(command, file, database, written, text, tmp_path):
    migrated(file)
    after = held(database)

    assert command("rollback", file).code == 2
    assert command("rollback", "backup-x", file, "--yes").code == 3
    assert held(database) == after


def test_a_live_target_is_not_written_to_and_the_operator_told(command, file, database, tmp_path):
    spoil(database, ALTERED)
    ledger = tmp_path / ".agui" / "moved" / "ledger"
    ledger.mkdir(parents=True, mode=0o700)
    entry = {"phase": "cutover", "plan_id": "plan-x", "unit": "", "basis": "", "outputs": {"live": "target"}, "at": ""}
    (ledger / "00000000000000000001-cutover.json").write_text(json.dumps(entry))
    before = held(database)

    said = command("run", file)

    assert (said.code, "live since its cutover" in said.error) == (3, True)
    assert held(database) == before
