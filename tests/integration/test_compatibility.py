"""The named checks: what passes, warns and blocks, and that trying privileges leaves nothing behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from agui_pipelines.embedded import EmbeddedRedis
from agui_pipelines.errors import RefusedError, SpecError
from agui_pipelines.phases import assess as phase
from agui_pipelines.phases import checks_of_place, checks_of_records, compatibility
from agui_pipelines.phases.assess import assess
from agui_pipelines.phases.checks import Check
from agui_pipelines.phases.compatibility import blocks, check, require_possible
from agui_pipelines.ports import Version
from agui_pipelines.stores import file_measuring, redis_measuring

STORES = ["redis", "postgresql", "file"]


@pytest.fixture(autouse=True)
def _short_watch(monkeypatch):
    monkeypatch.setattr(phase, "WATCH_SECONDS", 0.01)


@pytest.fixture
def source(fresh_redis):
    """Makes a foreign Redis of some documents by key."""

    def make(documents: dict[str, Any]) -> dict[str, Any]:
        url = fresh_redis()
        with redis.Redis.from_url(url) as client:
            for key, document in documents.items():
                client.set(key, document if isinstance(document, str | bytes) else json.dumps(document))
        return {"type": "redis_keys", "connection_url": url}

    return make


@pytest.fixture
def checked(migration):
    """Assesses a migration and runs all checks, by name; where a name has several findings, the worst."""

    def run(source: dict[str, Any], target: dict[str, Any], *, trying: bool = True, **more: Any) -> dict[str, Check]:
        session = migration(source=source, target=target, **more).session()
        checks = check(session, assess(session), trying=trying)
        order = ["pass", "warn", "block"].index
        json.dumps([one.to_dict() for one in checks])  # machine-readable
        assert {one.name for one in checks} <= compatibility.NAMES
        assert [one for one in checks if one.verdict != "pass" and not one.remedy] == []
        return {one.name: one for one in sorted(checks, key=lambda one: order(one.verdict))}

    return run


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("prepared", [False, True], ids=["new", "prepared"])
def test_an_ordinary_migration_passes_every_check(source, checked, config, opened, kind, prepared):
    target = config(kind, "target")
    if prepared:
        opened(target).prepare()
    found = checked(source({"a": {}, "b": {"n": 1}}), target)
    assert {name for name, one in found.items() if one.verdict != "pass"} == set()
    assert found["target_privileges"].reason.startswith("Tried and taken back")


FULL = {"limit": 10**6, "used": 10**6 - 100, "machine": 10**9, "policy": "noeviction"}


def _nearly_full(real):
    """A file system with room for a few more files."""

    def small(path):
        found = list(real(path))
        found[3] = found[4] = 20  # free blocks
        found[6] = found[7] = 7  # free inodes
        return os.statvfs_result(found)

    return small


def left_behind(kind: str, target: dict[str, Any]) -> list[Any]:
    """Everything that is in a target which nothing was migrated into, tables that are empty left out."""
    if kind == "redis":
        with redis.Redis.from_url(target["connection_url"]) as client:
            return client.keys()
    if kind == "file":
        base = Path(target["file_options"]["base_dir"])
        return [path for path in base.parent.rglob("*") if path.is_file() or "scratch" in path.name or path == base]
    with psycopg.connect(target["connection_url"]) as connection:
        tables = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        rows = [
            connection.execute(f"SELECT * FROM {name}").fetchall()  # type: ignore[arg-type]
            for (name,) in tables.fetchall()
        ]
        return [row for some in rows for row in some]


@pytest.mark.parametrize("kind", STORES)
def test_trying_privileges_leaves_nothing_behind(source, checked, config, kind):
    target = config(kind, "target")
    before = left_behind(kind, target)
    found = checked(source({"a": {}}), target)
    assert found["target_privileges"].verdict == "pass"
    assert left_behind(kind, target) == before
    if kind == "postgresql":
        with psycopg.connect(target["connection_url"]) as connection:
            assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_trying_privileges_leaves_nothing_behind_in_redis_if_it_is_interrupted(source, checked, config, monkeypatch):
    target = config("redis", "target")
    real, done = redis_measuring._denial, []

    def failing(wire, command, *after):
        done.append(command)
        if command[0] == b"ZADD":
            raise KeyboardInterrupt
        return real(wire, command, *after)

    monkeypatch.setattr(redis_measuring, "_denial", failing)
    with pytest.raises(KeyboardInterrupt):
        checked(source({"a": {}}), target)
    assert len(done) > 3
    assert left_behind("redis", target) == []


def test_trying_privileges_leaves_nothing_behind_in_files_if_it_is_interrupted(source, checked, config, monkeypatch):
    target = config("file", "target")

    def failing(*_given: Any, **_more: Any) -> None:
        raise KeyboardInterrupt

    before = left_behind("file", target)
    monkeypatch.setattr(file_measuring.os, "utime", failing)
    with pytest.raises(KeyboardInterrupt):
        checked(source({"a": {}}), target)
    assert left_behind("file", target) == before


def test_a_scratch_folder_of_a_process_that_was_killed_is_removed_later(source, checked, config, opened):
    target = config("file", "target")
    opened(target).prepare()
    base = Path(target["file_options"]["base_dir"])
    old, new = "0123456789abcdef", "fedcba9876543210"
    for name, age in ((old, 7200), (new, 0), ("of-mine", 7200)):
        folder = base / f".agui-scratch-{name}"
        folder.mkdir()
        (folder / "aside").write_text("{}")
        moment = folder.stat().st_mtime - age
        os.utime(folder, (moment, moment))
    checked(source({"a": {}}), target)
    assert {path.name for path in base.glob(".agui-scratch-*")} == {f".agui-scratch-{new}", ".agui-scratch-of-mine"}


def test_a_dry_run_tries_nothing(source, checked, config, monkeypatch):
    monkeypatch.setattr(redis_measuring, "_denial", lambda *_: pytest.fail("something was written"))
    found = checked(source({"a": {}}), config("redis", "target"), trying=False)
    assert found["target_privileges"].verdict == "pass"
    assert "Not tried" in found["target_privileges"].reason


@pytest.mark.parametrize(
    ("rule", "verdict", "named"),
    [
        ("-set", "block", "create a key"),
        ("-exec", "block", "end a transaction"),
        ("-multi", "block", "begin a transaction"),
        ("-zadd", "block", "sorted set"),
        ("-del", "block", "delete a key"),
        ("-del -pexpire", "block", "set an expiry"),
        ("-zrem", "warn", "remove from a sorted set"),
    ],
)
def test_what_a_redis_user_may_not_do_is_named_and_nothing_stays(source, checked, rule, verdict, named):
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", *rule.split())
        target = {"type": "redis", "connection_url": f"redis://u:p@127.0.0.1:{server.port}/0"}
        found = checked(source({"a": {}}), target)
        one = found["target_privileges"]
        assert (one.verdict, named in one.reason) == (verdict, True), one.reason
        assert all(f"+{name[1:]}" in one.remedy for name in rule.split())
        left = client.keys()
        # Who may not delete leaves it to the keys' own expiry, and who may neither gets no key without one.
        assert all(0 < client.pttl(key) <= 60_000 for key in left) if "-del" in rule else left == []


@pytest.fixture
def role(postgres_url):
    """A PostgreSQL user who may nothing, and its URL."""
    name = f"agui_checked_{os.getpid()}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")  # type: ignore[arg-type]
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        parts = urlsplit(postgres_url)
        yield name, parts._replace(netloc=f"{name}@{parts.netloc.rpartition('@')[2]}").geturl(), connection
        connection.execute(f"DROP OWNED BY {name}")  # type: ignore[arg-type]
        connection.execute(f"DROP ROLE {name}")  # type: ignore[arg-type]


def test_what_a_postgresql_user_may_not_do_is_named(source, checked, role, opened, postgres_url):
    name, url, connection = role
    states = source({"a": {}})
    target = {"type": "postgresql", "connection_url": url}
    one = checked(states, target)["target_privileges"]
    assert one.verdict == "block"
    assert "create a table in the schema public: permission denied" in one.reason
    store = opened({"type": "postgresql", "connection_url": postgres_url})
    store.prepare()
    store.set_state("kept", b"{}")
    connection.execute(f"GRANT SELECT, INSERT ON ag_states, ag_versions, ag_snapshots TO {name}")
    one = checked(states, target)["target_privileges"]
    assert one.verdict == "block"
    assert "insert into ag_states" in one.reason
    assert "GRANT INSERT, UPDATE" in one.remedy
    connection.execute(f"GRANT UPDATE ON ag_states, ag_versions, ag_snapshots TO {name}")
    one = checked(states, target)["target_privileges"]
    assert one.verdict == "warn"
    assert "only taking an import back needs it: delete from ag_states" in one.reason
    assert connection.execute("SELECT state_id FROM ag_states").fetchall() == [("kept",)]


@pytest.mark.parametrize(
    ("policy", "verdict"), [("allkeys-lru", "block"), ("volatile-lru", "warn"), ("noeviction", "pass")]
)
def test_a_target_that_throws_out_what_it_holds(source, checked, policy, verdict):
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "500mb")
        client.config_set("maxmemory-policy", policy)
        found = checked(source({"a": {}}), {"type": "redis", "connection_url": server.url})
        assert found["target_eviction"].verdict == verdict
        assert found["target_memory"].verdict == "pass"


def test_a_target_whose_memory_is_too_small(source, checked, config):
    states = source({f"s{i}": {"text": "x" * 10_000} for i in range(500)})
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 2_000_000)
        target = {"type": "redis", "connection_url": server.url}
        found = checked(states, target)["target_memory"]
        assert (found.verdict, "MiB are needed, and its limit leaves 1." in found.reason) == ("block", True), (
            found.reason
        )
        small = checked(states, target, requirements={"max_memory": "1MiB"})["target_memory"]
        assert small.verdict == "block"  # what is required hides nothing of what there is
        accepted = checked(states, target, assessment={"accept": ["target_memory"]})["target_memory"]
        assert (accepted.verdict, accepted.accepted) == ("warn", True)
    required = checked(states, config("redis", "target"), requirements={"max_memory": "1MiB"})["target_memory"]
    assert (required.verdict, "requirements.max_memory" in required.reason) == ("warn", True)


@pytest.mark.parametrize(
    ("replica", "remedy"), [(False, "Raise maxmemory"), (True, "Name the primary")], ids=["full", "replica"]
)
def test_a_refusal_that_is_no_matter_of_permission_is_told_as_what_it_is(source, checked, replica, remedy):
    with EmbeddedRedis() as primary, EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        if replica:
            client.replicaof("127.0.0.1", primary.port)
        else:
            client.config_set("maxmemory", "1")
        found = checked(source({"a": {}}), {"type": "redis", "connection_url": server.url})["target_privileges"]
        assert found.verdict == "block"
        assert found.remedy.startswith(remedy)
        assert "ACL SETUSER" not in found.remedy


def test_a_target_that_does_not_tell_of_its_memory(source, checked):
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-info", "-config")
        target = {"type": "redis", "connection_url": f"redis://u:p@127.0.0.1:{server.port}/0"}
        found = checked(source({"a": {}}), target)
        assert found["target_eviction"].verdict == "warn"
        assert "INFO memory is denied" in found["target_eviction"].reason
        assert found["target_memory"].verdict == "warn"
        client.execute_command("ACL", "SETUSER", "u", "+config")
        assert checked(source({"a": {}}), target)["target_eviction"].verdict == "pass"


def test_what_the_target_refuses_is_named(source, checked, config):
    states = source({"nul": '{"a": "\\u0000"}', "half": '{"a": "\\ud800"}', "x" * 300: {}, "fine": {}})
    found = checked(states, config("postgresql", "target"))["storable_records"]
    assert (found.verdict, found.of, found.count) == ("block", "records", 3)
    assert sorted(found.ids) == ["half", "nul", "x" * 300]
    assert "3 of 4 sampled states" in found.reason
    allowed = checked(states, config("postgresql", "other"), limits={"max_rejects": 3})["storable_records"]
    assert allowed.verdict == "warn"
    unsafe = checked(source({"a/b": {}, "..": {}}), config("file", "target"))["storable_records"]
    assert (unsafe.verdict, sorted(unsafe.ids)) == ("block", ["..", "a/b"])
    assert "percent_encode" in unsafe.remedy
    fine = checked(source({"a/b": {}}), config("file", "other"), transforms=["percent_encode"])["storable_records"]
    assert fine.verdict == "pass"


def test_ids_that_fall_together(source, checked, config):
    states = source({"a:1": {}, "b:1": {}, "b:2": {}})
    found = checked(
        states, config("redis", "target"), transforms=[{"rename_ids": {"pattern": ".:(?P<n>.)", "template": "{n}"}}]
    )
    assert (found["distinct_ids"].verdict, found["distinct_ids"].ids) == ("block", ("1",))
    assert "'a:1'" in found["distinct_ids"].reason
    assert "'b:1'" in found["distinct_ids"].reason


@pytest.mark.parametrize("kind", STORES)
def test_ids_that_the_target_holds_already(source, checked, config, opened, kind):
    target = config(kind, "target")
    store = opened(target)
    store.prepare()
    store.set_state("a", b"{}")
    store.set_state("other", b"{}")
    found = checked(source({"a": {"n": 1}, "b": {}}), target)["overwritten_states"]
    assert (found.verdict, found.ids, found.count) == ("warn", ("a",), 1)
    assert store.get_state("a") == b"{}"


def test_losses_that_are_not_accepted(source, checked, config):
    states = source({"a": {}})
    with redis.Redis.from_url(states["connection_url"]) as client:
        client.expire("a", 1000)
    found = checked(states, config("file", "target"), accept_losses=[])["losses"]
    assert (found.verdict, found.of, found.ids) == ("block", "records", ("a",))
    assert "accept_losses: [expiry]" in found.remedy
    assert checked(states, config("file", "target"), accept_losses=["expiry"])["losses"].verdict == "pass"
    assert checked(states, config("file", "target"), accept_losses=[], keep=["expiry"])["losses"].verdict == "pass"


def test_losses_on_the_way_to_the_target_are_foreseen(source, checked, config, opened):
    twice = source({"a": '{"x": 1, "x": 2}'})
    found = checked(
        twice, config("file", "target"), accept_losses=["expiry"], transforms=[{"set_fields": {"tenant": "acme"}}]
    )["losses"]
    assert (found.verdict, found.ids) == ("block", ("a",))
    assert "accept_losses: [duplicate_keys, expiry]" in found.remedy
    assert checked(twice, config("file", "target"), accept_losses=[])["losses"].verdict == "pass"
    states = config("redis", "states")
    store = opened(states)
    for number in range(4):
        store.set_state(f"s{number}", b"{}")
        for version in range(number):
            store.save_version(Version(f"v{version}", f"s{number}", f"2025-07-14T09:30:{version:02}Z", b"{}"))
    shortened = checked(states, config("file", "target"), accept_losses=[], history_limit=2)["losses"]
    assert (shortened.verdict, shortened.ids) == ("block", ("s3",))
    assert "accept_losses: [history]" in shortened.remedy


@pytest.mark.parametrize("kind", [*STORES])
def test_a_store_that_is_rewritten_in_place_needs_no_room_for_what_it_holds(checked, config, opened, kind, monkeypatch):
    place = config(kind, "store")
    store = opened(place)
    store.prepare()
    for number in range(50):
        store.set_state(f"s{number}", json.dumps({"text": "x" * 10_000}).encode())
    if kind == "redis":
        monkeypatch.setattr(redis_measuring, "of_memory", lambda _: FULL)
    monkeypatch.setattr(file_measuring.os, "statvfs", _nearly_full(os.statvfs))
    found = checked(place, place, in_place=True, transforms=[{"set_fields": {"tenant": "acme"}}])
    assert {name for name, one in found.items() if one.verdict != "pass"} <= {"workspace_disk"}  # the same file system
    assert found["target_privileges"].reason.startswith("Tried and taken back")
    assert "replaced where it is" in found["overwritten_states"].reason
    assert json.loads(store.get_state("s0")) == {"text": "x" * 10_000}


def test_what_a_target_in_files_holds_already_takes_no_new_files(source, checked, config, opened, monkeypatch):
    target = config("file", "target")
    store = opened(target)
    store.prepare()
    for number in range(50):
        store.set_state(f"s{number}", b"{}")
    monkeypatch.setattr(file_measuring.os, "statvfs", _nearly_full(os.statvfs))
    found = checked(source({f"s{number}": {} for number in range(52)}), target)
    assert found["target_files"].verdict == "pass"


def test_a_user_who_may_write_is_not_told_otherwise_where_a_version_needs_its_state(source, checked, target):
    target.execute(
        "CREATE TABLE ag_states (state_id varchar(255) PRIMARY KEY, data jsonb NOT NULL CHECK (data ? 'n'), "
        "created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now())"
    )
    target.execute(
        "CREATE TABLE ag_versions (version_id varchar(255) PRIMARY KEY, state_id varchar(255) NOT NULL "
        "REFERENCES ag_states, data jsonb NOT NULL, delta jsonb, metadata jsonb, parent_id varchar(255), "
        "created_at timestamptz DEFAULT now())"
    )
    found = checked(source({"a": {"n": 1}}), target.config)["target_privileges"]
    assert (found.verdict, found.reason.startswith("Tried and taken back")) == ("pass", True), found.reason


def test_one_place_for_both_ends(checked, config, opened):
    place = config("file", "store")
    opened(place).prepare()
    found = checked(place, place)["target"]
    assert (found.verdict, "same place" in found.reason) == ("block", True)


def test_a_target_that_cannot_be_reached_blocks_and_says_why(source, checked):
    found = checked(source({"a": {}}), {"type": "redis", "connection_url": "redis://127.0.0.1:1/0"})["target"]
    assert (found.verdict, "cannot be reached" in found.reason) == ("block", True)


def test_an_empty_source_warns(source, checked, config):
    assert checked(source({}), config("file", "target"))["source"].verdict == "warn"


def test_the_rules_of_the_guide(source, checked, config, monkeypatch):
    monkeypatch.setattr(checks_of_place, "LARGE_VOLUME", 50_000)
    monkeypatch.setattr(checks_of_records, "LARGE_STATE", 10_000)
    states = source({"large": {"x": "y" * 60_000}, "small": {}})
    found = checked(states, config("file", "target"), requirements={"max_latency": "5ms"})
    assert found["large_states"].ids == ("large",)
    assert found["recommended_backend"].verdict == "warn"
    fast = checked(states, config("redis", "target"), requirements={"max_latency": "5ms"})["recommended_backend"]
    assert "PostgreSQL is recommended" in fast.reason
    slow = checked(states, config("postgresql", "target"), requirements={"max_latency": "5ms"})["recommended_backend"]
    assert "Redis is recommended" in slow.reason
    fine = checked(states, config("postgresql", "other"), requirements={"max_latency": "1s"})["recommended_backend"]
    assert fine.verdict == "pass"


def test_disks_that_are_too_small(source, checked, config, monkeypatch):
    states = source({f"s{i}": {"text": os.urandom(2000).hex()} for i in range(100)})
    monkeypatch.setattr(file_measuring.os, "statvfs", _nearly_full(os.statvfs))
    found = checked(states, config("file", "target"))
    assert found["target_disk"].verdict == "block"
    assert (found["target_files"].verdict, "100 files" in found["target_files"].reason) == ("block", True)
    assert found["workspace_disk"].verdict == "block"


def test_an_unknown_check_cannot_be_accepted(source, checked, config):
    with pytest.raises(SpecError, match="there is no check 'disks'"):
        checked(source({"a": {}}), config("file", "target"), assessment={"accept": ["disks"]})


def test_all_blocks_of_the_place_are_told_at_once_with_their_remedies():
    checks = [
        Check("target_memory", "block", "Too small.", "Raise maxmemory."),
        Check("target_eviction", "block", "It evicts.", "Set noeviction."),
        Check("storable_records", "block", "One is refused.", "Mend it.", of="records"),
        Check("clocks", "pass", "Fine."),
    ]
    with pytest.raises(RefusedError) as refused:
        require_possible(checks)
    assert "target_memory: Too small; target_eviction: It evicts" in refused.value.message
    assert "Raise maxmemory. Set noeviction." in refused.value.remedy
    assert "accept: [target_memory, target_eviction]" in refused.value.remedy
    assert refused.value.exit_code == 3
    assert len(blocks(checks)) == 3
    require_possible(checks[2:])  # the complete gate before the import refuses what is of the records
