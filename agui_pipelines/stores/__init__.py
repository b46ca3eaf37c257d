"""AG-UI stores, one backend a module. `open_store` opens the one that a configuration names."""

from __future__ import annotations

from pathlib import Path

from agui_pipelines.ports import Store
from agui_pipelines.spec import FileConfig, PostgresConfig, RedisConfig, TargetConfig


def open_store(config: TargetConfig, folder: Path) -> Store:
    """The store that `config` describes; does not connect. Relative paths count from `folder`.

    A backend's module, and with it the backend's driver, is imported only when such a store is opened.
    """
    match config:
        case FileConfig():
            from agui_pipelines.stores.file import FileStore  # noqa: PLC0415 - see above

            return FileStore(_anchored(config, folder))
        case RedisConfig():
            from agui_pipelines.stores.redis import RedisStore  # noqa: PLC0415 - see above

            return RedisStore(config.model_copy(update={"redis_options": config.redis_options.anchored(folder)}))
        case PostgresConfig():
            from agui_pipelines.stores.postgresql import PostgresStore  # noqa: PLC0415 - see above

            return PostgresStore(config)


def _anchored(config: FileConfig, folder: Path) -> FileConfig:
    base_dir = folder / config.file_options.base_dir.expanduser()
    return config.model_copy(update={"file_options": config.file_options.model_copy(update={"base_dir": base_dir})})
