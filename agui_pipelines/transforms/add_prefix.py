"""``add_prefix: {prefix: "tenant-1:"}``: puts a prefix before every state id. `strip_prefix` takes it off again.

::

    transforms: [add_prefix: {prefix: "tenant-1:"}]
    before:     user-1           {"n": 1.0}
    after:      tenant-1:user-1  {"n": 1.0}

Versions and snapshots follow their state; documents and deltas stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind
from agui_pipelines.transforms.options import fingerprint, only_text


class AddPrefix:
    identity = False

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.fingerprint = fingerprint("add_prefix", prefix)

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:  # noqa: ARG002 - the port
        prefixed = pc.binary_join_element_wise(self._prefix, batch.column("state_id"), "")
        return batch.set_column(batch.schema.get_field_index("state_id"), batch.schema.field("state_id"), prefixed)


def build(options: Any, folder: Path) -> AddPrefix:  # noqa: ARG001 - every transform is built alike
    return AddPrefix(only_text("add_prefix", options, "prefix", 'add_prefix: {prefix: "tenant-1:"}'))
