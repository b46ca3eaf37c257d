from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from agui_pipelines import ledger as ledger_module
from agui_pipelines.errors import StagingError
from agui_pipelines.ledger import Entry, Ledger
from agui_pipelines.staging import Workspace


@pytest.fixture(params=["path", "memory URL"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path) if request.param == "path" else f"memory://{uuid.uuid4().hex}", "m")


@pytest.fixture
def local(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path), "m")


def units(ledger: Ledger) -> list[str]:
    return [entry.unit for entry in ledger.entries()]


def test_an_entry_is_given_its_time_and_found_again(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    recorded = ledger.record(Entry("export", "plan-1", "00", "basis", {"rejects": 0, "ids": ["é"]}))
    assert recorded.at.endswith("+00:00")
    assert ledger.entries() == [recorded]
    assert Ledger(workspace).entries() == [recorded]


def test_a_new_ledger_is_empty(workspace: Workspace) -> None:
    assert Ledger(workspace).entries() == []
    assert Ledger(workspace).last("plan") is None


def test_entries_are_found_by_phase_plan_unit_and_basis(local: Workspace) -> None:
    ledger = Ledger(local)
    for phase, plan, unit, basis in [
        ("export", "p1", "00", "a"),
        ("export", "p1", "01", "a"),
        ("export", "p2", "00", "b"),
        ("import", "p1", "00", "a"),
        ("export", "p1", "00", "c"),
    ]:
        ledger.record(Entry(phase, plan, unit, basis))
    assert [e.unit for e in ledger.entries(phase="export", plan_id="p1")] == ["00", "01", "00"]
    assert len(ledger.entries(phase="import")) == 1
    assert len(ledger.entries(plan_id="p2")) == 1

    def basis(**which: str) -> str | None:
        found = ledger.last("export", **which)
        return found.basis if found else None

    assert basis() == "c"
    assert basis(plan_id="p2") == "b"
    assert basis(unit="01") == "a"
    assert basis(unit="00", basis="a", plan_id="p1") == "a"
    assert basis(unit="00", basis="zz") is None
    assert basis(plan_id="p3") is None


def test_the_whole_of_a_phase_is_another_unit_than_its_parts(local: Workspace) -> None:
    ledger = Ledger(local)
    ledger.record(Entry("export", "p", "00"))
    assert ledger.last("export", unit="") is None
    assert ledger.last("export", unit="00") is not None


def test_order_survives_reopening(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    for i in range(30):
        ledger.record(Entry("zyx"[i % 3], "plan", str(i)))
    assert units(ledger) == [str(i) for i in range(30)]
    assert units(Ledger(workspace)) == [str(i) for i in range(30)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A clock that goes backwards by ten minutes each time that it is looked at."""
    hands = SimpleNamespace(now=10**18)

    def time_ns() -> int:
        hands.now -= 600 * 10**9
        return int(hands.now)

    monkeypatch.setattr(ledger_module, "time", SimpleNamespace(time_ns=time_ns))
    return hands


@pytest.mark.usefixtures("clock")
def test_order_survives_a_clock_that_goes_backwards(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    for i in range(5):
        ledger.record(Entry("b" if i % 2 else "a", "plan", str(i)))
    assert units(ledger) == units(Ledger(workspace)) == ["0", "1", "2", "3", "4"]


@pytest.mark.usefixtures("clock")
def test_order_survives_a_clock_that_goes_backwards_between_two_runs(workspace: Workspace) -> None:
    for i in range(5):
        Ledger(workspace).record(Entry("b" if i % 2 else "a", "plan", str(i)))
    assert units(Ledger(workspace)) == ["0", "1", "2", "3", "4"]


@pytest.mark.usefixtures("clock")
def test_two_ledgers_on_one_folder_see_each_others_entries_in_order(workspace: Workspace) -> None:
    one, other = Ledger(workspace), Ledger(workspace)
    for i in range(6):
        (one if i % 2 else other).record(Entry("p", "plan", str(i)))
    assert units(one) == units(other) == ["0", "1", "2", "3", "4", "5"]


def test_a_clock_that_stands_still_does_not_merge_entries(local: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "time", SimpleNamespace(time_ns=lambda: 10**18))
    one, other = Ledger(local), Ledger(local)
    for ledger in (one, other, one):
        ledger.record(Entry("same", "plan", "unit"))
    assert len(Ledger(local).entries()) == 3


def test_entries_recorded_at_once_by_threads_and_by_two_ledgers_are_all_kept(local: Workspace) -> None:
    ledgers = [Ledger(local), Ledger(local)]
    begin = threading.Barrier(8)

    def record(worker: int) -> None:
        begin.wait()
        for i in range(12):
            ledgers[worker % 2].record(Entry("p", "plan", f"{worker}-{i}"))

    threads = [threading.Thread(target=record, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = units(Ledger(local))
    assert sorted(found) == sorted(f"{worker}-{i}" for worker in range(8) for i in range(12))
    assert sorted(units(ledgers[0])) == sorted(units(ledgers[1])) == sorted(found)
    for worker in range(8):
        assert [u for u in found if u.startswith(f"{worker}-")] == [f"{worker}-{i}" for i in range(12)]


@pytest.mark.usefixtures("clock")
def test_two_ledgers_that_want_one_name_keep_both_entries(local: Workspace) -> None:
    one, other = Ledger(local), Ledger(local)
    one.record(Entry("p", "plan", "first"))
    other.entries()
    # Both now know the same last entry; neither sees the other's next one until it records its own.
    begin = threading.Barrier(2)

    def record(ledger: Ledger) -> None:
        begin.wait()
        ledger.record(Entry("p", "plan", "same"))

    threads = [threading.Thread(target=record, args=(ledger,)) for ledger in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert units(Ledger(local)) == ["first", "same", "same"]


def test_a_unit_may_be_a_path(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    ledger.record(Entry("import_segment", "plan", "00/exported-00-1/state-00000.parquet"))
    assert units(Ledger(workspace)) == ["00/exported-00-1/state-00000.parquet"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{}", b"[]", b"null", b'{"phase":"p"}', b'{"phase":"p","plan_id":"x","surprise":1}', b"\xff"],
)
def test_a_damaged_entry_is_a_staging_error_that_names_it(workspace: Workspace, content: bytes) -> None:
    ledger = Ledger(workspace)
    ledger.record(Entry("export", "plan"))
    (name,) = workspace.names("ledger")
    workspace.write(f"ledger/{name}", content)
    for attempt in (Ledger(workspace).entries, lambda: Ledger(workspace).record(Entry("p", "plan"))):
        with pytest.raises(StagingError, match=f"{name} is damaged"):
            attempt()
    assert ledger.entries()[0].phase == "export"  # who has read it already need not read it again


def test_an_entry_under_a_name_that_tells_no_time_is_a_staging_error(local: Workspace) -> None:
    # Somebody copied an entry by hand; where it stands in the order cannot be known.
    Ledger(local).record(Entry("export", "plan"))
    (name,) = local.names("ledger")
    local.write("ledger/copy of it.json", local.read(f"ledger/{name}"))
    with pytest.raises(StagingError, match=r"copy of it\.json"):
        Ledger(local).entries()


def test_files_that_are_no_entries_are_passed_over(local: Workspace) -> None:
    Ledger(local).record(Entry("export", "plan"))
    local.write("ledger/notes.txt", b"hello")
    (Path(str(local.path("ledger"))) / ".00000000000000000001-p.json.abcd.tmp").write_bytes(b"half")
    assert len(Ledger(local).entries()) == 1


def test_an_entry_is_one_readable_json_file(local: Workspace) -> None:
    Ledger(local).record(Entry("export", "plan-1", "00", outputs={"records": 3}))
    (name,) = local.names("ledger")
    assert name.endswith("-export-00.json")
    values = orjson.loads(local.read(f"ledger/{name}"))
    assert (values["phase"], values["plan_id"], values["outputs"]) == ("export", "plan-1", {"records": 3})
