"""``add_migration_metadata``: puts a state's times into its document, as ``_migration``; for targets without a place for them.

::

    transforms: [add_migration_metadata: {migrated_at: "2026-11-22T10:00:00Z"}]
    times:      2024-01-02T03:04:05.678901Z  2025-06-07T08:09:10Z
    before:     user-1  {"n": 1.0}
    after:      user-1  {"n":1.0,"_migration":{"original_created_at":"2024-01-02T03:04:05.678901Z",
                "original_updated_at":"2025-06-07T08:09:10Z","migrated_at":"2026-11-22T10:00:00Z"}}

A time that the source does not know is left out, and so is ``migrated_at`` unless the option gives it. It is an option, and not
the time of the run, so that a run which resumes, or is repeated, stages the same documents and finds them in the target; write
``migrated_at: "${MIGRATED_AT}"`` to give it from outside. Another time is another fingerprint: all is staged again.

What an earlier migration left in ``_migration`` stays as it is, being nearer to the origin; only members that are missing are
added. A ``_migration`` that is no object is rejected by name. Versions and snapshots stay untouched: each carries its own time.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind
from agui_pipelines.transforms.kept import MEMBER
from agui_pipelines.transforms.options import fingerprint, wrong
from agui_pipelines.transforms.rewriting import Document, RejectedError, changed_document, rewrite

_NAME: Final = "add_migration_metadata"
_EXAMPLE: Final = 'add_migration_metadata: {migrated_at: "2026-11-22T10:00:00Z"}'
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class AddMigrationMetadata:
    identity = False

    def __init__(self, migrated_at: str | None) -> None:
        self._migrated_at = migrated_at
        self.fingerprint = fingerprint(_NAME, migrated_at)

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        if kind is not Kind.STATE:
            return batch
        return rewrite(kind, batch, on_reject, self._one, columns=("data",), given=("created_at", "updated_at"))

    def _one(self, data: bytes, created_at: str | None, updated_at: str | None) -> tuple[bytes] | None:
        times = {
            "original_created_at": created_at,
            "original_updated_at": updated_at,
            "migrated_at": self._migrated_at,
        }
        known = {name: time for name, time in times.items() if time is not None}
        return changed_document(_NAME, data, lambda document: _add(document, known))


def build(options: Any, folder: Path) -> AddMigrationMetadata:  # noqa: ARG001 - every transform is built alike
    given = {} if options is None else options
    migrated_at = given.get("migrated_at") if isinstance(given, dict) else None
    right = isinstance(migrated_at, str) and _RFC3339.fullmatch(migrated_at)
    if not isinstance(given, dict) or set(given) - {"migrated_at"} or (given and not right):
        raise wrong(_NAME, "takes nothing but migrated_at, an RFC 3339 time in quotes", _EXAMPLE)
    return AddMigrationMetadata(migrated_at)


def _add(document: Document, known: dict[str, str]) -> bool:
    present = document.get(MEMBER, {})
    if not isinstance(present, dict):
        raise RejectedError("member_exists", f"The document has a member '{MEMBER}' that is no object.")
    missing = {name: time for name, time in known.items() if name not in present}
    if missing:
        document[MEMBER] = {**present, **missing}
    return bool(missing)
