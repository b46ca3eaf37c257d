"""Code of the user's own that a migration file names: ``module:attribute``, or the name of an entry point.

A module is looked for in the folder of the migration file, then on the Python path; the operator who names it vouches for
its code.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from xxhash import xxh3_64_hexdigest

from agui_pipelines.errors import SpecError

NAME: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""``module:attribute``."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A callable, and a digest of its module's source, so that a mended one is told from what it was."""

    value: Callable[..., Any]
    digest: str


def load(name: str, folder: Path, what: str, group: str = "", *, beside: Loaded | None = None) -> Loaded:
    """Import ``module:attribute``; where a `group` is given, `name` may be that of an entry point as well.

    A module beside the migration file is read anew each time, and never mistaken for another of the same name; code that is
    to work with what was loaded before it (`beside`) shares that one's modules. `what` is what the code is for, as errors
    call it (``transform``). Raises `SpecError` if there is no such module or attribute, it cannot be called, or the module
    cannot be imported.
    """
    target = name if not group or ":" in name else _entry_point(name, what, group)
    module_name, _, attribute = target.partition(":")
    module = _module(name, module_name, folder, what, anew=beside is None)
    value = getattr(module, attribute, None)
    if not callable(value):
        raise SpecError(f"The {what} '{name}' cannot be loaded: {module_name} has no function '{attribute}'.")
    source = getattr(module, "__file__", None)
    digest = xxh3_64_hexdigest(Path(source).read_bytes()) if source and Path(source).is_file() else "built-in"
    return Loaded(value, digest)


def load_file(file: Path, folder: Path, what: str) -> ModuleType:
    """Run a Python file of any name as a module of its own, anew each time; it finds modules in `folder`, as others do.

    `what` is what it is for, as errors call it. Raises `SpecError` if that fails.
    """
    spec = importlib.util.spec_from_file_location(f"agui_user_{xxh3_64_hexdigest(str(file).encode())}", file)
    if spec is None or spec.loader is None:
        raise SpecError(f"The {what} {file.name} cannot be loaded: it is no Python file.")
    module = importlib.util.module_from_spec(spec)
    path, writes = str(folder), sys.dont_write_bytecode
    sys.path.append(path)
    sys.modules[spec.name] = module  # where a dataclass, for one, looks for what its annotations name
    sys.dont_write_bytecode = True  # a cache is told from its source by a time in whole seconds
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise SpecError(f"The {what} {file.name} cannot be loaded: {told(error)}") from error
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(path)
    return module


def told(error: BaseException) -> str:
    """An error's kind and text; what a user's code says may hold what no encoding can."""
    return f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode()


def _entry_point(name: str, what: str, group: str) -> str:
    """The ``module:attribute`` that an installed package registered under a name."""
    found = {f"{point.module}:{point.attr}" for point in entry_points(group=group, name=name)}
    if len(found) == 1:
        return found.pop()
    known = ", ".join(sorted(entry_points(group=group).names)) or "none"
    raise SpecError(
        f"Several packages call their {what} '{name}': {', '.join(sorted(found))}."
        if found
        else f"There is no {what} '{name}'; known in the entry points {group}: {known}.",
        remedy="Write module:attribute, or install a package with such an entry point.",
    )


def _module(name: str, module_name: str, folder: Path, what: str, *, anew: bool) -> ModuleType:
    top = sys.modules.get(module_name.partition(".")[0])
    fresh = not anew and top is not None and _lies_in(top, folder)
    beside = _beside(module_name, folder)
    try:
        return _read_anew(module_name, folder) if beside and not fresh else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SpecError(
            f"The {what} '{name}' cannot be loaded: there is no module '{error.name}'.",
            remedy=f"It is looked for in {folder} and on the Python path.",
        ) from error
    except (Exception, SystemExit) as error:
        raise SpecError(f"The {what} '{name}' cannot be loaded: {told(error)}") from error


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
    if top not in displaced or _lies_in(displaced[top], folder):
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == top]:
        del sys.modules[name]
    sys.modules.update(displaced)


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)
