"""A flat configuration becomes a nested one, and all else stays as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from agui_pipelines import spec
from agui_pipelines.errors import SpecError
from agui_pipelines.upgrade.configuration import upgraded

REDIS = """\
# Storage of the agent's state.

# which backend
StorageBackend: redis  # not postgres
ConnectionURL: "${REDIS_URL}"

# the pool
PoolSize: 20      # many
MinIdleConns: 2
Password: hunter2
Database: 3
connection_timeout: 10s
# how keys begin
KeyPrefix: 'app:state:'
ReadTimeout: 5000000000 # as Go writes it
"""
UPGRADED = """\
# Storage of the agent's state.

# which backend
type: redis            # not postgres
connection_url: "${REDIS_URL}"

# the pool
redis_options:
  pool_size: 20   # many
  min_idle_conns: 2
  password: hunter2
  db: 3
  # how keys begin
  key_prefix: 'app:state:'
connect_timeout: 10s
read_timeout: 5000000000 # as Go writes it
"""
POSTGRES = """\
StorageBackend: postgres
ConnectionURL: postgresql://app@db/agents
MaxOpenConns: 7
SchemaName: agents
SSLMode: require
Database: other
WriteTimeout: 3s
Compression: false
"""
FILE = """\
StorageBackend: file
Path: /srv/states
FilePerms: 0640
"""


def test_keys_move_and_comments_and_order_stay():
    found = upgraded(REDIS, origin="old.yaml")
    assert found.text == UPGRADED
    assert not found.unplaced


@pytest.mark.parametrize("text", [REDIS, POSTGRES, FILE], ids=["redis", "postgresql", "file"])
@pytest.mark.parametrize("as_json", [False, True], ids=["yaml", "json"])
def test_doing_it_again_changes_nothing(text, as_json):
    text = json.dumps(yaml.safe_load(text), indent=4) if as_json else text
    once = upgraded(text, origin="old")
    again = upgraded(once.text, origin="new")
    assert once.moves
    assert (again.text, again.moves, again.diff, again.unplaced) == (once.text, (), "", ())


@pytest.mark.parametrize("as_json", [False, True], ids=["yaml", "json"])
def test_the_result_is_a_configuration_that_is_read_as_it_was_meant(monkeypatch, tmp_path: Path, as_json):
    monkeypatch.setenv("REDIS_URL", "redis://cache:6379")

    def read(text):
        file = tmp_path / "new.yaml"
        file.write_text(upgraded(json.dumps(yaml.safe_load(text)) if as_json else text, origin="x").text)
        config = spec.read_mapping(file, what="configuration")
        return spec.parse({"name": "x", "source": {"type": "redis_keys"}, "target": config}).target

    cache, database, files = read(REDIS), read(POSTGRES), read(FILE)
    assert cache.redis_options.pool_size == 20
    assert cache.redis_options.min_idle_conns == 2
    assert cache.redis_options.password.get_secret_value() == "hunter2"
    assert cache.redis_options.db == 3
    assert cache.redis_options.key_prefix == "app:state:"
    assert (cache.connect_timeout, cache.read_timeout) == (10.0, 5.0)
    assert (database.schema_, database.max_connections, database.database) == ("agents", 7, "other")
    assert (database.postgresql_options.ssl_mode, database.write_timeout, database.compression) == (
        "require",
        3.0,
        False,
    )
    assert files.file_options.base_dir == Path("/srv/states")
    assert files.file_options.file_mode == 0o640


def test_every_key_of_the_dialect_has_a_place_somewhere():
    from agui_pipelines.spec.section import FLAT_DIALECT  # noqa: PLC0415

    placed = {
        move.key
        for backend in ("redis", "postgres", "file")
        for move in upgraded(
            "".join([f"StorageBackend: {backend}\n", *(f"{key}: 1\n" for key in FLAT_DIALECT - {"StorageBackend"})]),
            origin="x",
        ).moves
    }
    assert placed == FLAT_DIALECT


@pytest.mark.parametrize(
    ("text", "unplaced", "why"),
    [
        ("StorageBackend: postgres\nPassword: x\n", "Password", "connection_url"),
        ("StorageBackend: file\nKeyPrefix: x\n", "KeyPrefix", "type redis"),
        ("KeyPrefix: x\n", "KeyPrefix", "not given"),
        ("type: redis\nKeyPrefix: x\nredis_options: {key_prefix: y}\n", "KeyPrefix", "another value"),
        ("type: redis\nKeyPrefix: x\nredis_options: 7\n", "KeyPrefix", "no mapping"),
        ("StorageBackend: redis\nCacheSize: 7\n", "CacheSize", "no such key"),
        ("StorageBackend: memory\nPath: x\n", "Path", "this one is memory"),
        ("StorageBackend: [redis]\nPath: x\n", "Path", "not given"),
    ],
)
def test_what_has_no_place_stays_and_is_named_with_the_reason(text, unplaced, why):
    found = upgraded(text, origin="old.yaml")
    assert [one.key for one in found.unplaced] == [unplaced]
    assert why in found.unplaced[0].why
    before, after = yaml.safe_load(text), yaml.safe_load(found.text)
    assert after[unplaced] == before[unplaced]


def test_a_key_that_is_given_in_both_dialects_alike_is_kept_once():
    found = upgraded("type: redis\nKeyPrefix: x\nredis_options: {key_prefix: x}\n", origin="old.yaml")
    assert found.text == "type: redis\nredis_options: {key_prefix: x}\n"


def test_both_ends_of_a_migration_file_are_upgraded_and_the_rest_stays():
    text = """\
name: moved # by us
source: {StorageBackend: file, Path: ./old}   # flow
# where to
target:
    type: redis
    redis_options:
        db: 3   # three
    KeyPrefix: "a:"
transforms:
    - strip_prefix: {prefix: "session:"}
"""
    found = upgraded(text, origin="migration.yaml")
    assert (
        found.text
        == """\
name: moved # by us
source: {type: file, file_options: {base_dir: ./old}} # flow
# where to
target:
    type: redis
    redis_options:
        db: 3   # three
        key_prefix: "a:"
transforms:
    - strip_prefix: {prefix: "session:"}
"""
    )
    assert [move.key for move in found.moves] == ["source.StorageBackend", "source.Path", "target.KeyPrefix"]


def test_comments_below_stay_below():
    text = """\
source:
  StorageBackend: redis
  redis_options:
    db: 3
    # end of options
# of target
target:
  type: redis
  PoolSize: 4
  ReadTimeout: 3s
  KeyPrefix: a # beside

# the end
"""
    after = """\
source:
  type: redis
  redis_options:
    db: 3
    # end of options
    key_prefix: a
# of target
target:
  type: redis
  redis_options:
    pool_size: 4
    key_prefix: a # beside
  read_timeout: 3s

# the end
"""
    text = text.replace("  redis_options:\n", "  KeyPrefix: a\n  redis_options:\n")
    assert upgraded(text, origin="x").text == after


def test_numbers_and_order_of_json_stay():
    found = upgraded('{\n\t"n": 1.50,\n\t"StorageBackend": "file",\n\t"big": 12345678901234567890123\n}\n', origin="x")
    assert found.text == '{\n\t"n": 1.50,\n\t"type": "file",\n\t"big": 12345678901234567890123\n}\n'


def test_no_literal_password_is_in_the_difference():
    text = (
        "StorageBackend: redis\nConnectionURL: redis://app:s3cr3t-1@cache\nPassword: s3cr3t-2\nKeyPrefix: s3cr3t-2x\n"
    )
    found = upgraded(text, origin="x")
    assert "+connection_url: redis://app:***@cache" in found.diff
    assert "s3cr3t" not in found.diff
    assert "password: s3cr3t-2" in found.text


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("Password: 'it''s-hunter2'", "hunter2"),
        ("Password: 0x1F2F", "1F2F"),
        ("Password: 0012345", "00"),
        ("Password: |\n  hunter2\n  hunter3", "hunter"),
        ('Password: "hunter2\n  hunter3"', "hunter"),
        ("ConnectionURL: host=cache password=hunter2", "hunter2"),
        ("ConnectionURL: >-\n  redis://:hunter2\n  @cache", "hunter2"),
        ("# Password: hunter2\nPassword: ${PASSWORD}", "hunter2"),
        ("Password: &one hunter2", "hunter2"),
    ],
)
def test_a_password_is_told_however_it_is_written(written, told):
    found = upgraded(f"StorageBackend: redis\nKeyPrefix: x\n{written}\n", origin="x")
    assert "key_prefix: x" in found.diff
    assert told not in found.diff
    assert told in found.text


def test_a_password_is_told_in_json_however_it_is_written():
    found = upgraded('{"StorageBackend": "redis", "x": ":", "Password": "hunter\\/\\u0032"}', origin="x")
    assert "hunter" not in found.diff


def test_what_is_merged_or_shared_stays_where_it_is_written():
    text = """\
base: &base
  KeyPrefix: x
  redis_options: {db: 1}
source:
  <<: *base
  StorageBackend: redis
  PoolSize: 3
target:
  type: redis
  redis_options: &options {db: 1}
  PoolSize: 4
other: *options
"""
    found = upgraded(text, origin="x")
    assert found.text == text.replace("  <<: *base\n  StorageBackend: redis\n", "  type: redis\n  <<: *base\n")
    assert [one.key for one in found.unplaced] == ["source.PoolSize", "source.KeyPrefix", "target.PoolSize"]
    assert upgraded(found.text, origin="x").text == found.text


def test_a_type_in_either_spelling_is_the_same():
    found = upgraded("type: postgresql\nStorageBackend: postgres\nSchemaName: x\n", origin="x")
    assert (found.text, found.unplaced) == ("type: postgresql\nschema: x\n", ())


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("\ufeff# a\r\nStorageBackend: file\r\n", "\ufeff# a\r\ntype: file\r\n"),
        ('\ufeff{\r\n  "StorageBackend": "file"\r\n}', '\ufeff{\r\n  "type": "file"\r\n}'),
    ],
)
def test_a_text_of_windows_stays_one(text, after):
    assert upgraded(text, origin="x").text == after


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"type": ' + "[" * 100_000, "nested without end"),
        ("a: [1\n", "not valid YAML"),
        ("- a\n", "no mapping"),
        ("", "no mapping"),
        ("StorageBackend: redis\nStorageBackend: file\n", "not valid YAML"),
        ('{"Path": 1, "Path": 2}', "twice"),
        ("name: x\n", "no configuration of a store"),
        ("Password: hunter2: x\n", "not valid YAML"),
    ],
)
def test_what_is_no_configuration_is_told(text, said):
    with pytest.raises(SpecError, match=said) as told:
        upgraded(text, origin="old.yaml")
    assert "old.yaml" in str(told.value)
    assert "hunter2" not in str(told.value)
