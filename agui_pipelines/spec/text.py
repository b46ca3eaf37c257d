"""Migration files as text: reading YAML or JSON, resolving ``${NAME}`` references, striking out passwords."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import yaml

from agui_pipelines.errors import MissingVariableError, SpecError

FILE_VARIABLE: Final = "AGUI_MIGRATION"
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DECIMAL: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class WrittenFloat(float):
    """A number with a fraction that remembers how it was written, for options whose value goes into documents."""

    written: str

    def __new__(cls, text: str | float) -> Self:
        number = super().__new__(cls, text)
        number.written = str(text)
        return number


class _Loader(yaml.SafeLoader):
    """The safe loader, but for numbers that are more than a double."""


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).replace("_", "")
    return WrittenFloat(text) if _DECIMAL.fullmatch(text) else float(loader.construct_yaml_float(node))


_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def read_mapping(file: Path, *, what: str) -> dict[str, Any]:
    """A YAML or JSON file that holds a mapping. Raises `SpecError`."""
    try:
        value = _loaded(file.read_text("utf-8"))
    except FileNotFoundError:
        raise SpecError(
            f"The {what} {file} does not exist.",
            remedy=f"Name one, or set {FILE_VARIABLE}." if "migration" in what else "",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"The {what} {file} cannot be read: {_reason(error)}.") from None
    except yaml.YAMLError as error:
        raise SpecError(f"The {what} {file} is not valid YAML{_position(error)}.") from None
    except RecursionError:
        raise SpecError(f"The {what} {file} is nested without end.") from None
    if not isinstance(value, dict):
        raise SpecError(f"The {what} {file} holds no mapping of keys to values, so there is nothing to read from it.")
    return value


def _loaded(text: str) -> Any:
    """YAML, or JSON, which YAML holds all of but tabs as white space."""
    if text.lstrip().startswith("{"):
        with suppress(ValueError):
            return json.loads(text, parse_float=WrittenFloat)
    return yaml.load(text, _Loader)  # noqa: S506 - a safe loader


def _position(error: yaml.YAMLError) -> str:
    """Where and what, but never the line itself, which may hold a password."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return ""
    mark = error.problem_mark
    problem = re.sub(r"'.*'", "…", error.problem or "", flags=re.DOTALL)
    return f": {problem} in line {mark.line + 1}, column {mark.column + 1}"


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def resolved(value: Any, origin: str, path: tuple[str, ...]) -> Any:
    """A copy with every ``${NAME}`` replaced from the environment."""
    if isinstance(value, Mapping):
        return {key: resolved(item, origin, (*path, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item, origin, (*path, str(i))) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise MissingVariableError(
                f"{origin}: '{'.'.join(path)}' refers to the environment variable {name}, which is not set.",
                remedy=f"Set it, for example: export {name}=…",
            )
        return os.environ[name]

    return _REFERENCE.sub(replace, value)


def struck(value: Any, key: str = "") -> Any:
    """A copy of unresolved text without literal passwords and the like."""
    if isinstance(value, Mapping):
        return {k: struck(item, str(k)) for k, item in value.items()}
    if isinstance(value, list):
        return [struck(item) for item in value]
    if isinstance(value, WrittenFloat):
        return float(value)
    if not isinstance(value, str) or _REFERENCE.fullmatch(value):
        return value
    return "***" if _SECRET_KEY.search(key) else redacted(value)


_SECRET_KEY: Final = re.compile("passw|secret|token|credential|api_?key", re.IGNORECASE)
_USERINFO: Final = re.compile(r"(?<=://)([^:/?#@]*):(.*)@", re.DOTALL)
_QUERY_PASSWORD: Final = re.compile(r"([?&][^=&#]*pass[^=&#]*=)[^&#]*", re.IGNORECASE)
_KEYWORD_PASSWORD: Final = re.compile(r"(\b\w*password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)


def redacted(text: str) -> str:
    """A URL, or libpq's ``key=value`` words, without the password; for people.

    The userinfo of a URL is taken to end at the last ``@``, as somebody may not have escaped a password's ``/`` or ``@``.
    """
    if "://" in text:
        return _QUERY_PASSWORD.sub(r"\1***", _USERINFO.sub(r"\1:***@", text))
    return _KEYWORD_PASSWORD.sub(r"\1***", text)


def redacted_words(text: str) -> str:
    """A program's output, each of whose words may be or hold a password, without these; its words parted by one blank each."""
    words = _KEYWORD_PASSWORD.sub(r"\1***", text).split()  # a quoted password may hold blanks
    return " ".join(map(redacted, words))
