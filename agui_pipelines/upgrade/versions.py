"""The versions of a store, and which of them is upgraded to which (store-format.md, section 6).

===== ============ ========= =====================
from  to           automatic by hand
===== ============ ========= =====================
1.0.0 1.1.0, 1.1.1 yes
1.1.0 1.1.1, 1.2.0 yes
1.1.1 1.2.0        yes
2.0.0 2.1.0        yes       configuration update
1.x   2.0.x        no        data format migration
===== ============ ========= =====================

Automatic upgrades chain. Each of `STEPS` is a module of `steps`; from 1.0.0, 1.1.1 is reached by way of 1.1.0.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

from agui_pipelines.errors import RefusedError, UsageError

STEPS: Final = (("1.0.0", "1.1.0"), ("1.1.0", "1.1.1"), ("1.1.0", "1.2.0"), ("1.1.1", "1.2.0"), ("2.0.0", "2.1.0"))
VERSIONS: Final = ("1.0.0", "1.1.0", "1.1.1", "1.2.0", "2.0.0", "2.1.0")
FIRST: Final = "1.0.0"
"""What a store without a marker is if its documents are of data format 1.0."""
UNMARKED: Final = "2.0.0"
"""What any other store without a marker is."""

_SHORT: Final = re.compile(r"\d+\.\d+")
_WRITTEN: Final = re.compile(r"v?\d+(\.\d+){0,3}")
_BY_HAND: Final = "a migration whose transforms contain format_1_to_2, in place (in_place: true) or into another store"

Path = tuple[tuple[str, str], ...]
"""Steps, each from one version to another, in order."""


def parsed(text: str, *, where: str) -> str:
    """The version that a marker at `where` says. Raises `RefusedError` if that is none, or none that is known here."""
    version = _long(text)
    if version in VERSIONS:
        return version
    known = f"Versions that are known here: {', '.join(VERSIONS)}."
    if _WRITTEN.fullmatch(text):
        raise RefusedError(
            f"The store says that it is of version {text}, which is not known here ({where}).",
            why=f"What it holds may be laid out in another way. {known}",
            remedy="Use the release of agui-pipelines that knows it; or, if the marker is wrong, correct it.",
        )
    raise RefusedError(
        f"The store's version marker is damaged: it says {text[:40]!r} ({where}).",
        why=f"Which version the store is of decides what has to be done. {known}",
        remedy="Write the right version there; or remove the marker, and the store is told by looking at its documents; or "
        "give --from VERSION.",
    )


def says(text: str, version: str) -> bool:
    """Whether a marker says that a store is of a version."""
    return _long(text) == version


def asked(text: str, option: str) -> str:
    """The version that an option names. Raises `UsageError` for one that is not known."""
    version = _long(text)
    if version not in VERSIONS:
        raise UsageError(f"{option} is '{text}'; versions that are known here: {', '.join(VERSIONS)}.")
    return version


def newest(version: str) -> str:
    """The newest version that automatic upgrades reach from this one."""
    return max(_reached(version), key=VERSIONS.index)


def path(version: str, to: str) -> Path:
    """The automatic steps from one version to another, as few as there can be; none if they are the same.

    Raises `RefusedError` for a downgrade, and for an upgrade that needs work by hand, naming the way that leads there.
    """
    reached = _reached(version)
    if to in reached:
        return reached[to]
    if VERSIONS.index(to) < VERSIONS.index(version):
        raise RefusedError(
            f"The store is of version {version}; to {to} would be a downgrade.",
            why="What a newer version has added may have no place in an older one, so there is no way down.",
            remedy="To go back to what was there before an upgrade, restore the backup that it made: agui-migrate backup list, "
            "then agui-migrate backup restore --id BACKUP.",
        )
    after = path(UNMARKED, to)
    then = f", then {told(after)} by agui-migrate upgrade" if after else ""
    raise RefusedError(
        f"There is no automatic upgrade from {version} to {to}.",
        why="From 1.x to 2.0 the format of the documents changes, which is a migration with a proof of its own.",
        remedy=f"The way that works: {version} to {UNMARKED} by {_BY_HAND}{then}. See README.md, 'From 1.x to 2.0'.",
    )


def told(steps: Path) -> str:
    """``1.0.0 → 1.1.0 → 1.2.0``."""
    return " → ".join([steps[0][0], *(to for _, to in steps)])


def _reached(version: str) -> dict[str, Path]:
    """The versions that can be reached, each by the fewest steps."""
    found: dict[str, Path] = {version: ()}
    pending = deque([version])
    while pending:
        here = pending.popleft()
        for step in STEPS:
            if step[0] == here and step[1] not in found:
                found[step[1]] = (*found[here], step)
                pending.append(step[1])
    return found


def _long(text: str) -> str:
    return f"{text}.0" if _SHORT.fullmatch(text) else text
