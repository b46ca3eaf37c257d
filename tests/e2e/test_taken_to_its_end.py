"""A migration that is taken to its end: run, sync, cutover, the way back, cutover again, decommission.

All by the command line, while applications write to whichever side is live. At each stop both sides are read by code that
shares nothing with the engine's comparison.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from agui_pipelines import losses
from agui_pipelines.ports import Store, Version
from agui_pipelines.spec import parse
from agui_pipelines.stores import open_store
from tests.partitions import LOADED_RANGES

STATES = 24
AT = "2025-07-14T09:30:10Z"
PREFIX = "session:"

ROUTES = [
    pytest.param("redis", "postgresql", marks=pytest.mark.long),
    pytest.param("postgresql", "redis", marks=pytest.mark.long),
    pytest.param("file", "postgresql", marks=pytest.mark.long),
    ("redis_keys", "file"),
]


@dataclass(frozen=True)
class Applications:
    """What applications do to an AG-UI store."""

    store: Store

    def put(self, id_: str, **document: Any) -> None:
        data = json.dumps({"id": id_, "exact": 1.10, **document}).encode()
        self.store.set_state(id_, data)
        number = len(self.store.get_version_history(id_))
        self.store.save_version(Version(f"v{number}-{id_}", id_, AT, data, None, None, ""))

    def delete(self, id_: str) -> None:
        self.store.delete_state(id_)

    def held(self) -> dict[str, Any]:
        return {
            id_: (
                json.loads(self.store.get_state(id_) or b"null"),
                {v.version_id: json.loads(v.data) for v in self.store.get_version_history(id_)},
            )
            for id_ in self.store.list_states()
        }


@dataclass(frozen=True)
class Legacy:
    """What applications do to a Redis of their own."""

    client: redis.Redis

    def put(self, id_: str, **document: Any) -> None:
        self.client.set(PREFIX + id_, json.dumps({"id": id_, "exact": 1.10, **document}))

    def delete(self, id_: str) -> None:
        self.client.delete(PREFIX + id_)

    def held(self) -> dict[str, Any]:
        keys = [key.decode() for key in self.client.keys(f"{PREFIX}*")]
        return {key.removeprefix(PREFIX): (json.loads(self.client.get(key) or b"null"), {}) for key in keys}


def states(held: dict[str, Any]) -> dict[str, Any]:
    """The documents alone: a Redis of one's own has no histories."""
    return {id_: document for id_, (document, _) in held.items()}


@pytest.fixture
def ends(config, redis_url, tmp_path):
    """Both ends of a route as applications see them, their configurations, and what else is at the source."""
    with redis.Redis.from_url(redis_url) as client:

        def make(source: str, target: str):
            there = config(target, "target")
            if source == "redis_keys":
                here = {"type": "redis_keys", "connection_url": redis_url, "match": f"{PREFIX}*"}
                client.set("other:1", b"\x00of somebody else")
                client.hset("other:2", "field", "value")
                return Legacy(client), here, there, lambda: (client.get("other:1"), client.hgetall("other:2"))
            here = config(source, "source")
            return Applications(opened(here, tmp_path)), here, there, others(here)

        yield make


def opened(config: dict[str, Any], folder: Path) -> Store:
    text = {"name": "opened", "source": {"type": "redis_keys"}, "target": config}
    store = open_store(parse(text, folder=folder).target, folder)
    store.prepare()
    return store


def others(config: dict[str, Any]):
    """Puts something of somebody else's beside a store, and reads it."""
    if config["type"] == "file":
        base = Path(config["file_options"]["base_dir"])
        base.mkdir(parents=True, exist_ok=True)
        (base / "README.txt").write_bytes(b"of somebody else")
        return (base / "README.txt").read_bytes
    if config["type"] == "redis":
        client = redis.Redis.from_url(config["connection_url"])
        client.set("other:1", b"\x00of somebody else")
        return lambda: client.get("other:1")

    def rows():
        with psycopg.connect(config["connection_url"]) as connection:
            return connection.execute("SELECT * FROM other").fetchall()

    with psycopg.connect(config["connection_url"]) as connection:
        connection.execute("CREATE TABLE other AS SELECT 'of somebody else' AS text")
    return rows


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("source", "target"), ROUTES)
def test_a_migration_is_taken_to_its_end(source, target, ends, command, written, tmp_path):  # noqa: PLR0915 - one story
    old, here, there, of_others = ends(source, target)
    for number in range(STATES):
        old.put(f"{number:02}", number=number)
    untouched = of_others()
    file = written(
        {
            "name": "whole-way",
            "ranges": LOADED_RANGES,
            "source": here,
            "target": there,
            "accept_losses": list(losses.MEANING),
            **({"transforms": [{"strip_prefix": {"prefix": PREFIX}}]} if source == "redis_keys" else {}),
            "decommission": {"soak": 0},
        }
    )

    def do(*arguments):
        said = command(*arguments, file, "--json")
        assert said.code == 0, (arguments, said.err)
        return said.json

    def change(side, name):
        """Creates, updates and deletes, as applications do."""
        side.put(f"new-{name}", by=name)
        side.put("01", by=name)
        side.put("02", by=name)
        side.put("02", by=name, again=True)
        if f"gone-{name}" not in side.held():
            side.put(f"gone-{name}", by=name)
        side.delete(f"{3 + len(name):02}")

    do("run")
    with closing(opened(there, tmp_path)) as store:
        new = Applications(store)
        assert states(new.held()) == states(old.held())

        change(old, "a")
        synced = do("sync")
        assert (synced["created"] > 0, synced["updated"] > 0, synced["deleted"] > 0) == (True, True, True)
        assert states(new.held()) == states(old.held())

        change(old, "bb")
        old.delete("gone-a")
        assert do("cutover", "--source-is-stopped")["live"] == "target"
        assert states(new.held()) == states(old.held())
        refused = command("run", file)
        assert (refused.code, "live" in refused.error) == (3, True)

        change(new, "ccc")
        new.delete("gone-bb")
        assert do("cutover", "--back", "--source-is-stopped")["live"] == "source"
        assert states(old.held()) == states(new.held())
        if source != "redis_keys":
            assert old.held() == new.held()

        change(old, "dddd")
        assert do("cutover", "--source-is-stopped")["live"] == "target"
        there_before = new.held()
        assert states(there_before) == states(old.held())

        would = do("decommission")
        assert old.held()
        assert would["records"]["state"] == len(there_before)
        gone = do("decommission", "--confirm", "whole-way")
        assert old.held() == {}
        assert new.held() == there_before
        assert of_others() == untouched
        assert (gone["archived"]["state"], gone["left"]) == (len(there_before), [])
        archive = gone["archive_id"]
        assert command("backup", "restore", file, "--id", archive, "--yes").code == 0
        assert states(old.held()) == states(there_before)


def test_a_source_that_was_flushed_never_empties_the_target(ends, command, written, tmp_path):
    old, here, there, _ = ends("redis_keys", "file")
    for number in range(STATES):
        old.put(f"{number:02}", number=number)
    strip = [{"strip_prefix": {"prefix": PREFIX}}]
    file = written({"name": "kept", "source": here, "target": there, "transforms": strip, "ranges": LOADED_RANGES})
    assert command("run", file).code == 0
    for number in range(STATES):
        old.delete(f"{number:02}")

    said = command("sync", file)

    assert (said.code, "--accept-deletes" in said.error) == (3, True)
    assert command("cutover", file, "--source-is-stopped").code != 0
    with closing(opened(there, tmp_path)) as store:
        assert len(states(Applications(store).held())) == STATES
