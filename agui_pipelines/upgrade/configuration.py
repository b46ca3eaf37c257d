"""A configuration of the flat dialect (format 2.0) as one of nested keys (format 2.1); see store-format.md, section 5.

The keys move, their values stay as they were written: ``${NAME}`` references, durations, file modes. A migration file may hold
the dialect under ``source`` and ``target``. What has no place stays where it is, and is named.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from agui_pipelines.errors import SpecError
from agui_pipelines.spec import ALIASES, FileConfig, PostgresConfig, RedisConfig, SourceConfig, redacted
from agui_pipelines.upgrade.masking import masked
from agui_pipelines.upgrade.texts import Text, parsed

_FAMILIES: Final = {"redis_keys": "redis", "postgresql_rows": "postgresql"}
"""Foreign systems that are configured with the keys of a store."""

_EVERYWHERE: Final[dict[str, tuple[str, ...]]] = {
    "StorageBackend": ("type",),
    "ConnectionURL": ("connection_url",),
    "Compression": ("compression",),
    "ReadTimeout": ("read_timeout",),
    "WriteTimeout": ("write_timeout",),
    "MaxOpenConns": ("max_connections",),
    "connection_timeout": ("connect_timeout",),
}
_OF_BACKEND: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "redis": {
        "Database": ("redis_options", "db"),
        "Password": ("redis_options", "password"),
        "PoolSize": ("redis_options", "pool_size"),
        "MinIdleConns": ("redis_options", "min_idle_conns"),
        "KeyPrefix": ("redis_options", "key_prefix"),
    },
    "postgresql": {
        "Database": ("database",),
        "SchemaName": ("schema",),
        "SSLMode": ("postgresql_options", "ssl_mode"),
    },
    "file": {
        "Path": ("file_options", "base_dir"),
        "FilePerms": ("file_options", "file_mode"),
    },
}
_STORES: Final[dict[str, Any]] = {"redis": RedisConfig, "postgresql": PostgresConfig, "file": FileConfig}
_FLAT: Final = frozenset(_EVERYWHERE).union(*_OF_BACKEND.values())
_MARK: Final = "\ufeff"
_SECTIONS: Final = ("source", "target")
_ELSEWHERE: Final = {("postgresql", "Password"): "PostgreSQL takes its password from connection_url"}


@dataclass(frozen=True, slots=True)
class Move:
    """A key and where it went, as dotted paths."""

    key: str
    to: str


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A key that stays as it is, and why."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A configuration of format 2.1, as far as all its keys have a place there."""

    text: str
    diff: str
    """Unified, without literal passwords; empty if nothing changed."""
    moves: tuple[Move, ...]
    unplaced: tuple[Unplaced, ...]


@dataclass(slots=True)
class _Section:
    """One store's configuration, within a mapping that is changed."""

    values: MutableMapping[str, Any]
    text: Text
    path: str
    moves: list[Move] = field(default_factory=list)
    unplaced: list[Unplaced] = field(default_factory=list)

    def upgrade(self) -> None:
        backend = self._backend()
        for key in [key for key in self.values if key in _FLAT]:
            if not self.text.is_own(self.values, key):
                self._keep(key, "it is merged (<<) from where it is written, and has to be moved there")
                continue
            place = _EVERYWHERE.get(key) or _OF_BACKEND.get(backend, {}).get(key)
            if place is None:
                self._keep(key, _why(key, backend))
            else:
                self._move(key, place)
        self._name_unknown()

    def _backend(self) -> str:
        named = self.values.get("type", self.values.get("StorageBackend"))
        kind = ALIASES.get(named, named) if isinstance(named, str) else ""
        return _FAMILIES.get(kind, kind)

    def _move(self, key: str, place: tuple[str, ...]) -> None:
        value = self.values[key]
        if key == "StorageBackend" and isinstance(value, str):
            value = ALIASES.get(value, value)
        *folder, name = place
        parent: Any = self.values.get(folder[0], {}) if folder else self.values
        there = f"{'.'.join(place)}"
        if not isinstance(parent, Mapping):
            self._keep(key, f"{folder[0]} is no mapping, so that it cannot hold it")
        elif folder and folder[0] in self.values and self.text.is_shared(self.values, folder[0]):
            self._keep(key, f"{folder[0]} is shared with other places, by an anchor")
        elif name in parent and not _equal(_canonical(name, parent[name]), value):
            self._keep(key, f"{there} is given already, with another value")
        else:
            if name in parent:
                self.text.remove(self.values, key)
            else:
                self.text.move(self.values, key, place, value)
            self.moves.append(Move(self.path + key, self.path + there))

    def _name_unknown(self) -> None:
        """Keys that are of neither format, where it is known what the type takes."""
        named = str(self.values.get("type", ""))
        kind = ALIASES.get(named, named)
        model = _STORES.get(kind) or next(
            (c for c in get_args(SourceConfig) if kind in get_args(c.model_fields["type"].annotation)), None
        )
        if model is None:
            return
        known = {info.alias or name for name, info in model.model_fields.items()} | _FLAT
        for key in self.values:
            if key not in known:
                self._keep(str(key), f"format 2.1 has no such key for the type {kind}")

    def _keep(self, key: str, why: str) -> None:
        self.unplaced.append(Unplaced(self.path + key, why))


def upgraded(content: str, *, origin: str) -> Upgraded:
    """Upgrade the text of a configuration or a migration file, JSON or YAML. Doing so again changes nothing.

    Raises `SpecError` for what is neither, or holds no mapping.
    """
    # As Windows writes it, to be given back so.
    mark = _MARK if content.startswith(_MARK) else ""
    ending = "\r\n" if 0 < content.count("\n") == content.count("\r\n") else "\n"
    old = content.removeprefix(mark).replace("\r\n", "\n")
    text = parsed(old, origin)
    sections = [_Section(values, text, path) for path, values in _sections(text.root, origin)]
    for section in sections:
        section.upgrade()
    moves = tuple(move for section in sections for move in section.moves)
    unplaced = tuple(one for section in sections for one in section.unplaced)
    if not moves:
        return Upgraded(content, "", moves, unplaced)
    new = text.written()
    return Upgraded(mark + new.replace("\n", ending), _diff(old, new, text, origin), moves, unplaced)


def _sections(root: MutableMapping[str, Any], origin: str) -> Iterator[tuple[str, MutableMapping[str, Any]]]:
    if not any(name in root for name in _SECTIONS):
        if not _FLAT.intersection(map(str, root)) and "type" not in root:
            raise SpecError(
                f"{origin} is no configuration of a store, and no migration file.",
                why="It has neither 'type' nor a key of the flat dialect, nor 'source' and 'target'.",
                remedy="Name the file that AG-UI reads its storage configuration from.",
            )
        yield "", root
        return
    for name in _SECTIONS:
        if isinstance(root.get(name), MutableMapping):
            yield f"{name}.", root[name]


def _why(key: str, backend: str) -> str:
    if (backend, key) in _ELSEWHERE:
        return _ELSEWHERE[backend, key]
    owners = sorted(name for name, keys in _OF_BACKEND.items() if key in keys)
    if not backend:
        return f"its place depends on the type of store ({' or '.join(owners)}), which is not given"
    return f"it belongs to a store of the type {' or '.join(owners)}, and this one is {backend}"


def _canonical(name: str, value: Any) -> Any:
    return ALIASES.get(value, value) if name == "type" and isinstance(value, str) else value


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _diff(old: str, new: str, text: Text, origin: str) -> str:
    def shown(content: str) -> list[str]:
        return [redacted(line) if "://" in line else line for line in masked(content, json=text.json).splitlines()]

    lines = difflib.unified_diff(shown(old), shown(new), f"{origin} (2.0)", f"{origin} (2.1)", lineterm="")
    return "\n".join(lines)
