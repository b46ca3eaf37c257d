"""`agui-migrate upgrade` and `agui-migrate schema`: what they ask, print, and refuse."""

from __future__ import annotations

import json

import pytest
import yaml


@pytest.fixture
def store(tmp_path):
    """The folder of a store of data format 1.0, without shards."""
    base = tmp_path / "store"
    (base / "states").mkdir(parents=True)
    for id_ in ("a", "b"):
        document = {"version": "1.0", "data": {"theme": "dark"}}
        (base / "states" / f"{id_}.json").write_text(json.dumps(document, indent=2))
    return base


@pytest.fixture
def file(tmp_path, store, monkeypatch):
    """A migration file whose target it is, in the current folder."""
    monkeypatch.chdir(tmp_path)
    options = {"base_dir": str(store), "shard_count": 4}
    text = {"name": "up", "source": {"type": "redis_keys"}, "target": {"type": "file", "file_options": options}}
    (tmp_path / "store.yaml").write_text(yaml.safe_dump(text["target"]))
    file = tmp_path / "migration.yaml"
    file.write_text(yaml.safe_dump(text))
    return file


def test_a_store_is_upgraded_once_and_says_so(command, file, store):
    would = command("upgrade", file, "--dry-run", "--json").json
    assert (would["from"], would["to"], would["dry_run"]) == ("1.0.0", "1.2.0", True)
    assert would["steps"][1]["changes"]["states settled"] == 2
    assert not (store / "VERSION").exists()

    done = command("upgrade", file, "--yes", "--json").json

    assert (done["from"], done["to"], done["records"]["state"]) == ("1.0.0", "1.2.0", 2)
    assert (store / "VERSION").read_text() == "1.2.0\n"
    assert len(list(store.glob("states/shard_*/*.json"))) == 2
    said = command("upgrade", file, "--yes")
    assert (said.code, "there is nothing to upgrade" in said.out) == (0, True)


def test_it_is_told_to_people_what_is_done(command, file):
    said = command("upgrade", file, "--yes")
    assert said.code == 0
    assert "told by its documents: version 1.0.0" in said.out
    assert "1.1.0 → 1.2.0: puts every file into its shard folder" in said.out
    assert "states proven unchanged" in said.out


def test_nobody_is_upgraded_without_being_asked(command, file, store):
    said = command("upgrade", file)
    assert said.code == 2
    assert "Give --yes to go on" in said.error
    assert not (store / "VERSION").exists()


def test_a_store_may_be_named_by_its_configuration(command, file, store):
    done = command("upgrade", "--store", "file", "--config", "store.yaml", "--to", "1.1", "--yes", "--json").json
    assert (done["migration"], done["to"]) == ("file-store", "1.1.0")
    assert (store / "VERSION").read_text() == "1.1.0\n"


def test_whoever_upgrades_to_2_1_hears_of_its_configuration(command, file, store):
    for document in store.glob("states/*.json"):
        document.write_text('{"version": "2.0", "data": {}}')
    (store / "VERSION").write_text("2.0.0\n")
    done = command("upgrade", file, "--to", "2.1.0", "--yes")
    assert (done.code, "agui-migrate upgrade-config" in done.out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["--to", "2.1.0"],
            3,
            "The way that works: 1.0.0 to 2.0.0 by a migration whose transforms contain format_1_to_2",
        ),
        (["--to", "9.9"], 2, "--to is '9.9'"),
        (["--from", "9.9"], 2, "--from is '9.9'"),
        (["--of", "both"], 2, "it can be target or source"),
        (["--of", "source"], 2, "no AG-UI store"),
        (["--store", "file"], 2, "not both"),
        (["--config", "store.yaml"], 2, "are for a store that --store names"),
    ],
)
def test_what_makes_no_sense_is_refused_in_sentences(command, file, store, arguments, code, said):
    found = command("upgrade", file, "--yes", *arguments)
    assert found.code == code
    assert said in found.error
    assert not (store / "VERSION").exists()


def test_schema_migrations_are_listed_applied_and_taken_back(command, file, store):
    (file.parent / "migrations").mkdir()
    patch = {
        "up": [{"op": "move", "from": "/data/theme", "path": "/data/look"}],
        "down": [{"op": "move", "from": "/data/look", "path": "/data/theme"}],
    }
    (file.parent / "migrations" / "0001_rename_theme.json").write_text(json.dumps(patch))
    [line] = command("schema", "status", file, "--json").json["migrations"]
    assert (line["number"], line["state"]) == (1, "pending")
    assert command("schema", "up", file).code == 2
    refused = command("schema", "up", file, "--yes")
    assert (refused.code, "agui-migrate upgrade" in refused.error) == (3, True)
    assert command("upgrade", file, "--yes").code == 0

    done = command("schema", "up", file, "--yes", "--json").json

    assert (done["changed"], done["migrations"]) == (2, [{"number": 1, "name": "0001_rename_theme.json"}])
    assert "applied" in command("schema", "status", file).out
    assert '"look"' in next(store.rglob("a.json")).read_text()
    assert "nothing to be applied" in command("schema", "up", file, "--yes").out
    assert "Took back 0001_rename_theme.json" in command("schema", "down", file, "--yes").out
    assert '"theme"' in next(store.rglob("a.json")).read_text()


def test_without_migrations_there_is_nothing_to_list(command, file):
    assert "There is no schema migration" in command("schema", "status", file).err
