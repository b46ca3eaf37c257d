"""LangGraph as a source: a real graph runs on the genuine savers, and what they hold is compared with what they say."""

from __future__ import annotations

import datetime as dt
import json
import operator
import sqlite3
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypedDict
from urllib.parse import urlsplit

import psycopg
import pytest
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.shallow import ShallowPostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Interrupt, Send, interrupt

from agui_pipelines.errors import ConnectionFailedError, SpecError, StoreError
from agui_pipelines.ports import BATCH_BYTES, Reader, Scanner
from agui_pipelines.records import SCHEMAS, Kind, Reject
from agui_pipelines.sources import open_source
from agui_pipelines.sources.langgraph.checkpoints import state_id
from agui_pipelines.spec import FileConfig, LangGraphConfig, PostgresConfig
from agui_pipelines.stores.file import FileStore
from agui_pipelines.stores.postgresql import PostgresStore

pytestmark = pytest.mark.filterwarnings("ignore:ShallowPostgresSaver is deprecated:DeprecationWarning")

OWN = "_langgraph"


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    total: Annotated[int, operator.add]
    rate: float
    topic: str | None
    due: dt.datetime
    order: uuid.UUID
    price: Decimal
    tags: set[str]
    picture: bytes
    table: dict[Any, Any]


@dataclass
class Saved:
    """A place that a saver writes to, and the source that reads it."""

    saver: BaseCheckpointSaver[Any]
    config: dict[str, Any]

    def source(self) -> closing[Any]:
        return closing(open_source(LangGraphConfig.model_validate({"type": "langgraph", **self.config}), Path()))


@dataclass
class Scanned:
    states: dict[str, dict[str, Any]]
    versions: dict[tuple[str, str], dict[str, Any]]
    rejects: dict[str, Reject]
    order: list[tuple[str, str]]


def scanned(source: Scanner) -> Scanned:
    states: dict[str, dict[str, Any]] = {}
    versions: dict[tuple[str, str], dict[str, Any]] = {}
    rejects: list[Reject] = []
    order: list[tuple[str, str]] = []
    for kind, batch in source.scan(rejects.append):
        assert batch.schema == SCHEMAS[kind]
        for row in batch.to_pylist():
            if kind is Kind.STATE:
                assert row["state_id"] not in states
                states[row["state_id"]] = row
            else:
                order.append((row["state_id"], row["version_id"]))
                assert order[-1] not in versions
                versions[order[-1]] = row
    assert len({(r.kind, r.id) for r in rejects}) == len(rejects)
    return Scanned(states, versions, {f"{r.kind} {r.name}": r for r in rejects}, order)


def scan(saved: Saved) -> Scanned:
    with saved.source() as source:
        return scanned(source)


@contextmanager
def opened(which: str, postgres: Callable[[], str], folder: Path, **options: Any) -> Iterator[Saved]:
    with ExitStack() as stack:
        if which == "sqlite":
            path = folder / "checkpoints.sqlite"
            connection = stack.enter_context(closing(sqlite3.connect(path, check_same_thread=False)))
            saver: Any = SqliteSaver(connection, **options)
            config = {"path": str(path)}
        else:
            url = postgres()
            saver = stack.enter_context(
                (ShallowPostgresSaver if which == "shallow" else PostgresSaver).from_conn_string(url)
            )
            for name, value in options.items():
                setattr(saver, name, value)
            config = {"connection_url": url}
        saver.setup()
        yield Saved(saver, config)


@pytest.fixture(params=["postgresql", "sqlite"])
def saved(request: pytest.FixtureRequest, fresh_postgres: Callable[[], str], tmp_path: Path) -> Iterator[Saved]:
    """Each saver that keeps a history."""
    with opened(request.param, fresh_postgres, tmp_path) as place:
        yield place


@pytest.fixture(params=["postgresql", "shallow", "sqlite"])
def any_saved(request: pytest.FixtureRequest, fresh_postgres: Callable[[], str], tmp_path: Path) -> Iterator[Saved]:
    with opened(request.param, fresh_postgres, tmp_path) as place:
        yield place


def agent(state: Chat) -> dict[str, Any]:
    call = {
        "name": "look_up",
        "args": {"q": "日本", "n": 1.5, "deep": [{"k": None}]},
        "id": f"call-{len(state['messages'])}",
    }
    return {
        "messages": [AIMessage("…", id=f"ai-{len(state['messages'])}", tool_calls=[call])],
        "total": 1,
        "rate": 0.1,
        "topic": None,
        "due": dt.datetime(2026, 11, 22, 10, 30, 0, 123456, dt.UTC),
        "order": uuid.UUID(int=7),
        "price": Decimal("19.90"),
        "tags": {"new"},
        "picture": b"\x89PNG\x00\xff",
        "table": {1: "one", (2, "b"): b"two", "$type": "not a mark"},
    }


def tools(state: Chat) -> dict[str, Any]:
    last = state["messages"][-1]
    assert isinstance(last, AIMessage)
    return {
        "messages": [ToolMessage("found", id=f"tool-{len(state['messages'])}", tool_call_id=last.tool_calls[0]["id"])]
    }


def review(state: Chat) -> dict[str, Any]:
    answer = interrupt({"question": "approve?", "price": state["price"]})
    return {"messages": [HumanMessage(f"reviewed: {answer}", id=f"review-{len(state['messages'])}")]}


def conversation(saver: BaseCheckpointSaver[Any]) -> Any:
    """agent → subgraph with tools and a question → end; the subgraph stops there until somebody answers."""
    inner = StateGraph(Chat)
    inner.add_node("tools", tools)
    inner.add_node("review", review)
    inner.add_edge(START, "tools")
    inner.add_edge("tools", "review")
    outer = StateGraph(Chat)
    outer.add_node("agent", agent)
    outer.add_node("help", inner.compile())
    outer.add_edge(START, "agent")
    outer.add_edge("agent", "help")
    return outer.compile(checkpointer=saver)


def thread(id_: str) -> Any:
    return {"configurable": {"thread_id": id_}, "metadata": {"tenant": "acme"}}


def talk(saver: BaseCheckpointSaver[Any]) -> None:
    """Three threads: two stopped at a question in their second turn, one of them answered; one stopped in its first."""
    graph = conversation(saver)
    for id_ in ("thread-1", "thread/2 ü#ns=x"):
        graph.invoke({"messages": [HumanMessage("hi", id="h0")]}, thread(id_))
        graph.invoke(Command(resume="yes"), thread(id_))
        graph.invoke({"messages": [HumanMessage("more", id="h1")]}, thread(id_))
    graph.invoke(Command(resume="no"), thread("thread-1"))
    graph.invoke({"messages": [HumanMessage("first", id="h0")]}, thread("thread-3"))


def form(value: Any) -> Any:  # noqa: C901, PLR0911 - one for each type
    """The form that a value of Python must have as JSON; made from the value, and not from what was stored of it."""
    name = f"{type(value).__module__}.{type(value).__name__}"
    match value:
        case BaseMessage():
            return {"$type": name, **{k: form(v) for k, v in value.model_dump().items()}}
        case dt.datetime():
            return {"$type": name, "$value": value.isoformat()}
        case uuid.UUID() | Decimal():
            return {"$type": name, "$value": str(value)}
        case set():
            return {"$type": name, "$value": [form(item) for item in value]}
        case bytes():
            return {"$type": name, "$base64": value}
        case Send():
            return {"$type": name, "$args": [value.node, form(value.arg)]}
        case Interrupt():
            return {"$type": name, **{k: form(getattr(value, k)) for k in value.__dataclass_fields__}}
        case list() | tuple():
            return [form(item) for item in value]
        case dict() if "$type" in value or not all(isinstance(key, str) for key in value):
            return {"$type": name, "$items": [[form(key), form(member)] for key, member in value.items()]}
        case dict():
            return {key: form(member) for key, member in value.items()}
        case float():
            return Decimal(repr(value))
    assert value is None or isinstance(value, (str, int)), name
    return value


def parsed(document: bytes) -> Any:
    """A document, with bytes that are in base64 as bytes."""

    def mark(value: dict[str, Any]) -> dict[str, Any]:
        return {**value, "$base64": b64decode(value["$base64"])} if "$base64" in value else value

    return json.loads(document, parse_float=Decimal, object_hook=mark)


def told(saver: BaseCheckpointSaver[Any]) -> dict[tuple[str, str], CheckpointTuple]:
    """All checkpoints as the saver itself reads them, by state and version id."""
    return {
        (state_id(key["thread_id"], key["checkpoint_ns"]), key["checkpoint_id"]): found
        for found in saver.list(None)
        for key in [found.config["configurable"]]
    }


def test_versions_are_what_the_saver_itself_reads(saved: Saved) -> None:
    talk(saved.saver)
    expected = told(saved.saver)
    found = scan(saved)
    assert found.rejects == {}
    assert found.versions.keys() == expected.keys()
    assert len(expected) > 20
    pending = 0
    for key, original in expected.items():
        version = found.versions[key]
        assert parsed(version["data"]) == form(original.checkpoint["channel_values"])
        assert version["timestamp"] == original.checkpoint["ts"]
        parent = original.parent_config["configurable"]["checkpoint_id"] if original.parent_config else ""
        assert version["parent_id"] == parent
        assert (version["delta"], version["extra"]) == (None, None)
        metadata = parsed(version["metadata"])
        own = metadata.pop(OWN)
        assert metadata == form(original.metadata)
        assert metadata["tenant"] == "acme"
        same = ("v", "channel_versions", "versions_seen", "updated_channels")
        assert {name: own[name] for name in same} == {name: form(original.checkpoint[name]) for name in same}
        configurable = original.config["configurable"]
        assert (own["thread_id"], own["checkpoint_ns"]) == (configurable["thread_id"], configurable["checkpoint_ns"])
        writes = [(w["task_id"], w["channel"], w["value"]) for w in own["pending_writes"]]
        assert writes == [(task, channel, form(value)) for task, channel, value in original.pending_writes or []]
        pending += len(writes)
    assert pending > 20


def test_a_state_is_the_newest_checkpoint_of_a_thread_and_namespace(any_saved: Saved) -> None:
    talk(any_saved.saver)
    found = scan(any_saved)
    assert found.rejects == {}
    places = {
        (key["thread_id"], key["checkpoint_ns"])
        for original in any_saved.saver.list(None)
        for key in [original.config["configurable"]]
    }
    assert {("thread-1", ""), ("thread/2 ü#ns=x", ""), ("thread-3", "")} < places
    assert any(namespace.startswith("help:") for _, namespace in places)
    assert found.states.keys() == {state_id(*place) for place in places}
    for thread_id, namespace in places:
        newest = any_saved.saver.get_tuple({"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace}})
        assert newest is not None
        state = found.states[state_id(thread_id, namespace)]
        assert parsed(state["data"]) == form(newest.checkpoint["channel_values"])
        assert state["updated_at"] == newest.checkpoint["ts"]
        times = [v["timestamp"] for (of, _), v in found.versions.items() if of == state["state_id"]]
        assert state["created_at"] == min(times)
        assert (state_id(thread_id, namespace), newest.checkpoint["id"]) in found.versions
    assert found.states["thread-1"]["state_id"] == "thread-1"
    messages = parsed(found.states["thread-1"]["data"])["messages"]
    assert [m["type"] for m in messages] == ["human", "ai", "tool", "human"] * 2
    assert messages[1]["tool_calls"][0]["args"] == {"q": "日本", "n": Decimal("1.5"), "deep": [{"k": None}]}


def test_the_shallow_savers_one_checkpoint_keeps_all_writes(fresh_postgres: Callable[[], str], tmp_path: Path) -> None:
    with opened("shallow", fresh_postgres, tmp_path) as saved:
        talk(saved.saver)
        found = scan(saved)
        rows = saved.saver.conn.execute("SELECT count(*) AS n FROM checkpoint_writes").fetchone()  # type: ignore[attr-defined]
    writes = [
        (v["version_id"], w) for v in found.versions.values() for w in parsed(v["metadata"])[OWN]["pending_writes"]
    ]
    assert found.rejects == {}
    assert len(writes) == rows["n"]
    earlier = [w["checkpoint_id"] for _, w in writes if "checkpoint_id" in w]
    assert earlier  # the savers keeps those of the checkpoint before
    assert not {of for of, _ in writes} & set(earlier)
    assert {v["parent_id"] for v in found.versions.values()} == {""}


@pytest.mark.parametrize("which", ["postgresql", "shallow"])
def test_a_channel_that_was_emptied_has_no_value(which: str, fresh_postgres: Callable[[], str], tmp_path: Path) -> None:
    with opened(which, fresh_postgres, tmp_path) as saved:
        id_ = put(saved.saver, {"a": [1], "b": [2]})
        # Older savers write such a row, the shallow one still does.
        columns = "thread_id, checkpoint_ns, channel, type" + ("" if which == "shallow" else ", version")
        more = "" if which == "shallow" else ", '7'"
        connection: Any = saved.saver.conn  # type: ignore[attr-defined]
        for channel in ("c", "of-no-checkpoint"):
            connection.execute(f"INSERT INTO checkpoint_blobs ({columns}) VALUES ('t', '', '{channel}', 'empty'{more})")
        connection.execute(
            """UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{channel_versions,c}', '"7"')"""
        )
        newest = saved.saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": ""}})
        found = scan(saved)
    assert newest is not None
    assert newest.checkpoint["channel_values"].keys() == {"a", "b"}
    assert parsed(found.states["t"]["data"]) == {"a": [1], "b": [2]}
    assert parsed(found.versions["t", id_]["metadata"])[OWN]["channel_versions"]["c"] == "7"
    assert found.rejects == {}


def test_versions_come_in_order_and_their_parents_before_them(saved: Saved) -> None:
    talk(saved.saver)
    found = scan(saved)
    assert len(found.order) == len(found.versions)
    seen: set[tuple[str, str]] = set()
    for id_, version_id in found.order:
        parent = found.versions[id_, version_id]["parent_id"]
        assert not parent or (id_, parent) in seen
        seen.add((id_, version_id))
    owners = [id_ for id_, _ in found.order]
    assert sum(a != b for a, b in pairwise(owners)) == len(set(owners)) - 1


def put(
    saver: BaseCheckpointSaver[Any], values: dict[str, Any], id_: str = "t", parent: str | None = None, **more: Any
) -> str:
    """A checkpoint, without a graph; its id is the one that its serial number makes."""
    checkpoint = empty_checkpoint()
    versions: dict[str, Any] = dict.fromkeys(values, f"{uuid.uuid4()}")
    checkpoint.update({"channel_values": values, "channel_versions": versions})
    checkpoint.update(more.pop("checkpoint", {}))
    config: Any = {"configurable": {"thread_id": id_, "checkpoint_ns": "", "checkpoint_id": parent}}
    saver.put(config, checkpoint, more.pop("metadata", {"source": "loop", "step": 1}), versions)
    assert not more
    return checkpoint["id"]


def write(
    saver: BaseCheckpointSaver[Any],
    id_: str,
    checkpoint_id: str,
    writes: list[tuple[str, Any]],
    task: str = "task",
    path: str = "path",
) -> None:
    config: Any = {"configurable": {"thread_id": id_, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}}
    saver.put_writes(config, writes, task, path)


class Sealed:
    """Stands for a cipher whose key only the application has."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "seal", bytes(b ^ 0x5A for b in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:  # noqa: ARG002 - as LangGraph calls it
        return bytes(b ^ 0x5A for b in ciphertext)


PICKLING = JsonPlusSerializer(pickle_fallback=True)


@pytest.mark.parametrize("which", ["postgresql", "sqlite"])
@pytest.mark.parametrize(
    ("serde", "value", "reason", "says"),
    [
        (PICKLING, [1 + 2j], "pickle", "pickled"),
        (PICKLING, [float("nan")], "not_finite", "nan"),
        (EncryptedSerializer(Sealed()), ["secret"], "encrypted", "msgpack+seal"),
    ],
)
def test_what_cannot_become_json_is_rejected_by_name_with_all_that_is_stored(
    which: str, serde: Any, value: Any, reason: str, says: str, fresh_postgres: Callable[[], str], tmp_path: Path
) -> None:
    with opened(which, fresh_postgres, tmp_path, serde=serde) as saved:
        bad = put(saved.saver, {"fine": ["ok"], "broken": value}, "newest-is-bad", parent="p")
        write(saved.saver, "newest-is-bad", bad, [("fine", ["pending"])])
        found = scan(saved)
    assert (found.states, found.versions) == ({}, {})
    version, state = found.rejects[f"version newest-is-bad/{bad}"], found.rejects["state newest-is-bad"]
    assert len(found.rejects) == 2
    assert {r.reason for r in (version, state)} == {reason}
    assert says in version.detail
    assert version.detail in state.detail
    # As a whole, SQLite's checkpoint is one value, and what is pickled or encrypted does not say where.
    assert "'broken'" in version.detail or which == "sqlite" or reason == "encrypted"
    assert version.raw == state.raw
    raw = json.loads(version.raw or b"")
    assert (raw["thread_id"], raw["checkpoint_id"], raw["parent_checkpoint_id"]) == ("newest-is-bad", bad, "p")
    stored = raw["checkpoint"] if which == "sqlite" else raw["channels"]["broken"]
    restored = serde.loads_typed((stored["type"], b64decode(stored["base64"])))
    restored = restored["channel_values"]["broken"] if which == "sqlite" else restored
    assert repr(restored) == repr(value)
    [pending] = raw["writes"]
    assert serde.loads_typed((pending["type"], b64decode(pending["base64"]))) == ["pending"]


def test_a_bad_checkpoint_takes_no_other_with_it(saved: Saved) -> None:
    saved.saver.serde = PICKLING
    first = put(saved.saver, {"a": [1]}, "x")
    bad = put(saved.saver, {"a": [float("inf")]}, "x", first)
    last = put(saved.saver, {"a": [3]}, "x", bad)
    other = put(saved.saver, {"a": [4]}, "y")
    found = scan(saved)
    assert found.versions.keys() == {("x", first), ("x", last), ("y", other)}
    assert found.rejects.keys() == {f"version x/{bad}"}
    assert "'a'" in found.rejects[f"version x/{bad}"].detail
    assert parsed(found.states["x"]["data"]) == {"a": [3]}
    assert found.versions["x", last]["parent_id"] == bad


def test_a_pending_write_that_cannot_become_json_rejects_its_version_and_names_the_channel(saved: Saved) -> None:
    saved.saver.serde = PICKLING
    id_ = put(saved.saver, {"a": [1]})
    write(saved.saver, "t", id_, [("b", 1 + 2j)], task="task-9")
    found = scan(saved)
    [reject] = found.rejects.values()
    assert (reject.kind, reject.name, reject.reason) == (Kind.VERSION, f"t/{id_}", "pickle")
    assert parsed(found.states["t"]["data"]) == {"a": [1]}
    assert "'b'" in reject.detail
    assert "task-9" in reject.detail


def test_pending_writes_come_in_the_order_in_which_they_are_applied(saved: Saved) -> None:
    id_ = put(saved.saver, {"a": [1]})
    for task, path in (("b", "~2"), ("a", "~2"), ("c", "~1"), ("B", "~2"), ("d", "é"), ("e", "Z")):
        write(saved.saver, "t", id_, [("a", f"{task}0"), ("a", f"{task}1")], task, path)
    original = saved.saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": ""}})
    assert original is not None
    values = [value for _, _, value in original.pending_writes or []]
    assert values != sorted(values)
    own = parsed(scan(saved).versions["t", id_]["metadata"])[OWN]
    assert [w["value"] for w in own["pending_writes"]] == values
    assert [w["idx"] for w in own["pending_writes"]] == [0, 1] * 6


def test_what_belongs_to_no_checkpoint_is_rejected_by_name_and_kept(saved: Saved) -> None:
    id_ = put(saved.saver, {"a": ["kept"]})
    write(saved.saver, "t", "gone", [("a", ["left over"])])
    write(saved.saver, "nowhere", "gone", [("a", ["too"])])
    expected = {"version t/gone/task/0": ["left over"], "version nowhere/gone/task/0": ["too"]}
    if isinstance(saved.saver, PostgresSaver):
        put(saved.saver, {"a": ["deleted"]}, "u")
        saved.saver.conn.execute("DELETE FROM checkpoints WHERE thread_id = 'u'")  # type: ignore[union-attr]
        [version] = saved.saver.conn.execute("SELECT version FROM checkpoint_blobs WHERE thread_id = 'u'")  # type: ignore[union-attr]
        expected[f"version u/a/{version['version']}"] = ["deleted"]  # type: ignore[call-overload]
    found = scan(saved)
    assert found.versions.keys() == {("t", id_)}
    assert found.rejects.keys() == expected.keys()
    for name, value in expected.items():
        raw = json.loads(found.rejects[name].raw or b"")
        assert found.rejects[name].reason == "unattributed"
        assert raw["channel"] == "a"
        assert PICKLING.loads_typed((raw["type"], b64decode(raw["base64"]))) == value


class Lines(TypedDict):
    lines: Annotated[
        list[str], DeltaChannel(lambda old, new: old + [x for batch in new for x in batch], snapshot_frequency=2)
    ]
    last: str


def test_of_a_channel_that_stores_changes_only_whole_values_become_documents(saved: Saved) -> None:
    graph = StateGraph(Lines)
    graph.add_node("write", lambda state: {"lines": [f"line {len(state['lines'])}"], "last": "x"})
    graph.add_edge(START, "write")
    app = graph.compile(checkpointer=saved.saver)
    for turn in range(3):
        app.invoke({"lines": [f"turn {turn}"]}, thread("d"))
    found = scan(saved)
    whole = [v for v in found.versions.values() if "lines" in parsed(v["data"])]
    assert whole
    for version in whole:
        lines = parsed(version["data"])["lines"]
        config = {"configurable": {"thread_id": "d", "checkpoint_ns": "", "checkpoint_id": version["version_id"]}}
        assert lines == app.get_state(config).values["lines"]
    assert {r.reason for r in found.rejects.values()} == {"delta_channel"}
    assert all("'lines'" in r.detail for r in found.rejects.values())
    # What has none of it is from before the channel was first written to.
    for version in found.versions.values():
        if "lines" not in parsed(version["data"]):
            config = {"configurable": {"thread_id": "d", "checkpoint_ns": "", "checkpoint_id": version["version_id"]}}
            assert not app.get_state(config).values.get("lines")
    assert len(found.versions) + sum(r.kind is Kind.VERSION for r in found.rejects.values()) == len(told(saved.saver))


class Quiet(TypedDict):
    lines: Annotated[list[str], DeltaChannel(operator.add)]
    last: str


def test_a_channel_that_stores_changes_and_has_none_keeps_nothing_from_being_read(saved: Saved) -> None:
    graph = StateGraph(Quiet)
    graph.add_node("write", lambda _: {"last": "x"})
    graph.add_edge(START, "write")
    graph.compile(checkpointer=saved.saver).invoke({"last": "y"}, thread("d"))
    found = scan(saved)
    assert found.rejects == {}
    assert found.versions.keys() == told(saved.saver).keys()
    counters = [parsed(v["metadata"]).get("counters_since_delta_snapshot") for v in found.versions.values()]
    assert any(counters)  # LangGraph counts all the same


def test_numbers_in_documents_of_postgresql_keep_every_digit(fresh_postgres: Callable[[], str], tmp_path: Path) -> None:
    with opened("postgresql", fresh_postgres, tmp_path) as saved:
        put(saved.saver, {"big": 2**200, "tiny": 5e-324, "third": 1 / 3, "yes": True, "none": None, "text": "é\\u0041"})
        found = scan(saved)
    assert parsed(found.states["t"]["data"]) == {
        "big": 2**200,
        "tiny": Decimal("5e-324"),
        "third": Decimal("0.3333333333333333"),
        "yes": True,
        "none": None,
        "text": "é\\u0041",
    }


def test_a_scan_sees_one_moment(saved: Saved) -> None:
    for i in range(3):
        put(saved.saver, {"a": ["x" * (BATCH_BYTES // 2), i]}, f"t{i}")
    with saved.source() as source:
        batches = source.scan(pytest.fail)
        first = next(batches)
        put(saved.saver, {"a": ["late"]}, "t2")
        put(saved.saver, {"a": ["late"]}, "t9")
        write(saved.saver, "t9", "gone", [("a", 1)])
        rows = [row for _, batch in (first, *batches) for row in batch.to_pylist()]
        assert {row["state_id"] for row in rows} == {"t0", "t1", "t2"}
        assert len(rows) == 6
        assert {row["state_id"] for _, batch in source.scan(lambda _: None) for row in batch.to_pylist()} > {"t9"}


def test_batches_are_bounded_and_a_larger_document_goes_alone(saved: Saved) -> None:
    fifth = BATCH_BYTES // 5 - 10_000  # leaves room for what is beside the text
    parent = None
    for i, fifths in enumerate([1, 1, 1, 1, 1, 1, 7, 1, 1]):
        parent = put(saved.saver, {"a": ["x" * (fifths * fifth), i]}, "t", parent)
    with saved.source() as source:
        rows = [(kind, batch.num_rows, batch.nbytes) for kind, batch in source.scan(pytest.fail)]
    assert [n for kind, n, _ in rows if kind is Kind.VERSION] == [5, 1, 1, 2]
    assert all(size <= BATCH_BYTES or n == 1 for _, n, size in rows)


def test_what_is_not_read_to_the_end_leaves_nothing_open(saved: Saved) -> None:
    for i in range(4):
        put(saved.saver, {"a": ["x" * (BATCH_BYTES // 2), i]}, f"t{i}")
    with saved.source() as source:
        batches = source.scan(pytest.fail)
        next(batches)
        batches.close()
        assert len({row["state_id"] for _, batch in source.scan(pytest.fail) for row in batch.to_pylist()}) == 4


@pytest.mark.parametrize(
    ("thread_id", "namespace", "id_"),
    [
        ("t", "", "t"),
        ("a#b%c", "", "a#b%c"),
        ("t", "help:1|deeper:2", "t#ns=help:1|deeper:2"),
        ("a#b%", "n#", "a%23b%25#ns=n%23"),
        ("t#ns=x", "", "t%23ns=x#ns="),
    ],
)
def test_the_id_of_a_state_names_thread_and_namespace(thread_id: str, namespace: str, id_: str) -> None:
    assert state_id(thread_id, namespace) == id_


def test_no_two_threads_and_namespaces_share_an_id() -> None:
    parts = ["", "t", "t#", "#ns=", "t#ns=x", "t%23", "t%23ns=x", "#ns=#ns=", "x", "%", "ns="]
    assert len({state_id(a, b) for a in parts for b in parts}) == len(parts) ** 2


OLD_SQLITE = """
CREATE TABLE checkpoints (
    thread_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL DEFAULT '', checkpoint_id TEXT NOT NULL,
    parent_checkpoint_id TEXT, type TEXT, checkpoint BLOB, metadata BLOB,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
);
CREATE TABLE writes (
    thread_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL DEFAULT '', checkpoint_id TEXT NOT NULL,
    task_id TEXT NOT NULL, idx INTEGER NOT NULL, channel TEXT NOT NULL, type TEXT, value BLOB,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
);
"""


@pytest.fixture
def old_file(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, Saved]]:
    """A file as savers made it that wrote JSON, and no paths of tasks."""
    with closing(sqlite3.connect(tmp_path / "old.sqlite", isolation_level=None)) as connection:
        connection.executescript(OLD_SQLITE)
        yield connection, Saved(SqliteSaver(connection), {"path": str(tmp_path / "old.sqlite")})


def insert(connection: sqlite3.Connection, *row: Any) -> None:
    connection.execute("INSERT INTO checkpoints VALUES (?, '', ?, NULL, ?, ?, ?)", row)


def test_files_of_older_savers_are_read(old_file: tuple[sqlite3.Connection, Saved]) -> None:
    connection, saved = old_file
    envelope = {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "schema", "messages", "HumanMessage"],
        "kwargs": {"content": "hi"},
    }
    body = {
        "v": 1,
        "ts": "2024-05-04T06:32:42.235444+00:00",
        "id": "c1",
        "channel_values": {"messages": [envelope], "n": 10**30},
    }
    insert(connection, "t", "c1", "json", json.dumps(body).encode(), '{"source": "loop"}')
    connection.execute("INSERT INTO writes VALUES ('t', '', 'c1', 'task', 0, 'n', 'json', ?)", ("5",))
    found = scan(saved)
    assert found.rejects == {}
    version = found.versions["t", "c1"]
    assert parsed(version["data"]) == {"messages": [envelope], "n": 10**30}
    assert parsed(version["metadata"]) == {
        "source": "loop",
        OWN: {
            "thread_id": "t",
            "checkpoint_ns": "",
            "v": 1,
            "pending_writes": [{"task_id": "task", "task_path": "", "idx": 0, "channel": "n", "value": 5}],
        },
    }


GOOD = b'{"v":1,"ts":"2024-05-04T06:32:42+00:00","id":"c1","channel_values":{}}'


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("t", "c1", "json", b"[]", "{}"), "no_checkpoint"),
        (("t", "c1", "json", b'{"ts":"2024"}', "{}"), "no_checkpoint"),
        (("t", "c1", "json", b'{"ts":"2024","channel_values":[]}', "{}"), "no_checkpoint"),
        (("t", "c1", "json", b'{"channel_values":{}}', "{}"), "no_checkpoint"),
        (("t", "c1", "json", b"{", "{}"), "undecodable"),
        (("t", "c1", None, None, "{}"), "unknown_encoding"),
        (("t", "c1", "json", GOOD, '{"a": NaN}'), "bad_metadata"),
        (("t", "c1", "json", GOOD, "[]"), "bad_metadata"),
        (("t", "c1", "json", GOOD, b"{\xff}"), "bad_metadata"),
        (("t", "c1", "json", GOOD, '{"_langgraph": 1}'), "reserved_member"),
    ],
)
def test_what_is_no_checkpoint_is_rejected_by_name(
    old_file: tuple[sqlite3.Connection, Saved], row: tuple[Any, ...], reason: str
) -> None:
    connection, saved = old_file
    insert(connection, *row)
    insert(connection, "fine", "c1", "json", GOOD, None)
    found = scan(saved)
    assert found.states.keys() == {"fine"}
    assert {name: r.reason for name, r in found.rejects.items()} == {"version t/c1": reason, "state t": reason}


def test_ids_that_are_not_utf_8_are_rejected_as_they_are(old_file: tuple[sqlite3.Connection, Saved]) -> None:
    connection, saved = old_file
    connection.execute(
        "INSERT INTO checkpoints VALUES (CAST(? AS TEXT), '', 'c1', NULL, 'json', ?, NULL)", (b"\xfft", GOOD)
    )
    connection.execute("INSERT INTO writes VALUES (CAST(? AS TEXT), '', 'c1', 'k', 0, 'n', 'json', '5')", (b"\xfft",))
    insert(connection, b"bytes", "c1", "json", GOOD, None)
    connection.execute("INSERT INTO writes VALUES (?, '', 'c1', 'task', 0, 'n', 'json', '5')", (b"bytes",))
    found = scan(saved)
    assert found.states.keys() == {"bytes"}
    assert len(parsed(found.versions["bytes", "c1"]["metadata"])[OWN]["pending_writes"]) == 1
    [kept] = {r.raw for r in found.rejects.values()}
    assert json.loads(kept or b"")["writes"][0]["task_id"] == "k"
    assert {(r.kind, r.id, r.reason) for r in found.rejects.values()} == {
        (Kind.VERSION, b"\xfft/c1", "id_not_utf8"),
        (Kind.STATE, b"\xfft", "id_not_utf8"),
    }


def test_tables_of_older_postgresql_savers_are_read(fresh_postgres: Callable[[], str], tmp_path: Path) -> None:
    with opened("postgresql", fresh_postgres, tmp_path) as saved:
        id_ = put(saved.saver, {"a": [1], "b": 2})
        write(saved.saver, "t", id_, [("a", [2])])
        saved.saver.conn.execute("ALTER TABLE checkpoint_writes DROP COLUMN task_path")  # type: ignore[attr-defined]
        found = scan(saved)
    assert parsed(found.states["t"]["data"]) == {"a": [1], "b": 2}
    [pending] = parsed(found.versions["t", id_]["metadata"])[OWN]["pending_writes"]
    assert pending == {"task_id": "task", "task_path": "", "idx": 0, "channel": "a", "value": [2]}


def test_the_tables_may_lie_in_another_schema(fresh_postgres: Callable[[], str], tmp_path: Path) -> None:
    with opened("postgresql", fresh_postgres, tmp_path) as saved:
        put(saved.saver, {"a": [1]})
        saved.saver.conn.execute('CREATE SCHEMA "LG 1"')  # type: ignore[attr-defined]
        for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes"):
            saved.saver.conn.execute(f'ALTER TABLE {table} SET SCHEMA "LG 1"')  # type: ignore[attr-defined]
        with saved.source() as source:
            assert not source.exists()
            assert list(source.scan(pytest.fail)) == []
        elsewhere = Saved(saved.saver, {**saved.config, "schema": "LG 1"})
        with elsewhere.source() as source:
            assert source.exists()
            assert source.place().container.endswith(".LG 1")
        assert scan(elsewhere).states.keys() == {"t"}


def test_tables_of_somebody_else_are_named(fresh_postgres: Callable[[], str], tmp_path: Path) -> None:
    url = fresh_postgres()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE checkpoints (id int)")
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as connection:
        connection.execute("CREATE TABLE checkpoints (id int)")
    for config in ({"connection_url": url}, {"path": str(tmp_path / "other.sqlite")}):
        with (
            Saved(SqliteSaver(connection), config).source() as source,
            pytest.raises(StoreError, match="the table checkpoints has no column checkpoint"),
        ):
            list(source.scan(pytest.fail))


def test_a_file_that_is_not_there_or_no_database_is_named(tmp_path: Path) -> None:
    config = LangGraphConfig(type="langgraph", path=Path("c.sqlite"))
    with closing(open_source(config, tmp_path)) as source:
        assert not source.exists()
        with pytest.raises(ConnectionFailedError, match=r"c\.sqlite is no file"):
            source.ping()
        (tmp_path / "c.sqlite").write_bytes(b"no database" * 1000)
        with pytest.raises(StoreError, match="file is not a database"):
            source.exists()


def test_a_database_without_checkpoints_is_empty(any_saved: Saved) -> None:
    found = scan(any_saved)
    assert (found.states, found.versions, found.rejects) == ({}, {}, {})
    with any_saved.source() as source:
        assert source.exists()


def test_where_it_is_holds_no_secret_and_needs_no_connection(tmp_path: Path) -> None:
    config = LangGraphConfig.model_validate(
        {"type": "langgraph", "connection_url": "postgresql://me:c4n4ry@nowhere.invalid/db"}
    )
    with closing(open_source(config, tmp_path)) as source:
        assert (
            source.describe()
            == "postgresql://me:***@nowhere.invalid:5432/db, LangGraph's checkpoints in the schema public"
        )
    with closing(open_source(LangGraphConfig(type="langgraph", path=Path("a/b.db")), tmp_path)) as source:
        assert source.describe() == f"LangGraph's checkpoints in {tmp_path}/a/b.db"


def test_whoever_may_only_read_can_be_the_source(fresh_postgres: Callable[[], str], tmp_path: Path) -> None:
    with opened("postgresql", fresh_postgres, tmp_path) as saved:
        put(saved.saver, {"a": [1]})
        url, role = saved.config["connection_url"], f"agui_test_role_{uuid.uuid4().hex}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {role} LOGIN")
            try:
                parts = urlsplit(url)
                own = parts._replace(netloc=f"{role}@{parts.hostname}:{parts.port}").geturl()
                reading = Saved(saved.saver, {"connection_url": own})
                with reading.source() as source, pytest.raises(StoreError, match="permission denied for table"):
                    list(source.scan(pytest.fail))
                connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
                assert scan(reading).states == scan(saved).states
            finally:
                connection.execute(f"DROP OWNED BY {role}")
                connection.execute(f"DROP ROLE {role}")


def test_a_file_stays_as_it_is_byte_by_byte(old_file: tuple[sqlite3.Connection, Saved], tmp_path: Path) -> None:
    insert(old_file[0], "t", "c1", "json", GOOD, None)
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    assert scan(old_file[1]).states.keys() == {"t"}
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()} == before


def test_places_are_told_apart(fresh_postgres: Callable[[], str], tmp_path: Path) -> None:
    with (
        opened("postgresql", fresh_postgres, tmp_path) as first,
        opened("postgresql", fresh_postgres, tmp_path) as second,
        opened("sqlite", fresh_postgres, tmp_path) as third,
        first.source() as one,
        second.source() as other,
        third.source() as file,
    ):
        with closing(PostgresStore(PostgresConfig.model_validate({"type": "postgresql", **first.config}))) as store:
            assert one.place() == store.place()
        assert not one.place().overlaps(other.place())
        folder = FileConfig.model_validate({"type": "file", "file_options": {"base_dir": str(tmp_path)}})
        assert file.place().overlaps(FileStore(folder).place())
        assert one.ping().startswith("PostgreSQL ")
        assert file.ping() == f"SQLite {sqlite3.sqlite_version}"


def test_it_is_a_scanner_and_no_reader(any_saved: Saved) -> None:
    with any_saved.source() as source:
        assert isinstance(source, Scanner)
        assert not isinstance(source, Reader)
        assert source.kinds == (Kind.STATE, Kind.VERSION)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "either 'connection_url'"),
        ({"path": "a", "connection_url": "postgresql://h/d"}, "either 'connection_url'"),
        ({"path": "a", "schema": "s"}, "'schema' belongs to PostgreSQL"),
        ({"path": "a", "database": "s"}, "'database' belongs to PostgreSQL"),
        ({"paths": "a"}, "did you mean 'path'"),
    ],
)
def test_a_source_names_one_place(keys: dict[str, str], says: str) -> None:
    from agui_pipelines import spec  # noqa: PLC0415

    text = {"name": "m", "source": {"type": "langgraph", **keys}, "target": {"type": "file"}}
    with pytest.raises(SpecError, match=says):
        spec.parse(text)
