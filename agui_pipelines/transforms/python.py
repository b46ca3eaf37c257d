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

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pyarrow as pa
from xxhash import xxh3_64_hexdigest

from agui_pipelines import documents
from agui_pipelines.errors import SpecError, TransformError
from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind
from agui_pipelines.transforms.options import wrong
from agui_pipelines.transforms.rewriting import RejectedError, rewrite

_NAME: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

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
            raise RejectedError("transform_failed", f"The transform {self._name} raised {_told(error)}") from error

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


def _told(error: BaseException) -> str:
    """An error's kind and text; what a user's function says may hold what no encoding can."""
    return f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode()


def build(options: Any, folder: Path) -> PythonFunction:
    if not isinstance(options, str) or not _NAME.fullmatch(options):
        raise wrong("python", "needs a function", 'python: "module:function"')
    function, fingerprint = load_function(options, folder)
    return PythonFunction(options, function, fingerprint)


def load_function(name: str, folder: Path) -> tuple[Function, str]:
    """Import ``module:function``; returns it with a digest of its module's source, so that a mended one runs again on resume.

    A module beside the migration file is read anew each time, and never mistaken for another of the same name. Raises
    `SpecError` if there is no such module or function, or the module cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    beside = _beside(module_name, folder)
    try:
        module = _read_anew(module_name, folder) if beside else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SpecError(
            f"The transform '{name}' cannot be loaded: there is no module '{error.name}'.",
            remedy=f"It is looked for in {folder} and on the Python path.",
        ) from error
    except (Exception, SystemExit) as error:
        raise SpecError(f"The transform '{name}' cannot be loaded: {_told(error)}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise SpecError(f"The transform '{name}' cannot be loaded: {module_name} has no function '{attribute}'.")
    source = getattr(module, "__file__", None)
    digest = xxh3_64_hexdigest(Path(source).read_bytes()) if source and Path(source).is_file() else "built-in"
    return function, f"python:{name}:{digest}"


def _beside(module_name: str, folder: Path) -> Path | None:
    stem = folder.joinpath(*module_name.split("."))
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)


def _read_anew(module_name: str, folder: Path) -> ModuleType:
    """Import a module of the migration's folder as its file is now, with whatever else its package holds."""
    top = module_name.partition(".")[0]
    path = str(folder)
    displaced = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == top}
    if path in sys.path:
        sys.path.remove(path)
    sys.path.insert(0, path)
    importlib.invalidate_caches()
    # A byte code cache is told from its source by a time in whole seconds; without one, a quick edit is seen.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return importlib.import_module(module_name)
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(path)
        sys.path.append(path)  # for what the module imports later, but never before the libraries that others import
        _restore(displaced, top, folder)


def _restore(displaced: dict[str, ModuleType], top: str, folder: Path) -> None:
    """Give a library back its name, if the user's module happens to have it too."""
    file = getattr(displaced.get(top), "__file__", None)
    if top not in displaced or (file is not None and Path(file).is_relative_to(folder)):
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == top]:
        del sys.modules[name]
    sys.modules.update(displaced)
