"""The migration file: one YAML (or JSON) that describes a migration.

``${NAME}`` references to environment variables are resolved in memory only. What is stored, printed and fingerprinted is
the text with the references in it, with passwords that somebody wrote out literally struck from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from agui_pipelines.errors import SpecError
from agui_pipelines.keyspace import MAX_RANGES
from agui_pipelines.spec.decommission import DecommissionOptions
from agui_pipelines.spec.hooks import Hooks
from agui_pipelines.spec.notifications import Notification
from agui_pipelines.spec.postgresql_rows import PostgresRowsConfig
from agui_pipelines.spec.requirements import AssessmentOptions, Requirements
from agui_pipelines.spec.schedules import Schedules
from agui_pipelines.spec.section import FLAT_DIALECT, Section, unknown_key
from agui_pipelines.spec.sources import SourceConfig
from agui_pipelines.spec.stores import TargetConfig
from agui_pipelines.spec.strategy import Strategy
from agui_pipelines.spec.sync import SyncOptions
from agui_pipelines.spec.text import FILE_VARIABLE, Secrets, read_mapping, resolved, secrets_in, struck
from agui_pipelines.spec.window import MaintenanceWindow

DEFAULT_FILE: Final = "migration.yaml"
DEFAULT_WORKSPACE: Final = ".agui"

Property = Literal["expiry", "timestamps", "duplicate_keys", "sub_microseconds", "history", "snapshots"]

_UNDECISIVE: Final = frozenset(
    {
        *("batch_size", "parallelism", "limits", "workspace", "accept_losses", "backup", "on_failure", "hooks"),
        *("expectations", "requirements", "assessment", "strategy", "notifications", "sync", "decommission"),
        *("maintenance_window", "reverse_transforms", "schedules", "owners", "tags"),
    }
)
"""Keys that may change without what was done so far becoming wrong."""

_OWNER: Final = r"^(team:[^\s]+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7})$"
"""What Dagster takes for an owner."""
_LABEL: Final = r"^[A-Za-z0-9_.-]{1,63}$"
"""What Dagster takes for the name or value of a tag."""

ALIASES: Final = {"postgres": "postgresql"}

TYPES: Final = frozenset(
    literal for config in get_args(SourceConfig) for literal in get_args(config.model_fields["type"].annotation)
)
"""What ``type`` can be, of a source or a target."""


def _with_canonical_type(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    flat = sorted(FLAT_DIALECT.intersection(map(str, value)))
    if flat and "type" not in value:
        raise ValueError(unknown_key(flat[0], set()))
    kind = value.get("type")
    return {**value, "type": ALIASES[kind]} if isinstance(kind, str) and kind in ALIASES else value


class Limits(Section):
    """What a migration may cost before it is stopped."""

    max_rejects: int = Field(0, ge=0)
    """Records that may be rejected, over all ranges, before the import is refused."""
    retries: int = Field(7, ge=0, le=100)
    """How often a piece of work is tried again after an error that may pass, before the run ends with it."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Paths = Annotated[tuple[Annotated[str, Field(pattern=r"^[^\x00]+$")], ...], BeforeValidator(_listed)]
"""One path, or a list of them."""


class Expectations(Section):
    """Suites of one's own, of Great Expectations, as paths of JSON files that count from the migration file's folder.

    They are looked at besides the ones that are shipped; see `expectations.suites`.
    """

    exported: Paths = ()
    staged: Paths = ()
    loaded: Paths = ()


class BackupOptions(Section):
    """What is backed up of the target, and for how long."""

    before_import: bool = True
    """Whether what the target holds under the ids that an import writes is backed up before; without, there is no way back."""
    keep: int = Field(5, ge=1)
    """Backups that are kept, of each end; those that may be needed besides."""


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
    accept_losses: tuple[
        Literal["expiry", "timestamps", "duplicate_keys", "sub_microseconds", "history", "snapshots"], ...
    ] = ()
    """Properties that carry meaning and may be lost on this route; see `losses.MEANING`."""
    keep: tuple[Literal["timestamps", "expiry"], ...] = ()
    """Properties that the documents carry in their ``_migration`` member where the target has no place for them."""
    restore_kept: bool = False
    """Whether what ``_migration`` members carry becomes the records' own again."""
    history_limit: int | None = Field(None, ge=1)
    """Versions of each state that are migrated, the newest ones; all unless given."""
    requirements: Requirements = Requirements()
    assessment: AssessmentOptions = AssessmentOptions()
    expectations: Expectations = Expectations()
    backup: BackupOptions = BackupOptions()
    on_failure: Literal["rollback", "keep"] = "rollback"
    """What becomes of the target when an import or its validation fails: put back as it was, or left as it is."""
    hooks: Hooks = Hooks()
    notifications: tuple[Notification, ...] = ()
    """Who is told of what it does."""
    in_place: bool = False
    """Whether source and target are one store, whose records are replaced by what the transforms make of them."""
    sync: SyncOptions = SyncOptions()
    schedules: Schedules = Schedules()
    owners: tuple[Annotated[str, Field(pattern=_OWNER)], ...] = ("team:platform",)
    """Whose it is, as Dagster shows it: addresses, or ``team:NAME``."""
    tags: dict[Annotated[str, Field(pattern=_LABEL)], Annotated[str, Field(pattern=_LABEL)]] = Field(
        default_factory=dict
    )
    """What Dagster shows of it besides."""
    decommission: DecommissionOptions = DecommissionOptions()
    strategy: Strategy | None = None
    """What is asked for; a plan recommends one by itself."""
    maintenance_window: MaintenanceWindow | None = None
    """When a cutover may happen; at any time unless given."""
    reverse_transforms: tuple[str | dict[str, Any], ...] | None = None
    """What makes records of the source of the target's, for the way back after a cutover; where a transform has no inverse
    of its own."""
    workspace: str = Field(DEFAULT_WORKSPACE, repr=False)

    @model_validator(mode="after")
    def _with_a_way_back(self) -> Self:
        if self.in_place and not self.backup.before_import:
            raise ValueError("in_place replaces what the store holds, so it needs backup.before_import")
        return self

    _text: dict[str, Any] = PrivateAttr(default_factory=dict)
    _folder: Path = Path()
    _secrets: Secrets = PrivateAttr(default_factory=Secrets)

    @property
    def text(self) -> dict[str, Any]:
        """The file as it was written, references unresolved, literal passwords struck out: safe to store and to print."""
        return self._text

    def rewriting(
        self, store: TargetConfig, end: Literal["source", "target"], name: str, transforms: Sequence[dict[str, Any]]
    ) -> Migration:
        """A migration of one of the two stores in place, by other transforms; all else as here, as far as it concerns that."""
        text = {key: value for key, value in self.text.items() if key in _UNDECISIVE}
        text |= {"name": name, "source": self.text.get(end), "target": self.text.get(end)}
        text |= {"transforms": list(transforms), "in_place": True}
        unset: dict[str, Any] = {
            "keep": (),
            "restore_kept": False,
            "history_limit": None,
            "expectations": Expectations(),
            "on_failure": "rollback",
            "backup": self.backup.model_copy(update={"before_import": True}),
            "limits": self.limits.model_copy(update={"max_rejects": 0}),
        }
        changes = {"name": name, "source": store, "target": store, "transforms": tuple(transforms), "in_place": True}
        return self.derived(unset | changes, text)

    def derived(self, changes: Mapping[str, Any], text: Mapping[str, Any]) -> Migration:
        """A migration that no file describes: this one with some keys changed, which are not validated, and `text` for them."""
        made = self.model_copy(update=dict(changes))
        object.__setattr__(made, "_text", dict(text))
        return made

    @property
    def secrets(self) -> Secrets:
        """What of the file, and of the environment that it refers to, is told to nobody."""
        return self._secrets

    @property
    def folder(self) -> Path:
        """Where the file lies; user modules named by it are found there."""
        return self._folder

    @property
    def fingerprint(self) -> str:
        """Identifies what decides the result of a migration (not, say, its parallelism), 16 hex digits."""
        decisive = {k: v for k, v in self.text.items() if k not in _UNDECISIVE}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def carried(self) -> tuple[str, ...]:
        """Properties that documents carry where the target has no place for them: `keep`, and what the source has put there."""
        stamped = isinstance(self.source, PostgresRowsConfig) and self.source.migration_metadata
        return tuple(dict.fromkeys([*self.keep, *(["timestamps"] if stamped else [])]))

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
    url = resolved(workspace, str(file), ("workspace",))
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
        values = resolved(dict(text), origin, ())
    except RecursionError:
        raise SpecError(f"{origin} refers to itself.") from None
    try:
        migration = Migration.model_validate(values)
    except ValidationError as error:
        raise SpecError(f"{origin}: {_first_problem(error)}.", remedy="Nothing was done.") from None
    object.__setattr__(migration, "_text", struck(dict(text)))
    object.__setattr__(migration, "_folder", (folder or Path.cwd()).resolve())
    object.__setattr__(migration, "_secrets", secrets_in(text))
    return migration


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"] if str(part) not in TYPES)
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
