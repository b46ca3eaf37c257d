"""`agui-migrate sync`: once, and until it is stopped."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.e2e.conftest import migrated


def test_a_sync_says_what_it_did_and_what_stops_it(command, written, text, legacy, documents):
    file = written({**text, "sync": {"max_delete_fraction": 0.1}})
    assert "has not been validated" in command("sync", file).error
    migrated(file)
    legacy.set("session:01", '{"number": 100}')
    legacy.set("session:99", "{}")
    legacy.delete("session:02")

    said = command("sync", file, "--json").json

    assert (said["migration"], said["created"], said["updated"], said["deleted"]) == ("moved", 1, 1, 1)
    assert (said["checked"], said["feed"], said["complete"]) == (30, "digest", True)
    assert documents() == {f"{i:02}": {"number": i} for i in range(30) if i not in (1, 2)} | {
        "01": {"number": 100},
        "99": {},
    }
    assert "Created" in command("sync", file).out
    assert "1 created, 1 updated, 1 deleted" in command("status", file).out
    assert "is older than what the target was synced to" in command("validate", file).error

    legacy.flushdb()
    stopped = command("sync", file, "--json")
    assert stopped.code == 3
    assert stopped.json["failure"]["message"] == "The source is empty; it held 30 ids."
    assert len(documents()) == 30
    assert command("sync", file, "--every", "often", "--follow").code == 2


@pytest.mark.long
def test_following_brings_changes_until_it_is_stopped(start, written, text, legacy, documents):
    file = written(text)
    migrated(file)
    following = start("sync", file, "--follow", "--every", "100ms", "--json")
    first = json.loads(following.stdout.readline())
    assert first["changed"] == 0
    legacy.set("session:01", '{"number": 100}')

    lines = iter(following.stdout.readline, "")
    report = next(found for line in lines if (found := json.loads(line))["changed"])

    assert report["updated"] == 1
    assert report["changes_per_minute"] >= 1
    assert documents()["01"] == {"number": 100}
    time.sleep(0.2)
    following.send_signal(signal.SIGINT)
    following.stdout.read()
    assert following.wait(timeout=60) == 0
