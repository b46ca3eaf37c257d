"""The lock of a store: one owner at a time, and nothing is written by one who is not the owner any more."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis

from agui_pipelines.errors import LockedError, LockLostError
from agui_pipelines.owner import Owner
from agui_pipelines.ports import Lease, Snapshot, Store, Version
from agui_pipelines.records import Kind
from tests.contract.test_store_contract import (
    TIME,
    batch,
    everything,
    ids,
    keys,
    snapshot_row,
    state_row,
    states,
    version_row,
)

if TYPE_CHECKING:
    from tests.contract.conftest import Backend

LONG = 60.0
SHORT = 0.5


def owner(name: str = "mine", **changes: Any) -> Owner:
    """An owner that lives: this process, or one of another machine."""
    return replace(Owner.here(name), **changes)


@pytest.fixture
def elsewhere() -> Owner:
    """An owner on another machine, of which nobody can tell from here whether it lives."""
    return owner("theirs", host="far-away", machine="another", process=4711)


@pytest.fixture
def dead() -> Owner:
    """An owner whose process was killed on this machine."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        lived = owner("theirs", process=process.pid, started=_started(process.pid))
        assert not lived.is_gone()
        process.kill()
    return lived


def _started(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]


def own(store: Store, holder: Store, seconds: float = LONG) -> Lease:
    """Take the lock by `holder`, and have `store` write behind its fence."""
    mine = owner()
    lease = holder.lock(mine, seconds)
    store.fence(mine.token)
    return lease


def test_a_second_owner_is_refused_by_the_name_and_age_of_the_first(store: Store, other: Store) -> None:
    first = owner("first-migration")
    lease = store.lock(first, LONG)
    with pytest.raises(LockedError) as caught:
        other.lock(owner("second"), LONG)
    assert "'first-migration'" in caught.value.message
    assert f"process {first.process} on {first.host}" in caught.value.message
    assert first.since in caught.value.message
    assert "for 0 s" in caught.value.message or "for 1 s" in caught.value.message
    assert caught.value.data["expires_in"] == pytest.approx(LONG, abs=10)
    assert caught.value.exit_code == 3
    lease.release()
    other.lock(owner("second"), LONG).release()


def test_what_is_released_can_be_taken_at_once_and_released_twice(store: Store, other: Store) -> None:
    for _ in range(3):
        lease = store.lock(owner(), LONG)
        lease.release()
        lease.release()
        other.lock(owner(), LONG).release()


def test_an_old_lease_that_is_released_leaves_the_next_owner_his(store: Store, other: Store, backend: Backend) -> None:
    old = store.lock(owner(), SHORT)
    time.sleep(SHORT * 1.5)
    other.lock(owner("next"), LONG)
    old.release()
    with closing(backend.open()) as third, pytest.raises(LockedError, match="'next'"):
        third.lock(owner(), LONG)


def test_a_lock_that_is_renewed_outlives_its_time(store: Store, other: Store) -> None:
    lease = store.lock(owner(), SHORT)
    for _ in range(6):
        time.sleep(SHORT / 3)
        lease.renew()
    with pytest.raises(LockedError):
        other.lock(owner(), LONG)


def test_an_owner_elsewhere_keeps_the_lock_until_it_expires(store: Store, other: Store, elsewhere: Owner) -> None:
    store.lock(elsewhere, SHORT)
    with pytest.raises(LockedError, match="far-away"):
        other.lock(owner(), LONG)
    time.sleep(SHORT * 1.5)
    other.lock(owner(), LONG).release()


def test_an_owner_that_died_here_is_followed_at_once(store: Store, other: Store, dead: Owner) -> None:
    store.lock(dead, LONG)
    other.lock(owner(), LONG).release()


def test_an_owner_whose_process_id_another_process_has_by_now_is_followed_at_once(store: Store, other: Store) -> None:
    store.lock(owner("theirs", started="0"), LONG)
    other.lock(owner(), LONG).release()


def test_who_only_looks_is_told_who_has_the_lock_and_takes_nothing(
    store: Store, other: Store, backend: Backend, elsewhere: Owner
) -> None:
    before = traces(backend)
    store.require_unlocked()
    assert traces(backend) == before

    lease = other.lock(owner("first"), LONG)
    with pytest.raises(LockedError, match="'first'"):
        store.require_unlocked()
    lease.renew()
    lease.release()
    store.require_unlocked()

    other.lock(elsewhere, SHORT)
    with pytest.raises(LockedError, match="far-away"):
        store.require_unlocked()
    time.sleep(SHORT * 1.5)
    store.require_unlocked()  # it has expired


def test_a_lock_of_one_that_died_is_none_to_who_only_looks(store: Store, other: Store, dead: Owner) -> None:
    store.lock(dead, LONG)
    other.require_unlocked()


@pytest.mark.parametrize("before", ["nobody", "dead"])
def test_of_many_that_come_at_once_one_gets_the_lock(store: Store, backend: Backend, dead: Owner, before: str) -> None:
    if before == "dead":
        store.lock(dead, LONG)
    start = threading.Barrier(6)
    got: list[str] = []
    refused: list[str] = []

    def come(number: int) -> None:
        with closing(backend.open()) as mine:
            start.wait()
            try:
                mine.lock(owner(str(number)), LONG)
                got.append(str(number))
            except LockedError:
                refused.append(str(number))
            start.wait()  # nobody hangs up before all have tried

    threads = [threading.Thread(target=come, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)


def transact(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.set_state("second", b"{}")
        transaction.delete_state("new")


CHANGES: dict[str, Callable[[Store], object]] = {
    "write": lambda store: store.write(Kind.STATE, batch(Kind.STATE, state_row("new"))),
    "write again": lambda store: store.write(Kind.STATE, batch(Kind.STATE, state_row("old", b'{"n":2}'))),
    "write versions": lambda store: store.write(Kind.VERSION, batch(Kind.VERSION, version_row("new", "v"))),
    "write snapshots": lambda store: store.write(Kind.SNAPSHOT, batch(Kind.SNAPSHOT, snapshot_row("new", "s"))),
    "remove": lambda store: store.remove(Kind.STATE, ids(Kind.STATE, ("old",))),
    "remove versions": lambda store: store.remove(Kind.VERSION, ids(Kind.VERSION, ("old", "v0"))),
    "prepare": lambda store: store.prepare(),
    "set": lambda store: store.set_state("third", b"{}"),
    "delete": lambda store: store.delete_state("third"),
    "save a version": lambda store: store.save_version(Version("v2", "new", TIME, b"{}")),
    "save a snapshot": lambda store: store.save_snapshot(Snapshot("s2", "new", TIME, b"{}")),
    "transaction": transact,
}


def content(store: Store) -> list[Any]:
    return [sorted(everything(store, kind), key=str) for kind in Kind]


def without_times(store: Store) -> list[Any]:
    return [[{**row, "created_at": None, "updated_at": None} for row in rows] for rows in content(store)]


@pytest.fixture
def filled(store: Store) -> Store:
    store.set_state("old", b'{"n":1}')
    store.save_version(Version("v0", "old", TIME, b"{}"))
    return store


def test_the_owner_can_change_everything(store: Store, other: Store, backend: Backend) -> None:
    lease = own(store, other)
    with closing(backend.open(backend.fresh())) as plain:
        plain.prepare()
        for change in CHANGES.values():
            assert change(store) == change(plain)
        assert without_times(store) == without_times(plain)
        assert [len(rows) for rows in content(store)] == [1, 2, 2]
    lease.release()


@pytest.mark.parametrize("loss", ["released", "expired", "taken over"])
def test_who_lost_the_lock_changes_nothing(filled: Store, other: Store, backend: Backend, loss: str) -> None:
    lease = own(filled, other, LONG if loss == "released" else SHORT)
    before = content(filled)
    if loss == "released":
        lease.release()
    else:
        time.sleep(SHORT * 1.2)
    with closing(backend.open()) as third:
        if loss == "taken over":
            third.lock(owner("theirs"), LONG)
        for name, change in CHANGES.items():
            if (name, backend.name) == ("prepare", "redis"):
                continue  # there is nothing to prepare
            with pytest.raises(LockLostError):
                change(filled)
        with pytest.raises(LockLostError):
            lease.renew()
    assert content(filled) == before


def test_counts_are_the_same_behind_a_fence(filled: Store, other: Store) -> None:
    lease = own(filled, other)
    rows = batch(Kind.STATE, state_row("old", b'{"n":1}'), state_row("new", b"{}"))
    assert filled.write(Kind.STATE, rows).inserted == 1
    written = filled.write(Kind.STATE, batch(Kind.STATE, state_row("old", b'{"n":3}'), state_row("new", b"{}")))
    assert (written.inserted, written.updated, written.unchanged) == (0, 1, 1)
    assert filled.remove(Kind.STATE, ids(Kind.STATE, ("old",), ("absent",))) == 1
    assert filled.remove(Kind.VERSION, ids(Kind.VERSION, ("old", "v0"), ("old", "absent"))) == 1
    assert filled.delete_state("new")
    assert not filled.delete_state("new")
    lease.release()


def test_a_renewal_does_not_disturb_who_writes(store: Store, other: Store) -> None:
    lease = own(store, other)
    stop = threading.Event()

    def renew() -> None:
        while not stop.is_set():
            lease.renew()

    thread = threading.Thread(target=renew)
    thread.start()
    for i in range(50):
        store.write(Kind.STATE, batch(Kind.STATE, state_row(f"s{i}"), state_row(f"t{i}")))
    stop.set()
    thread.join()
    assert len(states(store)) == 100
    lease.release()


def test_the_lock_is_no_record(filled: Store, other: Store, backend: Backend) -> None:
    before = content(filled), keys(filled), list(filled.list_states())
    counts = filled.stats()
    lease = own(filled, other)
    with closing(backend.open()) as third:
        third.check()
        assert (content(third), keys(third), list(third.list_states())) == before
        stats = third.stats()
        assert (stats.states, stats.versions, stats.snapshots) == (counts.states, counts.versions, counts.snapshots)
    lease.release()


def test_nothing_of_a_lock_is_left_where_nothing_was(backend: Backend) -> None:
    with closing(backend.open()) as store:
        before = traces(backend)
        lease = store.lock(owner(), LONG)
        assert traces(backend) != before
        lease.release()
        assert traces(backend) == before


def traces(backend: Backend) -> set[str]:
    """What there is of the store, down to tables, keys and files."""
    config: Any = backend.config
    if backend.name == "redis":
        with redis.Redis.from_url(config.connection_url.get_secret_value()) as client:
            return {key.decode() for key in client.scan_iter()}
    if backend.name == "postgresql":
        with psycopg.connect(config.connection_url.get_secret_value()) as connection:
            rows = connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'ag\\_%'").fetchall()
            return {name for (name,) in rows}
    base = config.file_options.base_dir
    return {str(path) for path in (base, *base.rglob("*")) if path.exists()}
