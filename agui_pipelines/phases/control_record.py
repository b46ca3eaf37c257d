"""The control record: what a cutover leaves in a store of which of the two sides applications use.

JSON text, ``{"live": "this" | "other", "since": …, "migration": …, "plan": …}``, beside the store's records (see
`ports.Store.live`). Where both stores say ``this``, the newer one counts: that is how a switch begins, and how it ends if it is
killed. A foreign system has no place for one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson

from agui_pipelines.errors import StoreError
from agui_pipelines.ports import Store


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """What one store says."""

    live: Literal["this", "other"]
    since: str
    """RFC 3339."""
    migration: str
    plan: str
    """The plan that proved both sides equal before the switch."""

    def to_bytes(self) -> bytes:
        return orjson.dumps(asdict(self))


def control_record(store: Store) -> ControlRecord | None:
    """What a store says; None if it says nothing. Raises `StoreError` for what is no control record."""
    text = store.live()
    if text is None:
        return None
    try:
        values: dict[str, Any] = orjson.loads(text)
        found = ControlRecord(**values)
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"The control record of {store.describe()} is damaged: {error}.",
            why="It says which side applications use.",
            remedy="Look at it, and remove it if nothing relies on it.",
        ) from error
    return found
