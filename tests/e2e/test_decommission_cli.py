"""`agui-migrate decommission`, after a real cutover."""

from __future__ import annotations

from tests.e2e.conftest import migrated


def test_a_source_is_archived_deleted_and_brought_back(command, written, text, legacy, documents):
    file = written({**text, "decommission": {"soak": "1h"}})
    migrated(file)
    legacy.set("other", "x")

    looked = command("decommission", file)
    assert looked.code == 0
    assert "no cutover was done" in " ".join(looked.out.split())

    assert command("cutover", file, "--source-is-stopped", "--json").code == 0
    early = command("decommission", file, "--confirm", "moved", "--json")
    assert early.code == 3
    assert "soak period is not over" in early.error
    assert len(legacy.keys("session:*")) == 30

    written({**text, "decommission": {"soak": "0s"}})
    assert command("decommission", file, "--json").json["ready"] is True
    assert "is called 'moved'" in command("decommission", file, "--confirm", "other").error
    done = command("decommission", file, "--confirm", "moved", "--json").json
    assert (done["deleted"], done["left"], legacy.keys()) == (30, [], [b"other"])
    assert len(documents()) == 30

    assert "There is no side to return to" in command("cutover", file, "--back", "--source-is-stopped").err
    assert command("backup", "restore", file, "--id", done["archive_id"], "--yes").code == 0
    assert len(legacy.keys("session:*")) == 30
