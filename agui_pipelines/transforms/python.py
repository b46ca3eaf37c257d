"""``python: "module:function"``: a user's own function, called for every state as ``function(state_id, document)``.

With ``my_shapes.py`` beside the migration file::

    def upgrade(state_id, document):
        document["total"] = document["price"] + 1
        return "v2-" + state_id, document

::

    transforms: [python: "my_shapes:upgrade"]
    before:     user-1     {"price": 0.1000000000000000055}
    after:      v2-user-1  {"price":0.1000000000000000055,"total":1.1000000000000000055}
    before:     user-2     {}
    rejected:   transform_failed

It returns ``(state_id, document)``, or just the document to keep the id. The document is a dict with exact numbers:
integers of any size, other numbers as `decimal.Decimal`. A state for which the function raises is rejected by name and the
run goes on within ``limits.max_rejects``; a document that it leaves as it is keeps its bytes. The module is looked up in the
folder of the migration file, then on the Python path; the operator who names it vouches for its code. The documents that
versions and snapshots recorded are passed through the function in the same way; their deltas are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from agui_pipelines import documents, user_code
from agui_pipelines.errors import TransformError
from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind
from agui_pipelines.transforms.options import wrong
from agui_pipelines.transforms.rewriting import RejectedError, rewrite
from agui_pipelines.user_code import told

Function = Callable[[str, dict[str, Any]], Any]


class PythonFunction:
    identity = False

    def __init__(self, name: str, function: Function, fingerprint: str) -> None:
        self._name, self._function = name, function
        self.fingerprint = fingerprint

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        return rewrite(kind, batch, on_reject, self._one, columns=("state_id", "data"))

    def _one(self, state_id: str, data: bytes) -> tuple[str, bytes] | None:
        try:
            return self._call(state_id, data)
        except TransformError:
            raise
        except (Exception, SystemExit) as error:
            # Whatever a user's function raises is about this record.
            raise RejectedError("transform_failed", f"The transform {self._name} raised {told(error)}") from error

    def _call(self, state_id: str, data: bytes) -> tuple[str, bytes] | None:
        document = documents.loads(data)
        before = documents.dumps(document)
        result = self._function(state_id, document)
        new_id, value = result if isinstance(result, tuple) and len(result) == 2 else (state_id, result)  # noqa: PLR2004
        if not isinstance(new_id, str) or not isinstance(value, dict):
            raise TransformError(
                f"The transform {self._name} returned {type(result).__name__} for the state '{state_id}'.",
                why="A state needs an id and a JSON object.",
                remedy="Return the document (a dict), or (state_id, document).",
            )
        new_id.encode()  # a lone surrogate raises here, as a failure of this record
        after = documents.dumps(value)
        return new_id, data if after == before else after


def build(options: Any, folder: Path) -> PythonFunction:
    if not isinstance(options, str) or not user_code.NAME.fullmatch(options):
        raise wrong("python", "needs a function", 'python: "module:function"')
    loaded = user_code.load(options, folder, "transform")
    return PythonFunction(options, loaded.value, f"python:{options}:{loaded.digest}")
