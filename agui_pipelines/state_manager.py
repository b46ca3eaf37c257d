"""`StateManager`: the calls that users of the AG-UI guide know, over any store.

Contexts live in memory, as in the reference. Documents are Python dicts with exact numbers (see `documents`).
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import jsonpatch

from agui_pipelines import documents
from agui_pipelines.errors import UsageError
from agui_pipelines.ports import Store, Version


@dataclass(frozen=True, slots=True)
class Context:
    """On whose behalf states are read and changed."""

    context_id: str
    state_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class StateManager:
    """Reads and changes states of a store, keeping a version of every change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._contexts: dict[str, Context] = {}

    def create_context(self, state_id: str, metadata: Mapping[str, Any] | None = None) -> str:
        """Open a context and return its id (UUIDv4). Nothing is written to the store."""
        if not state_id:
            raise UsageError("A context needs a state id, and it is empty.")
        context = Context(str(uuid.uuid4()), state_id, dict(metadata or {}))
        self._contexts[context.context_id] = context
        return context.context_id

    def get_state(self, context_id: str, state_id: str) -> dict[str, Any] | None:
        """The document of a state, or None."""
        self._context(context_id)
        document = self._store.get_state(state_id)
        return None if document is None else documents.loads(document)

    def update_state(self, context_id: str, state_id: str, document: Mapping[str, Any]) -> Version:
        """Replace a state's document as a whole and record the version, with the JSON Patch (RFC 6902) to its parent.

        State and version become visible together. Returns the version; its delta is None for a state's first version.
        """
        context = self._context(context_id)
        new = documents.dumps(dict(document))
        with self._store.transaction() as transaction:
            history = self._store.get_version_history(state_id, limit=1)
            before = self._store.get_state(state_id)
            delta = None if before is None else documents.dumps(_patch(before, new))
            version = Version(
                version_id=secrets.token_hex(16),
                state_id=state_id,
                timestamp=_now(),
                data=new,
                delta=delta,
                metadata=documents.dumps(dict(context.metadata)) if context.metadata else None,
                parent_id=history[0].version_id if history else "",
            )
            transaction.set_state(state_id, new)
            transaction.save_version(version)
        return version

    def delete_state(self, context_id: str, state_id: str) -> bool:
        """Delete a state, not its history; whether there was one."""
        self._context(context_id)
        return self._store.delete_state(state_id)

    def list_states(self) -> list[str]:
        """All state ids, sorted."""
        return sorted(self._store.list_states())

    def get_state_history(self, state_id: str, limit: int = 0) -> Sequence[Version]:
        """Versions of a state, newest first; `limit` 0 means all."""
        return self._store.get_version_history(state_id, limit)

    def _context(self, context_id: str) -> Context:
        try:
            return self._contexts[context_id]
        except KeyError:
            raise UsageError(
                f"There is no context '{context_id}'.", remedy="Open one with create_context() first."
            ) from None


def _now() -> str:
    """RFC 3339 in UTC, trailing zeros trimmed, as Go writes it."""
    whole, _, fraction = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}".partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}Z" if fraction else f"{whole}Z"


def _patch(before: bytes, after: bytes) -> list[dict[str, Any]]:
    """RFC 6902. Values are compared as they are written, so that 1 and 1.0 differ, and decimals can be compared at all."""
    patch = jsonpatch.JsonPatch.from_diff(
        documents.loads(before), documents.loads(after), dumps=lambda value: documents.dumps(value).decode()
    )
    operations: list[dict[str, Any]] = patch.patch
    return operations
