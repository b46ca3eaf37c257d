"""What a Redis server says of itself and of its keys, as far as it lets us ask.

Nothing here knows what the keys mean. What is denied (ACL) is remembered with its reason, and never an error.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict

import hiredis

from agui_pipelines.drivers.redis import Burst, RedisWire
from agui_pipelines.pace import Pace
from agui_pipelines.ports import Activity
from agui_pipelines.sizes import Sizes

_LOOKED: Final = 2000
"""Keys that the server looks at per page, see `drivers.redis.SCAN_COUNT`."""
_CALLS: Final = re.compile(r"^cmdstat_([^:|]+)(?:\|[^:]+)?:calls=(\d+)", re.MULTILINE)
_KEYSPACE: Final = re.compile(r"keys=(\d+),expires=(\d+)")


_NEEDED: Final = {
    "INFO memory": "memory of the server",
    "INFO keyspace": "keys with an expiry",
    "INFO commandstats": "reads and writes",
    "COMMAND": "reads and writes apart",
    "INFO server": "since when the server has been counting",
    "INFO replication": "role of the server",
    "DBSIZE": "keys of the database",
    "CONFIG GET maxmemory": "memory limit",
    "CONFIG GET maxmemory-policy": "eviction policy",
}
"""What a command is needed for, if it is allowed."""


_UNCOUNTED: Final = "counting takes longer than a run may wait, and without DBSIZE the rest cannot be estimated"


class _OfServer(TypedDict):
    bytes: int | None
    bytes_of: str
    details: dict[str, str]
    unmeasured: dict[str, str]


@dataclass(frozen=True, slots=True)
class Counted:
    """How many keys begin with each of some families, whether that is an estimate, and the sizes of those of the first."""

    keys: tuple[int | None, ...]
    """None where the count was cut short, and the server does not tell of how much."""
    estimated: bool
    sizes: Sizes | None


@dataclass(slots=True)
class RedisGauge:
    """Asks one server, or every primary of a cluster."""

    wires: Sequence[RedisWire]
    denied: dict[str, str] = field(default_factory=dict)
    """By command, what the server said."""
    _kinds: tuple[frozenset[str], frozenset[str]] | None = None

    def facts(self, section: str) -> dict[str, str]:
        """The fields of a section of INFO, of the first server; none if they are denied."""
        return _fields(self._info(self.wires[0], section))

    def setting(self, name: str) -> str | None:
        """A setting by CONFIG GET; None if that is denied."""
        reply = self._asked(self.wires[0], b"CONFIG", b"GET", name)
        if not isinstance(reply, list | tuple | dict) or not reply:
            return None
        value = reply.get(name.encode()) if isinstance(reply, dict) else reply[1]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else None

    def size(self) -> int | None:
        """Keys of the database, on all servers; None if that is denied."""
        sizes = [self._asked(wire, b"DBSIZE") for wire in self.wires]
        return sum(sizes) if all(isinstance(size, int) for size in sizes) else None

    def expiring(self) -> int | None:
        """Keys of the database that have an expiry; None if that is denied."""
        total = 0
        for wire in self.wires:
            fields = _fields(self._info(wire, "keyspace"))
            if "INFO keyspace" in self.denied:
                return None
            match = _KEYSPACE.search(fields.get(f"db{wire.database}", ""))
            total += int(match.group(2)) if match else 0
        return total

    def activity(self) -> Activity | None:
        """Calls of commands that read and that write keys, of the whole server, since it began to count."""
        reads = writes = 0
        kinds = self._command_kinds()
        for wire in self.wires:
            text = self._info(wire, "commandstats")
            if text is None:
                return None
            if kinds is not None:
                for name, calls in _CALLS.findall(text):
                    reads += int(calls) if name in kinds[0] else 0
                    writes += int(calls) if name in kinds[1] else 0
        uptime = self.facts("server").get("uptime_in_seconds")
        split = kinds is not None
        return Activity(
            time.monotonic(),
            reads if split else None,
            writes if split else None,
            float(uptime) if uptime else None,
            "commands of the whole server, whichever database they are for",
        )

    def counted(self, match: bytes, families: Sequence[bytes], pace: Pace) -> Counted:
        """Count the keys of some families by SCAN, and ask the sizes of the strings of the first, as long as `pace` lets us.

        A key may come twice while the server rebuilds its table, which then counts twice.
        """
        found = [0] * len(families)
        sizes = Sizes()
        looked, cut_short = 0, False
        for wire in self.wires:
            for page in wire.scan(match):
                looked += _LOOKED
                heads = [[key for key in page if key.startswith(family)] for family in families]
                found = [count + len(keys) for count, keys in zip(found, heads, strict=True)]
                self._measure(wire, heads[0], len(families[0]), sizes)
                if not pace(len(page)):
                    cut_short = True
                    break
            if cut_short:
                break
        total = self.size() if cut_short else None
        if not cut_short:
            return Counted(tuple(found), estimated=False, sizes=sizes)
        if total is None:
            return Counted((None,) * len(found), estimated=False, sizes=None)
        share = min(1.0, looked / total) if total else 1.0
        return Counted(tuple(round(count / share) for count in found), estimated=True, sizes=None)

    def of_server(self, **counts: int | None) -> _OfServer:
        """Memory of the server, what is known of its database, and what is denied, as `ports.Measurement` has them.

        `counts`: by name, None for those of which is to be said why there is none.
        """
        memory = of_memory(self)
        told = {
            "keys of the database": self.size(),
            "of these with an expiry": self.expiring(),
            "memory limit": memory["limit"] or ("none" if memory["limit"] == 0 else None),
            "eviction policy": memory["policy"],
            "role": self.facts("replication").get("role"),
        }
        self.activity()  # what it cannot tell is named with the rest
        used = memory["used"]
        return {
            "bytes": used if isinstance(used, int) else None,
            "bytes_of": "memory of the whole server",
            "details": {name: str(value) for name, value in told.items() if value is not None},
            "unmeasured": {
                **{what: f"{name} is {self.denied[name]}" for name, what in _NEEDED.items() if name in self.denied},
                **dict.fromkeys((name for name, count in counts.items() if count is None), _UNCOUNTED),
            },
        }

    @staticmethod
    def _measure(wire: RedisWire, keys: list[bytes], head: int, sizes: Sizes) -> None:
        if not keys:
            return
        burst = Burst()
        burst.add_each(b"STRLEN", keys)
        lengths = wire.receive(wire.send(burst))
        strings = [(key[head:], size) for key, size in zip(keys, lengths, strict=True) if isinstance(size, int)]
        if strings:
            sizes.add([key for key, _ in strings], [size for _, size in strings])

    def _command_kinds(self) -> tuple[frozenset[str], frozenset[str]] | None:
        """The names of the commands that read keys, and of those that write them; None if we may not ask."""
        if self._kinds is None:
            reply = self._asked(self.wires[0], b"COMMAND")
            if not isinstance(reply, list):
                return None
            self._kinds = (_with_flag(reply, b"readonly"), _with_flag(reply, b"write"))
        return self._kinds

    def _info(self, wire: RedisWire, section: str) -> str | None:
        reply = self._asked(wire, b"INFO", section)
        return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else None

    def _asked(self, wire: RedisWire, *command: bytes | str) -> Any:
        """A reply, or None if the server denies it."""
        [reply] = wire.receive(wire.send(Burst.of(command)))
        if not isinstance(reply, hiredis.ReplyError):
            return reply
        name = " ".join(part if isinstance(part, str) else part.decode() for part in command)
        self.denied[name] = _said(str(reply))
        return None


def first_keys(pages: Iterable[list[bytes]], count: int, pace: Pace) -> Iterator[list[bytes]]:
    """The first keys of a SCAN, each once, page by page. A SCAN goes by the keys' hashes, so that they come from everywhere."""
    seen: set[bytes] = set()
    for page in pages:
        fresh = [key for key in dict.fromkeys(page) if key not in seen][: count - len(seen)]
        seen.update(fresh)
        if fresh:
            yield fresh
        if len(seen) >= count or not pace(0):
            return


def of_memory(gauge: RedisGauge) -> dict[str, int | str | None]:
    """``limit``, ``used``, ``machine`` in bytes and ``policy``, None where it is denied. By INFO, else by CONFIG."""
    fields = gauge.facts("memory")

    def number(name: str) -> int | None:
        return int(fields[name]) if fields.get(name, "").isdigit() else None

    limit, policy = number("maxmemory"), fields.get("maxmemory_policy")
    if limit is None and (asked := gauge.setting("maxmemory")) is not None:
        limit = int(asked)
    return {
        "limit": limit,
        "used": number("used_memory"),
        "machine": number("total_system_memory"),
        "policy": policy if policy is not None else gauge.setting("maxmemory-policy"),
    }


def _said(text: str) -> str:
    """What a server says to a command that it does not let us run, without its code."""
    code, _, rest = text.partition(" ")
    return f"denied ({rest.rstrip('.')})" if code == "NOPERM" else f"refused ({text.rstrip('.')})"


def _fields(text: str | None) -> dict[str, str]:
    return dict(line.split(":", 1) for line in (text or "").splitlines() if ":" in line)


def _with_flag(commands: list[Any], flag: bytes) -> frozenset[str]:
    return frozenset(
        name.decode("utf-8", "replace").lower()
        for name, _, flags, *_ in commands
        if flag in {each if isinstance(each, bytes) else str(each).encode() for each in flags}
    )
