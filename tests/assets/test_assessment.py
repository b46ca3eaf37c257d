"""A run looks before it plans, once; what blocks ends it before anything is written, and a dry run is only told."""

from __future__ import annotations

import dagster as dg
import pytest
import redis

from agui_pipelines import spec
from agui_pipelines.embedded import EmbeddedRedis
from agui_pipelines.errors import RefusedError, SamePlaceError
from agui_pipelines.phases import import_ as imports
from agui_pipelines.phases.session import Session


def looked(launcher):
    """Whom each assessment was made for."""
    session = Session.open(spec.parse(launcher.text, folder=launcher.folder))
    return [entry.unit for entry in session.ledger.entries(phase="assess")]


def planned(launcher):
    session = Session.open(spec.parse(launcher.text, folder=launcher.folder))
    return [entry.plan_id for entry in session.ledger.entries(phase="plan")]


def metadata_of(result, name):
    [event] = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(name)]
    return {
        key: [row.data for row in value.records] if isinstance(value, dg.TableMetadataValue) else value.value
        for key, value in event.materialization.metadata.items()
    }


def test_a_run_assesses_its_source_and_shows_it(launcher):
    result = launcher.run()
    shown = metadata_of(result, "source_assessment")
    assert (shown["states"], shown["sampled_states"], shown["verdict"]) == (100, 100, "pass")
    assert {row["check"] for row in shown["checks"]} >= {"target_privileges", "storable_records", "workspace_disk"}
    assert looked(launcher) == ["migrate"]


def test_a_resumed_run_is_not_assessed_again_and_a_fresh_one_is(launcher, monkeypatch):
    def broken(*_given, **_more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("assets.import_.import_", broken)
        with pytest.raises(BaseException):  # noqa: B017 - however Dagster tells of an interruption
            launcher.run()
    assert looked(launcher) == ["migrate"]
    resumed = launcher.run()
    assert metadata_of(resumed, "source_assessment")["resumed"] is True
    assert looked(launcher) == ["migrate"]
    assert len(planned(launcher)) == 1
    launcher.run(fresh=True)
    assert looked(launcher) == ["migrate", "migrate"]


def test_a_block_of_the_place_ends_a_run_before_anything_is_planned_or_written(launcher, legacy):
    with EmbeddedRedis(settings={"maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"}) as server:
        blocked = launcher.but(target={"type": "redis", "connection_url": server.url})
        with pytest.raises(dg.Failure) as failed:
            blocked.run()
        assert isinstance(failed.value.__cause__, RefusedError)
        assert "target_eviction" in failed.value.description
        assert "noeviction" in str(failed.value.metadata["remedy"].value)
        assert planned(blocked) == []
        with redis.Redis.from_url(server.url) as client:
            assert client.keys() == []

            told = blocked.run("dry_run", dry_run=True)
            assert metadata_of(told, "source_assessment")["verdict"] == "block"
            assert client.keys() == []

            client.config_set("maxmemory-policy", "noeviction")
            assert blocked.run().success
            assert client.dbsize() == 100


def test_a_plan_that_is_taken_up_later_is_looked_at_again_before_anything_is_exported(launcher):
    with EmbeddedRedis(settings={"maxmemory": "50mb"}) as server, redis.Redis.from_url(server.url) as client:
        moving = launcher.but(target={"type": "redis", "connection_url": server.url})
        moving.run("assess_and_plan")
        assert looked(moving) == ["migrate"]
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(dg.Failure, match="target_eviction"):
            moving.run()
        assert client.keys() == []
        client.config_set("maxmemory-policy", "noeviction")
        assert moving.run().success
        assert len(set(planned(moving))) == 1


def test_an_open_plan_that_was_blocked_is_looked_at_again(launcher):
    with EmbeddedRedis(settings={"maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"}) as server:
        blocked = launcher.but(target={"type": "redis", "connection_url": server.url})
        from agui_pipelines.phases.plan import plan  # noqa: PLC0415

        session = Session.open(spec.parse(blocked.text, folder=blocked.folder))
        plan(session)
        for _ in range(2):
            with pytest.raises(dg.Failure, match="target_eviction"):
                blocked.run()
        assert looked(blocked) == ["migrate", "migrate"]


def test_an_end_that_cannot_be_used_is_told_as_ever(launcher, redis_url):
    same = launcher.but(
        target={"type": "redis", "connection_url": redis_url, "redis_options": {"key_prefix": "session:"}}
    )
    with pytest.raises(dg.Failure) as failed:
        same.run()
    assert isinstance(failed.value.__cause__, SamePlaceError)


def test_records_that_the_target_refuses_are_told_at_once_and_refused_when_all_are_known(launcher, legacy, monkeypatch):
    monkeypatch.setattr(imports, "import_", lambda *_: pytest.fail("it was imported"))
    legacy.set("session:nul", '{"a": "\\u0000"}')
    result = launcher.run(check=False)
    shown = metadata_of(result, "source_assessment")
    [row] = [row for row in shown["checks"] if row["check"] == "storable_records"]
    assert (row["verdict"], row["of"]) == ("block", "records")
    assert not result.success
