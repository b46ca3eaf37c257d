"""The smoke test of a target: it passes on every store, notices what does not hold, and leaves nothing behind."""

from __future__ import annotations

import pyarrow as pa
import pytest

from agui_pipelines import spec
from agui_pipelines.errors import StoreError, ValidationFailedError
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.smoke import BEGUN, RESERVED, remove_leftovers, smoke
from agui_pipelines.ports import Snapshot, Version
from agui_pipelines.records import Kind
from tests.cases import thinned

LEFT = f"{RESERVED}00112233aabbccdd"
STORES = ["file", "redis", "postgresql"]
TIME = "2026-01-02T03:04:05Z"


@pytest.fixture(params=STORES)
def session(request, tmp_path):
    """A migration whose target is prepared and holds one state of somebody's."""
    if request.param == "file":
        target = {"type": "file", "file_options": {"base_dir": str(tmp_path / "store")}}
    else:
        fixture = {"redis": "redis_url", "postgresql": "postgres_url"}[request.param]
        target = {"type": request.param, "connection_url": request.getfixturevalue(fixture)}
    source = {"type": "redis_keys", "connection_url": "redis://127.0.0.1:1/0"}
    text = {"name": "smoked", "source": source, "target": target, "workspace": str(tmp_path / "workspace")}
    opened = Session.open(spec.parse(text, folder=tmp_path))
    with opened.target() as target:
        target.prepare()
        target.set_state("theirs", b'{"a":1}')
    return opened


def counts(session):
    with session.target() as target:
        stats = target.stats()
        return stats.states, stats.versions, stats.snapshots


def test_every_store_passes_and_is_as_it_was(session):
    report = smoke(session)

    assert report.id.startswith(RESERVED)
    assert report.kinds == ("state", "version", "snapshot")
    assert report.removed == ()
    assert counts(session) == (1, 0, 0)
    [entry] = session.ledger.entries(phase="smoke")
    assert (entry.unit, entry.outputs["passed"]) == (report.id, True)


def test_what_a_killed_test_has_left_is_removed_by_the_next_one(session):
    session.ledger.record(Entry(BEGUN, "", LEFT))
    with session.target() as target:
        target.set_state(LEFT, b"{}")
        target.save_version(Version(LEFT, LEFT, TIME, b"{}"))
        target.save_snapshot(Snapshot(LEFT, LEFT, TIME, b"{}"))
    assert counts(session) == (2, 1, 1)

    assert smoke(session).removed == (LEFT,)
    assert counts(session) == (1, 0, 0)
    assert remove_leftovers(session) == ()


def test_of_one_that_was_killed_before_it_wrote_there_is_nothing_to_remove(session):
    session.ledger.record(Entry(BEGUN, "", LEFT))

    assert remove_leftovers(session) == ()
    assert len(session.ledger.entries(phase="smoke")) == 1


def another_document(store, kind, batch):
    index = batch.schema.get_field_index("data")
    data = pa.array([b'{"exact":0.1}'], pa.binary())
    type(store).written(store, kind, batch.set_column(index, batch.schema.field(index), data))


def nothing(store, kind, batch):
    pass


def half(store, kind, batch):
    type(store).written(store, kind, batch)
    if kind is Kind.VERSION:
        raise StoreError("The disk is full.")


FAILURES = {
    "another document": (another_document, ValidationFailedError, "reading it gave something else"),
    "nothing": (nothing, ValidationFailedError, "reading it gave nothing"),
    "half": (half, StoreError, "The disk is full"),
}


@pytest.mark.parametrize(("session", "failure"), thinned(STORES, FAILURES), indirect=["session"])
def test_a_store_that_does_not_keep_what_it_is_given_fails_and_nothing_is_left(session, monkeypatch, failure):
    write, error, told = FAILURES[failure]
    with session.target() as target:
        kind = type(target)
    monkeypatch.setattr(kind, "written", kind.write, raising=False)
    monkeypatch.setattr(kind, "write", write)

    with pytest.raises(error, match=told):
        smoke(session)
    assert counts(session) == (1, 0, 0)
    assert remove_leftovers(session) == ()


def test_a_store_that_removes_nothing_fails_and_the_next_test_removes_it(session, monkeypatch):
    with session.target() as target:
        kind = type(target)
    with monkeypatch.context() as patched:
        patched.setattr(kind, "remove", lambda *_: 0)
        with pytest.raises(ValidationFailedError, match="something still, after it was removed"):
            smoke(session)
    assert counts(session) == (2, 1, 1)
    smoke(session)
    assert counts(session) == (1, 0, 0)
