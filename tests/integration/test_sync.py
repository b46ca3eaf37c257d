"""Sync: what changes at the source after an import comes to the target, and what is gone goes; see `phases.sync`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from agui_pipelines.phases.changes import changes_since, fingerprint_of_source
from agui_pipelines.phases.cursor import current_cursor
from agui_pipelines.phases.sync import SyncReport, sync
from agui_pipelines.ports import Snapshot, Store, Version
from tests.integration.conftest import Move, PostgresTarget


def document(number: int) -> bytes:
    return json.dumps({"n": number}).encode()


def synced(move: Move, **options: Any) -> SyncReport:
    return sync(move.session(), **options)


def test_changes_of_keys_come_to_the_target_and_nothing_else_is_touched(
    move: Move, legacy: redis.Redis, target: PostgresTarget
) -> None:
    for number in range(20):
        legacy.set(f"session:{number}", document(number))
    move.run()
    assert synced(move).round_id == ""

    legacy.set("session:1", document(101))
    legacy.set("session:new", document(7))
    legacy.delete("session:2")
    report = synced(move)
    assert (report.created, report.updated, report.deleted, report.changed) == (1, 1, 1, 3)
    found = target.documents()
    assert {id_: json.loads(text) for id_, text in found.items()} == {
        **{str(number): {"n": number} for number in range(20) if number not in (1, 2)},
        "1": {"n": 101},
        "new": {"n": 7},
    }
    again = synced(move)
    assert (again.changes, again.checked, again.complete) == (0, 20, True)
