"""AG-UI stores: one backend a file, loaded when it is asked for."""

from __future__ import annotations

from pathlib import Path

from agui_pipelines.ports import Store
from agui_pipelines.spec import FileConfig, RedisConfig, TargetConfig


def open_store(config: TargetConfig, folder: Path) -> Store:
    """The store that `config` describes; connects on first use. A relative ``base_dir`` counts from `folder`."""
    if isinstance(config, FileConfig):
        from agui_pipelines.stores.file import FileStore  # noqa: PLC0415 - backends are loaded when they are asked for

        options = config.file_options.model_copy(update={"base_dir": folder / config.file_options.base_dir})
        return FileStore(config.model_copy(update={"file_options": options}))
    if isinstance(config, RedisConfig):
        from agui_pipelines.stores.redis import RedisStore  # noqa: PLC0415

        return RedisStore(config)
    from agui_pipelines.stores.postgresql import PostgresStore  # noqa: PLC0415

    return PostgresStore(config)
