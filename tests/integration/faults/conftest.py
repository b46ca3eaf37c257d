"""Migrations through a proxy that spoils connections, in this process or by the command line in one of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from agui_pipelines.errors import MigrationError
from agui_pipelines.phases import retry
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import ImportReport, import_
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.rollback import after_failure
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import ValidationReport, require_passed, validate
from agui_pipelines.progress import Progress
from tests.e2e.conftest import agui_migrate, command, dagster_home, start  # noqa: F401 - fixtures
from tests.integration.conftest import Move
from tests.integration.faults.proxy import Fault, Proxy, Swallower
from tests.partitions import LOADED_RANGES


@dataclass
class Told:
    """What a run in this process came to."""

    error: MigrationError | None = None
    rollback_error: MigrationError | None = None
    notes: list[str] = field(default_factory=list)
    imported: ImportReport | None = None
    validation: ValidationReport | None = None

    @property
    def code(self) -> int:
        """The exit code that the command would have. What is no `MigrationError` is raised, as it would be a traceback."""
        return self.error.exit_code if self.error else 0


Between = Mapping[str, Callable[[], object]]


def run(
    move: Move,
    *,
    fresh: bool = False,
    before: Between | None = None,
    on_note: Callable[[str], object] = lambda _: None,
) -> Told:
    """All phases of a migration, and what follows on a failure. `before` a phase something may be done, and `on_note`."""
    told = Told()
    opened = move.session()
    run_id = uuid.uuid4().hex

    def listen(progress: Progress) -> None:
        if progress.note:
            told.notes.append(progress.note)
            on_note(progress.note)

    def session(phase: str) -> Session:
        (before or {}).get(phase, lambda: None)()
        return Session(opened.migration, opened.workspace, opened.ledger, listen, run_id=run_id)

    try:
        made = plan(session("plan"), fresh=fresh)
        names = [r.name for r in made.ranges]
        export(session("export"), made, names)
        transform(session("transform"), made, names)
        told.imported = import_(session("import"), made, names)
        told.validation = validate(session("validate"), made)
        require_passed(told.validation)
    except MigrationError as error:
        told.error = error
        try:
            after_failure(session("rollback"), run_id)
        except MigrationError as failed:
            told.rollback_error = failed
    return told


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long between tries."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.1)


@pytest.fixture
def proxied() -> Iterator[Callable[..., Proxy]]:
    """Puts a proxy before the server of a URL."""
    with ExitStack() as stack:

        def put(url: str, *faults: Fault, swallower: Swallower | None = None) -> Proxy:
            return stack.enter_context(Proxy(url, *faults, swallower=swallower))

        yield put


@pytest.fixture
def place(
    fresh_redis: Callable[[], str], fresh_postgres: Callable[[], str], tmp_path: Path
) -> Callable[[str, str], dict[str, Any]]:
    """Makes the configuration of an empty place of a type."""

    def make(kind: str, name: str) -> dict[str, Any]:
        if kind == "file":
            options = {"base_dir": str(tmp_path / name), "enable_sharding": False, "enable_backups": False}
            return {"type": "file", "file_options": options | {"durable": False}}
        url = fresh_postgres() if kind == "postgresql" else fresh_redis()
        config: dict[str, Any] = {"type": kind, "connection_url": url}
        return config | ({"match": "session:*"} if kind == "redis_keys" else {})

    return make


def through(config: dict[str, Any], proxy: Proxy) -> dict[str, Any]:
    """The same place, reached through the proxy."""
    return {**config, "connection_url": proxy.url}


STRIP = [{"strip_prefix": {"prefix": "session:"}}]


@pytest.fixture
def between(migration: Callable[..., Move]) -> Callable[..., Move]:
    """Makes a migration from one place to another, by one worker, so that it does the same each time."""

    def make(source: dict[str, Any], target: dict[str, Any], **more: Any) -> Move:
        steps = STRIP if source["type"] == "redis_keys" else []
        defaults = {"ranges": LOADED_RANGES, "batch_size": 40, "parallelism": 1, "transforms": steps}
        return migration(source=source, target=target, **{**defaults, **more})

    return make


@pytest.fixture
def written() -> Callable[[Move], Path]:
    """Writes the file of a migration, so that the command line finds it."""

    def write(move: Move) -> Path:
        file = move.folder / "migration.yaml"
        file.write_text(yaml.safe_dump(move.text))
        return file

    return write
