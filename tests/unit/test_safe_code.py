"""What the product's own code never does: run data as code, or put names into SQL as text."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CODE = sorted(file for folder in ("agui_pipelines", "assets") for file in (CHECKOUT / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
CALLS = {"eval", "exec", "__import__", "os.system", "os.popen"}
UNSAFE_YAML = {"load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all", "add_multi_constructor"}


def name_of(node):
    """A dotted name, if an expression is one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return ""


def dangers(source):
    """What stands in a module that may run data as code."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in MODULES}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.add(node.module)
        if isinstance(node, ast.Call):
            found |= {name} if (name := name_of(node.func)) in CALLS else set()
            found |= (
                {"shell=True"} if any(k.arg == "shell" and name_of(k.value) != "" for k in node.keywords) else set()
            )
            found |= {"shell=True" for k in node.keywords if k.arg == "shell" and getattr(k.value, "value", True)}
            if name.startswith("yaml.") and name.split(".")[1] in UNSAFE_YAML:
                found.add(name)
            if name == "yaml.load" and [name_of(argument) for argument in node.args[1:]] != ["_Loader"]:
                found.add(name)
            if name == "YAML" and (node.args or node.keywords):  # by itself ruamel.yaml makes no objects
                found.add(name)
        if isinstance(node, ast.ClassDef) and node.name == "_Loader":
            found |= {"yaml loader"} if [name_of(base) for base in node.bases] != ["yaml.SafeLoader"] else set()
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "class _Loader(yaml.Loader): pass",
        "YAML(typ='unsafe')",
        "subprocess.run(text, shell=True)",
    ],
)
def test_a_danger_would_be_found(source):
    assert dangers(source)


def test_nothing_that_was_read_is_run():
    assert len(CODE) > 100
    found = {str(file.relative_to(CHECKOUT)): dangers(file.read_text("utf-8")) for file in CODE}
    assert {name: what for name, what in found.items() if what} == {}


def test_what_is_sent_to_a_server_names_nothing_by_text_alone():
    """Statements made by formatting are found by ruff; those that it is told to pass over never go to a server."""
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--select=S608",
        "--ignore-noqa",
        "--output-format=concise",
        "--no-cache",
    ]

    told = subprocess.run(
        [*command, "agui_pipelines", "assets"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )

    places = {line.split(":")[0] for line in told.stdout.splitlines() if "S608" in line}
    assert places == {
        "agui_pipelines/phases/applying.py",  # DuckDB: names of its own tables, and a number
        "agui_pipelines/phases/backup.py",  # DuckDB: one of three names
        "agui_pipelines/phases/comparison.py",  # DuckDB: names of its own tables
        "agui_pipelines/phases/cursor.py",  # DuckDB: small numbers
        "agui_pipelines/phases/decommission.py",  # DuckDB: names of its own tables
        "agui_pipelines/phases/history.py",  # DuckDB: a number
        "agui_pipelines/phases/integrity.py",  # DuckDB: names of its own tables
        "agui_pipelines/phases/origins.py",  # DuckDB: constants
        "agui_pipelines/phases/recheck.py",  # DuckDB: a number
        "agui_pipelines/phases/sample.py",  # DuckDB: numbers
        "agui_pipelines/sources/sqlite.py",  # a table that was looked up in the database, quoted
        "agui_pipelines/staging/arrivals.py",  # DuckDB: columns of the schema
    }
