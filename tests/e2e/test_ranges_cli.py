"""`agui-migrate run --range`: some key ranges by themselves, again where that is needed, and all of them proven in the end."""

from __future__ import annotations

import psycopg
import pytest
import yaml

from agui_pipelines.phases.import_ import import_
from tests.integration.conftest import Move
from tests.partitions import RANGES


def test_ranges_are_moved_by_themselves_repaired_and_proven_with_the_last(
    command, legacy, text, written, documents, postgres_url
):
    file = written({**text, "ranges": len(RANGES)})
    assert command("plan", file, "--no-rehearsal").code == 0
    legacy.set("session:30", '{"number": 30}')  # which that plan does not list

    first = command("run", file, "--range", "01", "--range", "03", "--json")

    assert first.code == 0, first.err
    told = first.json
    assert ([row["range"] for row in told["ranges"]], told["pending_ranges"]) == (["01", "03"], ["00", "02"])
    assert (len(told["run_ids"]), told["validated"], "passed" in told) == (2, False, False)
    assert sum(row["records"] for row in told["ranges"]) == len(documents())
    assert 0 < len(documents()) < 31
    assert "00, 02" in command("validate", file).error

    lost = min(documents())
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DELETE FROM ag_states WHERE state_id = %s", (lost,))
    again = command("run", file, "--range", "01")
    assert "Not validated: 2 of 4 key ranges are pending: 00, 02." in again.out
    assert lost in documents()

    last = command("run", file, "--range", "02", "--range", "00", "--json")
    assert (last.code, last.json["pending_ranges"], last.json["passed"], last.json["proven"]) == (0, [], True, True)
    assert (last.json["plan_id"], last.json["validated"]) == (told["plan_id"], True)
    assert len(documents()) == 31


def test_a_fresh_plan_says_which_ranges_had_been_imported_under_the_one_that_is_given_up(
    command, legacy, text, written
):
    file = written({**text, "ranges": len(RANGES)})
    session, given_up = Move(yaml.safe_load(file.read_text()), file.parent).stage()
    import_(session, given_up, ["01", "02"])

    said = command("run", file, "--range", "03", "--fresh", "--json")

    assert said.code == 0, said.err
    assert said.json["plan_id"] != given_up.plan_id
    assert said.json["pending_ranges"] == ["00", "01", "02"]
    assert f"Gives up {given_up.plan_id}, under which the key ranges 01, 02 had been imported" in said.err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--range", "7"], "There is no key range '7'."),
        (["--range", "00-03"], "give --range once for each"),
        (["--range", "00", "--dry-run"], "do not go together"),
        (["--range", "00", "--output", "saved.yaml"], "do not go together"),
    ],
)
def test_a_range_that_there_is_not_is_refused_before_anything_is_done(
    command, legacy, text, written, documents, monkeypatch, tmp_path, options, problem
):
    monkeypatch.chdir(tmp_path)

    said = command("run", written({**text, "ranges": len(RANGES)}), *options)

    assert said.code == 2
    assert problem in said.error
    assert documents() is None
    assert [path.name for path in tmp_path.iterdir()] == ["migration.yaml"]


def test_the_json_of_a_refused_range_says_of_which_migration(command, text, written):
    said = command("run", written({**text, "ranges": len(RANGES)}), "--range", "99", "--json")

    assert (said.code, said.json["migration"], said.json["failure"]["error"]) == (2, "moved", "UsageError")
