"""How sources of rows are configured, and what is refused before anything is read."""

from __future__ import annotations

import pytest
import yaml

from agui_pipelines import spec
from agui_pipelines.cli import flags
from agui_pipelines.errors import SpecError

TARGET = {"type": "file"}


def parsed(**source):
    return spec.parse({"name": "m", "source": source, "target": TARGET})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"type": "jsonl", "path": "x"}, "source.id: this key is required"),
        ({"type": "jsonl", "path": "x", "id": []}, "source.id"),
        ({"type": "jsonl", "path": "x", "id": ["a", "a"]}, "names 'a' twice"),
        ({"type": "jsonl", "path": "", "id": "a"}, "source.path"),
        ({"type": "jsonl", "path": "x", "id": "a", "data": "d", "columns": ["c"]}, "either 'data'"),
        ({"type": "jsonl", "path": "x", "id": "a", "id_separator": "a"}, "neither letters nor digits"),
        ({"type": "jsonl", "path": "x", "id": "a", "id_separator": "%"}, "neither letters nor digits"),
        ({"type": "jsonl", "path": "x", "id": "a", "types": {}}, "unknown key 'types'"),
        ({"type": "csv", "path": "x", "id": "a", "encoding": "klingon"}, "there is no encoding 'klingon'"),
        ({"type": "csv", "path": "x", "id": "a", "delimiter": "ab"}, "source.delimiter"),
        ({"type": "csv", "path": "x", "id": "a", "types": {"n": "float"}}, "source.types.n"),
        ({"type": "sqlite", "path": "x", "id": "a"}, "give either 'table' or 'query'"),
        ({"type": "sqlite", "path": "x", "id": "a", "table": "t", "query": "q"}, "give either 'table' or 'query'"),
        ({"type": "sqlite", "path": "x", "id": "a", "query": " ; "}, "'query' is empty"),
        ({"type": "sqlalchemy", "id": "a", "table": "t"}, "source.connection_url: this key is required"),
        ({"type": "custom"}, "source.reader: this key is required"),
        ({"type": "custom", "reader": "a:b", "option": {}}, "did you mean 'options'?"),
    ],
)
def test_what_makes_no_sense_is_refused(source, message):
    with pytest.raises(SpecError) as caught:
        parsed(**source)
    assert message in str(caught.value)


def test_secrets_among_options_are_struck_from_what_is_kept():
    options = {"password": "c4n4ry", "api_key": "c4n4ry", "auth": {"Token": "c4n4ry"}, "dsn": "x://u:c4n4ry@h/d"}
    migration = parsed(type="custom", reader="a:b", options=options, transformer_options={"client_secret": "c4n4ry"})
    assert migration.source.options == options
    assert "c4n4ry" not in str(migration.text)
    assert "c4n4ry" not in repr(migration)


def test_a_reference_among_options_is_resolved_in_memory_only(monkeypatch):
    monkeypatch.setenv("CRM_TOKEN", "c4n4ry")
    migration = parsed(type="custom", reader="a:b", options={"token": "${CRM_TOKEN}"})
    assert migration.source.options == {"token": "c4n4ry"}
    assert migration.text["source"]["options"] == {"token": "${CRM_TOKEN}"}


@pytest.mark.parametrize(
    ("path", "written"), [("in/*.csv", "{}/in/*.csv"), ("/in/a.csv", "/in/a.csv"), ("${IN}/a.csv", "${{IN}}/a.csv")]
)
def test_a_path_among_flags_counts_from_the_current_folder(tmp_path, monkeypatch, path, written):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "elsewhere.yaml"
    flags.write({"name": "m", "source": {"type": "csv", "path": path, "id": "a"}, "target": TARGET}, file)
    assert yaml.safe_load(file.read_text())["source"]["path"] == written.format(tmp_path)
