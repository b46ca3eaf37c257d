"""What `status` tells of a migration, from entries of its ledger alone."""

from __future__ import annotations

import pytest

from agui_pipelines.cli.status import describe
from agui_pipelines.ledger import Entry, Ledger
from agui_pipelines.phases.standing import BACKUP, BEGUN, LOCK_LOST, RESTORE, RESTORE_BEGUN
from agui_pipelines.staging import Workspace

RANGES = ("00", "01", "02")


@pytest.fixture
def workspace(tmp_path):
    return Workspace(str(tmp_path), "moved")


@pytest.fixture
def ledger(workspace):
    return Ledger(workspace)


@pytest.fixture
def status(workspace):
    return lambda: describe(workspace, "moved")


def planned(ledger, plan_id, purpose="migrate"):
    ledger.record(Entry("plan", plan_id, outputs={"purpose": purpose, "keys": 30, "ranges": RANGES}))


def imported(ledger, plan_id, *ranges):
    ledger.record(Entry(BEGUN, plan_id, outputs={"run_id": "run", "ranges": ranges}))
    for name in ranges:
        ledger.record(Entry("import", plan_id, name, basis=f"staged-{name}", outputs={"records": 10}))


def put_back(ledger, *ranges):
    """A restore of what was there before these were imported; of everything if there are none."""
    plan_id = "plan-1" if ranges else ""
    ledger.record(Entry(BACKUP, plan_id, "backup-1", outputs={"of": "target"}))
    ledger.record(Entry(RESTORE_BEGUN, plan_id, "backup-1", outputs={"ranges": list(ranges)}))
    ledger.record(Entry(RESTORE, plan_id, "backup-1"))


def test_what_was_imported_and_taken_back_or_may_be_gone_is_not_counted(ledger, status):
    planned(ledger, "plan-1")
    imported(ledger, "plan-1", *RANGES)
    assert status()["phases"]["import"] == {"ranges": 3, "records": 30}

    put_back(ledger, "01")
    assert status()["phases"]["import"] == {"ranges": 2, "records": 20}

    imported(ledger, "plan-1", "01")
    assert status()["phases"]["import"] == {"ranges": 3, "records": 30}

    ledger.record(Entry(LOCK_LOST, "plan-1"))
    assert status()["phases"]["import"] == {"ranges": 0, "records": 0}

    imported(ledger, "plan-1", "00")
    put_back(ledger)
    assert status()["phases"]["import"] == {"ranges": 0, "records": 0}
    assert status()["state"].startswith("taken back")


def test_a_dry_run_hides_nothing_that_a_migration_has_written(ledger, status):
    planned(ledger, "plan-1")
    planned(ledger, "plan-2", "dry_run")
    assert (status()["plan_id"], status()["purpose"]) == ("plan-2", "dry_run")

    imported(ledger, "plan-1", "00", "01")
    planned(ledger, "plan-3", "dry_run")
    ledger.record(Entry("preview", "plan-3"))

    found = status()
    assert (found["plan_id"], found["phases"]["import"]["ranges"]) == ("plan-1", 2)
    assert found["state"] == "unfinished: run it again to resume"


def test_a_newer_plan_of_a_migration_is_told_although_it_has_written_nothing_yet(ledger, status):
    planned(ledger, "plan-1")
    imported(ledger, "plan-1", *RANGES)
    planned(ledger, "plan-2")
    planned(ledger, "plan-3", "dry_run")

    assert status()["plan_id"] == "plan-2"
