"""The Dagster instance that `examples/production` proposes, on a real PostgreSQL."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.instance.config import PoolGranularity
from dagster._core.instance.ref import InstanceRef
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.scheduler.instigation import TickStatus

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "production" / "dagster.yaml"


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["00", "01"]))
def moved() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"records": 3})


@pytest.fixture
def instance(postgres_url, tmp_path, monkeypatch):
    """Made of the file as it is, its variables those of an empty database."""
    parts = urlsplit(postgres_url)
    of_server = {"USERNAME": parts.username, "PASSWORD": parts.password or "none", "HOST": parts.hostname}
    for name, value in {**of_server, "PORT": str(parts.port), "DB": parts.path.lstrip("/")}.items():
        monkeypatch.setenv(f"DAGSTER_PG_{name}", value)
    monkeypatch.setenv("DAGSTER_LOGS", str(tmp_path / "logs"))
    shutil.copyfile(EXAMPLE, tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path))) as instance:
        yield instance


def test_runs_events_and_schedules_are_kept_in_postgresql(instance, postgres_url):
    job = dg.Definitions(assets=[moved], jobs=[dg.define_asset_job("move")]).resolve_job_def("move")

    result = job.execute_in_process(instance=instance, partition_key="01")

    assert instance.get_run_by_id(result.run_id).status == dg.DagsterRunStatus.SUCCESS
    assert instance.get_materialized_partitions(dg.AssetKey("moved")) == {"01"}
    assert instance.all_instigator_state() == []  # which asks the storage of schedules and sensors
    with psycopg.connect(postgres_url) as connection:
        tables = {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
        kept = connection.execute("SELECT count(*) FROM event_logs WHERE run_id = %s", [result.run_id]).fetchone()
    assert tables >= {"runs", "event_logs", "instigators", "job_ticks"}
    assert kept[0] > 5


def test_runs_queue_for_the_target_and_dead_ones_are_found(instance):
    concurrency = instance.get_concurrency_config()
    assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
    assert concurrency.run_queue_config.max_concurrent_runs == 4
    assert concurrency.pool_config.pool_granularity == PoolGranularity.RUN
    assert concurrency.pool_config.default_pool_limit == 1
    assert instance.run_monitoring_enabled
    assert not instance.run_retries_enabled
    assert instance.get_tick_retention_settings(InstigatorType.SENSOR)[TickStatus.SKIPPED] == 1  # day
