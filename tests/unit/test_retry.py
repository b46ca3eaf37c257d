"""What may pass is tried again, so often and no more; what does not pass, and a run that ends, are heeded at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agui_pipelines import spec
from agui_pipelines.errors import (
    ConnectionFailedError,
    InterruptedConnectionError,
    MigrationError,
    StoppedError,
    StoreBusyError,
    StoreError,
    UnreachableError,
)
from agui_pipelines.phases import retry
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.progress import Meter, Progress


@pytest.fixture
def told() -> list[Progress]:
    return []


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)
    place = {"type": "file", "file_options": {"base_dir": str(tmp_path)}}

    def open_(**limits: Any) -> Session:
        return Session.open(
            spec.parse({"name": "x", "source": place, "target": place, "limits": limits}, folder=tmp_path)
        )

    return open_


class Failing:
    """Fails so many times, each time with an error like the given one, and then gives the number of the call."""

    def __init__(self, error: Exception, times: int) -> None:
        self._error, self._times, self.calls = error, times, 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return self.calls


@pytest.mark.parametrize("error", [InterruptedConnectionError, StoreBusyError, UnreachableError])
def test_what_may_pass_is_tried_again_and_told(
    session: Callable[..., Session], told: list[Progress], error: type[MigrationError]
) -> None:
    work = Failing(error("It broke.", remedy="Try again."), 2)
    assert retried(session(), Meter("import", told.append), work) == 3
    assert [progress.note for progress in told] == [
        "It broke. Trying again in 0.0 s (1 of 7).",
        "It broke. Trying again in 0.0 s (2 of 7).",
    ]


@pytest.mark.parametrize("error", [StoreError("full"), ConnectionFailedError("wrong password"), ValueError("a defect")])
def test_what_does_not_pass_is_raised_at_once(
    session: Callable[..., Session], told: list[Progress], error: Exception
) -> None:
    work = Failing(error, 1)
    with pytest.raises(type(error)) as caught:
        retried(session(), Meter("import", told.append), work)
    assert caught.value is error
    assert work.calls == 1
    assert told == []


@pytest.mark.parametrize("retries", [0, 3])
def test_the_error_itself_is_raised_when_all_tries_are_used_up(
    session: Callable[..., Session], told: list[Progress], retries: int
) -> None:
    error = StoreBusyError("locked")
    work = Failing(error, 100)
    with pytest.raises(StoreBusyError) as caught:
        retried(session(retries=retries), Meter("import", told.append), work)
    assert caught.value is error
    assert work.calls == 1 + retries
    assert len(told) == retries


def test_the_waits_grow_and_are_bounded(session: Callable[..., Session], told: list[Progress]) -> None:
    class Waits(threading.Event):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[float] = []

        def wait(self, timeout: float | None = None) -> bool:
            self.asked.append(timeout or 0.0)
            return False

    waits = Waits()
    opened = session(retries=100)
    patient = Session(opened.migration, opened.workspace, opened.ledger, stop=waits)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoreBusyError):
        patch.setattr(retry, "FIRST_WAIT", 1.0)
        retried(patient, Meter("import", told.append), Failing(StoreBusyError("locked"), 1000))
    assert len(set(waits.asked)) == 100
    assert all(0 <= wait <= min(2**number, retry.LONGEST_WAIT) for number, wait in enumerate(waits.asked))
    assert max(waits.asked) > retry.LONGEST_WAIT / 2


def test_a_run_that_ends_is_not_waited_out(session: Callable[..., Session]) -> None:
    opened = session()
    work = Failing(StoreBusyError("locked"), 100)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(retry, "FIRST_WAIT", 1e6)
        patch.setattr(retry, "LONGEST_WAIT", 1e6)
        retried(opened, Meter("import", lambda _: opened.stop.set()), work)
    assert work.calls == 1


def test_nothing_is_begun_once_the_run_ends(session: Callable[..., Session]) -> None:
    opened = session()
    opened.stop.set()
    work = Failing(StoreBusyError("locked"), 0)
    with pytest.raises(StoppedError):
        retried(opened, Meter("import", lambda _: None), work)
    assert work.calls == 0
