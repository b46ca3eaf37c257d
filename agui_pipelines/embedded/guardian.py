"""Keeps one server running exactly as long as the process that wants it lives.

No process can clean up after its own kill -9, so this one does it. It is run as a script, by path, with
``python -I -S``: it starts within milliseconds, imports the standard library only, and the modules next to it
(``redis.py`` above all) cannot hide others.

- Standard input is the lifeline, a pipe from the process that wants the server. A byte or its end says: stop.
- Standard output, also handed to the server, receives the server's process id. Whoever reads it sees its end when the
  guardian, the server and all that they started are gone, even if the guardian was killed.
- Standard error is the log that the server writes to.

Several commands are run one after the other (``initdb``, then ``postgres``); the last one is the server. The guardian
ends with the exit code of the command that ended by itself, or with 0 after it was told to stop, and removes its
directory in either case.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

LIFELINE, STATUS = 0, 1
PR_SET_PDEATHSIG = 1
PARENT_CHECK_SECONDS = 1.0
CANNOT_RUN = 126


class Guardian:
    """Supervises the commands of one server, one at a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._signals = _signal_pipe()
        self._die_with_us = _death_signal_setter(options.stop_signal)

    def run(self) -> int:
        """The exit code of the first command that fails, else of the last one; 0 when told to stop."""
        code = 0
        for number, command in enumerate(self._options.command, 1):
            try:
                child = self._start(command)
            except (OSError, subprocess.SubprocessError) as error:
                sys.stderr.write(f"cannot run {command[0]}: {error}\n")
                return CANNOT_RUN
            if number == len(self._options.command):
                self._announce(child.pid)
            ended = self._watch(child)
            if ended is None:
                self._stop(child)
                return 0
            code = ended if ended >= 0 else 128 - ended
            if code != 0:
                break
        return code

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        options = self._options
        status = os.dup(STATUS)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                stderr=sys.stderr,
                pass_fds=(status,),
                user=options.uid,
                group=options.gid,
                extra_groups=None if options.uid is None else (),
                # Popen calls this after it changed the user, which is needed: that change forgets the death signal.
                preexec_fn=self._die_with_us,  # noqa: PLW1509 - safe, as the guardian has one thread
            )
        finally:
            os.close(status)

    def _announce(self, pid: int) -> None:
        # Nobody reading means that the wanting process is gone; the lifeline says so too, and is heeded there.
        with contextlib.suppress(BrokenPipeError):
            os.write(STATUS, f"{pid}\n".encode())

    def _watch(self, child: subprocess.Popen[bytes]) -> int | None:
        """Waits until the command ends (its exit code), or until it has to be stopped (None)."""
        while True:
            ready, _, _ = select.select([LIFELINE, self._signals], [], [], PARENT_CHECK_SECONDS)
            # A child that the wanting process forked keeps the lifeline open beyond its death: hence the parent's id.
            if LIFELINE in ready or os.getppid() != self._options.parent:
                return None
            if self._signals in ready and set(os.read(self._signals, 256)) - {signal.SIGCHLD}:
                return None
            code = child.poll()
            if code is not None:
                return code

    def _stop(self, child: subprocess.Popen[bytes]) -> None:
        child.send_signal(self._options.stop_signal)
        try:
            child.wait(self._options.grace)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def remove(directory: str) -> None:
    """Removes a directory in which a server's last helpers may still be writing while they end."""
    for _ in range(50):
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.lexists(directory):
            return
        time.sleep(0.1)


def _signal_pipe() -> int:
    """A descriptor that becomes readable, with the signals' numbers, when a child ends or somebody ends the guardian.

    Having handlers also undoes what was inherited: shells start background jobs with SIGINT ignored, and a server would
    inherit that in turn.
    """

    def wake(_number: int, _frame: FrameType | None) -> None:
        """Python writes the number to the pipe; nothing else is to be done at this point."""

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, wake)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return reading


def _death_signal_setter(number: int) -> Callable[[], None] | None:
    """What a child does between fork and exec so that the kernel ends it when the guardian is killed (Linux only)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = (ctypes.c_int, ctypes.c_ulong)
    guardian = os.getpid()

    def set_in_child() -> None:
        prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != guardian:  # killed before the line above took effect
            os._exit(CANNOT_RUN)

    return set_in_child


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="guardian", description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="id of the process that wants the server")
    parser.add_argument("--command", type=json.loads, action="append", required=True, help="a JSON list")
    parser.add_argument("--stop-signal", type=int, required=True)
    parser.add_argument("--grace", type=float, required=True, help="seconds from the stop signal to SIGKILL")
    parser.add_argument("--remove", help="directory to remove at the end")
    parser.add_argument("--uid", type=int, help="whom the commands run as; needs --gid too")
    parser.add_argument("--gid", type=int)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Runs to the end of the server, and cleans up."""
    options = _options(arguments)
    try:
        return Guardian(options).run()
    finally:
        if options.remove:
            remove(options.remove)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
