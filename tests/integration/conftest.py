"""Migrations as the engine runs them, without Dagster, and a look at both ends that shares no code with the engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from agui_pipelines import losses, spec
from agui_pipelines.phases.export import SnapshotReport, export
from agui_pipelines.phases.import_ import ImportReport, import_
from agui_pipelines.phases.plan import Plan, Purpose, current, plan
from agui_pipelines.phases.preview import PreviewReport, preview
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import staged_ranges, transform
from agui_pipelines.phases.validate import ValidationReport, validate
from agui_pipelines.ports import Store
from agui_pipelines.staging import SnapshotReader
from agui_pipelines.stores import open_store

RANGES = 4


@dataclass(frozen=True)
class Outcome:
    """What each phase of one run reported."""

    plan: Plan
    exported: SnapshotReport
    staged: SnapshotReport
    imported: ImportReport
    validation: ValidationReport


@dataclass(frozen=True)
class Move:
    """One migration file and the phases over it. Each call opens the migration anew, as another process would."""

    text: dict[str, Any]
    folder: Path

    def but(self, **changes: Any) -> Move:
        """The same migration with other keys."""
        return Move({**self.text, **changes}, self.folder)

    @property
    def workspace(self) -> Path:
        return self.folder / ".agui" / self.text["name"]

    def session(self) -> Session:
        return Session.open(spec.parse(self.text, folder=self.folder))

    def stage(self, *, purpose: Purpose = "migrate") -> tuple[Session, Plan]:
        """Plan, export and transform; gives what is needed to go on."""
        session = self.session()
        made = plan(session, purpose=purpose)
        names = [r.name for r in made.ranges]
        export(session, made, names)
        transform(session, made, names)
        return session, made

    def run(self, *, fresh: bool = False) -> Outcome:
        session = self.session()
        made = plan(session, fresh=fresh)
        names = [r.name for r in made.ranges]
        exported = export(session, made, names)
        staged = transform(session, made, names)
        imported = import_(session, made, names)
        return Outcome(made, exported, staged, imported, validate(session, made))

    def dry_run(self) -> PreviewReport:
        session, made = self.stage(purpose="dry_run")
        return preview(session, made)

    def validate(self) -> ValidationReport:
        """Compare the target once more with what the newest plan staged."""
        session = self.session()
        return validate(session, current(session))

    def rejects(self) -> dict[bytes, tuple[str, str, bytes | None]]:
        """What was rejected under the newest plan: phase, reason and raw bytes by id."""
        session = self.session()
        found = {}
        for snapshot in staged_ranges(session, current(session)).values():
            parents = [SnapshotReader(session.workspace, parent) for parent in snapshot.manifest.parents]
            for reader in (*parents, snapshot):
                found.update({r.id: (r.phase, r.reason, r.raw) for r in reader.rejects()})
        return found


@dataclass(frozen=True)
class PostgresTarget:
    """A PostgreSQL database to move into."""

    url: str

    @property
    def config(self) -> dict[str, Any]:
        return {"type": "postgresql", "connection_url": self.url}

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def tables(self) -> set[str]:
        rows = self.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        return {name for (name,) in rows}

    def documents(self, schema: str = "public") -> dict[str, str]:
        """The JSON text of every state."""
        if self.execute("SELECT to_regclass(%s)", f"{schema}.ag_states") == [(None,)]:
            return {}
        return dict(self.execute(f"SELECT state_id, data::text FROM {schema}.ag_states"))  # type: ignore[arg-type]


@pytest.fixture
def without_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let syncs run no expectation suites, which takes longer than all the rest of a small one."""
    for name in ("expect_exported", "expect_staged"):
        monkeypatch.setattr(f"agui_pipelines.phases.sync.{name}", lambda *_: ())


@pytest.fixture
def target(postgres_url: str) -> PostgresTarget:
    """An empty PostgreSQL database."""
    return PostgresTarget(postgres_url)


@pytest.fixture
def legacy(fresh_redis: Callable[[], str]) -> Iterator[redis.Redis]:
    """The legacy system: an empty Redis."""
    with redis.Redis.from_url(fresh_redis()) as client:
        yield client


@pytest.fixture
def migration(tmp_path: Path) -> Callable[..., Move]:
    """Makes a migration between any two places, which accepts every loss unless it says otherwise."""
    text = {"name": "story", "ranges": RANGES, "accept_losses": list(losses.MEANING)}
    return lambda **more: Move({**text, **more}, tmp_path)


@pytest.fixture
def move(migration: Callable[..., Move], legacy: redis.Redis, target: PostgresTarget) -> Move:
    """Moves ``session:*`` from the legacy system into the target, without the prefix."""
    place = legacy.connection_pool.connection_kwargs
    url = f"redis://{place['host']}:{place['port']}/{place['db']}"
    return migration(
        source={"type": "redis_keys", "connection_url": url, "match": "session:*"},
        target=target.config,
        transforms=[{"strip_prefix": {"prefix": "session:"}}],
    )


@pytest.fixture
def exact() -> Callable[[str | bytes], Any]:
    """Parses JSON so that two results are equal exactly if the documents are the same value, to the last digit."""

    def number(token: str) -> tuple[str, Decimal]:
        return "number", Decimal(token)  # not a bare number: to Python, 1 equals true

    return lambda text: json.loads(text, parse_int=number, parse_float=number)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], Store]]:
    """Opens the store that a configuration describes."""
    stores = []

    def open_(config: dict[str, Any]) -> Store:
        text = {"name": "x", "source": {"type": "redis_keys"}, "target": config}
        store = open_store(spec.parse(text, folder=tmp_path).target, tmp_path)
        stores.append(store)
        return store

    yield open_
    for store in stores:
        store.close()
