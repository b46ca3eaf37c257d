"""``rename_fields: {path: new path}``: renames members of every document, or moves them; paths are JSON pointers or dotted.

::

    transforms: [rename_fields: {msgs: messages, user.mail: user.email, user.id: owner}]
    before:     user-1  {"msgs": [1.0], "user": {"mail": "a@b.c", "id": 7, "x": 1}}
    after:      user-1  {"messages":[1.0],"user":{"email":"a@b.c","x":1},"owner":7}
    before:     user-2  {"msgs": [], "messages": []}
    rejected:   member_exists

Both paths count from the document itself, so ``user.id: owner`` moves a member up. Within one object it keeps its place; a
moved one comes last, and objects that are missing on the way are made. The renames happen in the order in which they are
written. A member that is not there is nothing to do. If there is one of the new name already, the record is rejected by name;
nothing is overwritten. So is a document in which a path ends at an item of an array. The documents of versions and snapshots
are changed alike; a version's delta is kept with the old names, and tells what changed between the documents as they were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agui_pipelines.transforms.field_paths import Steps, holder, index_of, made_holder, parse, written
from agui_pipelines.transforms.options import fingerprint, wrong
from agui_pipelines.transforms.rewriting import Document, OfDocuments, RejectedError, put_in_place

_NAME: Final = "rename_fields"
_EXAMPLE: Final = "rename_fields: {msgs: messages, user.mail: user.email}"


def build(options: Any, folder: Path) -> OfDocuments:  # noqa: ARG001 - every transform is built alike
    if not isinstance(options, dict) or not options:
        raise wrong(_NAME, "needs paths with their new paths", _EXAMPLE)
    fields: list[tuple[Steps, Steps]] = []
    for old, new in options.items():
        try:
            fields.append((parse(old), parse(new)))
        except ValueError as error:
            raise wrong(_NAME, f"cannot rename '{old}' to '{new}' ({error}); name members", _EXAMPLE) from None

    def rename_all(document: Document) -> bool:
        return sum(_rename(document, old, new) for old, new in fields) > 0

    return OfDocuments(_NAME, fingerprint(_NAME, [[list(old), list(new)] for old, new in fields]), rename_all)


def _rename(document: Document, old: Steps, new: Steps) -> bool:
    where = holder(document, old)
    if isinstance(where, list):
        if index_of(old[-1], where) is not None:
            raise _item(old)
        return False
    if old == new or where is None or old[-1] not in where:
        return False
    if old[:-1] == new[:-1]:
        _require_free(where, new)
        put_in_place(where, old[-1], {new[-1]: where[old[-1]]})
        return True
    value = where.pop(old[-1])
    destination = made_holder(document, new)
    if isinstance(destination, list):
        raise _item(new)
    _require_free(destination, new)
    destination[new[-1]] = value
    return True


def _require_free(where: Document, new: Steps) -> None:
    if new[-1] in where:
        raise RejectedError("member_exists", f"The document has '{written(new)}' already, which would be lost.")


def _item(steps: Steps) -> RejectedError:
    return RejectedError("array_item", f"'{written(steps)}' is an item of an array, not a member.")
