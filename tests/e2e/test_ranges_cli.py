"""`agui-migrate run --range`: some key ranges by themselves, again where that is needed, and all of them proven in the end."""

from __future__ import annotations

import psycopg
import pytest

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
    assert (len(told["run_ids"]), told["passed"]) == (2, False)
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
    assert last.json["plan_id"] == told["plan_id"]
    assert len(documents()) == 31


@pytest.mark.parametrize(
    ("options", "problem"),
    [(["--range", "7"], "There is no key range '7'."), (["--range", "00", "--dry-run"], "do not go together")],
)
def test_a_range_that_there_is_not_is_refused_before_anything_is_done(
    command, legacy, text, written, documents, options, problem
):
    said = command("run", written({**text, "ranges": len(RANGES)}), *options)

    assert said.code == 2
    assert problem in said.error
    assert documents() is None
