"""What the migration file requires of its target, beside what was measured of it."""

from __future__ import annotations

import json

import pytest

from agui_pipelines.phases.performance import measure
from agui_pipelines.phases.plan import current
from agui_pipelines.phases.session import Session


@pytest.fixture
def measured(migration, legacy, config):
    """Moves 50 states into a Redis; gives what is found of requirements, and the notes that were told."""
    legacy.mset({f"session:{i:02}": json.dumps({"number": i}) for i in range(50)})
    url = (
        f"redis://{legacy.connection_pool.connection_kwargs['host']}:{legacy.connection_pool.connection_kwargs['port']}"
    )
    source = {"type": "redis_keys", "connection_url": f"{url}/{legacy.connection_pool.connection_kwargs['db']}"}
    move = migration(source=source, target=config("redis", "target"))
    outcome = move.run()

    def find(**requirements):
        told = []
        session = move.but(requirements=requirements).session()
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


def test_latency_is_that_of_single_reads_and_is_not_known_where_nothing_was_moved(measured, migration, config, legacy):
    [found] = measured(max_latency="1h")[0].values()
    assert (found.met, found.figure > 0) == (True, True)
    assert "single reads" in found.measured

    move = migration(name="nothing", source=config("file", "empty"), target=config("file", "target"))
    with_nothing = move.but(requirements={"max_latency": "1h", "min_throughput": 1})
    (move.folder / "empty").mkdir()
    outcome = with_nothing.run()
    session = with_nothing.session()
    assert {each.met for each in measure(session, current(session), outcome.validation)} == {None}
