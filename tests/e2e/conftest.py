"""The command line, in a process of its own or in this one, on a Dagster home that is not the checkout's."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import yaml

from agui_pipelines import spec
from agui_pipelines.cli.app import main
from tests.integration.conftest import Move
from tests.partitions import LOADED_RANGES

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("agui-migrate")


@pytest.fixture(scope="session", autouse=True)
def dagster_home() -> Iterator[Path]:
    """A Dagster home with the project's configuration, for this process and those that it starts.

    In memory where that can be, as Dagster commits some 400 times in a run.
    """
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        home = Path(folder)
        shutil.copyfile(CHECKOUT / "dagster.yaml", home / "dagster.yaml")
        patch.setenv("DAGSTER_HOME", str(home))
        patch.delenv(spec.FILE_VARIABLE, raising=False)
        patch.setenv("COLUMNS", "200")
        yield home


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output, where there must be nothing else."""
        value: dict[str, Any] = json.loads(self.out)
        return value

    @property
    def error(self) -> str:
        """The error told, which must be a few sentences and no traceback."""
        assert "Traceback" not in self.err + self.out
        begins = re.search("^Error: ", self.err, re.MULTILINE)
        assert begins
        told = self.err[begins.start() :]
        assert len(told.splitlines()) <= 3, told
        return told


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Begins `agui-migrate` in a process of its own."""
    begun: list[subprocess.Popen[str]] = []

    def begin(
        *arguments: object, cwd: Path | str = "/", stderr: int = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def agui_migrate(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Said]:
    """Runs `agui-migrate` in a process of its own, which takes seconds to begin."""

    def run(*arguments: object, **options: Any) -> Said:
        process = start(*arguments, **options)
        out, err = process.communicate(timeout=240)
        return Said(process.returncode, out, err)

    return run


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command in this process, and forgets the environment variables that it sets."""

    def run(*arguments: object) -> Said:
        environment = dict(os.environ)
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = ended.code
        finally:
            os.environ.clear()
            os.environ.update(environment)
        said = capsys.readouterr()
        assert isinstance(code, int)
        return Said(code, said.out, said.err)

    return run


@pytest.fixture
def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def legacy(redis_url: str) -> Iterator[redis.Redis]:
    """The legacy system, with 30 sessions."""
    with redis.Redis.from_url(redis_url) as client:
        client.mset({f"session:{i:02}": json.dumps({"number": i}) for i in range(30)})
        yield client


@pytest.fixture
def text(legacy: redis.Redis, redis_url: str, postgres_url: str) -> dict[str, Any]:
    """A migration of the legacy system into an empty PostgreSQL database."""
    return {
        "name": "moved",
        "ranges": LOADED_RANGES,
        "source": {"type": "redis_keys", "connection_url": redis_url, "match": "session:*"},
        "target": {"type": "postgresql", "connection_url": postgres_url},
        "transforms": [{"strip_prefix": {"prefix": "session:"}}],
        "accept_losses": ["expiry", "duplicate_keys"],
    }


@pytest.fixture
def written(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes a migration file."""

    def write(text: dict[str, Any]) -> Path:
        file = tmp_path / "migration.yaml"
        file.write_text(yaml.safe_dump(text))
        return file

    return write


@pytest.fixture
def documents(postgres_url: str) -> Callable[[], dict[str, Any] | None]:
    """Asks the target for its documents; None if it has no tables at all."""

    def ask() -> dict[str, Any] | None:
        with psycopg.connect(postgres_url) as connection:
            tables = connection.execute(
                "SELECT table_name FROM information_schema.tables"
                " WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
            ).fetchall()
            if not tables:
                return None
            return dict(connection.execute("SELECT state_id, data FROM ag_states").fetchall())

    return ask


def migrated(file: Path) -> None:
    """Moves everything, as a run does, without Dagster, which takes seconds."""
    assert Move(yaml.safe_load(file.read_text()), file.parent).run().validation.passed
