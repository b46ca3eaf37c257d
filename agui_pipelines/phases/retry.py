"""Trying again what failed for a reason that may pass: a broken connection, a lock, a server that is being restarted.

Only what does no harm twice is tried again: the writing of a batch, which is an upsert, or the reading of a whole key range,
of which nothing that was read before the error is kept. The drivers try nothing again by themselves (but to ask where a
slot of a Redis Cluster has gone), so that waits do not multiply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from agui_pipelines.errors import MigrationError, UnreachableError
from agui_pipelines.phases.session import Session
from agui_pipelines.progress import Meter

T = TypeVar("T")

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 15.0
"""With seven retries at most a minute is waited in all, and half of that on average: as long as a server takes to start
again, or another one to take its place. Seconds."""


def retried(session: Session, meter: Meter, work: Callable[[], T]) -> T:
    """What `work` returns, which is tried up to ``limits.retries`` times more when it raises what may pass.

    The waits are of a random length up to a bound that doubles, so that workers do not all come back at the same moment;
    the meter's listener is told of each. Raises the last error, and at once one that no repetition mends, or `StoppedError`.
    """
    retries = session.migration.limits.retries

    def attempt() -> T:
        session.require_going()
        return work()

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        said = error.message if isinstance(error, MigrationError) else ""
        meter.tell(f"{said} Trying again in {state.upcoming_sleep:.1f} s ({state.attempt_number} of {retries}).")

    return Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(retries + 1) | stop_when_event_set(session.stop),
        wait=wait_random_exponential(FIRST_WAIT, LONGEST_WAIT),
        sleep=sleep_using_event(session.stop),
        before_sleep=tell,
        reraise=True,
    )(attempt)


def _may_pass(error: BaseException) -> bool:
    """A server that nobody answers for was there when the plan was made, whose first contact is not tried again."""
    return isinstance(error, MigrationError) and (error.transient or isinstance(error, UnreachableError))
