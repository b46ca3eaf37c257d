"""Jobs run in process on an instance of their own; the checkout's Dagster home is never touched."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis
import yaml

from agui_pipelines import spec

from tests import partitions  # isort: skip - before the definitions
from agui_pipelines.definitions import defs
from agui_pipelines.resources import MigrationRun

CHECKOUT = Path(__file__).resolve().parents[2]
QUIET: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture(scope="session", autouse=True)
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Dagster home with the project's configuration, for whatever looks at the environment."""
    home = tmp_path_factory.mktemp("dagster-home")
    config = (CHECKOUT / "dagster.yaml").read_text("utf-8")
    # Relative folders would count from wherever `dg` is started, which is the checkout.
    (home / "dagster.yaml").write_text(config.replace("base_dir: ", f"base_dir: {home}/"), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        patch.delenv(spec.FILE_VARIABLE, raising=False)
        yield home


@dataclass(frozen=True)
class Launcher:
    """Launches jobs over one migration, on one instance."""

    text: dict[str, Any]
    folder: Path
    instance: dg.DagsterInstance

    def but(self, **changes: Any) -> Launcher:
        return replace(self, text={**self.text, **changes})

    def run(self, job: str = "migrate", *, check: bool = True, **options: bool) -> dg.ExecuteInProcessResult:
        """Run a job over all key ranges as the command line does: with an engine object for its resource."""
        migration = spec.parse(self.text, folder=self.folder)
        return defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            resources={"migration": MigrationRun(migration, **options)},
            tags=partitions.tags(),
            run_config=QUIET,
            raise_on_error=check,
        )

    def launch(
        self,
        job: str = "migrate",
        *,
        assets: list[str] | None = None,
        ranges: tuple[str, str] | None = (partitions.RANGES[0], partitions.RANGES[-1]),
        check: bool = False,
        run_id: str | None = None,
        tags: dict[str, str] | None = None,
        **config: Any,
    ) -> dg.ExecuteInProcessResult:
        """Run a job, or some of its assets, as the UI does: with nothing but the resource's configuration.

        Over the key ranges from one to another, or those that `tags` name.
        """
        file = self.folder / "migration.yaml"
        file.write_text(yaml.safe_dump(self.text))
        settings = {"migration_file": str(file), **config}
        return defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(name) for name in assets] if assets else None,
            tags={**(partitions.tags(*ranges) if ranges else {}), **(tags or {})},
            run_config={**QUIET, "resources": {"migration": {"config": settings}}},
            raise_on_error=check,
            run_id=run_id,
        )


@pytest.fixture
def legacy(redis_url: str) -> Iterator[redis.Redis]:
    """The legacy system, with 100 sessions."""
    with redis.Redis.from_url(redis_url) as client:
        client.mset({f"session:{i:03}": json.dumps({"number": i}) for i in range(100)})
        yield client


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def target(request) -> dict[str, Any]:
    if os.environ.get("STORY") == "redis":
        return {"type": "redis", "connection_url": request.getfixturevalue("fresh_redis")()}
    return {"type": "postgresql", "connection_url": request.getfixturevalue("postgres_url")}


@pytest.fixture
def launcher(legacy: redis.Redis, redis_url: str, target, instance: dg.DagsterInstance, tmp_path: Path) -> Launcher:
    """Launches a migration of the legacy system into an empty PostgreSQL database."""
    text = {
        "name": "launched",
        "ranges": partitions.LOADED_RANGES,
        "source": {"type": "redis_keys", "connection_url": redis_url, "match": "session:*"},
        "target": target,
        "transforms": [{"strip_prefix": {"prefix": "session:"}}],
        "accept_losses": ["expiry", "duplicate_keys"],
    }
    return Launcher(text, tmp_path, instance)


@pytest.fixture
def moved(target):
    """Asks the target for its documents; None if it has no tables."""

    def documents() -> dict[str, Any] | None:
        if target["type"] == "redis":
            c = redis.Redis.from_url(target["connection_url"])
            p = b"ag-ui:state:state:"
            return {k[len(p) :].decode(): json.loads(c.get(k)) for k in c.scan_iter(p + b"*")} or None
        with psycopg.connect(target["connection_url"]) as connection:
            if connection.execute("SELECT to_regclass('ag_states')").fetchone() == (None,):
                return None
            return dict(connection.execute("SELECT state_id, data FROM ag_states").fetchall())

    return documents
