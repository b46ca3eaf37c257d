"""Whom a server runs as, and what has to be arranged so that this account can run it.

A server never runs as root: PostgreSQL refuses to, and what listens without a password should not. So when we are root,
the server runs as an account that owns nothing but the server's data, and that may be unable to reach the programs (a
virtual environment below ``/root``) or the temporary directory (per-user ones); both are dealt with here.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from agui_pipelines.embedded.binaries import Installation
from agui_pipelines.errors import EmbeddedServerError

if sys.platform != "win32":  # where start_server() gives a message, which a failing import would forestall
    import pwd

UNPRIVILEGED_ID: Final = 65534
PASSED_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")


class Account(NamedTuple):
    """Whom a server runs as, if not as ourselves."""

    uid: int
    gid: int


def server_account() -> Account | None:
    """Ourselves (None), unless we are root. macOS has the name and not the number."""
    if os.geteuid() != 0:
        return None
    unprivileged = Account(UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    if not has_name(unprivileged):
        with contextlib.suppress(KeyError):
            nobody = pwd.getpwnam("nobody")
            return Account(nobody.pw_uid, nobody.pw_gid)
    return unprivileged


def has_name(account: Account | None) -> bool:
    """Whether the system knows the account (None: ourselves), and not only its number, as in some containers."""
    try:
        pwd.getpwuid(os.geteuid() if account is None else account.uid)
    except KeyError:
        return False
    return True


def environment() -> dict[str, str]:
    """What a server is told of its surroundings: nothing that changes what it does or says (PG*, locale, time zone)."""
    passed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return {**passed, "LC_ALL": "C", "TZ": "UTC"}


def scratch_directory(prefix: str, account: Account | None) -> Path:
    """A new directory for one server. The account can pass through it and not write to it."""
    own = Path(tempfile.gettempdir()).resolve()
    if account is None:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=own))
    # Root's temporary directory is often closed to others: on macOS, and wherever pam_tmpdir is used.
    for parent in (own, *(Path("/", *parts).resolve() for parts in (("tmp",), ("var", "tmp")))):
        if parent.is_dir() and others_can_reach(parent):
            scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            scratch.chmod(0o711)
            return scratch
    raise EmbeddedServerError(
        f"The temporary directory {own} can be reached by root only.",
        why=f"Servers do not run as root; user id {account.uid} must reach its data.",
        remedy="Set TMPDIR to a directory that every user can reach, or run this as an ordinary user.",
    )


def data_directory(path: Path, account: Account | None) -> Path:
    """Makes the directory for a server's data, if it is not there, and gives it to the account, if it is empty."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = path.resolve()
    if account is None:
        return path
    if not others_can_reach(path.parent):
        raise EmbeddedServerError(
            f"The directory {path} can be reached by root only.",
            why=f"Servers do not run as root; user id {account.uid} must reach its data.",
            remedy="Choose a directory that every user can reach, or run this as an ordinary user.",
        )
    if not any(path.iterdir()):
        os.chown(path, *account)
    return path


def others_can_reach(directory: Path) -> bool:
    """Whether every user may pass through the directory and all that it lies in."""
    return all(part.stat().st_mode & 0o001 for part in (directory, *directory.parents))


def runnable(
    installation: Installation, program: str, account: Account | None, folder: Path
) -> tuple[Installation, str]:
    """The installation, or a copy of it in ``folder`` if the account cannot run the original; and its version.

    The copy belongs to root and lies in a directory that no one else can write to, so what runs is what was installed.
    """
    try:
        return installation, _version(installation.programs[program], account)
    except EmbeddedServerError:
        if account is None or not installation.movable:
            raise
    copy = installation.copied_to(folder)
    return copy, _version(copy.programs[program], account)


def _version(program: Path, account: Account | None) -> str:
    """What ``--version`` tells. Asking for it is also the one sure test that the account can run the program."""
    uid, gid, groups = (*account, ()) if account else (None, None, None)
    try:
        answer = subprocess.run(
            [program, "--version"],
            user=uid,
            group=gid,
            extra_groups=groups,
            env=environment(),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or getattr(error, "strerror", None) or error
        raise EmbeddedServerError(
            f"{program} cannot be run{f' as user id {uid}' if account else ''}: {said}.",
            why="Servers do not run as root." if account else "",
            remedy="Run this as an ordinary user, or install the server where every user can run it."
            if account
            else "Install a server that was built for this platform.",
        ) from error
    number = re.search(r"\d\S*", answer.stdout)
    return number[0] if number else answer.stdout.strip()
