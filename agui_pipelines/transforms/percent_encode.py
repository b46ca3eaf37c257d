"""``percent_encode``: makes ids storable as file names, reversibly.

``/``, NUL and all other control characters, the dots that an id begins with, and ``%`` itself become ``%`` and two upper-case
hex digits for each byte of their UTF-8 form. All other characters stay. An id never becomes shorter, so one that is too long
for a file name stays too long, and the target refuses it by name.

::

    transforms: [percent_encode]
    before:     ../a/b:50%       {"n": 1.0}
    after:      %2E%2E%2Fa%2Fb:50%25  {"n": 1.0}

``percent_encode: {decode: true}`` is the inverse. It rejects by name what encoding never writes (``%zz``, ``a%41``), so that no
two ids become one. Versions and snapshots follow their state; documents and deltas stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from agui_pipelines.transforms.options import fingerprint, wrong
from agui_pipelines.transforms.rewriting import OfIds, RejectedError

_NAME: Final = "percent_encode"
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f/%]|\A\.+")


def build(options: Any, folder: Path) -> OfIds:  # noqa: ARG001 - every transform is built alike
    given = {} if options is None else options
    if not isinstance(given, dict) or set(given) - {"decode"} or not isinstance(given.get("decode", False), bool):
        raise wrong(_NAME, "takes nothing but decode, true or false", "percent_encode: {decode: true}")
    decodes = given.get("decode", False)
    return OfIds(_NAME, fingerprint(_NAME, decodes), decoded if decodes else encoded)


def encoded(state_id: str) -> str:
    return _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), state_id)


def decoded(state_id: str) -> str:
    """Raises `RejectedError` for an id that `encoded` does not write."""
    try:
        plain = unquote_to_bytes(state_id).decode()
    except UnicodeDecodeError:
        plain = ""
    if encoded(plain) != state_id:
        raise RejectedError("not_encoded", f"The id {state_id!r} is not what percent_encode writes.")
    return plain
