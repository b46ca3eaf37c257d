"""The migration file and everything that can stand in it."""

from agui_pipelines.spec.langgraph import LangGraphConfig
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
from agui_pipelines.spec.sources import ForeignConfig, RedisKeysConfig, SourceConfig
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
    "LangGraphConfig",
    "Limits",
    "Migration",
    "Outline",
    "PostgresConfig",
    "PostgresOptions",
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
