from __future__ import annotations

import copy
import json
import math
import os
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines import spec
from agui_pipelines.errors import MissingVariableError, SpecError
from agui_pipelines.spec import (
    FileConfig,
    Migration,
    PostgresConfig,
    RedisConfig,
    RedisKeysConfig,
    load,
    parse,
    redacted,
)

CANARY = "hunter2-c4n4ry"
MINIMAL: dict[str, Any] = {"name": "m", "source": {"type": "redis_keys"}, "target": {"type": "file"}}


def migration(**changes: Any) -> Migration:
    return parse({**MINIMAL, **changes})


def refusal(**changes: Any) -> str:
    with pytest.raises(SpecError) as caught:
        migration(**changes)
    return str(caught.value)


def written(folder: Path, text: str, name: str = "migration.yaml") -> Path:
    file = folder / name
    file.write_text(text, "utf-8")
    return file


def load_refusal(file: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load(file)
    return str(caught.value)


# What is accepted ------------------------------------------------------------------------------------------------------


def test_a_minimal_migration_has_the_documented_defaults() -> None:
    found = migration()
    assert (found.batch_size, found.ranges, found.limits.max_rejects, found.workspace) == (5000, 16, 0, ".agui")
    assert found.transforms == ()
    assert isinstance(found.source, RedisKeysConfig)
    assert found.source.match == "*"
    assert isinstance(found.target, FileConfig)
    assert found.target.file_options.file_mode == 0o600
    assert found.target.file_options.shard_count == 16
    assert (found.target.connect_timeout, found.target.read_timeout, found.target.idle_timeout) == (30.0, 10.0, 300.0)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"type": "redis"}, RedisConfig),
        ({"type": "postgresql", "connection_url": "postgresql://h/d"}, PostgresConfig),
        ({"type": "postgres", "connection_url": "postgresql://h/d"}, PostgresConfig),
        ({"type": "file"}, FileConfig),
    ],
)
@pytest.mark.parametrize("end", ["source", "target"])
def test_every_store_can_be_either_end(end: str, config: dict[str, Any], kind: type) -> None:
    assert isinstance(getattr(migration(**{end: config}), end), kind)


def test_every_documented_key_of_storageconfig_is_accepted() -> None:
    common = {
        "connection_url": "redis://h",
        "database": "d",
        "schema": "s",
        "max_connections": 10,
        "connect_timeout": 30_000_000_000,
        "read_timeout": "10s",
        "write_timeout": "10s",
        "idle_timeout": "5m",
        "max_retries": 3,
        "compression": True,
    }
    redis = {
        "pool_size": 10,
        "min_idle_conns": 5,
        "max_retries": 3,
        "password": "p",
        "db": 0,
        "key_prefix": "k",
        "enable_tls": False,
        "compression_type": "gzip",
    }
    postgres = {
        "ssl_mode": "prefer",
        "application_name": "a",
        "statement_timeout": "30s",
        "enable_partitioning": False,
        "compression_type": "gzip",
    }
    file = {
        "base_dir": "/b",
        "enable_sharding": True,
        "shard_count": 16,
        "file_mode": 384,
        "enable_backups": True,
        "backup_count": 5,
        "compression_type": "gzip",
    }
    for kind, options in (("redis", redis), ("postgresql", postgres), ("file", file)):
        found = migration(target={"type": kind, **common, f"{kind}_options": options})
        assert found.target.connect_timeout == 30.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1h2m3s4ms", 3723.004),
        ("1.5h", 5400.0),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("10ns", 1e-8),
        (" 30s ", 30.0),
        ("0s", 0.0),
        (30_000_000_000, 30.0),
        (0, 0.0),
        (1, 1e-9),
    ],
)
def test_durations_are_words_or_nanoseconds(text: str | int, seconds: float) -> None:
    assert migration(source={"type": "redis", "connect_timeout": text}).source.connect_timeout == pytest.approx(seconds)


@given(st.integers(0, 10**15))
@settings(max_examples=50, deadline=None)
def test_a_duration_in_words_is_the_one_in_nanoseconds(nanoseconds: int) -> None:
    one = migration(source={"type": "redis", "read_timeout": nanoseconds}).source.read_timeout
    other = migration(source={"type": "redis", "read_timeout": f"{nanoseconds}ns"}).source.read_timeout
    assert one == pytest.approx(other)


@pytest.mark.parametrize(
    ("mode", "bits"), [("0600", 0o600), ("600", 0o600), ("0o640", 0o640), (384, 0o600), (420, 0o644)]
)
def test_file_modes_are_octal_text_or_decimal_numbers(mode: str | int, bits: int) -> None:
    target = migration(target={"type": "file", "file_options": {"file_mode": mode}}).target
    assert isinstance(target, FileConfig)
    assert target.file_options.file_mode == bits


def test_a_file_mode_written_as_octal_in_yaml_is_the_same(tmp_path: Path) -> None:
    file = written(tmp_path, "name: m\nsource: {type: redis}\ntarget: {type: file, file_options: {file_mode: 0640}}\n")
    target = load(file).target
    assert isinstance(target, FileConfig)
    assert target.file_options.file_mode == 0o640


def test_json_is_read_as_well_as_yaml(tmp_path: Path) -> None:
    assert load(written(tmp_path, json.dumps(MINIMAL, indent="\t"), "m.json")).name == "m"


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_number_in_the_options_of_a_transform_is_the_one_that_was_written(tmp_path: Path, suffix: str) -> None:
    numbers = "0.1000000000000000055, 1.50, -1.0e+400"
    text = json.dumps({**MINIMAL, "transforms": [{"set_fields": {"a": ["numbers"]}}]})
    whole = ("" if suffix == "json" else "# not JSON\n") + text.replace('"numbers"', numbers)
    found = load(written(tmp_path, whole, f"m.{suffix}"))
    [asked] = found.transforms
    assert isinstance(asked, dict)
    assert [number.written for number in asked["set_fields"]["a"]] == numbers.split(", ")
    assert copy.deepcopy(asked["set_fields"]["a"][0]).written == "0.1000000000000000055"
    # What is stored and printed knows plain numbers only.
    assert {type(number) for number in found.text["transforms"][0]["set_fields"]["a"]} == {float}


@pytest.mark.parametrize(("number", "value"), [("1_000.5", 1000.5), (".inf", math.inf), ("190:20:30.15", 685230.15)])
def test_other_numbers_are_what_yaml_makes_of_them(tmp_path: Path, number: str, value: float) -> None:
    text = f"name: m\nsource: {{type: redis}}\ntarget: {{type: file}}\ntransforms: [python: {number}]\n"
    [asked] = load(written(tmp_path, text)).transforms
    assert isinstance(asked, dict)
    assert asked["python"] == value


def test_a_migration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        migration().name = "other"


# What is refused, and how it is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sorce": 1}, "migration: unknown key 'sorce'; did you mean 'source'?"),
        ({"limits": {"max_reject": 1}}, "limits: unknown key 'max_reject'; did you mean 'max_rejects'?"),
        (
            {"source": {"type": "redis", "conection_url": "x"}},
            "source: unknown key 'conection_url'; did you mean 'connection_url'?",
        ),
        ({"source": {"type": "redis_keys", "mach": "x"}}, "source: unknown key 'mach'; did you mean 'match'?"),
        (
            {"source": {"type": "redis", "redis_options": {"passwrd": "x"}}},
            "source.redis_options: unknown key 'passwrd'; did you mean 'password'?",
        ),
        (
            {"target": {"type": "file", "file_options": {"bas_dir": "x"}}},
            "target.file_options: unknown key 'bas_dir'; did you mean 'base_dir'?",
        ),
        (
            {"target": {"type": "postgres", "connection_url": "x", "postgresql_options": {"sslmode": "x"}}},
            "target.postgresql_options: unknown key 'sslmode'; did you mean 'ssl_mode'?",
        ),
        ({"target": {"type": "file", "shema": "x"}}, "target: unknown key 'shema'; did you mean 'schema'?"),
        ({"target": {"type": "file", "redis_options": {}}}, "target: unknown key 'redis_options'"),
    ],
)
def test_an_unknown_key_is_refused_at_every_level_and_the_nearest_one_named(
    changes: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal(**changes)


def test_an_unknown_key_that_resembles_nothing_is_answered_with_the_known_ones() -> None:
    assert "unknown key 'zzzzzz'; known here: max_rejects" in refusal(limits={"zzzzzz": 1})


def test_a_key_that_is_no_text_is_refused() -> None:
    assert "unknown key '5'" in refusal(limits={5: 1})


@pytest.mark.parametrize("type_", ["redsi", "", None, 5, ["redis"], {"redis": 1}, True])
def test_an_unknown_type_is_refused_and_the_known_ones_named(type_: Any) -> None:
    text = refusal(target={"type": type_})
    assert "migration: target: unknown type" in text or "migration: target.type" in text
    for known in ("redis", "postgresql", "postgres", "file"):
        assert known in text


def test_foreign_keys_can_be_a_source_only() -> None:
    assert "target: unknown type 'redis_keys'" in refusal(target={"type": "redis_keys"})


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_missing_type_is_told(end: str) -> None:
    assert f"{end}: the key 'type' is missing" in refusal(**{end: {"connection_url": "x"}})


@pytest.mark.parametrize("value", [None, 5, "redis", []])
def test_an_end_that_is_no_mapping_is_told(value: Any) -> None:
    assert "migration: source: " in refusal(source=value)


@pytest.mark.parametrize("key", ["name", "source", "target"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(SpecError, match=f"{key}: this key is required, and missing"):
        parse({k: v for k, v in MINIMAL.items() if k != key})


def test_a_postgresql_store_needs_a_connection_url() -> None:
    assert "target.connection_url: this key is required" in refusal(target={"type": "postgresql"})


@pytest.mark.parametrize(
    "config",
    [
        {"StorageBackend": "redis", "ConnectionURL": "redis://h", "KeyPrefix": "k"},
        {"type": "redis", "KeyPrefix": "k"},
        {"StorageBackend": "file", "Path": "/x"},
    ],
)
@pytest.mark.parametrize("end", ["source", "target"])
def test_the_flat_dialect_is_recognised_and_the_nested_one_asked_for(end: str, config: dict[str, Any]) -> None:
    text = refusal(**{end: config})
    assert f"{end}: the key" in text
    assert "flat configuration dialect (format 2.0)" in text
    assert "format 2.1" in text


@pytest.mark.parametrize(
    "value", ["x", "", "30", "5 minutes", "-5s", "s", "1d", "1m 30s", True, False, [], {}, None, "1e3s"]
)
def test_what_is_no_duration_is_refused_with_the_key_and_an_example(value: Any) -> None:
    text = refusal(source={"type": "redis", "connect_timeout": value})
    assert "source.connect_timeout: " in text
    assert "is not a duration; write it like '30s'" in text


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1, -30_000_000_000])
def test_a_duration_is_finite_and_not_negative(value: float) -> None:
    assert "source.connect_timeout: " in refusal(source={"type": "redis", "connect_timeout": value})


@pytest.mark.parametrize("value", ["9", "rw", "0x1ff", "", -1, "-1", 0o10000, "10000", True, None, []])
def test_what_is_no_file_mode_is_refused_with_the_key(value: Any) -> None:
    assert "target.file_options.file_mode: " in refusal(target={"type": "file", "file_options": {"file_mode": value}})


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"ranges": 0}, "ranges"),
        ({"ranges": 257}, "ranges"),
        ({"batch_size": 0}, "batch_size"),
        ({"parallelism": 0}, "parallelism"),
        ({"limits": {"max_rejects": -1}}, "limits.max_rejects"),
        ({"transforms": [5]}, "transforms.0"),
        ({"source": {"type": "redis", "redis_options": {"db": -1}}}, "source.redis_options.db"),
        ({"target": {"type": "file", "file_options": {"shard_count": 0}}}, "target.file_options.shard_count"),
        (
            {"target": {"type": "postgres", "connection_url": "x", "postgresql_options": {"ssl_mode": "on"}}},
            "target.postgresql_options.ssl_mode",
        ),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_key(changes: dict[str, Any], where: str) -> None:
    assert f"migration: {where}" in refusal(**changes)


def test_several_problems_are_counted_and_the_first_one_told() -> None:
    assert "(and 1 more)" in refusal(ranges=0, batch_size=0)


# Files -----------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    text = load_refusal(tmp_path / "none.yaml")
    assert f"The migration file {tmp_path}/none.yaml does not exist." in text
    assert "AGUI_MIGRATION" in text


def test_a_folder_in_place_of_the_file_cannot_be_read(tmp_path: Path) -> None:
    assert f"The migration file {tmp_path} cannot be read: Is a directory." in load_refusal(tmp_path)


def test_a_file_that_is_not_utf8_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_bytes(b"name: \xff")
    assert "cannot be read" in load_refusal(file)


@pytest.mark.parametrize(
    "text", ["a: b: c", "a: [", "{", "\x00", "a: *unknown", "[x]: 1", "a: !!python/object:os.system x"]
)
def test_what_is_no_yaml_is_told(tmp_path: Path, text: str) -> None:
    assert "is not valid YAML" in load_refusal(written(tmp_path, text))


@pytest.mark.parametrize("text", ["", "- a", "text", "5", "null", "# nothing"])
def test_a_file_without_a_mapping_is_told(tmp_path: Path, text: str) -> None:
    assert "holds no mapping of keys to values" in load_refusal(written(tmp_path, text))


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "name: " + "[" * 10_000])
def test_a_file_without_end_is_refused(tmp_path: Path, text: str) -> None:
    load_refusal(written(tmp_path, text))


def test_the_first_sentence_names_file_and_key(tmp_path: Path) -> None:
    file = written(tmp_path, "name: m\nsource: {type: redis}\ntarget: {type: redis, redis_options: {dbb: 1}}\n")
    assert load_refusal(file).startswith(f"{file}: target.redis_options: unknown key 'dbb'")


def test_the_file_is_the_one_given_else_the_one_in_the_environment_else_the_one_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("given", "environment", "current"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, json.dumps({**MINIMAL, "name": name}))
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.delenv("AGUI_MIGRATION", raising=False)
    assert load().name == "current"
    monkeypatch.setenv("AGUI_MIGRATION", str(tmp_path / "environment" / "migration.yaml"))
    assert load().name == "environment"
    assert load(tmp_path / "given" / "migration.yaml").name == "given"


def test_a_relative_workspace_counts_from_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "elsewhere").mkdir()
    written(tmp_path / "etc", json.dumps({**MINIMAL, "workspace": "ws/x"}))
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = load("../etc/migration.yaml")
    assert found.folder == (tmp_path / "etc").resolve()
    assert found.workspace_url == str((tmp_path / "etc").resolve() / "ws/x")


@pytest.mark.parametrize("url", ["/var/ws", "s3://bucket/ws", "memory://ws", "file:///var/ws"])
def test_an_absolute_workspace_or_a_url_stays_as_it_is(url: str) -> None:
    assert migration(workspace=url).workspace_url == url


def test_an_outline_needs_no_variable_but_that_of_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "ws")
    file = written(
        tmp_path,
        json.dumps({**MINIMAL, "source": {"type": "redis", "connection_url": "${NOT_SET}"}, "workspace": "${PLACE}/x"}),
    )
    found = spec.outline(file)
    assert (found.name, found.workspace_url, found.file) == ("m", str(tmp_path.resolve() / "ws/x"), file.resolve())
    with pytest.raises(MissingVariableError):
        load(file)


@pytest.mark.parametrize("changes", [{"name": 5}, {"name": None}, {"workspace": ["x"]}, {"workspace": None}])
def test_an_outline_without_a_usable_name_or_workspace_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        spec.outline(written(tmp_path, json.dumps({**MINIMAL, **changes})))


# Variables and secrets -------------------------------------------------------------------------------------------------


def test_references_are_resolved_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "example")
    monkeypatch.setenv("EMPTY", "")
    found = migration(
        source={"type": "redis", "connection_url": "redis://${HOST}:1/${EMPTY}2"},
        transforms=[{"strip_prefix": {"prefix": "${HOST}:"}}, "python"],
    )
    assert isinstance(found.source, RedisConfig)
    assert found.source.connection_url.get_secret_value() == "redis://example:1/2"
    assert found.transforms == ({"strip_prefix": {"prefix": "example:"}}, "python")


@pytest.mark.parametrize("text", ["$HOST", "${}", "${9A}", "${A B}", "$${", "{HOST}"])
def test_what_is_no_reference_stays_as_it_is(text: str) -> None:
    found = migration(source={"type": "redis_keys", "match": text})
    assert isinstance(found.source, RedisKeysConfig)
    assert found.source.match == text


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"source": {"type": "redis", "connection_url": "redis://${AGUI_NOT_SET}"}}, "source.connection_url"),
        (
            {"target": {"type": "redis", "redis_options": {"password": "${AGUI_NOT_SET}"}}},
            "target.redis_options.password",
        ),
        ({"transforms": [{"strip_prefix": {"prefix": "${AGUI_NOT_SET}"}}]}, "transforms.0.strip_prefix.prefix"),
        ({"workspace": "${AGUI_NOT_SET}"}, "workspace"),
    ],
)
def test_a_missing_variable_is_named_with_the_key_that_wants_it(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(MissingVariableError) as caught:
        migration(**changes)
    text = str(caught.value)
    assert f"'{key}' refers to the environment variable AGUI_NOT_SET, which is not set" in text
    assert "export AGUI_NOT_SET=" in text


LITERAL = [
    {"type": "redis", "connection_url": f"redis://:{CANARY}@h:6379/0"},
    {"type": "redis", "connection_url": f"rediss://user:{CANARY}@h"},
    {"type": "redis", "connection_url": "redis://h", "redis_options": {"password": CANARY}},
    {"type": "redis_keys", "connection_url": f"redis://h/0?password={CANARY}"},
    {"type": "postgresql", "connection_url": f"postgresql://u:{CANARY}@h1:1,h2:2/d"},
    {"type": "postgresql", "connection_url": f"postgresql://h/d?user=u&password={CANARY}&sslmode=require"},
    {"type": "postgresql", "connection_url": f"postgresql://h/d?sslpassword={CANARY}"},
    {"type": "postgresql", "connection_url": f"postgresql://u:p/{CANARY}@h/d"},
    {"type": "postgresql", "connection_url": f"postgresql://u:p@{CANARY}@h/d"},
    {"type": "postgresql", "connection_url": f"postgresql://u:p?{CANARY}#x@h/d"},
    {"type": "postgresql", "connection_url": f"postgresql://u:[{CANARY}@h/d"},
    {"type": "postgresql", "connection_url": f"host=h password={CANARY} user=u"},
    {"type": "postgresql", "connection_url": f"host=h password = 'a \\' {CANARY}' user=u"},
    {"type": "postgresql", "connection_url": f"host=h PASSWORD={CANARY}"},
    {"type": "postgresql", "connection_url": f"host=h sslpassword={CANARY}"},
]


@pytest.mark.parametrize("config", LITERAL, ids=lambda c: str(c.get("redis_options") or c["connection_url"]))
def test_a_literal_password_is_in_nothing_that_is_printed_or_stored(config: dict[str, Any]) -> None:
    found = migration(source=config)
    for shown in (repr(found), str(found), str(found.text), found.model_dump_json(), repr(found.model_dump())):
        assert CANARY not in shown
    assert "***" in str(found.text)


def test_what_is_struck_is_only_the_password() -> None:
    text = migration(source={"type": "postgresql", "connection_url": f"postgresql://u:{CANARY}@h:5432/d?x=1"}).text
    assert text["source"]["connection_url"] == "postgresql://u:***@h:5432/d?x=1"


@pytest.mark.parametrize(
    "text",
    [
        "redis://127.0.0.1:6379/0",
        "postgresql://user@host/db",
        "postgresql:///db?host=/run",
        "host=h user=u dbname=d",
        "session:*",
        "",
        "a@b:c",
        "/var/lib/ag-ui",
        "https://h/a:b",
    ],
)
def test_text_without_a_password_is_left_as_it_is(text: str) -> None:
    assert redacted(text) == text


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8))
def test_no_password_survives_in_a_url_whatever_characters_it_holds(password: str) -> None:
    secret = f"{password}{CANARY}{password}"
    assert CANARY not in redacted(f"postgresql://user:{secret}@host:5432/db")
    assert CANARY not in redacted(f"redis://:{secret}@host")


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AGUI_SECRET", CANARY)
    return "${AGUI_SECRET}"


def test_a_resolved_value_is_in_nothing_that_is_printed_or_stored(secret: str) -> None:
    found = migration(
        source={"type": "redis", "connection_url": secret, "redis_options": {"password": secret}},
        target={"type": "postgresql", "connection_url": f"postgresql://u:{secret}@h/d"},
        workspace=f"s3://key:{secret}@bucket/ws",
    )
    for shown in (repr(found), str(found), str(found.text), repr(found.source), repr(found.target)):
        assert CANARY not in shown
    assert found.text["source"]["connection_url"] == "${AGUI_SECRET}"
    assert found.text["source"]["redis_options"]["password"] == "${AGUI_SECRET}"
    assert isinstance(found.source, RedisConfig)
    assert found.source.connection_url.get_secret_value() == CANARY


@pytest.mark.parametrize(
    "changes",
    [
        {"source": {"type": "redis", "connection_url": "${AGUI_SECRET}", "wrong": 1}},
        {"source": {"type": "redis", "connection_url": ["${AGUI_SECRET}"]}},
        {"source": {"type": "redis", "redis_options": {"password": {"a": "${AGUI_SECRET}"}}}},
        {"source": {"type": "redis", "redis_options": {"db": "${AGUI_SECRET}"}}},
        {"target": {"type": "postgres", "connection_url": "x", "postgresql_options": {"ssl_mode": "${AGUI_SECRET}"}}},
        {"name": "${AGUI_SECRET}/x"},
        {"ranges": "${AGUI_SECRET}"},
    ],
)
@pytest.mark.usefixtures("secret")
def test_no_resolved_value_is_in_the_error_or_its_traceback(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        migration(**changes)
    assert CANARY not in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "line",
    [
        f"connection_url: redis://:{CANARY}@h: x",
        f"password: [{CANARY}",
        f'password: "{CANARY}',
        f"password: {CANARY}\n\tx: 1",
        f"password: *{CANARY}",
        f"password: !{CANARY} x",
        f"password: @{CANARY}",
        f"password: %{CANARY}",
        f"? [{CANARY}]\n  : 1",
    ],
)
def test_no_password_is_in_the_error_about_a_file_that_is_no_yaml(tmp_path: Path, line: str) -> None:
    file = written(tmp_path, f"name: m\nsource:\n  type: redis\n  {line}\n")
    with pytest.raises(SpecError) as caught:
        load(file)
    assert CANARY not in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


# The fingerprint -------------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_that_of_what_decides_the_result() -> None:
    base = migration().fingerprint
    assert len(base) == 16
    assert base == migration(batch_size=7, parallelism=3, workspace="x", limits={"max_rejects": 5}).fingerprint
    assert base == migration(expectations={"staged": "mine.json"}).fingerprint
    for changes in (
        {"name": "other"},
        {"ranges": 4},
        {"source": {"type": "redis_keys", "match": "a*"}},
        {"target": {"type": "redis"}},
        {"transforms": ["identity"]},
    ):
        assert migration(**changes).fingerprint != base


def test_the_fingerprint_depends_on_the_reference_and_not_on_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for value in ("one", "two"):
        monkeypatch.setenv("AGUI_SECRET", value)
        found.append(migration(source={"type": "redis", "connection_url": "${AGUI_SECRET}"}).fingerprint)
    assert found[0] == found[1]


def test_the_fingerprint_does_not_depend_on_a_literal_password_or_the_order_of_keys() -> None:
    one = migration(source={"type": "redis", "connection_url": "redis://:a@h", "database": "d"})
    other = migration(source={"database": "d", "connection_url": "redis://:b@h", "type": "redis"})
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("options", [{1: 2}, {"a": 2**70}, {"a": float("inf")}, {"a": [None, True]}])
def test_whatever_yaml_allows_in_options_has_a_fingerprint(options: dict[Any, Any]) -> None:
    assert len(migration(transforms=[{"python": options}]).fingerprint) == 16


def test_a_copy_keeps_text_and_folder(tmp_path: Path) -> None:
    found = parse(MINIMAL, folder=tmp_path)
    for other in (found.model_copy(update={"batch_size": 5}), copy.deepcopy(found)):
        assert (other.text, other.folder, other.fingerprint) == (found.text, found.folder, found.fingerprint)


def test_parsing_leaves_the_mapping_as_it_was() -> None:
    text = copy.deepcopy(MINIMAL) | {"source": {"type": "postgres", "connection_url": "postgresql://u:p@h/d"}}
    before = copy.deepcopy(text)
    parse(text)
    assert text == before


def test_the_environment_is_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGUI_SECRET", "x")
    before = dict(os.environ)
    migration(source={"type": "redis", "connection_url": "${AGUI_SECRET}"})
    assert dict(os.environ) == before


# Suites of one's own ---------------------------------------------------------------------------------------------------


def test_suites_are_given_as_a_path_or_several() -> None:
    found = migration(expectations={"staged": "a.json", "loaded": ["b.json", "c.json"]}).expectations
    assert (found.exported, found.staged, found.loaded) == ((), ("a.json",), ("b.json", "c.json"))


@pytest.mark.parametrize(
    "wrong",
    [{"stagged": "a.json"}, {"staged": ""}, {"staged": "a\0b"}, {"staged": [5]}, {"staged": {"a": "b"}}, ["a.json"]],
)
def test_what_names_no_suites_is_refused(wrong: Any) -> None:
    assert "expectations" in refusal(expectations=wrong)


@pytest.mark.parametrize("key", ["soak", "timeout"])
def test_a_period_has_a_unit_as_a_number_would_be_taken_for_seconds(key):
    def with_period(value):
        hooks = {"stop": {"command": "true", "timeout": value}}
        return migration(**({"decommission": {"soak": value}} if key == "soak" else {"hooks": hooks}))

    with pytest.raises(SpecError, match="86400 has no unit"):
        with_period(86400)
    assert with_period("24h")
    assert with_period(0 if key == "soak" else "1s")
