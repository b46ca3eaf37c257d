"""`agui-migrate assess` and `agui-migrate upgrade-config`."""

from __future__ import annotations

import pytest

FLAT = "# cache\nStorageBackend: redis\nConnectionURL: redis://app:s3cr3t@cache\nKeyPrefix: 'a:' # short\n"
NESTED = """\
# cache
type: redis
connection_url: redis://app:s3cr3t@cache
redis_options:
  key_prefix: 'a:' # short
"""


def test_a_report_for_people(command, written, text, legacy):
    legacy.set("session:text", "no JSON")
    said = command("assess", written(text), "--sample", "20")
    assert said.code == 0, said.err
    for told in (
        "Source redis://",
        "31",
        "Sample of 20 states",
        "session: (20)",
        "Into postgresql://",
        "pass  target_privileges: Tried and taken back",
        "Cost of this:",
    ):
        assert told in said.out
    assert "WARN" not in said.out


def test_a_report_for_programs(command, written, text):
    said = command("assess", written(text), "--json")
    assert said.code == 0, said.err
    report = said.json
    assert (report["migration"], report["states"], report["verdict"]) == ("moved", 30, "pass")
    assert {check["name"] for check in report["checks"]} >= {"target_memory", "clocks", "wal_level"}
    assert report["cost"]["records"] == 30


def test_a_block_ends_with_3_and_is_told_with_its_remedy(command, written, text, legacy, documents):
    legacy.set("session:bad", '{"a": "\\u0000"}')
    file = written(text)
    said = command("assess", file)
    assert said.code == 3
    assert "BLOCK storable_records: 1 sampled record would be rejected" in said.out
    assert "session:bad" in said.out
    assert "limits.max_rejects" in said.out
    assert command("assess", file, "--json").json["verdict"] == "block"
    assert documents() is None


def test_a_source_that_cannot_be_reached(command, written, text):
    said = command("assess", written({**text, "source": {**text["source"], "connection_url": "redis://127.0.0.1:1"}}))
    assert said.code == 1
    assert "cannot be reached" in said.error
    assert "Trying again" not in said.err


def test_the_help_says_how_fast_it_looks(command):
    helped = " ".join(command("assess", "--help").out.split())
    assert "assessment.rate" in helped
    assert "as fast as it goes" in helped


def test_a_flat_configuration_is_shown_and_written_without_its_password_on_the_terminal(command, tmp_path):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(FLAT)
    shown = command("upgrade-config", old)
    assert shown.code == 0
    assert "+  key_prefix: 'a:' # short" in shown.out
    assert "s3cr3t" not in shown.out + shown.err
    assert not new.exists()
    assert command("upgrade-config", old, "-o", new).code == 0
    assert new.read_text() == NESTED
    assert new.stat().st_mode & 0o777 == 0o600
    assert old.read_text() == FLAT
    again = command("upgrade-config", new, "--json")
    assert (again.code, again.json["changed"], again.json["diff"]) == (0, False, "")
    refused = command("upgrade-config", old, "-o", new)
    assert (refused.code, "exists already" in refused.error) == (2, True)


def test_a_file_can_be_upgraded_in_its_place(command, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(FLAT)
    file.chmod(0o640)
    assert command("upgrade-config", file, "-o", file).code == 0
    assert file.read_text() == NESTED
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_key_without_a_place_is_named_and_ends_with_1(command, tmp_path):
    file = tmp_path / "old.json"
    file.write_text('{"StorageBackend": "postgres", "Password": "s3cr3t"}')
    said = command("upgrade-config", file)
    assert said.code == 1
    assert "Not placed: Password: PostgreSQL takes its password from connection_url." in said.err
    told = command("upgrade-config", file, "--json").json
    assert told["unplaced"] == [{"key": "Password", "why": "PostgreSQL takes its password from connection_url"}]
    assert "s3cr3t" not in str(told)


@pytest.mark.parametrize(
    ("content", "said"), [(None, "does not exist"), (b"\xff", "no UTF-8"), (b"a: [", "not valid YAML")]
)
def test_what_is_no_configuration_is_told(command, tmp_path, content, said):
    file = tmp_path / "old.yaml"
    if content is not None:
        file.write_bytes(content)
    told = command("upgrade-config", file)
    assert told.code == 2
    assert said in told.error
