"""The example in every transform's docstring does what it says."""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import agui_pipelines.transforms
from agui_pipelines.records import STATE, Kind, Reject
from agui_pipelines.spec.text import _loaded
from agui_pipelines.transforms import chain

PACKAGE = Path(agui_pipelines.transforms.__file__).parent
SUPPORT = {"__init__", "field_paths", "kept", "options", "rewriting"}
MODULES = sorted(file.stem for file in PACKAGE.glob("*.py") if file.stem not in SUPPORT)

LABELS = ("times", "before", "after", "rejected")


@dataclass
class Example:
    """What a docstring says: the steps, a module of the user's, and pairs of a record before and after."""

    transforms: list[Any]
    source: str
    times: list[str]
    pairs: list[tuple[str, str, str]] = field(default_factory=list)


def example(module: str) -> Example:
    text = ast.get_docstring(ast.parse((PACKAGE / f"{module}.py").read_text()), clean=False) or ""
    blocks = [textwrap.dedent(block) for block in re.findall(r"::\n\n((?:    .*\n|\n)+)", text)]
    [block] = [block for block in blocks if block.startswith("transforms:")]
    source = next((block for block in blocks if block.startswith("def ")), "")
    steps, lines = [], []
    for line in block.strip().splitlines():
        if line.startswith(LABELS):
            lines.append(line)
        elif lines:
            lines[-1] += line.strip()  # a long document goes on in the next line
        else:
            steps.append(line)
    found = Example(_loaded("\n".join(steps))["transforms"], source, [])
    for line in lines:
        label, _, value = line.partition(":")
        if label == "times":
            found.times = value.split()
        elif label == "before":
            before = value.strip()
        else:
            found.pairs.append((before, label, value.strip()))
    return found


def examples() -> list[Any]:
    return [
        pytest.param(module, pair, id=f"{module}-{number}")
        for module in MODULES
        for number, pair in enumerate(example(module).pairs)
    ]


def test_every_transform_has_an_example() -> None:
    for module in MODULES:
        assert any(label == "after" for _, label, _ in example(module).pairs), module


def test_the_readme_names_every_transform() -> None:
    table = (PACKAGE.parents[1] / "README.md").read_text("utf-8").partition("### Transforms\n")[2].partition("###")[0]
    assert {name for name in MODULES if f"`{name}" in table} == set(MODULES)


def test_every_module_is_a_transform_that_can_be_named() -> None:
    assert sorted(agui_pipelines.transforms._NAMES) == MODULES


@pytest.mark.parametrize(("module", "pair"), examples())
def test_an_example_in_a_docstring_is_true(module: str, pair: tuple[str, str, str], tmp_path: Path) -> None:
    told = example(module)
    before, label, after = pair
    (tmp_path / "my_shapes.py").write_text(told.source)
    state_id, document = before.split(maxsplit=1)
    created_at, updated_at = told.times or (None, None)
    row = {"state_id": state_id, "data": document.encode(), "created_at": created_at, "updated_at": updated_at}
    rejects: list[Reject] = []
    steps = chain(told.transforms, tmp_path)
    out = steps.apply(Kind.STATE, pa.RecordBatch.from_pylist([row], schema=STATE), rejects.append)
    if label == "rejected":
        assert out.num_rows == 0
        assert [(r.id, r.raw, r.reason) for r in rejects] == [(state_id.encode(), document.encode(), after)]
        return
    new_id, new_document = after.split(maxsplit=1)
    assert rejects == []
    [changed] = out.to_pylist()
    assert (changed["state_id"], changed["created_at"]) == (new_id, created_at)
    assert changed["data"].decode() == new_document
