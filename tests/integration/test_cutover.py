"""A cutover in real stores: the whole way there and back, and what becomes of one that fails at each place."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime, timedelta

import pytest

from agui_pipelines.errors import CutoverError, RefusedError, StagingError
from agui_pipelines.phases import cutover as cutovers
from agui_pipelines.phases.cutover import Asked, cutover, rehearse
from agui_pipelines.phases.sync import sync
from agui_pipelines.ports import Snapshot, Version
from tests.cases import thinned

STATES = 30
AT = "2025-07-14T09:30:10Z"
STOPPED = Asked(source_is_stopped=True)
BACK = Asked(back=True, source_is_stopped=True)


def document(number, **more):
    return json.dumps({"number": number, "exact": 1.10, **more}).encode()


def put(store, number, **more):
    data = document(number, **more)
    store.set_state(f"{number:03}", data)
    version = f"v{len(store.get_version_history(f'{number:03}'))}-{number}"
    store.save_version(Version(version, f"{number:03}", AT, data, None, None, ""))


def held(store):
    """Every record of a store, as values."""
    return {
        state_id: (
            json.loads(store.get_state(state_id)),
            {v.version_id: json.loads(v.data) for v in store.get_version_history(state_id)},
            {s.snapshot_id: json.loads(s.data) for s in store.list_snapshots(state_id)},
        )
        for state_id in store.list_states()
    }


def said(store):
    """Whether a store says that it is live."""
    record = store.live()
    return None if record is None else json.loads(record)["live"]


@pytest.fixture
def ends(migration, config, opened):
    """A migration that was run, between two stores of some kinds, and both of them."""

    def make(source, target, **more):
        there = config(source, "source")
        store = opened(there)
        for number in range(STATES):
            put(store, number)
        store.save_snapshot(Snapshot("s", "000", AT, document(0), "v0-0", None))
        move = migration(source=there, target=config(target, "target"), ranges=2, **more)
        assert move.run().validation.passed
        return move, store, opened(move.text["target"])

    return make


@pytest.fixture
def hooks(tmp_path):
    """Hooks that write down that they ran, and for which side; `failing` ones end with 1."""

    def make(*names, failing=(), then=""):
        def command(name):
            code = f"echo {name} $AGUI_SIDE >> hooks.log; {then if name in names[-1:] else ''}"
            return ["sh", "-c", f"{code} exit {1 if name in failing else 0}"]

        return {name: command(name) for name in names}

    return make


@pytest.fixture
def ran(tmp_path):
    def lines():
        log = tmp_path / "hooks.log"
        return log.read_text().splitlines() if log.exists() else []

    return lines


ALL = ("stop", "start", "switch", "acceptance")


@pytest.mark.parametrize(
    ("source", "target"),
    [("redis", "postgresql"), ("file", "postgresql"), pytest.param("postgresql", "redis", marks=pytest.mark.long)],
)
def test_there_and_back_and_there_again_with_nothing_lost(ends, hooks, ran, source, target):
    move, old, new = ends(source, target, hooks=hooks(*ALL))
    put(old, 1, changed=True)
    put(old, STATES)
    old.delete_state("002")

    report = cutover(move.session(), Asked())

    assert (report.outcome, report.live) == ("done", "target")
    assert (said(new), said(old)) == ("this", "other")
    assert ran() == ["stop source", "switch target", "acceptance target"]
    assert held(new) == held(old)
    with pytest.raises(RefusedError, match="live since its cutover"):
        cutover(move.session(), Asked())

    put(new, 3, new_side=True)
    put(new, STATES + 1)
    new.delete_state("004")
    back = cutover(move.session(), Asked(back=True))

    assert (back.outcome, back.live) == ("done", "source")
    assert (said(new), said(old)) == ("other", "this")
    assert ran()[3:] == ["stop target", "switch source", "acceptance source"]
    assert "004" not in set(old.list_states())
    assert json.loads(old.get_state("003"))["new_side"]
    assert held(old) == held(new)

    put(old, 3, old_side=True)  # which the way back had brought
    assert cutover(move.session(), Asked()).live == "target"
    assert held(new) == held(old)
