"""What LangGraph's serialiser wrote, as JSON: a value's type, its members, and nothing executed on the way.

``JsonPlusSerializer`` stores a value with the name of its encoding: ``msgpack``, ``json`` (older), ``bytes``, ``null`` and
others. In msgpack, what has no type of its own is an extension that names a Python class and the arguments to call it with.
Here no class is looked up and nothing is called: the name becomes a member of a JSON object.

What JSON has no type for is an object with the member ``$type``, the dotted name of the Python class:

========================================  =====================================================================
``{"$type": T, "content": …, …}``         an object made from keyword arguments: messages, pydantic models,
                                          dataclasses, named tuples
``{"$type": T, "$fields": {…}}``          the same, where the name of an argument begins with ``$``
``{"$type": T, "$value": …}``             made from one argument: datetime (ISO 8601), date, UUID, Decimal, set,
                                          deque, enum, …
``{"$type": T, "$args": […]}``            made from several: timedelta, Path, Send, …
``{"$type": T, "$method": M, …}``         made by the method M of the class instead of the class itself
``{"$type": "builtins.bytes",             bytes; likewise ``builtins.bytearray``, and ``numpy.ndarray`` with ``dtype``,
"$base64": …}``                           ``shape`` and ``order``
``{"$type": "builtins.dict",              a mapping with keys that are not strings, or with ``$type`` among them
"$items": [[key, value], …]}``
========================================  =====================================================================

So each value has one form, two values never share one, and whoever knows the classes can make the values again. Numbers
stay what they are. The codes of the extensions are those of ``langgraph/checkpoint/serde/jsonplus.py``.
"""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final

import msgpack
import orjson

from agui_pipelines import documents

TYPE: Final = "$type"


class _Extension(IntEnum):
    ONE_ARGUMENT = 0
    ARGUMENTS = 1
    KEYWORDS = 2
    METHOD = 3
    PYDANTIC_1 = 4
    PYDANTIC_2 = 5
    ARRAY = 6
    DELTA_SNAPSHOT = 7


_REMEMBERED_BYTES: Final = 4096
"""Extensions up to this size are remembered, so that all of them together take some tens of megabytes at most."""

_CODES: Final = frozenset(map(int, _Extension))


class UnusableError(Exception):
    """A value that cannot become JSON exactly; `reason` is a stable code, `detail` what it is, to follow "it holds"."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Typed:
    """A value as it is stored: the name of its encoding, and its bytes."""

    encoding: str | None
    data: bytes | None


@dataclass(frozen=True, slots=True)
class _Named:
    """A value that names its type, with the other members of its JSON object, which are not converted yet."""

    type: str
    members: dict[str, Any]


def json_text(value: Typed) -> bytes:
    """A stored value as JSON text. Raises `UnusableError`."""
    return text_of(tree(value))


def tree(value: Typed) -> Any:
    """A stored value as a tree, to be looked into and then given to `text_of`. Raises `UnusableError`."""
    encoding, data = value.encoding or "", value.data or b""
    try:
        match encoding:
            case "null":
                return None
            case "bytes":
                return data
            case "bytearray":
                return _Named("builtins.bytearray", {"$base64": _base64(data)})
            case "json":
                return documents.loads(data)
            case "msgpack":
                return _unpacked(data)
    except (ValueError, TypeError, RecursionError) as error:
        # Neither driver nor parser is quoted: their messages can hold pieces of somebody's documents.
        raise UnusableError("undecodable", f"{encoding} that cannot be read ({type(error).__name__})") from None
    if encoding == "pickle":
        raise UnusableError("pickle", "pickled Python objects, which only running code from the data could read")
    if "+" in encoding:
        raise UnusableError("encrypted", f"encrypted data ({encoding}), whose key only the application has")
    raise UnusableError(
        "unknown_encoding", f"data in the encoding {encoding!r}, which LangGraph's serialiser does not have"
    )


def text_of(part: Any) -> bytes:
    """A tree, or a part of one, as JSON text. Raises `UnusableError`."""
    try:
        try:
            return orjson.dumps(_plain(part, _fragment), default=_decimal)
        except orjson.JSONEncodeError:
            # What only older, JSON-encoded values have (integers over 64 bits, lone surrogates), or many levels.
            return documents.dumps(_plain(part, _whole))
    except (ValueError, RecursionError):
        raise UnusableError("too_deep", "a value that is nested too deeply") from None


# Reading msgpack


def _unpacked(data: bytes) -> Any:
    """Strict: all of the bytes, text in UTF-8. Mappings come as pairs, so that no key replaces another unseen.

    Extensions are left closed. To open one within the other here would let the data decide how much of the stack is used.
    """
    return msgpack.unpackb(data, object_pairs_hook=_mapping, strict_map_key=False)


_TEXT: Final = frozenset({str})


def _mapping(pairs: list[tuple[Any, Any]]) -> Any:
    try:
        mapping = dict(pairs)
    except TypeError:  # a key that is itself a list or a mapping
        return _items(pairs)
    if len(mapping) == len(pairs) and set(map(type, mapping)) <= _TEXT:
        return mapping
    return _items(pairs)


def _items(pairs: Iterable[tuple[Any, Any]]) -> _Named:
    return _Named("builtins.dict", {"$items": [[key, value] for key, value in pairs]})


def _opened(extension: msgpack.ExtType) -> Any:
    """What is in an extension. Raises `UnusableError` for one that LangGraph's serialiser does not write."""
    code, data = extension
    if code in _CODES:
        content = tree(Typed("msgpack", data))
        if code == _Extension.DELTA_SNAPSHOT:
            return content  # only the way in which a channel stores its value
        found = _array(content) if code == _Extension.ARRAY else _object(code, content)
        if found is not None:
            return found
    raise UnusableError(
        "unknown_extension", f"msgpack's extension {code} in a form that LangGraph's serialiser does not write"
    )


def _array(content: Any) -> _Named | None:
    match content:
        # An array of objects would be an array of addresses.
        case [str(dtype), list(shape), str(order), bytes(data)] if "O" not in dtype:
            members = {"dtype": dtype, "shape": shape, "order": order, "$base64": _base64(data)}
            return _Named("numpy.ndarray", members)
    return None


def _object(code: int, content: Any) -> _Named | None:  # noqa: PLR0911 - one for each form
    match code, content:
        case _Extension.ONE_ARGUMENT, [str(module), str(name), argument]:
            return _Named(f"{module}.{name}", {"$value": _usual(module, name, argument)})
        case _Extension.ARGUMENTS, ["datetime", "date", [int(year), int(month), int(day)]]:
            return _Named("datetime.date", {"$value": f"{year:04}-{month:02}-{day:02}"})
        case _Extension.ARGUMENTS, [str(module), str(name), list(arguments)]:
            return _Named(f"{module}.{name}", {"$args": arguments})
        case _Extension.METHOD, ["datetime", "datetime", argument, "fromisoformat"]:
            return _Named("datetime.datetime", {"$value": argument})
        case _Extension.METHOD, [str(module), str(name), argument, str(method)]:
            return _Named(f"{module}.{name}", {"$method": method, "$value": argument})
        case (
            (_Extension.KEYWORDS | _Extension.PYDANTIC_1 | _Extension.PYDANTIC_2),
            # A fourth element names the method by which LangGraph would have pydantic make the object.
            [str(module), str(name), fields, *_],
        ):
            return _Named(f"{module}.{name}", _members(fields))
    return None


_HEX: Final = re.compile(r"([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})")


def _usual(module: str, name: str, argument: Any) -> Any:
    """A UUID in the form in which everybody writes it, with hyphens; anything else as it is."""
    if (module, name) == ("uuid", "UUID") and isinstance(argument, str) and (match := _HEX.fullmatch(argument)):
        return "-".join(match.groups())
    return argument


def _members(fields: Any) -> dict[str, Any]:
    if isinstance(fields, dict) and not any(key.startswith("$") for key in fields):
        return fields
    return {"$fields": fields}


# Writing JSON


_AS_IT_IS: Final = frozenset({str, int, bool, type(None), Decimal})


def _plain(part: Any, extension: Callable[[msgpack.ExtType], Any]) -> Any:  # noqa: PLR0911 - one for each type
    """A copy that is made of what JSON has, and nothing else but what `extension` makes. Raises `UnusableError`."""
    kind = type(part)
    if kind in _AS_IT_IS:
        return part
    if kind is dict:
        if TYPE in part:
            return _plain(_items(part.items()), extension)
        return {key: member if type(member) is str else _plain(member, extension) for key, member in part.items()}
    if kind is list:
        return [_plain(item, extension) for item in part]
    if kind is float:
        if not math.isfinite(part):
            raise UnusableError("not_finite", f"the number {part}, which JSON does not have")
        return part
    if kind is _Named:
        return {TYPE: part.type, **{key: _plain(member, extension) for key, member in part.members.items()}}
    if kind is bytes:
        return {TYPE: "builtins.bytes", "$base64": _base64(part)}
    if kind is msgpack.ExtType:
        return extension(part)
    raise UnusableError(
        "unknown_extension", f"a {kind.__name__} of msgpack, which LangGraph's serialiser does not write"
    )


def _whole(part: msgpack.ExtType) -> Any:
    return _plain(_opened(part), _whole)


def _fragment(part: msgpack.ExtType) -> Any:
    """The same as text. A conversation's next checkpoint has all of its messages again, so those are remembered."""
    if len(part.data) > _REMEMBERED_BYTES:
        return _plain(_opened(part), _fragment)
    return orjson.Fragment(_remembered(part))


@lru_cache(maxsize=2048)
def _remembered(part: msgpack.ExtType) -> bytes:
    return text_of(_opened(part))


def _decimal(value: Any) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} is not JSON")


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
