"""A configuration's text for people: as it is written, but for literal passwords and the like."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agui_pipelines.spec import redacted

_HIDDEN: Final = "***"
_TELLING: Final = 4
"""Characters from which on a password that is found elsewhere is no chance."""
_SECRET: Final = re.compile("passw|secret|token|credential|api_?key", re.IGNORECASE)
_REFERENCE: Final = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_COMMENTED: Final = re.compile(rf"(#.*(?:{_SECRET.pattern})\w*[\"']?\s*[:=]\s*)\S+", re.IGNORECASE)
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_MEMBER: Final = re.compile(rf'({_QUOTED})(?:(\s*:\s*)({_QUOTED}|[^\s,\[\]{{}}"]+))?')
"""A string of JSON, and if it is a key of a value that is neither array nor object, that."""

_Cut = tuple[int, int, str]
"""From where to where, and what is shown there."""


def masked(content: str, *, json: bool) -> str:
    """Told by where the values stand, since one may be written in many ways: with escapes, on several lines, in hex.

    Where one is repeated as it is, it is not shown either.
    """
    repeated = set()
    for start, end, instead in sorted(_of_json(content) if json else _of_yaml(content), reverse=True):
        if instead.strip('"\n') == _HIDDEN:
            repeated.add(content[start:end].strip("'\"\n"))
        content = content[:start] + instead + content[end:]
    for secret in sorted(repeated, key=len, reverse=True):
        if len(secret) >= _TELLING:
            content = content.replace(secret, _HIDDEN)
    return _COMMENTED.sub(rf"\1{_HIDDEN}", content)


def _of_json(content: str) -> Iterator[_Cut]:
    for found in _MEMBER.finditer(content):
        if found[3] is None:
            continue
        quoted = found[3].startswith('"')
        if (shown := _shown(found[1][1:-1], found[3].strip('"'), found[3])) is not None:
            yield *found.span(3), f'"{shown.strip(chr(34))}"' if quoted else shown


def _of_yaml(content: str) -> Iterator[_Cut]:
    try:
        root = YAML().compose(content)
    except YAMLError:  # it was read, and written, by the same library
        return
    yield from _within(root, "", content, set())


def _within(node: Node, key: str, content: str, seen: set[int]) -> Iterator[_Cut]:
    if id(node) in seen:  # an anchor's, by another name
        return
    seen.add(id(node))
    if isinstance(node, MappingNode):
        for name, value in node.value:
            yield from _within(value, name.value if isinstance(name, ScalarNode) else "", content, seen)
    elif isinstance(node, SequenceNode):
        for value in node.value:
            yield from _within(value, key, content, seen)
    elif isinstance(node, ScalarNode):
        start, end = node.start_mark.index, node.end_mark.index
        written = content[start:end]
        if (shown := _shown(key, node.value, written)) is not None:
            yield start, end, shown + "\n" * written.endswith("\n")


def _shown(key: str, value: str, written: str) -> str | None:
    """What is shown instead of a value; None if it is shown as it is written."""
    if not value or _REFERENCE.fullmatch(value):
        return None
    if _SECRET.search(key):
        return _HIDDEN
    if redacted(value) == value and redacted(written) == written:
        return None
    return redacted(value) if "\n" in written.strip() or redacted(written) == written else redacted(written)
