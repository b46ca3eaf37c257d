"""``rename_ids: {template: "tenant-1/{id}"}``: makes every state id anew from a template, or just ``rename_ids: "…"``.

``{id}`` stands for the id as it was. With ``pattern``, a regular expression that has to match the whole id, each of its named
groups can stand in the template too (one that took no part in the match is empty). ``{{`` and ``}}`` are braces.

::

    transforms: [rename_ids: {pattern: "session:(?P<user>[^:]+):(?P<n>.+)", template: "{user}-{n}"}]
    before:     session:ada:7  {"n": 1.0}
    after:      ada-7          {"n": 1.0}
    before:     cart:ada       {}
    rejected:   id_unmatched

An id that the pattern does not match is rejected by name, or left as it is with ``unmatched: keep``. An id of which nothing
would be left is rejected; two ids that become one are refused before the import, both named. Versions and snapshots follow
their state; documents and deltas stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter
from typing import Any, Final

from agui_pipelines.errors import SpecError
from agui_pipelines.transforms.options import fingerprint, is_text, wrong
from agui_pipelines.transforms.rewriting import OfIds, RejectedError

_NAME: Final = "rename_ids"
_EXAMPLE: Final = (
    'rename_ids: {pattern: "session:(?P<user>[^:]+):(?P<n>.+)", template: "{user}-{n}", unmatched: reject}'
)

Part = tuple[str, str | None]
"""Literal text, then the name of what follows it, if anything does."""


def build(options: Any, folder: Path) -> OfIds:  # noqa: ARG001 - every transform is built alike
    given = {"template": options} if isinstance(options, str) else options
    if not isinstance(given, dict) or not {"template"} <= set(given) <= {"template", "pattern", "unmatched"}:
        raise wrong(_NAME, "needs a template, and may have a pattern and unmatched", _EXAMPLE)
    unmatched = given.get("unmatched", "reject")
    if unmatched not in ("keep", "reject") or ("unmatched" in given and "pattern" not in given):
        raise wrong(_NAME, "takes 'keep' or 'reject' as unmatched, beside a pattern", _EXAMPLE)
    pattern = _pattern(given["pattern"]) if "pattern" in given else None
    parts = _parts(given["template"], {"id", *(pattern.groupindex if pattern else ())})

    def renamed(state_id: str) -> str:
        match = pattern.fullmatch(state_id) if pattern else None
        if pattern and not match:
            if unmatched == "keep":
                return state_id
            raise RejectedError("id_unmatched", f"The id '{state_id}' does not match the pattern '{pattern.pattern}'.")
        names = {**(match.groupdict("") if match else {}), "id": state_id}
        new = "".join(text + (names[name] if name is not None else "") for text, name in parts)
        if not new:
            raise RejectedError("empty_id", f"Nothing would be left of the id '{state_id}'.")
        return new

    return OfIds(_NAME, fingerprint(_NAME, given), renamed)


def _pattern(text: Any) -> re.Pattern[str]:
    if not is_text(text) or not text:
        raise wrong(_NAME, "takes a regular expression as pattern", _EXAMPLE)
    try:
        pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise wrong(_NAME, f"cannot use the pattern '{text}' ({error}); write a regular expression", _EXAMPLE) from None
    if "id" in pattern.groupindex:
        raise wrong(_NAME, "keeps the name {id} for the whole id; name the group of the pattern otherwise", _EXAMPLE)
    return pattern


def _parts(template: Any, known: set[str]) -> list[Part]:
    if not is_text(template):
        raise wrong(_NAME, "needs a text as template", _EXAMPLE)
    try:
        fields = list(Formatter().parse(template))
    except ValueError as error:
        raise wrong(_NAME, f"cannot read the template '{template}' ({error}); braces are doubled", _EXAMPLE) from None
    for _, name, form, conversion in fields:
        if name is not None and (name not in known or form or conversion):
            what = ", ".join(f"{{{each}}}" for each in sorted(known))
            raise SpecError(
                f"The transform 'rename_ids' has no '{{{name}}}' to put into its template; there is {what}.",
                remedy=f"Write it like this: {_EXAMPLE}.",
            )
    if not any(name is not None for _, name, _, _ in fields):
        raise wrong(_NAME, "needs a template that names {id} or a group; else all ids would become one", _EXAMPLE)
    return [(text, name) for text, name, _, _ in fields]
