"""What a route cannot keep is known before anything is written, and nothing that carries meaning goes unasked."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
import redis

from agui_pipelines.errors import LossError
from agui_pipelines.keyspace import Span
from agui_pipelines.ports import Version
from agui_pipelines.records import STATE, Kind

CREATED, UPDATED = "2021-02-03T04:05:06.000007Z", "2022-03-04T05:06:07.123456Z"
EXPIRES = datetime(2101, 1, 1, 0, 0, 0, 123_000, tzinfo=UTC)
ROWS = [
    {
        "state_id": "a",
        "data": b'{"n": 1, "big": 123456789012345678901234567890}',
        "created_at": CREATED,
        "updated_at": UPDATED,
    },
    {"state_id": "b", "data": b"{}", "created_at": CREATED, "updated_at": CREATED},
    {"state_id": "c", "data": b'{"_migration": {"by": "somebody"}}', "created_at": UPDATED, "updated_at": UPDATED},
]


def fill(store, rows):
    store.prepare()
    store.write(Kind.STATE, pa.RecordBatch.from_pylist(rows, schema=STATE))


@pytest.fixture
def rows_of(migration, opened):
    """All states of a store, as rows, read as a migration out of it reads them."""

    def read(config):
        move = migration(
            name=f"look-{config['type']}", source=config, target={"type": "file", "file_options": {"base_dir": "look"}}
        )
        session, made = move.stage()
        found = []
        for key_range in made.ranges:
            with session.source() as source, made.span(session.workspace, key_range.name) as span:
                assert isinstance(span, Span)
                for batch in source.read(Kind.STATE, span, lambda reject: pytest.fail(str(reject))):
                    found += batch.to_pylist()
        return sorted(found, key=lambda row: row["state_id"])

    return read


def test_a_loss_of_meaning_blocks_until_it_is_accepted_by_name_and_the_run_goes_on_from_there(move, legacy, target):
    legacy.set("session:plain", b'{"n":1e5}')
    legacy.set("session:mortal", b'{"n":2}', px=3_600_000)
    legacy.set("session:twice", b'{"n":1,"n":3}')
    strict = move.but(accept_losses=["timestamps"])

    with pytest.raises(LossError) as refused:
        strict.run()

    assert "accept_losses: [duplicate_keys, expiry, timestamps]" in refused.value.remedy
    assert "keep: [expiry]" in refused.value.remedy
    assert "'session:mortal'" in refused.value.message
    assert "'session:twice'" in refused.value.message
    assert refused.value.data["losses"] == {"expiry": 1, "duplicate_keys": 1}
    assert refused.value.exit_code == 3
    assert target.tables() == set()

    accepting = strict.but(accept_losses=["expiry", "duplicate_keys"])
    outcome = accepting.run()

    assert outcome.plan.resumed
    assert all(r.resumed for r in outcome.exported.ranges)
    assert outcome.validation.passed
    ledger = {row["property"]: row for row in outcome.validation.loss_ledger}
    assert {name: (row["verdict"], row["present"], row["lost"]) for name, row in ledger.items()} == {
        "expiry": ("lost", 1, 1),
        "duplicate_keys": ("lost", 1, 1),
        "number_spelling": ("lost", 1, 1),
        "layout": ("lost", 3, 3),
    }
    assert ledger["expiry"]["examples"] == ["session:mortal"]
    assert ledger["expiry"]["accepted"] is True
    assert ledger["number_spelling"]["accepted"] is None


def test_the_plan_says_what_the_route_keeps_before_anything_is_read(move, legacy, config):
    legacy.set("session:a", b"{}")

    _, to_postgres = move.but(keep=["expiry"]).stage()
    _, to_file = move.but(target=config("file", "store"), name="other", history_limit=3).stage()

    assert to_postgres.route == {
        "expiry": "encoded",
        "timestamps": "kept",
        "duplicate_keys": "lost",
        "sub_microseconds": "lost",
        "history": "kept",
        "snapshots": "kept",
        "time_offset": "lost",
        "number_spelling": "lost",
        "layout": "lost",
    }
    lost = {name for name, verdict in to_file.route.items() if verdict == "lost"}
    assert lost == {"expiry", "timestamps", "history", "layout"}


def test_a_dry_run_refuses_as_the_run_would(move, legacy):
    legacy.set("session:mortal", b"{}", px=3_600_000)
    with pytest.raises(LossError):
        move.but(accept_losses=[]).dry_run()


def test_an_expiry_travels_through_a_store_that_has_none(migration, config, opened):
    first, between, last = config("redis", "first"), config("postgresql", "between"), config("redis", "last")
    rows = [
        {"state_id": "mortal", "data": b'{"n":  1, "n": 2}', "expires_at": EXPIRES},
        {"state_id": "immortal", "data": b'{"_migration":{"original_created_at":"tomorrow"}}'},
    ]
    fill(opened(first), rows)

    there = migration(
        name="there", source=first, target=between, keep=["expiry"], accept_losses=["duplicate_keys"]
    ).run()
    assert json.loads(opened(between).get_state("mortal")) == {
        "n": 2,
        "_migration": {"original_expires_at": "2101-01-01T00:00:00.123Z"},
    }
    ledger = {row["property"]: row for row in there.validation.loss_ledger}
    assert (ledger["expiry"]["verdict"], ledger["expiry"]["encoded"]) == ("encoded", 1)

    back = migration(
        name="back", source=between, target=last, restore_kept=True, accept_losses=[], keep=["timestamps"]
    ).run()

    assert back.validation.passed
    with redis.Redis.from_url(last["connection_url"]) as client:
        assert client.execute_command("PEXPIRETIME", "ag-ui:state:state:mortal") == int(EXPIRES.timestamp() * 1000)
        assert client.execute_command("PEXPIRETIME", "ag-ui:state:state:immortal") == -1
        assert json.loads(client.get("ag-ui:state:state:mortal")).keys() == {
            "n",
            "_migration",
        }  # its times in PostgreSQL


def test_times_travel_from_postgresql_through_redis_and_files_and_back_to_the_same_rows(
    migration, config, opened, rows_of
):
    first, second = config("postgresql", "first"), config("redis", "second")
    third, fourth = config("file", "third"), config("postgresql", "fourth")
    fill(opened(first), ROWS)
    before = rows_of(first)
    assert [row["created_at"] for row in before] == [row["created_at"] for row in ROWS]

    for number, (source, target) in enumerate([(first, second), (second, third), (third, fourth)]):
        outcome = migration(
            name=f"hop-{number}",
            source=source,
            target=target,
            keep=["timestamps"],
            restore_kept=target is fourth,
            accept_losses=[],
        ).run()
        assert outcome.validation.passed

    assert rows_of(fourth) == before


def test_of_a_long_history_the_newest_versions_are_moved_and_the_others_counted(migration, config, opened):
    source, target = config("redis", "source"), config("postgresql", "target")
    store = opened(source)
    fill(store, [{"state_id": s, "data": b"{}"} for s in ("long", "short")])
    times = {
        "v3": "2024-01-01T00:00:00+01:00",
        "v1": "2023-12-31T22:00:00Z",
        "v2": "2023-12-31T22:30:00Z",
        "v4": "2024-06-01T00:00:00Z",
    }
    for version_id, time in times.items():
        store.save_version(Version(version_id, "long", time, b"{}"))
    store.save_version(Version("only", "short", times["v1"], b"{}"))
    move = migration(source=source, target=target, history_limit=2, accept_losses=[])

    with pytest.raises(LossError, match="2 records have versions beyond the history limit"):
        move.run()
    outcome = move.but(accept_losses=["history"]).run()

    assert outcome.validation.passed
    assert [v.version_id for v in opened(target).get_version_history("long")] == ["v4", "v3"]
    assert [v.version_id for v in opened(target).get_version_history("short")] == ["only"]
    [history] = [row for row in outcome.validation.loss_ledger if row["property"] == "history"]
    assert (history["present"], history["kept"], history["lost"], history["examples"]) == (5, 3, 2, ["long", "long"])


def test_a_repeated_key_that_a_transform_drops_is_a_loss_too(move, legacy, config):
    legacy.set("session:twice", b'{"n":1,"n":3}')
    legacy.set("session:once", b'{"n":1}')
    to_file = move.but(
        target=config("file", "store"),
        transforms=[{"strip_prefix": {"prefix": "session:"}}, {"set_fields": {"tenant": "acme"}}],
        accept_losses=[],
    )

    with pytest.raises(LossError) as refused:
        to_file.run()

    assert refused.value.data["losses"] == {"duplicate_keys": 1}
    assert "'session:twice'" in refused.value.message  # as the source calls it
    outcome = to_file.but(accept_losses=["duplicate_keys"]).run()
    assert outcome.validation.passed
    [row] = [row for row in outcome.validation.loss_ledger if row["property"] == "duplicate_keys"]
    assert (row["present"], row["lost"], row["kept"]) == (1, 1, 0)


def test_times_that_a_source_has_put_into_the_documents_are_not_lost(migration, target, config, opened):
    target.execute("CREATE TABLE sessions (id text PRIMARY KEY, body jsonb, made timestamptz)")
    target.execute("INSERT INTO sessions VALUES ('a', '{\"n\": 1}', '2020-01-01Z')")
    rows = {
        "type": "postgresql_rows",
        "connection_url": target.url,
        "table": "sessions",
        "id_column": "id",
        "data": "body",
        "created_column": "made",
    }
    to_file = migration(source=rows, target=config("file", "store"), accept_losses=[])

    outcome = to_file.run()

    assert outcome.validation.passed
    [row] = [row for row in outcome.validation.loss_ledger if row["property"] == "timestamps"]
    assert (row["verdict"], row["encoded"], row["lost"]) == ("encoded", 1, 0)
    document = json.loads(opened(config("file", "store")).get_state("a"))
    assert document["_migration"]["original_created_at"] == "2020-01-01T00:00:00Z"
    bare = to_file.but(source={**rows, "migration_metadata": False}, target=config("file", "bare"), name="bare")
    with pytest.raises(LossError, match="creation or update times"):
        bare.run()
