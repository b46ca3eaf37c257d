"""300 runs, each with the route, the faults and their moments that its seed says.

Whatever strikes: exit code 0 is only told of a target that holds everything, anything else comes with a sentence, the
source is as it was, and the next run, undisturbed, brings the migration to its end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
import redis

from agui_pipelines.errors import StagingError
from tests.conftest import COUNTED
from tests.integration.conftest import Move
from tests.integration.faults.conftest import Told, run, through
from tests.integration.faults.places import Content, as_values, fill, held, made_up
from tests.integration.faults.proxy import Direction, Fault, Swallower

RUNS = 300
IN_DEFAULT_SUITE = 8
STATES = 200
SERVERS = {"redis_keys", "redis", "postgresql"}
SOURCES = ["redis_keys", "redis", "postgresql", "file"]
TARGETS = ["redis", "postgresql", "file"]
ROUTES = [(source, target) for source in SOURCES for target in TARGETS if {source, target} & SERVERS]
BREAKS = ["drop", "reset", "away", "delay", "silence", "kill"]


def ended(config: dict[str, Any]) -> Callable[[], object]:
    """What makes a server end all connections but its own."""

    def end() -> None:
        if config["type"] == "postgresql":
            with psycopg.connect(config["connection_url"]) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        else:
            with redis.Redis.from_url(config["connection_url"]) as client:
                client.client_kill_filter(_type="normal", skipme=True)

    return end


def drawn(chance: random.Random, config: dict[str, Any], end: str, size: int) -> Fault:
    """A fault somewhere within what passes to or from one end."""
    do: Any = chance.choice(BREAKS)
    if do == "silence" and config["type"] == "postgresql":
        do = "drop"  # TCP itself has to notice a peer that is silent, and a proxy's never is
    direction: Direction = chance.choice(["up", "down"])
    most = size // 10 if (end, direction) == ("source", "up") else size + 20_000
    at = chance.randrange(3_000 if chance.random() < 0.2 else most)
    if do == "kill":
        return Fault("call", direction, at, call=ended(config))
    return Fault(do, direction, at, count=chance.randrange(12))


@dataclass
class Damage:
    """Something in the workspace that is spoiled before the import, and how to make it good again."""

    move: Move
    pattern: str
    chance: random.Random
    mend: Callable[[], object] = field(default=lambda: None)

    def __call__(self) -> None:
        file = self.chance.choice(sorted(self.move.workspace.glob(self.pattern)))
        content = file.read_bytes()
        self.mend = lambda: file.write_bytes(content)
        at = self.chance.randrange(len(content))
        if self.chance.random() < 0.5:
            file.write_bytes(content[:at])
        else:
            file.write_bytes(content[:at] + bytes([content[at] ^ (1 << self.chance.randrange(8))]) + content[at + 1 :])


@pytest.fixture
def random_run(place, between, proxied, record_property) -> Callable[[int], None]:
    def go(seed: int) -> None:
        chance = random.Random(seed)
        origin, destination = ROUTES[seed % len(ROUTES)]
        content = made_up(chance, STATES, history=origin != "redis_keys")
        size = sum(len(str(value)) for value in content.values())
        ends = {"source": place(origin, "source"), "target": place(destination, "target")}
        fill(ends["source"], content)
        what = chance.choices(["break", "swallow", "damage"], [8, 1, 1])[0]
        swallower = None
        if what == "swallow" and destination == "redis":
            lost = chance.randrange(len(content))
            swallower = Swallower(lambda number: number == lost)
        proxies = {
            end: proxied(config["connection_url"], swallower=swallower if end == "target" else None)
            for end, config in ends.items()
            if config["type"] in SERVERS
        }
        if what == "break":
            for _ in range(chance.randint(1, 3)):
                end = chance.choice(sorted(proxies))
                proxies[end].add(drawn(chance, ends[end], end, size))
        reached = {end: through(config, proxies[end]) if end in proxies else config for end, config in ends.items()}
        for config in reached.values():
            config.update({"read_timeout": "500ms", "write_timeout": "500ms"} if config["type"] in SERVERS else {})
        limits = {"retries": chance.choice([0, 1, 7])}
        move = between(reached["source"], reached["target"], limits=limits, ranges=3)
        pattern = chance.choice(["snapshots/*/*.parquet", "snapshots/*/manifest.json", "ledger/*"])
        damage = Damage(move, pattern, chance)
        told = run(move, before={"import": damage} if what == "damage" else None)
        require_true(told, ends, as_values(content), swallower)
        if told.code:
            for proxy in proxies.values():
                proxy.heal()
            if isinstance(told.error, StagingError) and "--fresh" not in told.error.remedy:
                damage.mend()
            again = run(move, fresh=isinstance(told.error, StagingError) and "--fresh" in told.error.remedy)
            assert again.code == 0, again.error
            require_true(again, ends, as_values(content), None)
        struck = what == "damage" or any(proxy.struck for proxy in proxies.values()) or bool(swallower)
        record_property(
            COUNTED, "failed clearly and were completed by the next run" if told.code else "succeeded at once"
        )
        if struck:
            record_property(COUNTED, "met their fault")

    return go


def require_true(told: Told, ends: dict[str, dict[str, Any]], content: Content, swallower: Swallower | None) -> None:
    assert held(ends["source"]) == content
    if told.error is None:
        assert held(ends["target"]) == content
        assert not swallower
        return
    assert told.error.message
    assert told.error.why or told.error.remedy
    if swallower:
        [key] = swallower.swallowed
        kind, _, ids = key.decode().removeprefix("ag-ui:state:").partition(":")
        report = told.error.data["report"]
        missing = {"state": report, "version": report["versions"], "snapshot": report["snapshots"]}[kind]
        assert [id_.replace("/", ":") for id_ in missing[f"missing_{kind}s"]] == [ids]
        assert ids.rpartition(":")[2] in told.error.message


@pytest.mark.parametrize("seed", range(IN_DEFAULT_SUITE))
def test_a_random_fault_run_ends_in_success_or_a_clear_error(random_run, seed):
    random_run(seed)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(RUNS))
def test_every_random_fault_run_ends_in_success_or_a_clear_error(random_run, seed):
    random_run(seed)
