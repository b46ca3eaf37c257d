"""``strip_prefix: {prefix: "session:"}``: takes a prefix off every state id.

An id without the prefix is left as it is; one that consists of nothing else is rejected.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.errors import SpecError
from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind, Reject, id_columns

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class StripPrefix:
    identity = False

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.fingerprint = f"strip_prefix:{prefix}"

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        ids = batch.column("state_id")
        bare = pc.equal(ids, self._prefix)
        if pc.any(bare).as_py():
            for row in batch.filter(bare).to_pylist():
                detail = f"The id is the prefix '{self._prefix}' and nothing else, so no id would be left."
                key = "/".join(row[name] for name in id_columns(kind))
                on_reject(Reject(kind, key.encode(), row["data"], "transform", "empty_id", detail))
            batch = batch.filter(pc.invert(bare))
            ids = batch.column("state_id")
        # Slicing counts characters, as len() does.
        stripped = pc.if_else(
            pc.starts_with(ids, self._prefix), pc.utf8_slice_codeunits(ids, start=len(self._prefix)), ids
        )
        return batch.set_column(batch.schema.get_field_index("state_id"), batch.schema.field("state_id"), stripped)


def build(options: Any, folder: Path) -> StripPrefix:  # noqa: ARG001 - every transform is built alike
    prefix = options.get("prefix") if isinstance(options, dict) and set(options) == {"prefix"} else options
    if not isinstance(prefix, str) or not prefix or _LONE_SURROGATE.search(prefix):
        raise SpecError("The transform 'strip_prefix' needs a prefix: strip_prefix: {prefix: \"session:\"}.")
    return StripPrefix(prefix)
