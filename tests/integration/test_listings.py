"""An open plan is taken up: its keys are listed again as long as nothing was exported, and never after that."""

from __future__ import annotations

import json
import sqlite3

import pytest

from agui_pipelines.errors import StagingError
from agui_pipelines.phases.export import export, exported
from agui_pipelines.phases.leftovers import remove_leftovers
from agui_pipelines.phases.plan import current, open_plan, plan
from agui_pipelines.phases.proposal import propose
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import require_passed
from agui_pipelines.staging.spool import spools


def fill(legacy, *numbers):
    legacy.mset({f"session:{number:03}": json.dumps({"number": number}) for number in numbers})


def names(made):
    return [r.name for r in made.ranges]


def test_keys_that_came_and_went_after_the_plan_are_moved_as_they_are_at_the_run(move, legacy, target):
    fill(legacy, *range(20))
    planned = plan(move.session())
    fill(legacy, 20, 21)
    legacy.delete("session:000")

    outcome = move.run()

    assert outcome.plan.plan_id == planned.plan_id
    assert (planned.keys, outcome.plan.keys, outcome.validation.vanished) == (20, 21, 0)
    require_passed(outcome.validation)
    assert set(target.documents()) == {f"{number:03}" for number in range(1, 22)}


def test_a_plan_under_which_something_was_exported_keeps_its_keys(move, legacy):
    fill(legacy, *range(20))
    session = move.session()
    planned = plan(session)
    export(session, planned, names(planned)[:1])
    fill(legacy, 99)

    found = plan(move.session())

    assert (found.plan_id, found.listing, found.keys, found.resumed) == (planned.plan_id, planned.listing, 20, True)


def test_what_one_listing_exported_is_not_taken_for_what_another_asks_for(move, legacy):
    """Somebody plans anew while a run, which has listed the keys, has not exported its first range yet."""
    fill(legacy, *range(20))
    session = move.session()
    early = plan(session)
    fill(legacy, *range(100, 120))
    late = plan(move.session())

    export(session, early, names(early))

    assert late.listing not in ("", early.listing)
    assert current(move.session()) == late
    assert [exported(session, late, name) for name in names(late)] == [None] * len(late.ranges)
    with pytest.raises(StagingError, match="not been exported"):
        transform(session, late, names(late))
    transform(session, early, names(early))
    assert sum(exported(session, early, name).manifest.records for name in names(early)) == 20
    export(session, late, names(late))
    assert sum(exported(session, late, name).manifest.records for name in names(late)) == 40


def test_an_earlier_listing_is_read_as_it_was(move, legacy):
    fill(legacy, *range(20))
    session = move.session()
    early = plan(session)
    fill(legacy, *range(100, 300))
    plan(move.session())

    assert export(session, early, names(early)).records == 20


def test_the_plan_to_be_taken_up_is_told_without_listing_anything(move, legacy):
    fill(legacy, 1)
    assert open_plan(move.session()) is None
    made = plan(move.session())

    assert open_plan(move.session()).plan_id == made.plan_id
    assert open_plan(move.but(transforms=[]).session()) is None
    move.run()
    assert open_plan(move.session()) is None


def test_the_newest_listing_is_no_leftover(move, legacy):
    fill(legacy, *range(3))
    plan(move.session())
    session = move.session()
    late = plan(session)
    old = move.workspace / "catalogues" / "listing-20200101T000000-abcdef.parquet"
    old.write_bytes(b"")

    remove_leftovers(session)

    assert not old.exists()
    assert (move.workspace / late.catalogue).exists()


def test_a_file_is_scanned_again_only_if_it_has_changed(migration, target, tmp_path):
    file = tmp_path / "states.jsonl"
    file.write_text('{"id":"a"}\n')
    move = migration(source={"type": "jsonl", "path": str(file), "id": "id"}, target=target.config)
    first = plan(move.session())
    same = plan(move.session())
    file.write_text('{"id":"a"}\n{"id":"b"}\n')

    outcome = move.run()

    assert (same.plan_id, same.listing, same.resumed) == (first.plan_id, "", True)
    assert (outcome.plan.plan_id, outcome.plan.keys) == (first.plan_id, 2)
    assert outcome.plan.listing
    assert set(target.documents()) == {"a", "b"}
    assert spools(move.session().workspace) == [outcome.plan.listing_id]


def test_a_source_that_cannot_tell_is_scanned_again_when_its_plan_is_carried_out(migration, target, tmp_path):
    path = tmp_path / "states.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE s (id TEXT, data TEXT)")
        connection.execute("INSERT INTO s VALUES ('a', '{}')")
    source = {"type": "sqlite", "path": str(path), "table": "s", "id": "id", "data": "data"}
    move = migration(source=source, target=target.config)
    first = plan(move.session())
    propose(move.session(), first, rehearsing=False)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO s VALUES ('b', '{}')")

    outcome = move.run()

    assert outcome.plan.plan_id == first.plan_id
    assert set(target.documents()) == {"a", "b"}
