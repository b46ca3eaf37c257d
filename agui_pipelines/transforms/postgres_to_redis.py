"""``postgres_to_redis``: what a document of PostgreSQL needs to be of use from Redis (store-format, section 7).

Timestamps inside the document become RFC 3339, and the members of ``metadata`` become ``meta_<key>`` as `flatten_metadata` has
it (rejected by name if such a member exists). A ``metadata`` that is no object stays as it is.

::

    transforms: [postgres_to_redis]
    before:     user-1  {"created_at": "2025-07-14 09:30:15.120+00", "metadata": {"source": "web"}, "n": 1.0}
    after:      user-1  {"created_at":"2025-07-14T09:30:15.120Z","meta_source":"web","n":1.0}
    before:     user-2  {"updated_at": "2025-07-14 09:30:15"}
    rejected:   no_offset

Timestamps are looked for in ``created_at`` and ``updated_at`` of the document, or in the paths of ``timestamps: [created_at,
user.last_seen]`` (see `field_paths`; an empty list turns it off). Every digit of a second is kept; an offset is kept too, but
``+00`` is written ``Z``, and a time whose offset has seconds, which RFC 3339 does not know, is given in UTC. What is no
timestamp (``infinity``, a number, null, a year of five digits) stays as it is. A time without an offset is rejected by name, as
nobody can tell which moment it is, unless ``without_offset: utc`` takes it as UTC or ``without_offset: keep`` leaves it.

The documents of versions and snapshots are changed alike. A version's delta is kept: it tells what changed between the
documents as they were.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agui_pipelines.transforms.field_paths import Steps, holder, index_of, parse, written
from agui_pipelines.transforms.flatten_metadata import flatten
from agui_pipelines.transforms.options import fingerprint, wrong
from agui_pipelines.transforms.rewriting import Document, OfDocuments, RejectedError

_NAME: Final = "postgres_to_redis"
_EXAMPLE: Final = "postgres_to_redis: {timestamps: [created_at, user.last_seen], without_offset: utc}"
_FIELDS: Final = ["created_at", "updated_at"]
_TIMESTAMP: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d(?::?\d\d(?::\d\d)?)?)?", re.ASCII
)


def build(options: Any, folder: Path) -> OfDocuments:  # noqa: ARG001 - every transform is built alike
    given = {} if options is None else options
    if not isinstance(given, dict) or set(given) - {"timestamps", "without_offset"}:
        raise wrong(_NAME, "takes nothing but timestamps and without_offset", _EXAMPLE)
    paths, without_offset = given.get("timestamps", _FIELDS), given.get("without_offset", "reject")
    if without_offset not in ("reject", "keep", "utc"):
        raise wrong(_NAME, "takes reject, keep or utc as without_offset", _EXAMPLE)
    if not isinstance(paths, list):
        raise wrong(_NAME, "takes a list of paths as timestamps", _EXAMPLE)
    try:
        fields = [parse(path) for path in paths]
    except ValueError as error:
        raise wrong(_NAME, f"cannot use one of the paths in timestamps ({error}); name members", _EXAMPLE) from None

    def changed(document: Document) -> bool:
        return sum([*(_convert(document, steps, without_offset) for steps in fields), flatten(document)]) > 0

    return OfDocuments(_NAME, fingerprint(_NAME, [paths, without_offset]), changed)


def rfc3339(text: str) -> str | None:
    """A timestamp as PostgreSQL writes it in RFC 3339; None if it has no offset, the text itself if it is no timestamp."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return text
    date, time, fraction, offset = match.groups()
    digits = re.sub(r"[+:-]", "", offset or "")
    if len(digits) == 2:  # noqa: PLR2004 - hours alone
        offset += ":00"
    elif len(digits) == 4:  # noqa: PLR2004 - hours and minutes
        offset = f"{offset[0]}{digits[:2]}:{digits[2:]}"
    try:
        moment = datetime.fromisoformat(f"{date}T{time}{offset or ''}")
        if offset is None:
            return None
        if len(digits) > 4:  # noqa: PLR2004 - seconds too
            return f"{moment.astimezone(UTC).isoformat().removesuffix('+00:00')}{fraction or ''}Z"
    except (ValueError, OverflowError):
        return text
    return f"{date}T{time}{fraction or ''}{'Z' if offset in ('+00:00', '-00:00') else offset}"


def _convert(document: Document, steps: Steps, without_offset: str) -> bool:
    where: Any = holder(document, steps)
    key: Any = index_of(steps[-1], where) if isinstance(where, list) else steps[-1]
    if where is None or key is None or (isinstance(where, dict) and key not in where):
        return False
    text = where[key]
    if not isinstance(text, str):
        return False
    new = rfc3339(text)
    if new is None and without_offset == "reject":
        detail = f"The time in '{written(steps)}' has no offset from UTC; without_offset says how to take it."
        raise RejectedError("no_offset", detail)
    if new is None:
        new = rfc3339(text + "Z") if without_offset == "utc" else text
    where[key] = new
    return new != text
