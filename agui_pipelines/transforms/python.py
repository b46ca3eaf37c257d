"""``python: "module:function"``: a user's own function, called for every state as ``function(state_id, document)``.

It returns ``(state_id, document)``, or just the document to keep the id. The document is a dict with exact numbers:
integers of any size, other numbers as `decimal.Decimal`. A state for which the function raises is rejected by name and the
run goes on within ``limits.max_rejects``. The module is looked up in the folder of the migration file, then on the
Python path; the operator who names it vouches for its code. The documents that versions and snapshots
recorded are passed through the function in the same way; their deltas are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from agui_pipelines import documents, user_code
from agui_pipelines.errors import SpecError, TransformError
from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind, Reject, id_columns
from agui_pipelines.user_code import told

Function = Callable[[str, dict[str, Any]], Any]


class PythonFunction:
    identity = False

    def __init__(self, name: str, function: Function, fingerprint: str) -> None:
        self._name, self._function = name, function
        self.fingerprint = fingerprint

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        ids: list[str] = []
        data: list[bytes] = []
        kept: list[int] = []
        pairs = zip(batch.column("state_id").to_pylist(), batch.column("data").to_pylist(), strict=True)
        for row, (state_id, document) in enumerate(pairs):
            try:
                new_id, new_document = self._call(state_id, document)
            except TransformError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's function raises is about this record
                detail = f"The transform {self._name} raised {told(error)}"
                key = "/".join(batch.column(c)[row].as_py() for c in id_columns(kind))
                on_reject(Reject(kind, key.encode(), document, "transform", "transform_failed", detail))
                continue
            ids.append(new_id)
            data.append(new_document)
            kept.append(row)
        if len(kept) < batch.num_rows:
            batch = batch.take(pa.array(kept, pa.int64()))
        for name, values in (("state_id", ids), ("data", data)):
            index = batch.schema.get_field_index(name)
            batch = batch.set_column(index, batch.schema.field(index), pa.array(values, batch.schema.field(index).type))
        return batch

    def _call(self, state_id: str, document: bytes) -> tuple[str, bytes]:
        result = self._function(state_id, documents.loads(document))
        new_id, value = result if isinstance(result, tuple) and len(result) == 2 else (state_id, result)  # noqa: PLR2004
        if not isinstance(new_id, str) or not isinstance(value, dict):
            raise TransformError(
                f"The transform {self._name} returned {type(result).__name__} for the state '{state_id}'.",
                why="A state needs an id and a JSON object.",
                remedy="Return the document (a dict), or (state_id, document).",
            )
        new_id.encode()  # a lone surrogate raises here, as a failure of this record
        return new_id, documents.dumps(value)


def build(options: Any, folder: Path) -> PythonFunction:
    if not isinstance(options, str) or not user_code.NAME.fullmatch(options):
        raise SpecError("The transform 'python' needs a function: python: \"module:function\".")
    loaded = user_code.load(options, folder, "transform")
    return PythonFunction(options, loaded.value, f"python:{options}:{loaded.digest}")
