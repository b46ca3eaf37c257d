"""The migration file and everything that can stand in it."""

from agui_pipelines.spec.migration import (
    ALIASES,
    DEFAULT_FILE,
    DEFAULT_WORKSPACE,
    Limits,
    Migration,
    Outline,
    default_file,
    load,
    outline,
    parse,
)
from agui_pipelines.spec.sources import ForeignConfig, PostgresRowsConfig, RedisKeysConfig, SourceConfig
from agui_pipelines.spec.stores import (
    FileConfig,
    FileOptions,
    PostgresConfig,
    PostgresOptions,
    RedisConfig,
    RedisOptions,
    TargetConfig,
)
from agui_pipelines.spec.text import FILE_VARIABLE, read_mapping, redacted

__all__ = [
    "ALIASES",
    "DEFAULT_FILE",
    "DEFAULT_WORKSPACE",
    "FILE_VARIABLE",
    "FileConfig",
    "FileOptions",
    "ForeignConfig",
    "Limits",
    "Migration",
    "Outline",
    "PostgresConfig",
    "PostgresOptions",
    "PostgresRowsConfig",
    "RedisConfig",
    "RedisKeysConfig",
    "RedisOptions",
    "SourceConfig",
    "TargetConfig",
    "default_file",
    "load",
    "outline",
    "parse",
    "read_mapping",
    "redacted",
]
