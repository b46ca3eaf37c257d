from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from agui_pipelines import progress as progress_module
from agui_pipelines.progress import Meter, Progress, silent

NEVER = 1e12


def test_a_meter_counts_records_and_bytes() -> None:
    meter = Meter("export", silent, total=10)
    meter.add(3, 100)
    meter.add(4)
    progress = meter.now()
    assert (progress.phase, progress.done, progress.total, progress.bytes) == ("export", 7, 10, 100)
    assert progress.seconds >= 0


def test_the_listener_is_told_every_step_when_the_interval_is_nothing() -> None:
    told: list[Progress] = []
    meter = Meter("export", told.append, interval=0)
    for _ in range(3):
        meter.add(2)
    assert [progress.done for progress in told] == [2, 4, 6]


def test_the_listener_is_not_told_again_within_the_interval_but_always_at_the_end() -> None:
    told: list[Progress] = []
    meter = Meter("export", told.append, interval=NEVER)
    for _ in range(100):
        meter.add(1)
    assert told == []
    assert meter.finish() == told[0]
    assert [progress.done for progress in told] == [100]


def test_the_listener_is_told_again_when_the_interval_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    told: list[int] = []
    meter = Meter("export", lambda progress: told.append(progress.done), interval=10)
    for now in (1000.0, 1000.0, 1005.0, 1009.9, 1010.0, 1011.0, 1030.0):
        clock.now = now
        meter.add(1)
    assert told == [1, 5, 7]


def test_counts_from_several_threads_add_up() -> None:
    told: list[Progress] = []
    meter = Meter("import", told.append, interval=0)
    threads = [threading.Thread(target=lambda: [meter.add(1, 2) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (meter.done, meter.bytes) == (4000, 8000)
    assert sorted(progress.done for progress in told) == list(range(1, 4001))


def test_the_rate_is_records_per_second_and_nothing_before_any_time_has_passed() -> None:
    assert Progress("p", 10, None, 0, 4.0).rate == 2.5
    assert Progress("p", 10, None, 0, 0.0).rate == 0.0


def test_what_was_counted_provisionally_is_taken_back_after_an_error() -> None:
    meter = Meter("export", silent)
    meter.add(1, 10)
    with meter.provisional() as count:
        count(2, 20)
    with pytest.raises(ZeroDivisionError), meter.provisional() as count:
        count(4, 40)
        raise ZeroDivisionError
    assert (meter.done, meter.bytes) == (3, 30)


def test_a_note_is_told_at_once_and_only_once() -> None:
    told: list[Progress] = []
    meter = Meter("export", told.append, interval=NEVER)
    meter.add(3)
    meter.tell("A connection broke.")
    assert [(progress.note, progress.done) for progress in told] == [("A connection broke.", 3)]
    assert meter.finish().note == ""
