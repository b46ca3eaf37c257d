"""Whole migrations out of LangGraph's checkpoints, into each kind of store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt

from agui_pipelines import spec
from agui_pipelines.errors import RejectLimitError
from agui_pipelines.ports import Store
from agui_pipelines.stores import open_store

THREADS = 10


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    turns: int


def answer(state: Chat) -> dict[str, Any]:
    call = {"name": "f", "args": {"x": [1, 2.5, "ü"]}, "id": "c"}
    return {
        "messages": [AIMessage("answer", id=f"a{len(state['messages'])}", tool_calls=[call])],
        "turns": len(state["messages"]),
    }


def ask(state: Chat) -> dict[str, Any]:
    return {"messages": [HumanMessage(interrupt("sure?"), id=f"h{len(state['messages'])}")]}


def talk(saver: BaseCheckpointSaver[Any]) -> None:
    graph = StateGraph(Chat)
    graph.add_node("answer", answer)
    graph.add_node("ask", ask)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", "ask")
    app = graph.compile(checkpointer=saver)
    for i in range(THREADS):
        config: Any = {"configurable": {"thread_id": f"thread-{i}"}}
        app.invoke({"messages": [HumanMessage("hi", id="h")]}, config)
        if i % 2:
            app.invoke(Command(resume="yes"), config)


@pytest.fixture(params=["postgresql", "sqlite"])
def checkpoints(
    request: pytest.FixtureRequest, fresh_postgres: Callable[[], str], tmp_path: Path
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A source, and for each thread the checkpoints that the saver itself reads, newest first."""
    if request.param == "postgresql":
        url = fresh_postgres()
        with PostgresSaver.from_conn_string(url) as saver:
            saver.setup()
            talk(saver)
            return {"type": "langgraph", "connection_url": url}, told(saver)
    with closing(sqlite3.connect(tmp_path / "c.sqlite", check_same_thread=False)) as connection:
        sqlite = SqliteSaver(connection)
        talk(sqlite)
        return {"type": "langgraph", "path": "c.sqlite"}, told(sqlite)


def told(saver: BaseCheckpointSaver[Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for original in saver.list(None):
        key = original.config["configurable"]
        found.setdefault(key["thread_id"], {})[key["checkpoint_id"]] = original
    return found


def contents(messages: list[Any]) -> list[tuple[str, str]]:
    return [(m["id"], m["content"]) if isinstance(m, dict) else (m.id, m.content) for m in messages]


@pytest.fixture(params=["file", "postgresql", "redis"])
def target(
    request: pytest.FixtureRequest, fresh_postgres: Callable[[], str], fresh_redis: Callable[[], str], tmp_path: Path
) -> dict[str, Any]:
    match request.param:
        case "file":
            return {"type": "file", "file_options": {"base_dir": str(tmp_path / "store"), "durable": False}}
        case "postgresql":
            return {"type": "postgresql", "connection_url": fresh_postgres()}
        case _:
            return {"type": "redis", "connection_url": fresh_redis()}


def opened(target: dict[str, Any], folder: Path) -> closing[Store]:
    text = {"name": "look", "source": {"type": "file"}, "target": target}
    return closing(open_store(spec.parse(text, folder=folder).target, folder))


def test_threads_become_states_with_their_whole_history(
    migration: Callable[..., Any], checkpoints: tuple[dict[str, Any], Any], target: dict[str, Any], tmp_path: Path
) -> None:
    source, threads = checkpoints
    move = migration(source=source, target=target, accept_losses=["timestamps"])
    outcome = move.run()
    assert outcome.validation.passed
    with opened(target, tmp_path) as store:
        assert set(store.list_states()) == set(threads)
        for thread_id, originals in threads.items():
            newest = next(iter(originals.values()))
            document = json.loads(store.get_state(thread_id) or b"", parse_float=Decimal)
            assert contents(document["messages"]) == contents(newest.checkpoint["channel_values"]["messages"])
            history = store.get_version_history(thread_id)
            assert {version.version_id for version in history} == set(originals)
            for version in history:
                original = originals[version.version_id]
                parent = original.parent_config
                assert version.parent_id == (parent["configurable"]["checkpoint_id"] if parent else "")
                values = original.checkpoint["channel_values"]
                assert contents(json.loads(version.data).get("messages", [])) == contents(values.get("messages", []))
                pending = json.loads(version.metadata or b"")["_langgraph"]["pending_writes"]
                assert [(w["task_id"], w["channel"]) for w in pending] == [
                    (t, c) for t, c, _ in original.pending_writes
                ]


def test_a_value_that_is_no_json_stops_the_import_until_it_is_allowed(
    migration: Callable[..., Any], checkpoints: tuple[dict[str, Any], Any], tmp_path: Path
) -> None:
    source, threads = checkpoints
    pickling = JsonPlusSerializer(pickle_fallback=True)
    config: Any = {
        "configurable": {"thread_id": "thread-7", "checkpoint_ns": "", "checkpoint_id": next(iter(threads["thread-7"]))}
    }
    if "path" in source:
        with closing(sqlite3.connect(tmp_path / "c.sqlite", check_same_thread=False)) as connection:
            SqliteSaver(connection, serde=pickling).put_writes(config, [("turns", 1 + 2j)], "task", "")
    else:
        with PostgresSaver.from_conn_string(source["connection_url"]) as saver:
            saver.serde = pickling
            saver.put_writes(config, [("turns", 1 + 2j)], "task", "")
    file = {"type": "file", "file_options": {"base_dir": str(tmp_path / "store"), "durable": False}}
    move = migration(source=source, target=file, accept_losses=["timestamps"])
    with pytest.raises(RejectLimitError):
        move.run()
    [(id_, (_, reason, raw))] = move.rejects().items()
    assert id_.startswith(b"thread-7/")
    assert reason == "pickle"
    assert raw is not None
    assert move.but(limits={"max_rejects": 1}).run().validation.passed
    with opened(file, tmp_path) as store:
        assert len(store.get_version_history("thread-7")) == len(threads["thread-7"]) - 1
