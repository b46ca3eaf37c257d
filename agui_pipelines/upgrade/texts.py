"""JSON and YAML texts whose keys are moved, and in which all else stays as it was written: order, comments, spelling."""

from __future__ import annotations

import io
import re
from collections.abc import MutableMapping, Sequence
from itertools import pairwise
from typing import Any, Final, Protocol

import simplejson
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, MarkedYAMLError, YAMLError
from ruamel.yaml.tokens import CommentToken

from agui_pipelines.errors import SpecError

_INDENTS: Final = ((2, 2, 0), (2, 4, 2), (4, 4, 0), (4, 4, 2), (4, 6, 4))
"""Columns that nested mappings, sequences and their dashes are commonly indented by."""
_WIDTH: Final = 1 << 20


class Text(Protocol):
    """A text as mappings that are changed in place by `move` and `remove`, and nothing else."""

    root: MutableMapping[str, Any]
    json: bool

    def is_own(self, values: MutableMapping[str, Any], key: str) -> bool:
        """Whether a key is written there, and not merged from elsewhere."""
        ...

    def is_shared(self, values: MutableMapping[str, Any], key: str) -> bool:
        """Whether what a key holds is also held elsewhere, so that changing it would change that."""
        ...

    def move(self, values: MutableMapping[str, Any], key: str, place: Sequence[str], value: Any) -> None:
        """Give a key of `values` another name, or a place in a mapping below that; at the place where it, or that, stands."""
        ...

    def remove(self, values: MutableMapping[str, Any], key: str) -> None: ...
    def written(self) -> str: ...


def parsed(content: str, origin: str) -> Text:
    """Raises `SpecError`."""
    return _Json(content, origin) if content.lstrip().startswith("{") and _is_json(content) else _Yaml(content, origin)


def _is_json(content: str) -> bool:
    try:
        simplejson.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


class _Json:
    """Numbers stay as they are written; white space becomes that of the first indented line."""

    json = True

    def __init__(self, content: str, origin: str) -> None:
        self._origin = origin
        self._ascii = content.isascii()
        self._end = "\n" if content.endswith("\n") else ""
        indent = re.search(r"\n([ \t]+)\S", content)
        self._indent = indent.group(1) if indent else None
        self.root: MutableMapping[str, Any] = simplejson.loads(content, use_decimal=True, object_pairs_hook=self._once)

    def _once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise SpecError(f"{self._origin} names a key twice.", remedy="Leave one of the two out.")
        return found

    def is_own(self, values: MutableMapping[str, Any], key: str) -> bool:
        return key in values

    def is_shared(self, values: MutableMapping[str, Any], key: str) -> bool:  # noqa: ARG002 - JSON has no anchors
        return False

    def move(self, values: MutableMapping[str, Any], key: str, place: Sequence[str], value: Any) -> None:
        first, *rest = place
        items = list(values.items())
        values.clear()
        for name, item in items:
            if name != key:
                values[name] = item
            elif not rest:
                values[first] = value
            elif first not in dict(items):
                values[first] = {}
        if rest:
            values[first][rest[0]] = value

    def remove(self, values: MutableMapping[str, Any], key: str) -> None:
        del values[key]

    def written(self) -> str:
        return str(
            simplejson.dumps(self.root, use_decimal=True, indent=self._indent, ensure_ascii=self._ascii) + self._end
        )


class _Yaml:
    """Comments go with the key that they stand beside or above."""

    json = False

    def __init__(self, content: str, origin: str) -> None:
        try:
            self._spelling = _fitting(content)
            root = self._spelling.load(content)
        except YAMLError as error:
            raise SpecError(f"{origin} is not valid YAML{_position(error)}.") from None
        except RecursionError:
            raise SpecError(f"{origin} is nested without end.") from None
        if not isinstance(root, CommentedMap):
            raise SpecError(f"{origin} holds no mapping of keys to values, so there is nothing to read from it.")
        self.root: MutableMapping[str, Any] = root

    def is_own(self, values: MutableMapping[str, Any], key: str) -> bool:
        return not isinstance(values, CommentedMap) or key in dict(values.non_merged_items())

    def is_shared(self, values: MutableMapping[str, Any], key: str) -> bool:
        held = values[key]
        return not self.is_own(values, key) or (isinstance(held, CommentedMap) and held.yaml_anchor() is not None)

    def move(self, values: MutableMapping[str, Any], key: str, place: Sequence[str], value: Any) -> None:
        if not isinstance(values, CommentedMap):
            raise TypeError("not a mapping of this text")
        first, *rest = place
        _part_comments(values)
        at = list(values).index(key)
        comments = values.ca.items.pop(key, None)
        del values[key]
        if not rest:
            values.insert(at, first, value)
            if comments:
                values.ca.items[first] = comments
            return
        before, beside = (comments[1], comments[2]) if comments else (None, None)
        if (
            first in values and at == len(values) and _takes(values)
        ):  # what stands below the last key stays below the rest
            beside, tail = _cut(beside, 0)
            _append(values, tail)
        if first not in values:
            values.insert(at, first, CommentedMap())
            values[first].fa.set_block_style() if not _flows(values) else None
            if before:
                values.ca.items[first] = [None, before, None, None]
                before = None
        nested = values[first]
        _part_comments(nested)
        tail = _shed(nested)
        nested[rest[0]] = value
        if before or beside:
            nested.ca.items[rest[0]] = [None, _indented(before, nested), beside, None]
        _append(nested, tail)

    def remove(self, values: MutableMapping[str, Any], key: str) -> None:
        if isinstance(values, CommentedMap):
            _part_comments(values)
            values.ca.items.pop(key, None)
        del values[key]

    def written(self) -> str:
        stream = io.StringIO()
        self._spelling.dump(self.root, stream)
        return stream.getvalue()


def _fitting(content: str) -> YAML:
    """A reader and writer that gives back what it has read, if there is one with a common indentation.

    Raises what reading it raises, so that a text which cannot be read, of which that may take long, is read once.
    """
    for indents in _INDENTS:
        spelling = _yaml(content, indents)
        root = spelling.load(content)
        stream = io.StringIO()
        try:
            spelling.dump(root, stream)
        except (YAMLError, RecursionError):
            break
        if stream.getvalue() == content:
            return _yaml(content, indents)
    return _yaml(content, _INDENTS[0])


def _yaml(content: str, indents: tuple[int, int, int]) -> YAML:
    spelling = YAML()
    spelling.preserve_quotes = True
    spelling.width = _WIDTH
    spelling.explicit_start = bool(re.match(r"(?:\s*(?:#[^\n]*)?\n)*---", content))
    spelling.indent(*indents)
    return spelling


def _part_comments(values: CommentedMap) -> None:
    """Give the lines above a key to that key; ruamel keeps them with the value before it."""
    keys = list(values)
    for key, following in pairwise(keys):
        comments = values.ca.items.get(key)
        token = comments[2] if comments else None
        if token is None:
            continue
        beside, _, above = token.value.partition("\n")
        if not above:
            continue
        comments[2] = CommentToken(beside + "\n", token.start_mark) if beside else None
        lines = [CommentToken(line, CommentMark(_column(line))) for line in above.splitlines(keepends=True)]
        found = values.ca.items.setdefault(following, [None, None, None, None])
        found[1] = lines + (found[1] or [])


def _cut(token: CommentToken | None, column: int) -> tuple[CommentToken | None, str]:
    """The comment beside a value, with the lines below it that are indented by `column` or more; and the other lines.

    For the column 0, all lines are others.
    """
    if token is None:
        return None, ""
    beside, _, below = token.value.partition("\n")
    lines = below.splitlines(keepends=True)
    there = next((i for i, line in enumerate(lines) if line.strip() and _column(line) < column), len(lines))
    there = there if column else 0
    while 0 < there < len(lines) and not lines[there - 1].strip():
        there -= 1
    kept = "".join([beside, "\n", *lines[:there]])
    return CommentToken(kept, token.start_mark) if kept.strip() else None, "".join(lines[there:])


def _shed(values: CommentedMap) -> str:
    """Take the lines below the last key of a mapping that are not of the mapping, being indented less."""
    comments = values.ca.items.get(list(values)[-1]) if values else None
    if comments is None or _flows(values):
        return ""
    if not values.lc.col:
        return ""
    comments[2], tail = _cut(comments[2], values.lc.col)
    return tail


def _lowest(values: CommentedMap) -> tuple[CommentedMap, str]:
    """The last key of a mapping, or of the one that it holds, and so on."""
    last = list(values)[-1]
    below = values[last]
    return _lowest(below) if isinstance(below, CommentedMap) and below and not _flows(below) else (values, last)


def _takes(values: CommentedMap) -> bool:
    """Whether lines can be put below the last key; those below a list are kept in another way."""
    owner, last = _lowest(values)
    return not isinstance(owner[last], CommentedSeq) or _flows(owner[last])


def _flows(values: CommentedMap | CommentedSeq) -> bool:
    return values.fa.flow_style() is True


def _append(values: CommentedMap, tail: str) -> None:
    """Put lines below the last key of a mapping."""
    if not tail:
        return
    values, last = _lowest(values)
    comments = values.ca.items.setdefault(last, [None, None, None, None])
    beside = comments[2].value if comments[2] else "\n"
    comments[2] = CommentToken(beside + tail, comments[2].start_mark if comments[2] else CommentMark(0))


def _column(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _indented(lines: list[CommentToken] | None, nested: CommentedMap) -> list[CommentToken] | None:
    """Comments above a key that is now nested, in its column."""
    if not lines:
        return None
    column = getattr(nested.lc, "col", None) or 2
    return [CommentToken(token.value.lstrip(" "), CommentMark(column)) for token in lines]


def _position(error: YAMLError) -> str:
    """Where, but never the line itself, which may hold a password."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return ""
    return f": see line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
