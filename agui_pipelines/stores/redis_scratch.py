"""Scratch places of a store on Redis: a key prefix below the store's own.

One key of the store, ``meta:rehearsal``, says which there is and whose; it is set before the first key of the place, and
deleted after the last. So nobody has to look through all keys to find out whether there is one, and there is one at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import orjson

from agui_pipelines.drivers.redis import Burst, RedisWire, glob_escaped
from agui_pipelines.errors import StoreError
from agui_pipelines.owner import Owner
from agui_pipelines.spec import RedisConfig
from agui_pipelines.stores.redis_layout import key_bytes
from agui_pipelines.stores.scratch import NAME, SCRATCH

_MARK: Final = b"meta:" + SCRATCH.encode()
_KEYS: Final = 500


class RedisScratches:
    """See `scratch.Scratches`. `make` raises `StoreError` while another rehearsal goes on there."""

    def __init__(self, config: RedisConfig, folder: Path) -> None:
        self._config = config
        self._wire = RedisWire(config.model_copy(update={"redis_options": config.redis_options.anchored(folder)}))
        self._prefix = config.redis_options.key_prefix

    def make(self, name: str, owner: Owner) -> RedisConfig:
        mark = orjson.dumps({"name": name, "owner": owner.to_json().decode()})
        if self._wire.call(b"SET", self._mark, mark, b"NX") is None:
            raise StoreError(
                f"The key {self._mark.decode('utf-8', 'backslashreplace')} says that another rehearsal goes on.",
                why="Two at a time would measure each other.",
                remedy="Wait until it has ended; should that key not be one of agui-migrate, remove it.",
            )
        options = self._config.redis_options.model_copy(update={"key_prefix": self._scratch(name)})
        return self._config.model_copy(update={"redis_options": options})

    def existing(self) -> dict[str, Owner | None]:
        mark = self._wire.call(b"GET", self._mark)
        try:
            values = orjson.loads(mark or b"")
            name, owner = values["name"], values["owner"]
        except (ValueError, TypeError, KeyError):
            return {}
        return {name: Owner.parsed(owner)} if NAME.fullmatch(name) else {}

    def remove(self, name: str) -> None:
        for page in self._wire.scan(glob_escaped(key_bytes(self._scratch(name))) + b"*"):
            for start in range(0, len(page), _KEYS):
                self._wire.run(Burst.of((b"DEL", *page[start : start + _KEYS])))
        if name in self.existing():
            self._wire.call(b"DEL", self._mark)

    def where(self, name: str) -> str:
        return f"the keys {self._scratch(name)}*"

    def close(self) -> None:
        self._wire.close()

    @property
    def _mark(self) -> bytes:
        return key_bytes(self._prefix) + _MARK

    def _scratch(self, name: str) -> str:
        return f"{self._prefix}{SCRATCH}:{name}:"
