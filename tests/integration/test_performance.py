"""What the migration file requires of its target, beside what was measured of it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.performance import measure
from agui_pipelines.phases.plan import current
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.validate import validate


@pytest.fixture
def of_50(migration, legacy, config):
    """A migration of 50 states from one Redis into another."""
    legacy.mset({f"session:{i:02}": json.dumps({"number": i}) for i in range(50)})
    place = legacy.connection_pool.connection_kwargs
    source = {"type": "redis_keys", "connection_url": f"redis://{place['host']}:{place['port']}/{place['db']}"}
    return migration(source=source, target=config("redis", "target"))


@pytest.fixture
def measured(of_50):
    """Carries it out; gives what is found of requirements, and the notes that were told."""
    outcome = of_50.run()

    def find(**requirements):
        told = []
        session = of_50.but(requirements=requirements).session()
        session = Session.open(session.migration, told.append)
        found = measure(session, current(session), outcome.validation)
        return {(each.requirement, each.name): each for each in found}, [p.note for p in told if p.note]

    return find


def test_a_redis_is_held_to_the_memory_that_it_may_take(measured):
    found, notes = measured(max_memory="1KiB")
    [missed] = found.values()
    assert missed.met is False
    assert missed.figure > 1024
    assert notes == [f"requirements.max_memory is 1.0 KiB, and is missed: {missed.measured}."]

    found, notes = measured(max_memory="1TiB")
    assert [(each.met, each.name) for each in found.values()] == [(True, "memory_used_bytes")]
    assert notes == []


def test_throughput_is_that_of_the_import_and_of_the_validation(measured):
    found, notes = measured(min_throughput=1e12)

    assert set(found) == {
        ("min_throughput", "written_records_per_second"),
        ("min_throughput", "read_records_per_second"),
    }
    assert all(each.met is False and each.figure > 0 for each in found.values())
    assert "(50 in " in found["min_throughput", "written_records_per_second"].measured
    assert len(notes) == 2


def test_latency_is_what_all_but_the_slowest_twentieth_of_the_reads_took(measured, monkeypatch):
    times = [milliseconds / 1000 for milliseconds in reversed(range(101))]
    monkeypatch.setattr("agui_pipelines.phases.performance._read_times", lambda *_: times)

    [met] = measured(max_latency="95ms")[0].values()
    [missed] = measured(max_latency="94ms")[0].values()

    assert (met.figure, met.met, missed.met) == (0.095, True, False)


def test_what_an_earlier_run_has_written_does_not_count_as_throughput(of_50):
    move = of_50.but(requirements={"min_throughput": 1})
    session, made = move.stage()
    first, *rest = [r.name for r in made.ranges]
    earlier = import_(session, made, [first]).records
    assert 0 < earlier < 50
    [entry] = (move.workspace / "ledger").glob(f"*-import-{first}.json")
    as_of_an_hour_ago(entry)

    session = move.session()
    import_(session, made, [first, *rest])
    written = measure(session, made, validate(session, made))[0]

    assert f"({50 - earlier} in " in written.measured


def as_of_an_hour_ago(entry):
    """Lets an entry of the ledger have been recorded then."""
    found = json.loads(entry.read_text())
    found["at"] = (datetime.fromisoformat(found["at"]) - timedelta(hours=1)).isoformat()
    entry.write_text(json.dumps(found))


def test_latency_is_that_of_single_reads_and_is_not_known_where_nothing_was_moved(measured, migration, config, legacy):
    [found] = measured(max_latency="1h")[0].values()
    assert (found.met, found.figure > 0) == (True, True)
    assert "95% of 50 single reads" in found.measured

    move = migration(name="nothing", source=config("file", "empty"), target=config("file", "target"))
    with_nothing = move.but(requirements={"max_latency": "1h", "min_throughput": 1})
    (move.folder / "empty").mkdir()
    outcome = with_nothing.run()
    session = with_nothing.session()
    assert {each.met for each in measure(session, current(session), outcome.validation)} == {None}
