"""Migration files as text: reading YAML or JSON, resolving ``${NAME}`` references, striking out passwords."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote

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


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a migration file holds that is told to nobody."""

    variables: frozenset[str] = frozenset()
    """Environment variables that it refers to for connection URLs, passwords and the like."""
    values: frozenset[str] = field(default=frozenset(), repr=False)
    """These, and what is written out, as far as it is long enough to be looked for."""

    def struck_from(self, text: str) -> str:
        """A text in which none of them is left."""
        for value in sorted(self.values, key=len, reverse=True):  # the longer one may hold the shorter one
            text = text.replace(value, "***")
        return text

    def without(self, environment: Mapping[str, str]) -> dict[str, str]:
        """An environment without those variables, and without others that are, or hold, what is secret."""
        # The address of a server that needs no password may well stand elsewhere; what is too short to be known, need not.
        contents = {environment[name] for name in self.variables if environment.get(name)}
        hidden = {content for content in contents if content in self.values or len(content) < _TELLING}
        return {
            name: value
            for name, value in environment.items()
            if name not in self.variables
            and value not in hidden
            and not any(each in value for each in self.values if len(each) >= _UNMISTAKABLE)
        }


def secrets_in(value: Any, key: str = "") -> Secrets:
    """Of unresolved text, whose references are looked up in the environment."""
    if isinstance(value, Mapping):
        found = [secrets_in(item, str(name)) for name, item in value.items()]
    elif isinstance(value, list):
        found = [secrets_in(item, key) for item in value]
    elif isinstance(value, str):
        return _secrets_of_text(value, key)
    else:
        return Secrets()
    return Secrets(*(frozenset().union(*sets) for sets in zip(*((s.variables, s.values) for s in found), strict=True)))


def _secrets_of_text(text: str, key: str) -> Secrets:
    names = frozenset(_REFERENCE.findall(text))
    whole = _REFERENCE.sub(lambda match: os.environ.get(match[1], ""), text)
    if not (_SECRET_KEY.search(key) or redacted(whole) != whole):
        return Secrets(names) if _URL_KEY.search(key) else Secrets()  # one without a password may be told
    passwords = [found[2] for found in _USERINFO.finditer(whole)]
    values = {whole, *(os.environ.get(name, "") for name in names), *passwords, *map(unquote, passwords)}
    return Secrets(names, frozenset(value for value in values if len(value) >= _TELLING))


_TELLING: Final = 4
"""Characters of the shortest secret that is looked for: a shorter one stands in any text."""
_UNMISTAKABLE: Final = 8
"""Characters of the shortest secret for which a variable that holds more than it is left out."""
_URL_KEY: Final = re.compile("(^|_)(url|uri|dsn)$", re.IGNORECASE)
_SECRET_KEY: Final = re.compile("passw|secret|token|credential|api_?key|webhook", re.IGNORECASE)
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


def redacted_lines(text: str) -> str:
    """As `redacted_words`, but the lines stay."""
    lines = _KEYWORD_PASSWORD.sub(r"\1***", text).splitlines()
    return "\n".join(map(redacted_words, lines))


def redacted_words(text: str) -> str:
    """A program's output, each of whose words may be or hold a password, without these; its words parted by one blank each."""
    words = _KEYWORD_PASSWORD.sub(r"\1***", text).split()  # a quoted password may hold blanks
    return " ".join(map(redacted, words))
