"""``demo``: the main job from beginning to end, on servers of its own."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import yaml

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.cli.migrate import migrate
from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis
from agui_pipelines.staging.workspace import make_private

PREFIX = "session:"
SOURCE, TARGET = "AGUI_DEMO_REDIS_URL", "AGUI_DEMO_POSTGRES_URL"


def demonstrate(*, states: int, workspace: Path, hold: bool, json: bool) -> None:
    """Start both servers, fill the source, run the migration, and stop the servers again."""
    output.note("Starting a Redis-compatible server and a PostgreSQL …")
    with EmbeddedRedis() as redis_server, EmbeddedPostgres() as postgres_server:
        output.note(f"Filling {redis_server.url} with {states:,} legacy sessions …")
        filled = _fill(redis_server.url, states)
        output.note(f"  {filled / 1e6:,.1f} MB. Migrating to {postgres_server.url}")
        os.environ[SOURCE], os.environ[TARGET] = redis_server.url, postgres_server.url
        file = _write_migration(workspace)
        migrate(spec.load(file), str(file), dry_run=False, fresh=True, json=json)
        if hold:
            _hold(redis_server.url, postgres_server.url)
    if not json:
        output.say(f"File     {file}")
        output.say(f"Status   agui-migrate status {file}")


def _fill(url: str, states: int) -> int:
    import redis  # noqa: PLC0415 - the driver belongs to the source; only the demo fills one

    from agui_pipelines.embedded.workload import fill  # noqa: PLC0415

    with redis.Redis.from_url(url) as client:
        return fill(client, states)


def _write_migration(workspace: Path) -> Path:
    """The demo's migration file, so that it can be read, and run again against other servers."""
    text: dict[str, Any] = {
        "name": "demo",
        "source": {"type": "redis_keys", "connection_url": f"${{{SOURCE}}}", "match": f"{PREFIX}*"},
        "target": {"type": "postgresql", "connection_url": f"${{{TARGET}}}"},
        "transforms": [{"strip_prefix": {"prefix": PREFIX}}],
        "accept_losses": ["expiry", "duplicate_keys"],
        "workspace": "workspace",
    }
    make_private(workspace)
    file = workspace.resolve() / spec.DEFAULT_FILE
    file.write_text(yaml.safe_dump(text, sort_keys=False), "utf-8")
    return file


def _hold(redis_url: str, postgres_url: str) -> None:
    output.say(f"\nStill running, until Ctrl-C:\n  {redis_url}\n  {postgres_url}")
    sys.stdout.flush()
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
