"""``drop_fields: [path, …]``: takes members out of every document; a path is a JSON pointer or dotted (see `field_paths`).

::

    transforms: [drop_fields: [cache, user.token, /items/0/tmp]]
    before:     user-1  {"n": 1.0, "cache": {}, "user": {"id": 7, "token": "x"}, "items": [{"tmp": 1}]}
    after:      user-1  {"n":1.0,"user":{"id":7},"items":[{}]}

A member that is not there is nothing to do; an object that becomes empty stays. An item of an array is no member: a document
in which a path ends at one is rejected by name (`jsonpatch` removes items). What is dropped is lost to the target; the
exported snapshot still has it. The documents of versions and snapshots are changed alike; a version's delta is kept, so values
that it recorded are still in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agui_pipelines.transforms.field_paths import Steps, holder, index_of, parse, written
from agui_pipelines.transforms.options import fingerprint, wrong
from agui_pipelines.transforms.rewriting import Document, OfDocuments, RejectedError

_NAME: Final = "drop_fields"
_EXAMPLE: Final = "drop_fields: [cache, user.token, /a~1b]"


def build(options: Any, folder: Path) -> OfDocuments:  # noqa: ARG001 - every transform is built alike
    if not isinstance(options, list) or not options:
        raise wrong(_NAME, "needs a list of paths", _EXAMPLE)
    fields: list[Steps] = []
    for path in options:
        try:
            fields.append(parse(path))
        except ValueError as error:
            raise wrong(_NAME, f"cannot use the path '{path}' ({error}); name a member", _EXAMPLE) from None

    def drop_all(document: Document) -> bool:
        return sum(_drop(document, steps) for steps in fields) > 0

    return OfDocuments(_NAME, fingerprint(_NAME, [list(steps) for steps in fields]), drop_all)


def _drop(document: Document, steps: Steps) -> bool:
    where = holder(document, steps)
    if isinstance(where, list):
        if index_of(steps[-1], where) is not None:
            raise RejectedError("array_item", f"'{written(steps)}' is an item of an array, not a member.")
        return False
    if where is None or steps[-1] not in where:
        return False
    del where[steps[-1]]
    return True
