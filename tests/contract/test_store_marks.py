"""What a store says of itself, beside its records: its version, which schema migrations were applied, and who is live."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest

from agui_pipelines.errors import LockLostError
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.owner import Owner
from agui_pipelines.records import Kind


def everything(store):
    file = io.BytesIO()
    write_catalogue(store.keys(), file)
    [key_range] = cut(file, 1)
    found = {
        kind: [
            row
            for batch in store.read(kind, Span(key_range, pq.ParquetFile(file)), pytest.fail)
            for row in batch.to_pylist()
        ]
        for kind in Kind
    }
    return {kind: rows for kind, rows in found.items() if rows}


def test_a_new_store_says_nothing_of_itself(store):
    assert (store.version(), store.applied(), store.live()) == (None, None, None)


def test_a_store_that_is_not_there_says_nothing_and_lacks_what_it_needs(backend):
    store = backend.open(backend.fresh())
    assert (store.version(), store.applied(), store.live()) == (None, None, None)
    assert bool(store.lacking()) == (backend.name != "redis")
    store.prepare()
    assert store.lacking() == ()


def test_what_a_store_says_is_seen_by_others_and_can_be_changed_and_removed(store, other):
    store.set_version("1.0.0")
    store.set_version("2.1.0")
    store.set_applied(b'{"applied":[]}')
    store.set_live(b'{"live":"other"}')
    store.set_live(b'{"live":"this","note":"\\u0000 \xc3\xbc"}')
    said = "2.1.0", b'{"applied":[]}', b'{"live":"this","note":"\\u0000 \xc3\xbc"}'
    assert (other.version(), other.applied(), other.live()) == said
    other.set_version(None)
    assert (store.version(), store.applied(), store.live()) == (None, *said[1:])
    other.set_applied(None)
    other.set_live(None)
    other.set_version(None)
    other.set_live(None)
    assert (store.version(), store.applied(), store.live()) == (None, None, None)


def test_no_reader_takes_it_for_a_record(store):
    store.set_version("2.1.0")
    store.set_applied(b"{}")
    store.set_live(b"{}")
    assert everything(store) == {}
    assert list(store.list_states()) == []
    stats = store.stats()
    assert (stats.states, stats.versions, stats.snapshots) == (0, 0, 0)


def test_whoever_lost_the_lock_changes_nothing_of_it(store, other):
    store.set_version("2.0.0")
    lease = other.lock(Owner.here("another"), 60)
    store.fence("a token that nobody has")
    for change in (
        lambda: store.set_version("2.1.0"),
        lambda: store.set_applied(b"{}"),
        lambda: store.set_live(b"{}"),
    ):
        with pytest.raises(LockLostError):
            change()
    assert (other.version(), other.applied(), other.live()) == ("2.0.0", None, None)
    lease.release()
