"""``strip_prefix: {prefix: "session:"}``: takes a prefix off every state id.

::

    transforms: [strip_prefix: {prefix: "session:"}]
    before:     session:user-1  {"n": 1.0}
    after:      user-1          {"n": 1.0}

An id without the prefix is left as it is; one that consists of nothing else is rejected. Versions and snapshots follow their
state; documents and deltas stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind, rejected
from agui_pipelines.transforms.options import fingerprint, only_text
from agui_pipelines.transforms.rewriting import PHASE


class StripPrefix:
    identity = False

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.fingerprint = fingerprint("strip_prefix", prefix)

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        ids = batch.column("state_id")
        bare = pc.equal(ids, self._prefix)
        if pc.any(bare).as_py():
            detail = f"The id is the prefix '{self._prefix}' and nothing else, so no id would be left."
            for row in pc.indices_nonzero(bare).to_pylist():
                on_reject(rejected(kind, batch, row, PHASE, "empty_id", detail))
            batch = batch.filter(pc.invert(bare))
            ids = batch.column("state_id")
        # Slicing counts characters, as len() does.
        stripped = pc.if_else(
            pc.starts_with(ids, self._prefix), pc.utf8_slice_codeunits(ids, start=len(self._prefix)), ids
        )
        return batch.set_column(batch.schema.get_field_index("state_id"), batch.schema.field("state_id"), stripped)


def build(options: Any, folder: Path) -> StripPrefix:  # noqa: ARG001 - every transform is built alike
    return StripPrefix(only_text("strip_prefix", options, "prefix", 'strip_prefix: {prefix: "session:"}'))
