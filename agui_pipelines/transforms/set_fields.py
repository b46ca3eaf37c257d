"""``set_fields: {path: value}``: sets members of every document; a path is a JSON pointer or dotted (see `field_paths`).

::

    transforms: [set_fields: {tenant: "acme", user.plan: {name: free, price: 0.10}, /items/0/n: 1.0}]
    before:     user-1  {"user": {"id": 7}, "tenant": "old", "items": [{"n": 0}]}
    after:      user-1  {"user":{"id":7,"plan":{"name":"free","price":0.10}},"tenant":"acme","items":[{"n":1.0}]}
    before:     user-2  {"user": "ada", "items": [{"n": 0}]}
    rejected:   no_place

A member that exists gets the new value at its place, another one is added last; objects that are missing on the way are made.
A document in which the way leads through a text, a number, or past the end of an array is rejected by name. Numbers are taken
from the migration file as they are written there. The documents of versions and snapshots are changed alike; a version's delta
is kept, and tells what changed between the documents as they were.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, Final

from agui_pipelines.transforms.field_paths import Steps, index_of, made_holder, no_item, parse
from agui_pipelines.transforms.options import exact, fingerprint, wrong
from agui_pipelines.transforms.rewriting import Document, OfDocuments, same

_NAME: Final = "set_fields"
_EXAMPLE: Final = 'set_fields: {tenant: "acme", user.plan: "free", /a~1b: 1}'


def build(options: Any, folder: Path) -> OfDocuments:  # noqa: ARG001 - every transform is built alike
    if not isinstance(options, dict) or not options:
        raise wrong(_NAME, "needs paths with their values", _EXAMPLE)
    fields: list[tuple[Steps, Any]] = []
    for path, value in options.items():
        try:
            fields.append((parse(path), exact(_NAME, value, _EXAMPLE)))
        except ValueError as error:
            raise wrong(_NAME, f"cannot use the path '{path}' ({error}); name a member", _EXAMPLE) from None

    def set_all(document: Document) -> bool:
        return sum(_set(document, steps, value) for steps, value in fields) > 0

    # The order counts, as one path may lead into another one's value.
    return OfDocuments(_NAME, fingerprint(_NAME, [[list(steps), value] for steps, value in fields]), set_all)


def _set(document: Document, steps: Steps, value: Any) -> bool:
    holder = made_holder(document, steps)
    key: Any = steps[-1]
    if isinstance(holder, list):
        key = index_of(steps[-1], holder)
        if key is None:
            raise no_item(steps)
    elif key not in holder:
        holder[key] = deepcopy(value)
        return True
    if same(holder[key], value):
        return False
    holder[key] = deepcopy(value)
    return True
