"""Every AG-UI store, each on a place of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agui_pipelines.ports import Store
from agui_pipelines.spec import FileConfig, PostgresConfig, RedisConfig, TargetConfig
from agui_pipelines.stores import open_store

BACKENDS = ("file", "redis", "postgresql")

CANARY = "canary-5b1e"
"""A password that must turn up nowhere."""


@dataclass(frozen=True)
class Backend:
    """One kind of store: how to open it on a place of the test's own, on a fresh one, and where nobody answers."""

    name: str
    config: TargetConfig
    fresh: Callable[[], TargetConfig]
    unreachable: TargetConfig
    with_password: TargetConfig

    def open(self, config: TargetConfig | None = None) -> Store:
        """A store, by default on the test's place."""
        return open_store(config or self.config, Path("/nonexistent"))


def _file(request: pytest.FixtureRequest) -> Backend:
    base: Path = request.getfixturevalue("tmp_path")
    count = iter(range(1000))

    def config(folder: Path) -> FileConfig:
        return FileConfig.model_validate({"type": "file", "file_options": {"base_dir": folder}})

    blocked = base / "a-file"
    blocked.write_bytes(b"")
    return Backend(
        "file",
        config(base / "store"),
        lambda: config(base / f"other-{next(count)}"),
        config(blocked),
        FileConfig.model_validate(
            {
                "type": "file",
                "connection_url": f"file://user:{CANARY}@host/",
                "file_options": {"base_dir": blocked},
            }
        ),
    )


def _redis(request: pytest.FixtureRequest) -> Backend:
    make: Callable[[], str] = request.getfixturevalue("fresh_redis")

    def config(url: str, **options: Any) -> RedisConfig:
        return RedisConfig.model_validate({"type": "redis", "connection_url": url, "max_retries": 0, **options})

    return Backend(
        "redis",
        config(make()),
        lambda: config(make()),
        config("redis://127.0.0.1:1/0", connect_timeout="2s"),
        config(f"redis://user:{CANARY}@127.0.0.1:1/0", redis_options={"password": CANARY}, connect_timeout="2s"),
    )


def _postgresql(request: pytest.FixtureRequest) -> Backend:
    make: Callable[[], str] = request.getfixturevalue("fresh_postgres")

    def config(url: str, **options: Any) -> PostgresConfig:
        return PostgresConfig.model_validate({"type": "postgresql", "connection_url": url, "max_retries": 0, **options})

    return Backend(
        "postgresql",
        config(make()),
        lambda: config(make()),
        config("postgresql://postgres@127.0.0.1:1/none", connect_timeout="2s"),
        config(f"postgresql://postgres:{CANARY}@127.0.0.1:1/none", connect_timeout="2s"),
    )


_MAKERS = {"file": _file, "redis": _redis, "postgresql": _postgresql}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return _MAKERS[request.param](request)


@pytest.fixture
def store(backend: Backend) -> Iterator[Store]:
    """A store that is prepared and empty."""
    with closing(backend.open()) as store:
        store.prepare()
        yield store


@pytest.fixture
def other(backend: Backend, store: Store) -> Iterator[Store]:
    """The same place as `store`, opened a second time."""
    with closing(backend.open()) as second:
        yield second
