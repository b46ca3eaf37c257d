"""`agui-migrate backup`, from making one to deleting it."""

from __future__ import annotations

import pytest
import yaml

DOCUMENTS = {"a": '{\n  "n": 1\n}', "b": '{\n  "n": 2\n}'}


@pytest.fixture
def store(tmp_path):
    """The folder of the target, which holds two states."""
    base = tmp_path / "store"
    (base / "states").mkdir(parents=True)
    for id_, document in DOCUMENTS.items():
        (base / "states" / f"{id_}.json").write_text(document)
    return base


@pytest.fixture
def file(tmp_path, store):
    """A migration into it."""
    options = {"base_dir": str(store), "enable_sharding": False, "enable_backups": False}
    text = {"name": "backed", "source": {"type": "redis_keys"}, "target": {"type": "file", "file_options": options}}
    file = tmp_path / "migration.yaml"
    file.write_text(yaml.safe_dump(text))
    return file


def documents(store):
    return {path.stem: path.read_text() for path in store.glob("states/*.json")}


def test_a_backup_is_made_listed_verified_restored_and_deleted(command, file, store):
    assert command("backup", "list", file, "--json").json["backups"] == []
    made = command("backup", "create", file, "--json").json
    assert made["records"] == {"state": 2, "version": 0, "snapshot": 0}
    assert made["whole"] is True
    assert command("backup", "verify", file, "--json").json["verified"] is True
    (store / "states" / "a.json").unlink()
    (store / "states" / "c.json").write_text("{}")

    restored = command("backup", "restore", file, "--id", made["backup_id"], "--yes", "--json").json

    assert restored["removed"] == {"state": 1, "version": 0, "snapshot": 0}
    assert documents(store) == DOCUMENTS
    [listed] = command("backup", "list", file, "--json").json["backups"]
    assert listed == made
    assert command("backup", "delete", file, "--id", made["backup_id"], "--json").json["deleted"] is True
    assert command("backup", "list", file, "--json").json["backups"] == []


def test_what_was_done_is_told_to_people_too(command, file, store):
    said = command("backup", "create", file)
    assert said.code == 0
    assert "states" in said.out
    listed = command("backup", "list", file)
    assert "everything" in listed.out
    assert "backup-" in listed.out
    said = command("backup", "restore", file, "--yes")
    assert said.code == 0
    assert "states put back" in said.out
    assert documents(store) == DOCUMENTS


def test_nothing_is_restored_that_nobody_agreed_to(command, file, store):
    command("backup", "create", file)
    (store / "states" / "a.json").write_text("{}")

    said = command("backup", "restore", file)

    assert said.code == 2
    assert "--yes" in said.error
    assert documents(store)["a"] == "{}"


@pytest.mark.parametrize("verb", ["verify", "restore", "delete"])
def test_an_empty_id_is_not_the_newest_backup(command, file, verb):
    command("backup", "create", file)

    said = command("backup", verb, file, "--id", "", *(["--yes"] if verb == "restore" else []))

    assert said.code == 3
    assert len(command("backup", "list", file, "--json").json["backups"]) == 1


@pytest.mark.parametrize("verb", ["verify", "restore", "delete"])
def test_a_backup_that_is_not_there_is_told(command, file, verb):
    more = ["--yes"] if verb == "restore" else []

    said = command("backup", verb, file, "--id", "backup-x", *more)

    assert said.code == 3
    assert "There is no backup 'backup-x'" in said.error


def test_an_end_that_no_migration_has_is_told(command, file):
    said = command("backup", "create", file, "--of", "middle")

    assert said.code == 2
    assert "it can be target or source" in said.error


def test_a_source_that_is_no_store_cannot_be_backed_up(command, file):
    text = yaml.safe_load(file.read_text()) | {"source": {"type": "jsonl", "path": "x.jsonl", "id": "id"}}
    file.write_text(yaml.safe_dump(text))

    said = command("backup", "create", file, "--of", "source")

    assert said.code == 2
    assert "no AG-UI store" in said.error
