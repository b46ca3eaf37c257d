"""Sync by what a PostgreSQL server tells of its rows; see `phases.feeds.WatermarkFeed`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from agui_pipelines.errors import RefusedError
from agui_pipelines.phases.cursor import current_cursor, record
from agui_pipelines.phases.sync import follow, sync
from agui_pipelines.ports import Store, Version
from agui_pipelines.records import Kind
from tests.integration.conftest import Move, PostgresTarget

pytestmark = pytest.mark.usefixtures("without_suites")

NUMBERED = (
    "INSERT INTO ag_states (state_id, data) SELECT 's' || n, json_build_object('n', n) FROM generate_series(1, %s) n"
)


@pytest.fixture
def moved(
    migration: Callable[..., Move], config: Callable[[str, str], dict[str, Any]], opened: Callable[..., Store]
) -> tuple[Move, PostgresTarget, Store]:
    """Ten states of a PostgreSQL store in a store of files, after one sync, which looks at everything."""
    from_, to = config("postgresql", "source"), config("file", "target")
    opened(from_).prepare()
    source = PostgresTarget(from_["connection_url"])
    source.execute(NUMBERED, 10)
    move = migration(source=from_, target=to)
    move.run()
    assert sync(move.session()).feed == "digest"
    return move, source, opened(to)


def value(store: Store, id_: str) -> Any:
    found = store.get_state(id_)
    return None if found is None else json.loads(found)


@pytest.mark.long
def test_rows_that_were_written_are_found_without_looking_at_the_others(
    moved: tuple[Move, PostgresTarget, Store],
) -> None:
    move, source, target = moved
    source.execute("UPDATE ag_states SET data = '{\"n\": 30}' WHERE state_id = 's3'")  # updated_at stays as it was
    source.execute("INSERT INTO ag_states (state_id, data) VALUES ('new', '{}')")
    source.execute(
        "INSERT INTO ag_versions (version_id, state_id, data, created_at) VALUES ('v1', 's4', '{}', '2024-01-01')"
    )
    report = sync(move.session())
    assert (report.feed, report.complete, report.changed) == ("watermark", False, 3)
    assert (report.created, report.updated) == (2, 1)
    assert value(target, "s3") == {"n": 30}
    assert value(target, "new") == {}
    assert [v.version_id for v in target.get_version_history("s4")] == ["v1"]
    assert sync(move.session()).changed == 0


def test_what_is_committed_late_is_not_missed(moved: tuple[Move, PostgresTarget, Store]) -> None:
    move, source, target = moved
    with psycopg.connect(source.url) as late:
        late.execute("UPDATE ag_states SET data = '{\"n\": \"late\"}', updated_at = now() WHERE state_id = 's1'")
        source.execute("UPDATE ag_states SET data = '{\"n\": \"soon\"}', updated_at = now() WHERE state_id = 's2'")
        assert sync(move.session()).updated == 1
        source.execute("UPDATE ag_states SET data = '{\"n\": \"later\"}', updated_at = now() WHERE state_id = 's2'")
        assert sync(move.session()).updated == 1
        assert value(target, "s1") == {"n": 1}
    assert sync(move.session()).feed == "watermark"
    assert [value(target, id_) for id_ in ("s1", "s2")] == [{"n": "late"}, {"n": "later"}]


@pytest.mark.long
def test_ten_thousand_rows_of_one_moment_come_once_each(moved: tuple[Move, PostgresTarget, Store]) -> None:
    move, source, target = moved
    source.execute(
        "INSERT INTO ag_states SELECT 'm' || n, '{}', '2025-01-01', '2025-01-01' FROM generate_series(1, 10000) n"
    )
    report = sync(move.session())
    assert (report.feed, report.created, report.updated) == ("watermark", 10_000, 0)
    assert sum(1 for _ in target.list_states()) == 10_010


@pytest.mark.long
def test_every_so_often_a_round_looks_at_everything_and_finds_what_is_gone(
    moved: tuple[Move, PostgresTarget, Store],
) -> None:
    move, source, target = moved
    often = move.but(sync={"digest_every": 3})
    source.execute("DELETE FROM ag_states WHERE state_id = 's1'")
    assert [sync(often.session()).feed for _ in range(3)] == ["watermark", "watermark", "digest"]
    assert value(target, "s1") is None
    assert sync(often.session()).feed == "watermark"


@pytest.mark.long
def test_who_follows_looks_at_everything_as_often(moved: tuple[Move, PostgresTarget, Store]) -> None:
    move, source, _ = moved
    source.execute("DELETE FROM ag_states WHERE state_id = 's1'")
    session = move.but(sync={"digest_every": 3}).session()
    feeds = []
    for report in follow(session, every=0.0):
        feeds.append((report.feed, report.deleted))
        if len(feeds) == 3:
            session.stop.set()
    assert feeds == [("watermark", 0), ("watermark", 0), ("digest", 1)]


@pytest.mark.long
def test_a_place_that_was_put_back_to_an_earlier_state_is_refused(moved: tuple[Move, PostgresTarget, Store]) -> None:
    move, _, _ = moved
    session = move.session()
    current = current_cursor(session)
    assert current is not None
    assert current.horizon is not None
    record(session, replace(current, horizon=current.horizon + 1_000_000))
    with pytest.raises(RefusedError, match="older than it was"):
        sync(move.session())
    assert sync(move.session(), accept_deletes=True).complete
    sync(move.session())


@pytest.mark.long
def test_rows_of_a_table_are_found_by_their_transaction_too(
    migration: Callable[..., Move], fresh_postgres: Callable[[], str], target: PostgresTarget
) -> None:
    source = PostgresTarget(fresh_postgres())
    source.execute("CREATE TABLE carts (id bigint PRIMARY KEY, total numeric, note text)")
    source.execute("INSERT INTO carts SELECT n, n, 'x' FROM generate_series(1, 1200) n")
    rows = {"type": "postgresql_rows", "connection_url": source.url, "table": "carts", "id_column": "id"}
    move = migration(source=rows, target=target.config)
    move.run()
    assert sync(move.session()).changed == 0  # although documents say when they were migrated
    source.execute("UPDATE carts SET total = 7.50 WHERE id = 3")
    report = sync(move.session())
    assert (report.feed, report.updated, report.changed) == ("watermark", 1, 1)
    assert json.loads(target.documents()["3"])["total"] == 7.5
    source.execute("UPDATE carts SET total = total + 1 WHERE id <= 700")
    assert sync(move.session()).updated == 700
    assert sync(move.session(), complete=True).changed == 0
    selecting = migration(
        name="some", source={**rows, "where": "id < 10"}, target=target.config, sync={"feed": "watermark"}
    )
    selecting.but(backup={"before_import": False}).run()
    with pytest.raises(RefusedError, match=r"sync\.feed is 'watermark'"):
        sync(selecting.but(backup={"before_import": False}).session())


@pytest.mark.long
def test_a_version_that_moves_to_another_state_moves_in_the_target(
    migration: Callable[..., Move], config: Callable[[str, str], dict[str, Any]], opened: Callable[..., Store]
) -> None:
    """The target's table holds each version id once, for whatever state."""
    from_, to = config("file", "source"), config("postgresql", "target")
    source, target = opened(from_), opened(to)
    for state in ("a", "b"):
        source.set_state(state, b"{}")
    moving = Version("v", "a", "2025-01-01T00:00:00Z", b"{}")
    source.save_version(moving)
    move = migration(source=from_, target=to)
    move.run()
    source.remove(Kind.VERSION, pa.RecordBatch.from_pylist([{"state_id": "a", "version_id": "v"}]))
    source.save_version(replace(moving, state_id="b"))
    sync(move.session())
    assert target.get_version_history("a") == []
    assert [v.version_id for v in target.get_version_history("b")] == ["v"]
