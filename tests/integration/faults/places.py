"""Filling places and looking into them, without a line of the engine: what is to be found after a fault is found here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import redis

Content = dict[tuple[str, ...], Any]
"""Values by ``("state", id)``, ``("version", state id, id)`` and ``("snapshot", state id, id)``."""

PREFIX = "session:"
MOMENT = "2025-07-14T09:30:15Z"

TABLES = """
CREATE TABLE IF NOT EXISTS ag_states (state_id varchar(255) PRIMARY KEY, data jsonb NOT NULL,
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
CREATE TABLE IF NOT EXISTS ag_versions (version_id varchar(255) PRIMARY KEY, state_id varchar(255) NOT NULL,
    data jsonb NOT NULL, delta jsonb, metadata jsonb, parent_id varchar(255), created_at timestamptz DEFAULT now());
CREATE TABLE IF NOT EXISTS ag_snapshots (snapshot_id varchar(255) PRIMARY KEY, state_id varchar(255) NOT NULL,
    data jsonb NOT NULL, version_id varchar(255), metadata jsonb, created_at timestamptz DEFAULT now());
"""


def made_up(chance: random.Random, states: int, *, history: bool = True) -> Content:
    """States of up to a kilobyte, every fifth with two versions and a snapshot."""
    content: Content = {}
    for number in range(states):
        state_id = f"user-{number:05}"
        document = {"number": number, "text": "<é>"[number % 3] * chance.randrange(600), "exact": 10**20 + number}
        content["state", state_id] = document
        if history and number % 5 == 0:
            first, second = f"v1-{number}", f"v2-{number}"
            delta = [{"op": "add", "path": "/number", "value": number}]
            content["version", state_id, first] = _body(first, {}, None, None, "")
            content["version", state_id, second] = _body(second, document, delta, {"by": "test"}, first)
            snapshot = {"ID": f"s-{number}", "Timestamp": MOMENT, "State": document, "Version": second, "Metadata": {}}
            content["snapshot", state_id, f"s-{number}"] = snapshot
    return content


def _body(id_: str, state: Any, delta: Any, metadata: Any, parent: str) -> dict[str, Any]:
    values = {"Timestamp": MOMENT, "State": state, "Delta": delta, "Metadata": metadata, "ParentID": parent}
    return {"ID": id_, **values}


def fill(config: dict[str, Any], content: Content) -> None:
    """Put records into an empty place."""
    _FILL[config["type"]](config, content)


def held(config: dict[str, Any]) -> Content:
    """All records of a place, their documents as values that are equal only if every digit is."""
    return _HELD[config["type"]](config)


def as_values(content: Content) -> Content:
    """Records as `held` gives them."""
    return {key: _parsed(json.dumps(value)) for key, value in content.items()}


def _parsed(text: str | bytes) -> Any:
    number: Callable[[str], tuple[str, Decimal]] = lambda token: ("number", Decimal(token))  # noqa: E731
    return json.loads(text, parse_int=number, parse_float=number)


def _fill_keys(config: dict[str, Any], content: Content) -> None:
    with redis.Redis.from_url(config["connection_url"]) as client:
        client.mset({f"{PREFIX}{key[1]}": json.dumps(value) for key, value in content.items() if key[0] == "state"})


def _held_keys(config: dict[str, Any]) -> Content:
    with redis.Redis.from_url(config["connection_url"]) as client:
        keys = client.keys(f"{PREFIX}*")
        return {
            ("state", key.decode().removeprefix(PREFIX)): _parsed(value)
            for key, value in zip(keys, client.mget(keys) if keys else [], strict=True)
        }


def _fill_redis(config: dict[str, Any], content: Content) -> None:
    with redis.Redis.from_url(config["connection_url"]) as client, client.pipeline() as pipeline:
        for (kind, state_id, *record), value in content.items():
            pipeline.set(f"ag-ui:state:{':'.join([kind, state_id, *record])}", json.dumps(value))
            if record:
                pipeline.zadd(f"ag-ui:state:{kind}s:{state_id}", {record[0]: 1752485415})
        pipeline.execute()


def _held_redis(config: dict[str, Any]) -> Content:
    content: Content = {}
    with redis.Redis.from_url(config["connection_url"], decode_responses=True) as client:
        for key in client.keys("ag-ui:state:*"):
            family, _, rest = key.removeprefix("ag-ui:state:").partition(":")
            if family == "state":
                content["state", rest] = _parsed(client.get(key))
            elif family in ("versions", "snapshots"):
                kind = family.removesuffix("s")
                for record in client.zrange(key, 0, -1):
                    content[kind, rest, record] = _parsed(client.get(f"ag-ui:state:{kind}:{rest}:{record}") or "null")
    return content


def _fill_tables(config: dict[str, Any], content: Content) -> None:
    rows: dict[str, list[tuple[Any, ...]]] = {"state": [], "version": [], "snapshot": []}
    for (kind, state_id, *_), value in content.items():
        if kind == "state":
            rows[kind].append((state_id, json.dumps(value)))
        elif kind == "version":
            parts = (
                None if value[name] is None else json.dumps(value[name]) for name in ("State", "Delta", "Metadata")
            )
            rows[kind].append((value["ID"], state_id, *parts, value["ParentID"] or None, MOMENT))
        else:
            parts = (json.dumps(value["State"]), value["Version"], json.dumps(value["Metadata"]), MOMENT)
            rows[kind].append((value["ID"], state_id, *parts))
    with psycopg.connect(config["connection_url"], autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(TABLES)
        cursor.executemany("INSERT INTO ag_states (state_id, data) VALUES (%s, %s)", rows["state"])
        cursor.executemany("INSERT INTO ag_versions VALUES (%s, %s, %s, %s, %s, %s, %s)", rows["version"])
        cursor.executemany("INSERT INTO ag_snapshots VALUES (%s, %s, %s, %s, %s, %s)", rows["snapshot"])


def _held_tables(config: dict[str, Any]) -> Content:
    content: Content = {}
    moment = """to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""
    with psycopg.connect(config["connection_url"], autocommit=True) as connection:
        if connection.execute("SELECT to_regclass('ag_states')").fetchone() == (None,):
            return content
        for state_id, data in connection.execute("SELECT state_id, data::text FROM ag_states"):
            content["state", state_id] = _parsed(data)
        query = f"SELECT state_id, version_id, data::text, delta::text, metadata::text, parent_id, {moment} FROM ag_versions"
        for state_id, id_, data, delta, metadata, parent, at in connection.execute(query):
            state, changes, more = (None if text is None else _parsed(text) for text in (data, delta, metadata))
            content["version", state_id, id_] = _body(id_, state, changes, more, parent or "") | {"Timestamp": at}
        query = f"SELECT state_id, snapshot_id, data::text, version_id, metadata::text, {moment} FROM ag_snapshots"
        for state_id, id_, data, version, metadata, at in connection.execute(query):
            body = {
                "ID": id_,
                "Timestamp": at,
                "State": _parsed(data),
                "Version": version,
                "Metadata": _parsed(metadata),
            }
            content["snapshot", state_id, id_] = body
    return content


def _fill_files(config: dict[str, Any], content: Content) -> None:
    base = Path(config["file_options"]["base_dir"])
    for (kind, state_id, *record), value in content.items():
        file = base / f"{kind}s" / f"{record[0] if record else state_id}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value if kind == "state" else {**value, "StateID": state_id}))


def _held_files(config: dict[str, Any]) -> Content:
    content: Content = {}
    base = Path(config["file_options"]["base_dir"])
    for file in base.glob("states/*.json"):
        content["state", file.stem] = _parsed(file.read_bytes())
    for kind in ("version", "snapshot"):
        for file in base.glob(f"{kind}s/*.json"):
            value = _parsed(file.read_bytes())
            content[kind, value.pop("StateID"), value["ID"]] = value
    return content


_FILL = {"redis_keys": _fill_keys, "redis": _fill_redis, "postgresql": _fill_tables, "file": _fill_files}
_HELD = {"redis_keys": _held_keys, "redis": _held_redis, "postgresql": _held_tables, "file": _held_files}
