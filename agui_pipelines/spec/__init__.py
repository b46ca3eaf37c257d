"""The migration file and everything that can stand in it."""

from agui_pipelines.spec.decommission import DecommissionOptions
from agui_pipelines.spec.hooks import Command, Hook, Hooks
from agui_pipelines.spec.langgraph import LangGraphConfig
from agui_pipelines.spec.migration import (
    ALIASES,
    DEFAULT_FILE,
    DEFAULT_WORKSPACE,
    BackupOptions,
    Expectations,
    Limits,
    Migration,
    Outline,
    default_file,
    load,
    outline,
    parse,
)
from agui_pipelines.spec.notifications import CommandNotification, Event, Notification, WebhookNotification
from agui_pipelines.spec.postgresql_rows import PostgresRowsConfig
from agui_pipelines.spec.requirements import AssessmentOptions, Requirements
from agui_pipelines.spec.rows import ColumnType, QueriedRowsConfig, RowsConfig, TypedRowsConfig
from agui_pipelines.spec.schedules import Schedules
from agui_pipelines.spec.section import seconds_of
from agui_pipelines.spec.sources import (
    CsvConfig,
    CustomConfig,
    ForeignConfig,
    JsonLinesConfig,
    ParquetConfig,
    RedisKeysConfig,
    SourceConfig,
    SqlAlchemyConfig,
    SqliteConfig,
)
from agui_pipelines.spec.stores import (
    FileConfig,
    FileOptions,
    PostgresConfig,
    PostgresOptions,
    RedisConfig,
    RedisOptions,
    TargetConfig,
)
from agui_pipelines.spec.strategy import Strategy, StrategyType
from agui_pipelines.spec.text import (
    FILE_VARIABLE,
    Secrets,
    read_mapping,
    redacted,
    redacted_lines,
    redacted_words,
    resolved,
)
from agui_pipelines.spec.window import MaintenanceWindow

__all__ = [
    "ALIASES",
    "DEFAULT_FILE",
    "DEFAULT_WORKSPACE",
    "FILE_VARIABLE",
    "AssessmentOptions",
    "BackupOptions",
    "ColumnType",
    "Command",
    "CommandNotification",
    "CsvConfig",
    "CustomConfig",
    "DecommissionOptions",
    "Event",
    "Expectations",
    "FileConfig",
    "FileOptions",
    "ForeignConfig",
    "Hook",
    "Hooks",
    "JsonLinesConfig",
    "LangGraphConfig",
    "Limits",
    "MaintenanceWindow",
    "Migration",
    "Notification",
    "Outline",
    "ParquetConfig",
    "PostgresConfig",
    "PostgresOptions",
    "PostgresRowsConfig",
    "QueriedRowsConfig",
    "RedisConfig",
    "RedisKeysConfig",
    "RedisOptions",
    "Requirements",
    "RowsConfig",
    "Schedules",
    "Secrets",
    "SourceConfig",
    "SqlAlchemyConfig",
    "SqliteConfig",
    "Strategy",
    "StrategyType",
    "TargetConfig",
    "TypedRowsConfig",
    "WebhookNotification",
    "default_file",
    "load",
    "outline",
    "parse",
    "read_mapping",
    "redacted",
    "redacted_lines",
    "redacted_words",
    "resolved",
    "seconds_of",
]
