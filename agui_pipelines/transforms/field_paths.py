"""Where in a document a transform works: a JSON pointer (``/user/name``, RFC 6901) or a dotted path (``user.name``).

A path that begins with ``/`` is a pointer, in which ``~1`` stands for ``/`` and ``~0`` for ``~``; in any other path dots part
the names, so a name that holds a dot is written as a pointer. On the way a number picks an item of an array.
"""

from __future__ import annotations

import re
from typing import Any, Final

from agui_pipelines.transforms.rewriting import Document, RejectedError

Steps = tuple[str, ...]

_INDEX: Final = re.compile("0|[1-9][0-9]{0,17}")
_BAD_ESCAPE: Final = re.compile("~(?![01])")


def parse(path: Any) -> Steps:
    """The names along a path. Raises ValueError for what is no path: the whole document, an empty name."""
    if not isinstance(path, str) or not path:
        raise ValueError("not a path")
    if not path.startswith("/"):
        names = tuple(path.split("."))
        if not all(names):
            raise ValueError("an empty name")
        return names
    if _BAD_ESCAPE.search(path):
        raise ValueError("a ~ that is neither ~0 nor ~1")
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in path.split("/")[1:])


def written(steps: Steps) -> str:
    """A path as a JSON pointer, for messages."""
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def holder(document: Document, steps: Steps) -> Document | list[Any] | None:
    """The object or array in which the last step of a path is looked up, or None if the document has none there."""
    here: Any = document
    for step in steps[:-1]:
        if isinstance(here, dict) and step in here:
            here = here[step]
        elif isinstance(here, list) and (index := index_of(step, here)) is not None:
            here = here[index]
        else:
            return None
    return here if isinstance(here, (dict, list)) else None


def made_holder(document: Document, steps: Steps) -> Document | list[Any]:
    """As `holder`, but objects that are missing on the way are made.

    Raises `RejectedError` if the way leads through a value that holds nothing, or past the end of an array.
    """
    here: Any = document
    for depth, step in enumerate(steps[:-1]):
        if isinstance(here, dict):
            here = here.setdefault(step, {})
        elif isinstance(here, list) and (index := index_of(step, here)) is not None:
            here = here[index]
        elif isinstance(here, list):
            raise no_item(steps[: depth + 1])
        else:
            raise _holds_nothing(steps[:depth])
    if not isinstance(here, (dict, list)):
        raise _holds_nothing(steps[:-1])
    return here


def index_of(step: str, items: list[Any]) -> int | None:
    """The index of an array's item, or None if a step names no item that is there."""
    return int(step) if _INDEX.fullmatch(step) and int(step) < len(items) else None


def no_item(steps: Steps) -> RejectedError:
    return RejectedError("no_place", f"The array has no item '{written(steps)}'.")


def _holds_nothing(steps: Steps) -> RejectedError:
    return RejectedError("no_place", f"'{written(steps)}' is neither an object nor an array, so it has no members.")
