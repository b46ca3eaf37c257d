"""The other routes of the comparison, between AG-UI stores: this pipeline against the loop that everybody writes."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self

import psycopg
import pyarrow as pa
import redis

from agui_pipelines import spec
from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis
from agui_pipelines.embedded.workload import legacy_states
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import transform
from agui_pipelines.records import STATE, Kind
from agui_pipelines.stores import open_store

FLOORS = {
    "postgresql-redis": {"handwritten": 4.0},
    "file-redis": {"handwritten": 4.0},
    "redis-file": {},
}
CONTENDERS = ("pipeline", "handwritten")
STATE_KEY = "ag-ui:state:state:"
FILL_ROWS = 5000


@dataclass
class RouteBench:
    """Two stores, of which the first is filled once and the second is emptied before each contender."""

    route: str
    states: int
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="agui-bench-")))
    seconds: dict[str, list[float]] = field(default_factory=dict)
    _ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self.folder)
        for end, kind in zip(("source", "target"), self.route.split("-"), strict=True):
            if kind == "file":
                self._ends[end] = {"type": kind, "file_options": {"base_dir": str(self.folder / end)}}
            else:
                server = self._stack.enter_context(EmbeddedRedis() if kind == "redis" else EmbeddedPostgres())
                self._ends[end] = {"type": kind, "connection_url": server.url}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, text_bytes: int) -> int:
        """Write the workload to the source, each value as a document; returns the bytes of the documents."""
        written = 0
        with closing(
            open_store(self._migration(self.folder, target=self._ends["source"]).target, self.folder)
        ) as store:
            store.prepare()
            states = legacy_states(self.states, text_bytes=text_bytes)
            while some := list(islice(states, FILL_ROWS)):
                rows = [{"state_id": state.key, "data": _document(state.value)} for state in some]
                written += sum(len(row["data"]) for row in rows)
                store.write(Kind.STATE, pa.RecordBatch.from_pylist(rows, schema=STATE))
            store.flush()
        return written

    def time(self, name: str) -> None:
        self._empty_target()
        work: Callable[[Path], None] = self.pipeline if name == "pipeline" else self.handwritten
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            work(Path(folder))
            elapsed = time.perf_counter() - started
        if (found := sum(1 for _ in self._target_ids())) != self.states:
            raise SystemExit(f"{name} moved {found:,} of {self.states:,} states")
        self.seconds.setdefault(name, []).append(elapsed)
        print(f"  {name:<12} {elapsed:7.1f} s  {self.states / elapsed:9,.0f} states/s", flush=True)

    def pipeline(self, folder: Path) -> None:
        session = Session.open(self._migration(folder))
        made = plan(session)
        ranges = [r.name for r in made.ranges]
        export(session, made, ranges)
        transform(session, made, ranges)
        import_(session, made, ranges)

    def handwritten(self, folder: Path) -> None:  # noqa: ARG002 - both contenders are called alike
        if self.route.endswith("-redis"):
            with redis.Redis.from_url(self._ends["target"]["connection_url"]) as client:
                for state_id, document in self._read_by_hand():
                    client.set(STATE_KEY + state_id, json.dumps(document))
            return
        base = Path(self._ends["target"]["file_options"]["base_dir"]) / "states"
        base.mkdir(parents=True)
        for state_id, document in self._read_by_hand():
            (base / f"{state_id}.json").write_text(json.dumps(document, indent=2))

    def _read_by_hand(self) -> Iterator[tuple[str, Any]]:
        source = self._ends["source"]
        if source["type"] == "postgresql":
            with psycopg.connect(source["connection_url"]) as connection, connection.cursor("by_hand") as cursor:
                yield from cursor.execute("SELECT state_id, data FROM ag_states")
        elif source["type"] == "file":
            for path in (Path(source["file_options"]["base_dir"]) / "states").rglob("*.json"):
                with path.open() as file:
                    yield path.stem, json.load(file)
        else:
            with redis.Redis.from_url(source["connection_url"]) as client:
                for key in client.scan_iter(f"{STATE_KEY}*", count=1000):
                    yield key.decode().removeprefix(STATE_KEY), json.loads(client.get(key))

    def _migration(self, folder: Path, **changed: Any) -> spec.Migration:
        losses = ["timestamps", "expiry", "duplicate_keys", "sub_microseconds"]
        text = {"name": "bench", **self._ends, "accept_losses": losses, "workspace": "workspace", **changed}
        return spec.parse(text, folder=folder)

    def _empty_target(self) -> None:
        target = self._ends["target"]
        if target["type"] == "file":
            shutil.rmtree(target["file_options"]["base_dir"], ignore_errors=True)
        else:
            with redis.Redis.from_url(target["connection_url"]) as client:
                client.flushall()

    def _target_ids(self) -> Iterator[str]:
        with closing(open_store(self._migration(self.folder).target, self.folder)) as store:
            yield from store.list_states()


def _document(value: str) -> bytes:
    return (value if value.startswith("{") else json.dumps({"value": value, "type": "string"})).encode()
