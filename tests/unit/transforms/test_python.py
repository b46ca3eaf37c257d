from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agui_pipelines.canonical import digest
from agui_pipelines.errors import MigrationError, SpecError, TransformError
from agui_pipelines.records import STATE, VERSION, Kind, Reject
from agui_pipelines.transforms import chain


def module(folder: Path, text: str, name: str = "my_shapes") -> str:
    file = folder.joinpath(*name.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))
    return f"{name}:change"


def states(*rows: tuple[str, bytes]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"state_id": i, "data": d} for i, d in rows], schema=STATE)


def changed(name: str, folder: Path, *rows: tuple[str, bytes]) -> tuple[list[tuple[str, bytes]], list[Reject]]:
    rejects: list[Reject] = []
    out = chain([{"python": name}], folder).apply(Kind.STATE, states(*rows), rejects.append)
    assert out.schema.equals(STATE)
    return [(row["state_id"], row["data"]) for row in out.to_pylist()], rejects


def test_a_function_gives_a_document_or_an_id_and_a_document(tmp_path: Path) -> None:
    name = module(
        tmp_path,
        """
        def change(state_id, document):
            document["seen"] = state_id
            return ("new-" + state_id, document) if state_id == "b" else document
        """,
    )
    found, rejects = changed(name, tmp_path, ("a", b'{"x":1}'), ("b", b"{}"))
    assert found == [("a", b'{"x":1,"seen":"a"}'), ("new-b", b'{"seen":"b"}')]
    assert rejects == []
    assert not chain([{"python": name}], tmp_path).identity


def test_the_function_sees_exact_numbers(tmp_path: Path) -> None:
    name = module(
        tmp_path,
        """
        from decimal import Decimal

        def change(state_id, document):
            assert document["big"] == 123456789012345678901234567890 and type(document["big"]) is int
            assert document["exact"] == Decimal("0.1000000000000000055") and type(document["exact"]) is Decimal
            assert document["tiny"] == Decimal("1e-400") != 0
            assert str(document["one"]) == "1.0"
            document["sum"] = document["exact"] + Decimal("0.2")
            document["next"] = document["big"] + 1
            document["half"] = 0.5
            return document
        """,
    )
    document = b'{"big":123456789012345678901234567890,"exact":0.1000000000000000055,"tiny":1e-400,"one":1.0}'
    found, rejects = changed(name, tmp_path, ("a", document))
    assert rejects == []
    expected = document[:-1] + b',"sum":0.3000000000000000055,"next":123456789012345678901234567891,"half":0.5}'
    assert digest(found[0][1]).canonical == digest(expected).canonical


def test_an_untouched_document_keeps_its_value(tmp_path: Path) -> None:
    name = module(tmp_path, "def change(state_id, document): return document")
    documents = [
        b'{"a":-0.0,"b":1e400,"c":"\\ud800","d":"\\u0000","e":18446744073709551616,"f":1E+5}',
        b'{ "a" : [ ] }',
    ]
    found, rejects = changed(name, tmp_path, *((str(i), document) for i, document in enumerate(documents)))
    assert rejects == []
    assert [digest(document).canonical for _, document in found] == [
        digest(document).canonical for document in documents
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise KeyError('missing')", "KeyError: 'missing'"),
        ("return document['nothing']", "KeyError: 'nothing'"),
        ("return {'a': {1, 2}}", "TypeError"),
        ("return {'a': float('nan')}", "ValueError"),
        ("return {1: 2}", "TypeError"),
        ("return '\\ud800', document", "UnicodeEncodeError"),
        ("def deep(): return deep()\n    return deep()", "RecursionError"),
    ],
)
def test_a_state_for_which_the_function_raises_is_rejected_with_its_raw_bytes(
    tmp_path: Path, body: str, said: str
) -> None:
    name = module(tmp_path, f"def change(state_id, document):\n    if state_id != 'é': return document\n    {body}\n")
    found, (reject,) = changed(name, tmp_path, ("a", b"{}"), ("é", b'{ "raw" : 1e5 }'), ("b", b"{}"))
    assert [state_id for state_id, _ in found] == ["a", "b"]
    assert (reject.kind, reject.id, reject.raw) == (Kind.STATE, "é".encode(), b'{ "raw" : 1e5 }')
    assert (reject.phase, reject.reason) == ("transform", "transform_failed")
    assert f"The transform my_shapes:change raised {said}" in reject.detail


def test_when_the_function_raises_for_all_nothing_is_left(tmp_path: Path) -> None:
    name = module(tmp_path, "def change(state_id, document): raise ValueError('no')")
    found, rejects = changed(name, tmp_path, ("a", b"{}"), ("b", b"{}"))
    assert (found, len(rejects)) == ([], 2)


@pytest.mark.parametrize(
    "result",
    [
        "None",
        "5",
        "'text'",
        "[document]",
        "(document, state_id)",
        "(state_id, None)",
        "(None, document)",
        "(1, 2, 3)",
        "()",
    ],
)
def test_a_wrong_return_is_the_functions_fault_and_ends_the_run(tmp_path: Path, result: str) -> None:
    name = module(tmp_path, f"def change(state_id, document): return {result}")
    with pytest.raises(TransformError) as caught:
        changed(name, tmp_path, ("s1", b"{}"))
    text = str(caught.value)
    assert "The transform my_shapes:change returned" in text
    assert "for the state 's1'" in text
    assert "Return the document (a dict), or (state_id, document)." in text


def test_an_interruption_is_no_reject(tmp_path: Path) -> None:
    name = module(tmp_path, "def change(state_id, document): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        changed(name, tmp_path, ("s1", b"{}"))


def test_a_function_that_exits_rejects_its_record_and_does_not_end_the_run(tmp_path: Path) -> None:
    name = module(tmp_path, "import sys\ndef change(state_id, document): sys.exit(0)")
    kept, rejected = changed(name, tmp_path, ("s1", b"{}"))
    assert (kept, [reject.reason for reject in rejected]) == ([], ["transform_failed"])


def test_versions_keep_their_own_columns(tmp_path: Path) -> None:
    name = module(
        tmp_path,
        """
        def change(state_id, document):
            if state_id == "bad":
                raise ValueError
            return "new-" + state_id, document
        """,
    )
    rows = [
        {
            "state_id": s,
            "version_id": f"v{i}",
            "timestamp": "t",
            "data": b"{}",
            "delta": b"[]",
            "metadata": None,
            "parent_id": "p",
            "extra": None,
        }
        for i, s in enumerate(["a", "bad", "b"])
    ]
    rejects: list[Reject] = []
    out = chain([{"python": name}], tmp_path).apply(
        Kind.VERSION, pa.RecordBatch.from_pylist(rows, schema=VERSION), rejects.append
    )
    assert out.schema.equals(VERSION)
    assert out.to_pylist() == [{**rows[0], "state_id": "new-a"}, {**rows[2], "state_id": "new-b"}]
    assert [(reject.kind, reject.id) for reject in rejects] == [(Kind.VERSION, b"bad/v1")]


# Where the function is found -------------------------------------------------------------------------------------------


def test_the_module_beside_the_migration_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    name = module(tmp_path, "def change(state_id, document): return {'from': 'here'}")
    assert changed(name, tmp_path, ("a", b"{}"))[0] == [("a", b'{"from":"here"}')]


def test_a_module_on_the_python_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "etc").mkdir()
    name = module(tmp_path / "lib", "def change(state_id, document): return {'from': 'path'}")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    assert changed(name, tmp_path / "etc", ("a", b"{}"))[0] == [("a", b'{"from":"path"}')]


def test_the_module_beside_the_migration_file_wins_over_the_python_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("lib", "etc"):
        (tmp_path / folder).mkdir()
        name = module(tmp_path / folder, f"def change(state_id, document): return {{'from': '{folder}'}}")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    assert changed(name, tmp_path / "etc", ("a", b"{}"))[0] == [("a", b'{"from":"etc"}')]


def test_two_migrations_with_modules_of_one_name_each_get_their_own(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        name = module(tmp_path / folder, f"def change(state_id, document): return {{'from': '{folder}'}}")
    assert changed(name, tmp_path / "one", ("a", b"{}"))[0] == [("a", b'{"from":"one"}')]
    assert changed(name, tmp_path / "two", ("a", b"{}"))[0] == [("a", b'{"from":"two"}')]
    assert changed(name, tmp_path / "one", ("a", b"{}"))[0] == [("a", b'{"from":"one"}')]


def test_a_module_may_have_the_name_of_one_that_is_loaded_already(tmp_path: Path) -> None:
    module(tmp_path, "def change(state_id, document): return {'from': 'here'}", "json")
    assert changed("json:change", tmp_path, ("a", b"{}"))[0] == [("a", b'{"from":"here"}')]
    assert "change" not in vars(sys.modules["json"])


def test_a_module_can_import_another_one_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    module(tmp_path, "NAME = 'helper'", "my_helper")
    name = module(tmp_path, "import my_helper\ndef change(state_id, document): return {'from': my_helper.NAME}")
    assert changed(name, tmp_path, ("a", b"{}"))[0] == [("a", b'{"from":"helper"}')]


@pytest.mark.parametrize(
    "line", ["from . import helper", "from my_package import helper", "import my_package.helper as helper"]
)
def test_a_module_in_a_package_can_import_its_neighbours(
    tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    module(tmp_path, "", "my_package.__init__")
    module(tmp_path, "NAME = 'neighbour'", "my_package.helper")
    name = module(
        tmp_path, f"{line}\ndef change(state_id, document): return {{'from': helper.NAME}}", "my_package.shapes"
    )
    assert changed(name, tmp_path, ("a", b"{}"))[0] == [("a", b'{"from":"neighbour"}')]


def test_a_package_may_hold_the_function_itself(tmp_path: Path) -> None:
    module(tmp_path, "NAME = 'inside'", "my_package.inside")
    module(
        tmp_path,
        "from .inside import NAME\ndef change(state_id, document): return {'from': NAME}",
        "my_package.__init__",
    )
    assert changed("my_package:change", tmp_path, ("a", b"{}"))[0] == [("a", b'{"from":"inside"}')]


@pytest.mark.parametrize(
    "text",
    [
        "class Change:\n    def __call__(self, state_id, document): return {'called': True}\nchange = Change()",
        "import functools\ndef real(flag, state_id, document): return {'called': flag}\nchange = functools.partial(real, True)",
        "import functools\ndef wrap(f): return functools.wraps(f)(lambda *a: f(*a))\n@wrap\ndef change(i, d): return {'called': True}",
        "change = lambda state_id, document: {'called': True}",
    ],
    ids=["object", "partial", "decorated", "lambda"],
)
def test_whatever_can_be_called_is_a_function(tmp_path: Path, text: str) -> None:
    name = module(tmp_path, text)
    assert changed(name, tmp_path, ("a", b"{}"))[0] == [("a", b'{"called":true}')]
    assert chain([{"python": name}], tmp_path).fingerprint


def test_a_dataclass_in_the_module_works(tmp_path: Path) -> None:
    name = module(
        tmp_path,
        """
        from __future__ import annotations
        from dataclasses import dataclass, asdict

        @dataclass
        class Shape:
            sides: int | None = None

        def change(state_id, document):
            return asdict(Shape(3))
        """,
    )
    assert changed(name, tmp_path, ("a", b"{}"))[0] == [("a", b'{"sides":3}')]


def refusal(name: Any, folder: Path) -> str:
    with pytest.raises(MigrationError) as caught:
        chain([{"python": name}], folder)
    assert isinstance(caught.value, (SpecError, TransformError))
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "my_shapes", "a:b:c", ":change", "my_shapes:", ".m:f", "a..b:f", "a b:f", "a:b.c", 5, None, {"a": 1}]
)
def test_what_names_no_function_is_refused(tmp_path: Path, name: Any) -> None:
    assert "The transform 'python' needs a function: python: \"module:function\"." in refusal(name, tmp_path)


def test_a_missing_module_is_told_with_where_it_was_looked_for(tmp_path: Path) -> None:
    text = refusal("my_missing:change", tmp_path)
    assert "there is no module 'my_missing'" in text
    assert str(tmp_path) in text


def test_a_module_that_misses_another_one_is_told_by_the_name_of_that(tmp_path: Path) -> None:
    name = module(tmp_path, "import my_missing\ndef change(a, b): return b")
    assert "'my_missing'" in refusal(name, tmp_path)


@pytest.mark.parametrize("text", ["", "def other(a, b): return b", "change = 5", "change = None"])
def test_a_missing_function_is_told(tmp_path: Path, text: str) -> None:
    text = refusal(module(tmp_path, text), tmp_path)
    assert "my_shapes" in text
    assert "'change'" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def change(:", "SyntaxError"),
        ("raise RuntimeError('at import')", "RuntimeError: at import"),
        ("None.nothing", "AttributeError"),
        ("1/0", "ZeroDivisionError"),
        ("x = '\x00'", "Error"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_error(tmp_path: Path, text: str, said: str) -> None:
    told = refusal(module(tmp_path, text), tmp_path)
    assert "cannot be loaded" in told
    assert said in told


# The fingerprint -------------------------------------------------------------------------------------------------------


def test_a_mended_module_has_another_fingerprint_and_is_what_runs(tmp_path: Path) -> None:
    name = module(tmp_path, "def change(state_id, document): return {'v': 1}")
    before = chain([{"python": name}], tmp_path).fingerprint
    file = tmp_path / "my_shapes.py"
    times = file.stat()
    module(tmp_path, "def change(state_id, document): return {'v': 2}")
    # Of the same length, and within the same second: what caches of compiled code go by.
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert chain([{"python": name}], tmp_path).fingerprint != before
    assert changed(name, tmp_path, ("a", b"{}"))[0] == [("a", b'{"v":2}')]


def test_an_unchanged_module_keeps_its_fingerprint(tmp_path: Path) -> None:
    name = module(tmp_path, "def change(state_id, document): return document")
    assert chain([{"python": name}], tmp_path).fingerprint == chain([{"python": name}], tmp_path).fingerprint


def test_two_functions_of_one_module_have_different_fingerprints(tmp_path: Path) -> None:
    module(tmp_path, "def change(a, b): return b\ndef other(a, b): return {}")
    one, other = (chain([{"python": f"my_shapes:{name}"}], tmp_path).fingerprint for name in ("change", "other"))
    assert one != other
