"""StorageConfig: how an AG-UI store is configured, with the keys that AG-UI itself uses."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from agui_pipelines.spec.section import Duration, FileMode, Section


class RedisOptions(Section):
    """``redis_options`` of StorageConfig."""

    pool_size: int = 10
    min_idle_conns: int = 5
    max_retries: int = 3
    username: str | None = None
    password: SecretStr | None = None
    db: int = Field(0, ge=0)
    key_prefix: str = "ag-ui:state:"
    enable_tls: bool = False
    tls_ca_file: Path | None = None
    """Ours, as are the others of TLS: authorities to trust beside those of the system, a PEM file."""
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_insecure: bool = False
    """Whether any certificate is accepted, whoever shows it."""
    compression_type: str | None = None

    def anchored(self, folder: Path) -> RedisOptions:
        """A copy whose relative files count from `folder`."""
        files = {name: getattr(self, name) for name in ("tls_ca_file", "tls_cert_file", "tls_key_file")}
        return self.model_copy(update={name: folder / file.expanduser() for name, file in files.items() if file})


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


class Storage(Section):
    """The keys that StorageConfig has for every backend."""

    connect_timeout: Duration = 30.0
    read_timeout: Duration = 10.0
    write_timeout: Duration = 10.0
    idle_timeout: Duration = 300.0
    max_connections: int = Field(10, ge=1)
    max_retries: int = Field(3, ge=0)
    compression: bool | str | None = None


class RedisConfig(Storage):
    """An AG-UI store on Redis."""

    type: Literal["redis"]
    connection_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    database: str | int | None = None
    schema_: str | None = Field(None, alias="schema")
    redis_options: RedisOptions = RedisOptions()


class PostgresConfig(Storage):
    """An AG-UI store on PostgreSQL."""

    type: Literal["postgresql"]
    connection_url: SecretStr
    database: str | None = None
    schema_: str = Field("public", alias="schema")
    postgresql_options: PostgresOptions = PostgresOptions()


class FileConfig(Storage):
    """An AG-UI store in files."""

    type: Literal["file"]
    connection_url: SecretStr | None = None
    database: str | None = None
    schema_: str | None = Field(None, alias="schema")
    file_options: FileOptions = FileOptions()


TargetConfig = RedisConfig | PostgresConfig | FileConfig
