"""Scratch places: where a rehearsal writes, beside a store and of the same kind, and of which nothing is seen in the store.

A scratch place has a name that begins with `SCRATCH`, the moment and a token, and holds its `Owner`. One whose owner is gone
was left by a rehearsal that was killed. On Redis it is a key prefix below that of the store, so that a user who may only use
the store's keys may use it; on PostgreSQL a schema; of files a folder beside ``base_dir``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from agui_pipelines.owner import Owner
from agui_pipelines.spec import FileConfig, PostgresConfig, RedisConfig, TargetConfig

SCRATCH: Final = "rehearsal"
LONGEST: Final = timedelta(days=1)
"""A rehearsal takes minutes. One that began so long ago has ended, also if its process is one of another machine."""

NAME: Final = re.compile(r"\d{8}t\d{6}_[0-9a-f]{12}")
"""What `new_name` makes; nothing else is ever removed."""


class Scratches(Protocol):
    """The scratch places of one store. Every method raises `ConnectionFailedError` or `StoreError`."""

    def make(self, name: str, owner: Owner) -> TargetConfig:
        """Make one, and say how the store in it is configured."""
        ...

    def existing(self) -> dict[str, Owner | None]:
        """Those that are there, by name; None for an owner that cannot be told."""
        ...

    def remove(self, name: str) -> None:
        """Remove one with all that it holds; one that is not there is no error."""
        ...

    def where(self, name: str) -> str:
        """What a scratch place is called at the server, for people."""
        ...

    def close(self) -> None: ...


@contextmanager
def scratch_places(config: TargetConfig, folder: Path) -> Iterator[Scratches]:
    """The scratch places of the store that `config` describes. Relative paths count from `folder`."""
    with closing(_opened(config, folder)) as opened:
        yield opened


def _opened(config: TargetConfig, folder: Path) -> Scratches:
    match config:
        case FileConfig():
            from agui_pipelines.stores.file_scratch import FileScratches  # noqa: PLC0415 - as in `open_store`

            return FileScratches(config, folder)
        case RedisConfig():
            from agui_pipelines.stores.redis_scratch import RedisScratches  # noqa: PLC0415 - see above

            return RedisScratches(config, folder)
        case PostgresConfig():
            from agui_pipelines.stores.postgresql_scratch import PostgresScratches  # noqa: PLC0415 - see above

            return PostgresScratches(config)


def new_name() -> str:
    """``20261122t101500_1f2e3d4c5b6a``: sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dt%H%M%S}_{secrets.token_hex(6)}"


def is_left(name: str, owner: Owner | None) -> bool:
    """Whether whoever made a scratch place needs it no longer."""
    if owner is not None and owner.is_gone():
        return True
    made = datetime.strptime(name[:15], "%Y%m%dt%H%M%S").replace(tzinfo=UTC)
    return datetime.now(UTC) - made > LONGEST


def remove_left(places: Scratches) -> list[str]:
    """Remove the scratch places of rehearsals that were killed; which were."""
    left = [name for name, owner in places.existing().items() if is_left(name, owner)]
    for name in left:
        places.remove(name)
    return left
