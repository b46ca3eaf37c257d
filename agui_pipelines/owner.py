"""Who holds the lock of a target, and whether that process still lives.

A store keeps an owner as JSON. A process is known by the machine, its id, and the moment at which it was started, so that
a later process with the same id is not taken for it. Whether a process of another machine, or of a container that counts
its processes apart, still lives cannot be told from here: its lock has to expire.
"""

from __future__ import annotations

import os
import platform
import secrets
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from agui_pipelines.errors import LockedError, LockLostError

_PROC: Final = Path("/proc")
_ENDED: Final = ("Z", "X")
"""States of a process that has ended and was not yet waited for."""
_STATE, _STARTED = 0, 19
"""Fields of ``/proc/<id>/stat`` after the name (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html)."""

_left: Final[set[str]] = set()
"""Tokens of owners that this process was, and is no longer."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One holder of a lock; two holdings by one process differ in `token`."""

    migration: str
    host: str
    machine: str
    """Which kernel, since it was booted, numbers the process: on Linux its boot and the namespace of process ids."""
    process: int
    started: str
    """When the process was started, by that kernel's own count; empty where that is not known."""
    token: str
    since: str
    """RFC 3339, UTC, by the host's clock."""

    @classmethod
    def here(cls, migration: str) -> Owner:
        """This process, with a new token."""
        process = os.getpid()
        return cls(
            migration=migration,
            host=platform.node(),
            machine=_machine(),
            process=process,
            started=_started(process),
            token=secrets.token_hex(16),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def parsed(cls, text: bytes | str | None) -> Owner | None:
        """The owner that `text` holds, or None if it holds none."""
        try:
            return cls(**orjson.loads(text or b""))
        except (ValueError, TypeError):
            return None

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self))

    def leave(self) -> None:
        """Want the lock no longer: should it not have been released, it is taken over like that of a dead owner."""
        _left.add(self.token)

    def is_gone(self) -> bool:
        """Whether its process is known to have ended, or is this one and left it."""
        if self.token in _left:
            return True
        if self.machine != _machine():
            return False
        return not exists(self.process, self.started)

    @property
    def age(self) -> str:
        """How long ago it got the lock, for people."""
        return _duration((datetime.now(UTC) - datetime.fromisoformat(self.since)).total_seconds())


def locked(place: str, owner: Owner | None, expires_in: float | None = None, *, named: str = "") -> LockedError:
    """Somebody holds the lock of a place. `named` is what is known of an owner that did not leave its particulars."""
    who = named or "an owner that this version does not know"
    remedy = "Wait until it has ended, or end it."
    if owner is not None:
        who = (
            f"the migration '{owner.migration}' (process {owner.process} on {owner.host}, since {owner.since}, "
            f"that is for {owner.age})"
        )
        remedy = f"Wait until it has ended, or end that process on {owner.host}."
    if expires_in is not None:
        remedy += f" If it has died, its lock expires in {_duration(expires_in)}; then run again."
    return LockedError(
        f"{_capital(who)} is writing to {place}.",
        why="Two migrations that write to one target would overwrite each other's records. This run has written nothing.",
        remedy=remedy,
        owner=asdict(owner) if owner else None,
        expires_in=expires_in,
    )


def lost(place: str) -> LockLostError:
    """The lock of a place is not ours any more."""
    return LockLostError(
        f"This run no longer holds the lock of {place}.",
        why="It expired because this process was suspended or cut off for too long, and another migration may have taken "
        "it over. What was written before is kept; nothing more is written.",
        remedy="Run the same command again: it resumes, unless another migration holds the lock by then.",
    )


def _machine() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return f"{uuid.getnode():x}"


def exists(process: int, started: str = "") -> bool:
    """Whether a process of this machine lives and, as far as that is given and can be told, was started at that moment."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    fields = _stat(process)
    if fields is None:  # there is no ``/proc``, or it does not show the processes of others
        return True
    return fields[_STATE] not in _ENDED and started in ("", fields[_STARTED])


def _started(process: int) -> str:
    """When a process was started, in clock ticks since its kernel was; empty where that is not told."""
    fields = _stat(process)
    return fields[_STARTED] if fields else ""


def _stat(process: int) -> list[str] | None:
    try:
        # The name, which stands in parentheses, may hold blanks and parentheses itself.
        return (_PROC / str(process) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None


def _duration(seconds: float) -> str:
    """``42 s``, ``5 min``, ``2 h 13 min``."""
    whole = max(0, round(seconds))
    if whole < 120:  # noqa: PLR2004 - two minutes
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
