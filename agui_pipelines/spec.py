"""The migration file: one YAML (or JSON) that describes a migration, and the AG-UI StorageConfig keys within it.

``${NAME}`` references to environment variables are resolved in memory only. What is stored, printed and fingerprinted is
the text with the references in it, with passwords that somebody wrote out literally struck from it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from agui_pipelines.errors import MissingVariableError, SpecError
from agui_pipelines.keyspace import MAX_RANGES

DEFAULT_FILE: Final = "migration.yaml"
FILE_VARIABLE: Final = "AGUI_MIGRATION"
DEFAULT_WORKSPACE: Final = ".agui"

_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_DURATION_HINT: Final = "write it like '30s', '1m30s', '500ms', or as nanoseconds"
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FLAT_DIALECT: Final = frozenset(
    {
        *("StorageBackend", "Path", "Compression", "ConnectionURL", "Database", "Password", "PoolSize", "MinIdleConns"),
        *("KeyPrefix", "MaxOpenConns", "SchemaName", "SSLMode", "ReadTimeout", "WriteTimeout", "FilePerms"),
    }
)


def _duration(value: object) -> object:
    """Seconds, from ``"1m30s"`` or, as Go writes durations, an integer of nanoseconds."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value / 1e9
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a duration; {_DURATION_HINT}")  # noqa: TRY004 - pydantic wants ValueError
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value.strip():
        raise ValueError(f"{value!r} is not a duration; {_DURATION_HINT}")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _file_mode(value: object) -> object:
    """Permission bits, from an octal string (``"0600"``) or, as Go writes them, a decimal integer (``384``)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(str(value), 8)
    except ValueError:
        raise ValueError(f"{value!r} is not an octal file mode such as '0600'") from None


Duration = Annotated[float, BeforeValidator(_duration), Field(ge=0)]
FileMode = Annotated[int, BeforeValidator(_file_mode), Field(ge=0, le=0o7777)]


class Section(BaseModel):
    """Part of a migration file. Unknown keys are refused, with the nearest valid one named."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        known = {field.alias or name for name, field in cls.model_fields.items()}
        for key in values:
            if key not in known:
                raise ValueError(_unknown_key(str(key), known))
        return values


def _unknown_key(key: str, known: set[str]) -> str:
    if key in _FLAT_DIALECT:
        return (
            f"the key '{key}' belongs to the flat configuration dialect (format 2.0); "
            "write the nested keys of format 2.1 (type, connection_url, redis_options, …) instead"
        )
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"known here: {', '.join(sorted(known))}"
    return f"unknown key '{key}'; {hint}"


class RedisOptions(Section):
    """``redis_options`` of StorageConfig."""

    pool_size: int = 10
    min_idle_conns: int = 5
    max_retries: int = 3
    password: SecretStr | None = None
    db: int = Field(0, ge=0)
    key_prefix: str = "ag-ui:state:"
    enable_tls: bool = False
    compression_type: str | None = None


class PostgresOptions(Section):
    """``postgresql_options`` of StorageConfig."""

    ssl_mode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    application_name: str = "ag-ui-state"
    statement_timeout: Duration = 30.0
    enable_partitioning: bool = False
    compression_type: str | None = None


class FileOptions(Section):
    """``file_options`` of StorageConfig."""

    base_dir: Path = Path("/var/lib/ag-ui/state")
    enable_sharding: bool = True
    shard_count: int = Field(16, ge=1)
    file_mode: FileMode = 0o600
    enable_backups: bool = True
    backup_count: int = Field(5, ge=0)
    compression_type: str | None = None
    durable: bool = True
    """Ours: whether `flush` waits until the files are on disk."""


class _Storage(Section):
    """The keys that StorageConfig has for every backend."""

    connect_timeout: Duration = 30.0
    read_timeout: Duration = 10.0
    write_timeout: Duration = 10.0
    idle_timeout: Duration = 300.0
    max_connections: int = Field(10, ge=1)
    max_retries: int = Field(3, ge=0)
    compression: bool | str | None = None


class RedisConfig(_Storage):
    """An AG-UI store on Redis."""

    type: Literal["redis"]
    connection_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    database: str | int | None = None
    schema_: str | None = Field(None, alias="schema")
    redis_options: RedisOptions = RedisOptions()


class PostgresConfig(_Storage):
    """An AG-UI store on PostgreSQL."""

    type: Literal["postgresql"]
    connection_url: SecretStr
    database: str | None = None
    schema_: str = Field("public", alias="schema")
    postgresql_options: PostgresOptions = PostgresOptions()


class FileConfig(_Storage):
    """An AG-UI store in files."""

    type: Literal["file"]
    connection_url: SecretStr | None = None
    database: str | None = None
    schema_: str | None = Field(None, alias="schema")
    file_options: FileOptions = FileOptions()


class RedisKeysConfig(_Storage):
    """Any Redis: every string key that matches is a state."""

    type: Literal["redis_keys"]
    connection_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    match: str = "*"
    redis_options: RedisOptions = RedisOptions()


TargetConfig = RedisConfig | PostgresConfig | FileConfig
SourceConfig = RedisConfig | PostgresConfig | FileConfig | RedisKeysConfig

ALIASES: Final = {"postgres": "postgresql"}


def _with_canonical_type(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    flat = sorted(_FLAT_DIALECT.intersection(map(str, value)))
    if flat and "type" not in value:
        raise ValueError(_unknown_key(flat[0], set()))
    kind = value.get("type")
    return {**value, "type": ALIASES[kind]} if isinstance(kind, str) and kind in ALIASES else value


class Limits(Section):
    """What a migration may cost before it is stopped."""

    max_rejects: int = Field(0, ge=0)
    """Records that may be rejected, over all ranges, before the import is refused."""


class Migration(Section):
    """A migration file with its references resolved; lives in memory only."""

    DIRECTORY_KEYS: ClassVar = ("workspace",)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    source: Annotated[SourceConfig, Discriminator("type"), BeforeValidator(_with_canonical_type)]
    target: Annotated[TargetConfig, Discriminator("type"), BeforeValidator(_with_canonical_type)]
    transforms: tuple[str | dict[str, Any], ...] = ()
    batch_size: int = Field(5000, ge=1, le=100_000)
    """Records per write to the target, where the target writes in batches of a fixed size."""
    ranges: int = Field(16, ge=1, le=MAX_RANGES)
    parallelism: int = Field(2, ge=1, le=64)
    """Ranges that are imported at the same time; each takes a connection of its own."""
    limits: Limits = Limits()
    workspace: str = Field(DEFAULT_WORKSPACE, repr=False)

    _text: dict[str, Any] = {}
    _folder: Path = Path()

    @property
    def text(self) -> dict[str, Any]:
        """The file as it was written, references unresolved, literal passwords struck out: safe to store and to print."""
        return self._text

    @property
    def folder(self) -> Path:
        """Where the file lies; user modules named by it are found there."""
        return self._folder

    @property
    def fingerprint(self) -> str:
        """Identifies what decides the result of a migration (not, say, its parallelism), 16 hex digits."""
        decisive = {k: v for k, v in self.text.items() if k not in ("batch_size", "parallelism", "limits", "workspace")}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def workspace_url(self) -> str:
        """The workspace as a URL or an absolute path; a relative path counts from the folder of the file."""
        return _located(self.workspace, self.folder)


def load(path: str | Path | None = None) -> Migration:
    """Read a migration file (see `default_file`).

    Raises `SpecError` with one sentence that names the file and the key.
    """
    file = default_file(path)
    return parse(read_mapping(file, what="migration file"), folder=file.resolve().parent, origin=str(file))


@dataclass(frozen=True, slots=True)
class Outline:
    """What can be told of a migration without its secrets: enough to find its ledger."""

    name: str
    workspace_url: str
    file: Path


def outline(path: str | Path | None = None) -> Outline:
    """Read a migration file as `load` does, but resolve nothing except the place of its workspace."""
    file = default_file(path)
    text = read_mapping(file, what="migration file")
    name, workspace = text.get("name"), text.get("workspace", DEFAULT_WORKSPACE)
    if not isinstance(name, str) or not isinstance(workspace, str):
        raise SpecError(f"{file}: 'name' and 'workspace' must be text.")
    url = _resolved(workspace, str(file), ("workspace",))
    return Outline(name, _located(url, file.resolve().parent), file.resolve())


def default_file(path: str | Path | None = None) -> Path:
    """`path`, else ``AGUI_MIGRATION``, else ``migration.yaml`` in the current folder."""
    return Path(path or os.environ.get(FILE_VARIABLE) or DEFAULT_FILE).expanduser()


def _located(workspace: str, folder: Path) -> str:
    """A relative workspace counts from the folder of the migration file."""
    return workspace if "://" in workspace else str(folder / workspace)


def parse(text: Mapping[str, Any], *, folder: Path | None = None, origin: str = "migration") -> Migration:
    """Validate an already loaded migration. `folder` is what relative paths count from (default: the current one)."""
    try:
        resolved = _resolved(dict(text), origin, ())
    except RecursionError:
        raise SpecError(f"{origin} refers to itself.") from None
    try:
        migration = Migration.model_validate(resolved)
    except ValidationError as error:
        raise SpecError(f"{origin}: {_first_problem(error)}.", remedy="Nothing was done.") from None
    object.__setattr__(migration, "_text", _struck(dict(text)))
    object.__setattr__(migration, "_folder", (folder or Path.cwd()).resolve())
    return migration


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
            return json.loads(text)
    return yaml.safe_load(text)


def _position(error: yaml.YAMLError) -> str:
    """Where and what, but never the line itself, which may hold a password."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return ""
    mark = error.problem_mark
    problem = re.sub(r"'.*'", "…", error.problem or "", flags=re.DOTALL)
    return f": {problem} in line {mark.line + 1}, column {mark.column + 1}"


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _resolved(value: Any, origin: str, path: tuple[str, ...]) -> Any:
    """A copy with every ``${NAME}`` replaced from the environment."""
    if isinstance(value, Mapping):
        return {key: _resolved(item, origin, (*path, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, origin, (*path, str(i))) for i, item in enumerate(value)]
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


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"] if str(part) not in _TAGS)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "union_tag_invalid":
        known = ", ".join(sorted({*str(first["ctx"]["expected_tags"]).replace("'", "").split(", "), "postgres"}))
        message = f"unknown type '{first['ctx']['tag']}'; known types: {known}"
    elif first["type"] == "union_tag_not_found":
        message = "the key 'type' is missing"
    elif first["type"] == "missing":
        message = "this key is required, and missing"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where + ': ' if where else ''}{message}{more}"


_TAGS: Final = frozenset({"redis", "postgresql", "file", "redis_keys"})


def _struck(value: Any, key: str = "") -> Any:
    """A copy of unresolved text without literal passwords."""
    if isinstance(value, Mapping):
        return {k: _struck(item, str(k)) for k, item in value.items()}
    if isinstance(value, list):
        return [_struck(item) for item in value]
    if not isinstance(value, str) or _REFERENCE.fullmatch(value):
        return value
    return "***" if "password" in key.lower() else redacted(value)


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
