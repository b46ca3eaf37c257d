"""Notifications: telling webhooks and commands what a migration does, without ever holding it up or letting it fail.

Each of a migration's notifications has a thread in this process, which delivers one event after the other and gives each
up after a time. One that fails is told once, by the next phase that begins or ends, or at the end of the process.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPMessage
from typing import IO, Any, Final

import orjson

from agui_pipelines.errors import MigrationError
from agui_pipelines.phases.hooks import run_command
from agui_pipelines.phases.session import Session
from agui_pipelines.spec import Event, Migration, Notification, WebhookNotification

WAITING: Final = 500
"""Events that wait for their delivery, of one notification; more are dropped, which counts as a failure."""

_VERBS: Final = {"start": "has begun", "finish": "is done", "failure": "has failed"}


def notify(session: Session, event: Event, phase: str, **facts: Any) -> None:
    """Have everybody told who wants to hear of such an event; returns at once, and never raises.

    `facts` stand in the message, and in its text in the order given: figures, ``step``, ``status``, or ``message`` for a
    sentence. What the migration file says is secret is struck from them.
    """
    migration = session.migration
    wanted = [(index, each) for index, each in enumerate(migration.notifications) if event in each.on]
    if not wanted:
        return
    told = {name: _sayable(migration, fact) for name, fact in facts.items()}
    content = _content(session, event, phase, told)
    for index, each in wanted:
        _sender(session, index, each).take(_Message(event, phase, content))
    for problem in _problems():
        session.meter(phase).tell(problem)


@contextmanager
def notified(session: Session, phase: str) -> Iterator[None]:
    """Tell that a phase begins, and how it ends."""
    if not session.migration.notifications:
        yield
        return
    timed, ended = session.ledger.last("timing", unit=phase), session.ledger.last(phase)
    notify(session, "start", phase)
    began = time.monotonic()
    try:
        yield
    except MigrationError as error:
        told = {"error": type(error).__name__, "message": error.message, "why": error.why, "remedy": error.remedy}
        notify(session, "failure", phase, **{name: text for name, text in told.items() if text})
        raise
    except BaseException as error:
        stopped = "It was interrupted." if not isinstance(error, Exception) else f"Unexpected {type(error).__name__}."
        notify(session, "failure", phase, error=type(error).__name__, message=stopped)
        raise
    timing, outcome = session.ledger.last("timing", unit=phase), session.ledger.last(phase)
    if outcome is not None and outcome != ended and outcome.outputs.get("passed") is False:  # a check raises nothing
        notify(session, "failure", phase, message="It did not pass, so that what depends on it is not done.")
        return
    figures = {"seconds": round(time.monotonic() - began, 3)} if timing in (None, timed) else timing.outputs
    notify(session, "finish", phase, **figures)


def settle() -> list[str]:
    """Wait for what is still to be delivered, but for none longer than its own time limit; what failed and was not told yet."""
    for sender in list(_senders.values()):
        sender.settle()
    return _problems()


def _sayable(migration: Migration, fact: Any) -> Any:
    """Without secrets, and without what is no text: a name may hold bytes that are not UTF-8."""
    if isinstance(fact, str):
        return migration.secrets.struck_from(fact.encode("utf-8", "backslashreplace").decode())
    if isinstance(fact, Mapping):
        return {str(_sayable(migration, str(name))): _sayable(migration, each) for name, each in fact.items()}
    return [_sayable(migration, each) for each in fact] if isinstance(fact, list | tuple) else fact


def _content(session: Session, event: Event, phase: str, facts: dict[str, Any]) -> bytes:
    migration = session.migration
    public = {
        "text": _text(migration.name, event, phase, facts),
        "event": event,
        "phase": phase,
        "migration": migration.name,
        "source": migration.source.type,
        "target": migration.target.type,
        "run_id": session.run_id,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    return orjson.dumps({**facts, **public}, default=str, option=orjson.OPT_NON_STR_KEYS)


def _text(name: str, event: Event, phase: str, facts: dict[str, Any]) -> str:
    """A sentence or two for people, as Slack wants them: with three characters escaped."""
    told = f"{name}: {phase} {_VERBS[event]}" if event in _VERBS else f"{name}: {phase}"
    figures = [
        f"{key.replace('_', ' ')} {value:,}" if isinstance(value, int | float) else f"{key.replace('_', ' ')} {value}"
        for key, value in facts.items()
        if key not in ("error", "message", "why", "remedy") and value is not None
    ]
    sentences = [str(facts[key]) for key in ("message", "why", "remedy") if facts.get(key)]
    text = " ".join([f"{told} ({', '.join(figures)})." if figures else f"{told}.", *sentences])
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True, slots=True)
class _Message:
    event: Event
    phase: str
    content: bytes


@dataclass(slots=True)
class _Sender:
    """Delivers the messages of one notification, in order, on a thread that ends with the process."""

    migration: Migration
    notification: Notification
    name: str
    """How it is called for people: never by its address."""
    _waiting: deque[_Message] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _busy: bool = False
    _problem: str = ""
    _told: bool = False

    def take(self, message: _Message) -> None:
        with self._changed:
            if len(self._waiting) >= WAITING:
                self._fail("does not keep up")
                return
            self._waiting.append(message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver_all, name="agui-notify", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until everything is delivered, or for as long as one delivery may take."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._waiting and not self._busy, self.notification.timeout + 1):
                self._waiting.clear()
                self._fail("does not keep up")

    def problem(self) -> str:
        """What went wrong, once."""
        with self._changed:
            if self._told or not self._problem:
                return ""
            self._told = True
            return f"{self.name} {self._problem}. The migration goes on without it; it is not told again."

    def _fail(self, problem: str) -> None:
        self._problem = self._problem or problem

    def _deliver_all(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                message, self._busy = self._waiting.popleft(), True
            problem = self._deliver(message)
            if problem:
                with self._changed:
                    self._fail(problem)

    def _deliver(self, message: _Message) -> str:
        """What went wrong; empty if nothing did."""
        notification = self.notification
        if not isinstance(notification, WebhookNotification):
            variables = {"AGUI_EVENT": message.event, "AGUI_PHASE": message.phase}
            try:
                return run_command(self.migration, notification, variables, message.content).failure
            except (OSError, RuntimeError) as error:  # no room for what it prints; the end of the process
                return f"cannot be run: {type(error).__name__}"
        url = notification.webhook.get_secret_value()
        try:
            return _within(notification.timeout, lambda: _post(url, message.content, notification.timeout))
        except RuntimeError:
            return "cannot be delivered: the process is ending"


def _within(seconds: float, work: Callable[[], str]) -> str:
    """What `work` returns; a thread of its own is left behind if that takes longer, as a socket's time limit is for a part."""
    answers: deque[str] = deque()
    thread = threading.Thread(target=lambda: answers.append(work()), name="agui-notify-post", daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"took longer than {seconds:g} seconds"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What is to be told is told to the address that was given, or not at all."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """There is none."""


def _post(url: str, content: bytes, seconds: float) -> str:
    """What went wrong, never with the address; empty if nothing did."""
    request = urllib.request.Request(  # noqa: S310 - the migration file is refused if it is not of http or https
        url, content, {"Content-Type": "application/json; charset=utf-8", "User-Agent": "agui-migrate"}
    )
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=seconds):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"was answered with {error.code}"
    except TimeoutError:
        return f"took longer than {seconds:g} seconds"
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return f"took longer than {seconds:g} seconds"
        return f"cannot be reached: {(isinstance(reason, OSError) and reason.strerror) or type(reason).__name__}"
    except Exception as error:  # noqa: BLE001 - whatever an odd server makes of it is no concern of the migration
        return f"cannot be delivered: {type(error).__name__}"


_senders: Final[dict[tuple[str, int, Notification], _Sender]] = {}
_making: Final = threading.Lock()


def _sender(session: Session, index: int, notification: Notification) -> _Sender:
    kind = "webhook" if isinstance(notification, WebhookNotification) else "command"
    with _making:
        if not _senders:
            atexit.register(_conclude)
        return _senders.setdefault(
            (str(session.workspace), index, notification),
            _Sender(session.migration, notification, f"The {kind} notifications.{index} of {session.migration.name}"),
        )


def _problems() -> list[str]:
    with _making:
        senders = list(_senders.values())
    return [problem for sender in senders if (problem := sender.problem())]


def _conclude() -> None:
    with suppress(KeyboardInterrupt):
        for problem in settle():
            sys.stderr.write(f"{problem}\n")
