"""What an assessment tells of every kind of source, and what it says that it could not measure."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from agui_pipelines import spec
from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis
from agui_pipelines.errors import StoreError
from agui_pipelines.phases import assess as phase
from agui_pipelines.phases.assess import Assessment, Cost, Usage, assess
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.profile import Profiler, _span
from agui_pipelines.phases.prospect import Outlook
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Measurement, Snapshot, Version
from agui_pipelines.stores import file_measuring, file_memory, file_reader

STORES = ["redis", "postgresql", "file"]
DOCUMENT = json.dumps({"user": "Ada", "messages": [{"role": "user", "content": "hello"}]}).encode()


@pytest.fixture(autouse=True)
def _short_watch(monkeypatch):
    monkeypatch.setattr(phase, "WATCH_SECONDS", 0.01)


@pytest.fixture
def assessed(migration, config):
    """Assesses a source, with an empty store in files for a target."""

    def run(source: dict[str, Any], *, thorough: bool = True, sample: int | None = None, **more: Any):
        move = migration(source=source, target=config("file", "target"), **more)
        return assess(move.session(), sample=sample, thorough=thorough)

    return run


def version(state_id: str, number: int, metadata: bytes | None = None) -> Version:
    return Version(f"{state_id}-v{number}", state_id, f"2025-07-14T09:30:{number:02}Z", DOCUMENT, metadata=metadata)


@pytest.fixture
def filled(config, opened):
    """A store of a kind with 30 states, `user:0` with four versions and a snapshot, and a large state."""

    def make(kind: str) -> dict[str, Any]:
        configured = config(kind, "source")
        store = opened(configured)
        store.prepare()
        for number in range(29):
            store.set_state(f"user:{number}", DOCUMENT)
        store.set_state("agent:large", json.dumps({"blob": "x" * 50_000}).encode())
        for number in range(4):
            store.save_version(version("user:0", number))
        store.save_snapshot(Snapshot("s1", "user:0", "2025-07-14T09:30:00Z", DOCUMENT))
        store.flush()
        return configured

    return make


@pytest.mark.parametrize("thorough", [True, False], ids=["alone", "within a run"])
@pytest.mark.parametrize("kind", STORES)
def test_a_store_is_counted_and_profiled(filled, assessed, kind, thorough):
    found = assessed(filled(kind), thorough=thorough)
    assert (found.states, found.measurement.versions, found.measurement.snapshots) == (30, 4, 1)
    assert not found.measurement.estimated
    assert found.profile.states == 30
    assert found.profile.prefixes == {"user:": 29, "agent:": 1}
    [largest, *_] = found.sizes.largest
    assert largest[0] == "agent:large"
    assert largest[1] >= 50_000
    assert found.sizes.percentile(50) < 200
    assert found.document_bytes is not None
    assert found.document_bytes > 50_000 + 29 * 50
    assert found.profile.depths == {3: 29, 1: 1}
    assert found.profile.types["object"] == 2 * 29 + 1
    assert found.profile.encodings == {"ASCII": 30}
    assert found.profile.not_json == 0
    assert found.cost.records == 30
    assert found.cost.commands > 0
    assert found.cost.bytes_read > 50_000
    json.dumps(found.to_dict())  # machine-readable


@pytest.mark.parametrize("kind", STORES)
def test_history_lengths_are_told(filled, assessed, kind):
    found = assessed(filled(kind))
    assert found.histories["versions"]["maximum"] == 4
    assert found.histories["snapshots"]["maximum"] == 1
    assert found.histories["versions"]["p50"] == 0


def test_the_history_files_of_a_folder_are_read_once_while_somebody_writes_there(config, opened, assessed, monkeypatch):
    configured = config("file", "source")
    store = opened(configured)
    store.prepare()
    for number in range(200):
        store.set_state(f"user:{number}", DOCUMENT)
        store.save_version(version(f"user:{number}", 0))
    monkeypatch.setattr(file_memory, "SETTLED_NS", 10**12)  # nothing is remembered of a folder that has just changed
    read: list[bytes] = []
    real = file_reader.attribute
    monkeypatch.setattr(file_reader, "attribute", lambda layout, folder: read.append(folder) or real(layout, folder))
    found = assessed(configured, sample=100)
    assert found.histories["versions"]["average"] == 1
    assert set(map(read.count, read)) == {2}  # for the versions of the sample, and for the lengths


def test_percentiles_of_history_lengths_are_those_of_the_nearest_rank():
    told = phase._distribution(list(range(1, 101)))
    assert [told[name] for name in ("average", "p50", "p95", "p99", "maximum")] == [50.5, 50, 95, 99, 100]
    assert phase._distribution([3, 1])["p50"] == 1
    assert phase._distribution([7])["p99"] == 7


def test_within_a_run_the_histories_of_files_are_not_read_and_that_is_told(filled, assessed):
    found = assessed(filled("file"), thorough=False)
    assert found.histories == {}
    assert "within its file" in found.unmeasured["history lengths"]


@pytest.mark.parametrize("kind", STORES)
def test_an_empty_store(config, opened, assessed, kind):
    configured = config(kind, "source")
    opened(configured).prepare()
    found = assessed(configured)
    assert (found.states, found.document_bytes, found.total_bytes) == (0, 0, 0)
    assert found.sizes.to_dict()["p99"] == 0
    json.dumps(found.to_dict())


@pytest.mark.parametrize("kind", STORES)
def test_one_state(config, opened, assessed, kind):
    configured = config(kind, "source")
    store = opened(configured)
    store.prepare()
    store.set_state("ユーザー", b'{"n": 9007199254740993, "s": "\xc3\xa9"}')
    found = assessed(configured)
    assert found.states == 1
    assert found.profile.prefixes == {"(none)": 1}
    assert found.profile.ids_not_ascii == 1
    assert found.profile.encodings == {"UTF-8": 1}
    assert found.profile.findings["numbers_beyond_2_53"].ids == ["ユーザー"]


@pytest.mark.parametrize("kind", ["postgresql", "file"])
def test_a_store_that_is_not_there(config, assessed, kind):
    with pytest.raises(StoreError, match="no store to read from"):
        assessed(config(kind, "source"))


def test_a_sample_is_of_the_size_asked_for_and_counts_stay_exact(config, opened, assessed):
    for kind in STORES:
        configured = config(kind, f"source-{kind}")
        store = opened(configured)
        store.prepare()
        with store.transaction() as transaction:
            for number in range(500):
                transaction.set_state(f"user:{number:03}", DOCUMENT)
        found = assessed(configured, sample=20)
        assert (found.states, found.profile.states, found.sample) == (500, 20, 20)


def test_limits_of_the_reference_are_reported_with_the_ids(config, opened, assessed):
    configured = config("redis", "source")
    store = opened(configured)
    deep: Any = {}
    for _ in range(10):
        deep = {"d": deep}
    store.set_state("deep", json.dumps(deep).encode())
    store.set_state("array", json.dumps({"a": [0] * 10_001}).encode())
    store.set_state("object", json.dumps({str(i): 0 for i in range(1_001)}).encode())
    store.set_state("string", json.dumps({"s": "x" * ((1 << 20) + 1)}).encode())
    store.set_state("fine", json.dumps({"s": "x" * ((1 << 20) - 20), "a": [0] * 10_000}).encode())
    store.set_state("huge", json.dumps({str(i): "x" * 1_000_000 for i in range(11)}).encode())
    large = json.dumps({"m": "x" * (1 << 20)}).encode()
    store.save_version(Version("v1", "fine", "2025-07-14T09:30:00Z", b"{}", delta=None, metadata=large))
    patch = json.dumps([{"op": "add", "path": "/x", "value": "y" * (1 << 20)}]).encode()
    store.save_version(Version("v2", "fine", "2025-07-14T09:30:01Z", b"{}", delta=patch))
    found = assessed(configured).profile
    over = {limit: (one.ids, one.count) for limit, one in found.limits.items()}
    assert over == {
        "depth": (["deep"], 1),
        "array": (["array"], 1),
        "object": (["object"], 1),
        "string": (["string"], 1),
        "document": (["huge"], 1),
        "metadata": (["fine"], 1),
        "patch": (["fine"], 1),
    }
    assert found.uninspected == 1  # what is larger than 4 MiB is told by its size alone


def test_a_count_that_was_cut_short_is_told_or_left_out_but_never_too_small(config, opened, assessed, monkeypatch):
    monkeypatch.setattr(phase, "RUN_SECONDS", 0.0)
    monkeypatch.setattr(file_measuring, "_FILES", 5)
    flat = config("file", "flat")
    flat["file_options"]["enable_sharding"] = False
    for configured in (flat, config("file", "sharded")):
        store = opened(configured)
        store.prepare()
        for number in range(200):
            store.set_state(f"user:{number}", b"{}")
        found = assessed(configured, thorough=False)
        assert found.states is None
        assert "not one folder could be counted" in found.unmeasured["states"]
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.mset({f"session:{number}": "{}" for number in range(10_000)})
        client.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-dbsize")
        for user, states in (("", 10_000), ("u:p@", None)):
            source = {"type": "redis_keys", "connection_url": f"redis://{user}127.0.0.1:{server.port}/0"}
            found = assessed(source, thorough=False)
            assert found.states == (states and pytest.approx(states, rel=0.2))
            assert ("states" in found.unmeasured) is (states is None)


def test_shards_that_were_counted_stand_for_those_that_were_not():
    folders = [b"", b"shard_0", b"shard_1", b"shard_2"]
    assert file_measuring._in_all(folders, {}) is None
    assert file_measuring._in_all(folders, {b"": 3}) is None
    assert file_measuring._in_all(folders, {b"": 3, b"shard_0": 10}) == 33
    assert file_measuring._in_all(folders, {b"": 3, b"shard_0": 10, b"shard_1": 12, b"shard_2": 8}) == 33
    assert file_measuring._in_all([b""], {b"": 0}) == 0


def test_keys_of_any_redis(legacy, assessed, migration):
    place = legacy.connection_pool.connection_kwargs
    url = f"redis://{place['host']}:{place['port']}/{place['db']}"
    legacy.set("session:1", '{"a": 1, "a": 2}', ex=100)
    legacy.set("session:2", "{}", ex=100_000)
    legacy.set("session:text", "no JSON at all")
    legacy.set("session:broken", '{"a": ')
    legacy.hset("session:hash", "field", "value")
    legacy.set("other", "{}")
    found = assessed({"type": "redis_keys", "connection_url": url, "match": "session:*"})
    assert found.states == 5
    assert found.profile.kinds_of_value == {"JSON object": 2, "string": 2, "hash": 1}
    assert found.profile.not_json == 3
    assert found.profile.to_dict()["not_json_share"] == 3 / 5
    assert found.profile.expiries == {"under 1 hour": 1, "under 7 days": 1, "never": 3}
    assert found.profile.findings["duplicate_keys"].ids == ["session:1"]
    assert found.measurement.details["of these with an expiry"] == "2"
    assert {name: sorted(one.ids) for name, one in found.outlook.losses.items()} == {
        "expiry": ["session:1", "session:2"]
    }
    assert found.usage.reads is not None
    assert found.usage.counted_seconds is not None
    assert found.source_clock is not None
    assert abs(found.source_clock) < 60_000


def test_rows_of_postgresql(target, assessed):
    target.execute("CREATE TABLE chats (id integer PRIMARY KEY, body jsonb, changed timestamptz)")
    target.execute(
        "INSERT INTO chats SELECT i, jsonb_build_object('n', i), now() - i * interval '1 hour' FROM generate_series(0, 99) i"
    )
    source = {"type": "postgresql_rows", "connection_url": target.url, "id_column": "id", "data": "body"}
    table = assessed({**source, "table": "chats", "updated_column": "changed"})
    assert (table.states, table.profile.states) == (100, 100)
    assert table.profile.ages == {"under 1 hour": 1, "under 1 day": 23, "under 7 days": 76}
    assert table.measurement.bytes
    assert table.measurement.details["wal_level"]
    some = assessed({**source, "table": "chats", "where": "id < 10"})
    assert (some.states, some.profile.states) == (10, 10)
    query = assessed({**source, "query": "SELECT * FROM chats WHERE id >= 95"})
    assert (query.states, query.profile.states) == (5, 5)
    assert "no counters of a query" in query.unmeasured["reads and writes"]


def test_a_large_table_is_sampled_by_blocks_from_all_over_it(target, assessed):
    target.execute("CREATE TABLE chats (id integer PRIMARY KEY, body jsonb)")
    target.execute("INSERT INTO chats SELECT i, '{}' FROM generate_series(1, 50000) i")
    target.execute("ANALYZE chats")
    source = {
        "type": "postgresql_rows",
        "connection_url": target.url,
        "id_column": "id",
        "data": "body",
        "table": "chats",
    }
    found = assessed(source, sample=1000)
    assert found.states == 50_000
    assert 500 <= found.profile.states <= 1000
    assert max(int(id_) for id_ in found.outlook.ids) > 25_000


def test_files_are_sampled_from_their_start_and_that_is_told(tmp_path, assessed):
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"id": f"row-{i}", "n": i}) + "\n" for i in range(5000)))
    found = assessed({"type": "jsonl", "path": str(file), "id": "id"}, sample=100)
    assert found.states is None
    assert found.profile.states == 100
    assert "read once, when it is planned" in found.unmeasured["states"]
    assert "from its start" in found.unmeasured["documents from all over the source"]


def test_after_a_plan_the_spool_of_a_scanned_source_is_counted(tmp_path, migration, config):
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"id": f"row-{i}", "n": i}) + "\n" for i in range(50)))
    move = migration(source={"type": "jsonl", "path": str(file), "id": "id"}, target=config("file", "target"))
    move.stage()
    found = assess(move.session())
    assert (found.states, found.profile.states) == (50, 50)


def test_a_file_that_changed_after_it_was_planned_is_counted_by_the_newest_listing(tmp_path, migration, config):
    file = tmp_path / "data.jsonl"
    move = migration(source={"type": "jsonl", "path": str(file), "id": "id"}, target=config("file", "target"))
    for count in (50, 60):
        file.write_text("".join(json.dumps({"id": f"row-{i}"}) + "\n" for i in range(count)))
        listed = plan(move.session())
    assert listed.listing
    assert assess(move.session()).states == 60


def test_a_reader_of_ones_own_is_not_read_for_it(tmp_path, assessed):
    (tmp_path / "once.py").write_text("def read():\n    raise RuntimeError('read')\n    yield\n")
    found = assessed({"type": "custom", "reader": "once:read"})
    assert found.states is None
    assert found.profile.states == 0
    assert "only once" in found.unmeasured["documents"]


@pytest.fixture
def restricted(redis_server):
    """Makes a Redis user of some rules, and gives its URL; the user is gone afterwards."""
    with redis.Redis.from_url(redis_server) as client:

        def make(url: str, *rules: str) -> str:
            client.execute_command("ACL", "SETUSER", "assessor", "reset", "on", ">p", "~*", *rules)
            return url.replace("redis://", "redis://assessor:p@", 1)

        yield make
        client.execute_command("ACL", "DELUSER", "assessor")


@pytest.mark.parametrize("kind", ["redis", "redis_keys"])
def test_what_a_server_denies_is_named_and_the_rest_is_measured(filled, restricted, assessed, kind):
    configured = filled("redis")
    url = restricted(configured["connection_url"], "+@all", "-info", "-config", "-command", "-dbsize")
    found = assessed({"type": kind, "connection_url": url})
    assert found.states == (30 if kind == "redis" else 37)  # with the keys of the history
    assert found.measurement.bytes is None
    assert found.usage.reads is None
    for what, command in (
        ("memory of the server", "INFO memory"),
        ("reads and writes", "INFO commandstats"),
        ("keys with an expiry", "INFO keyspace"),
        ("keys of the database", "DBSIZE"),
    ):
        assert found.unmeasured[what].startswith(f"{command} is denied")


def test_the_use_of_a_redis_is_counted_while_it_is_watched(legacy, assessed, monkeypatch):
    place = legacy.connection_pool.connection_kwargs
    url = f"redis://{place['host']}:{place['port']}/{place['db']}"
    legacy.set("session:1", "{}")
    monkeypatch.setattr(phase, "WATCH_SECONDS", 0.2)
    opened = Session.open

    class Busy:
        """Stands for the event: uses the source while the assessment waits."""

        def wait(self, seconds: float) -> bool:
            for _ in range(30):
                legacy.get("session:1")
            for _ in range(10):
                legacy.set("session:1", "{}")
            time.sleep(seconds)
            return False

        def is_set(self) -> bool:
            return False

    monkeypatch.setattr(Session, "open", lambda *given, **more: _with_stop(opened(*given, **more), Busy()))
    use = assessed({"type": "redis_keys", "connection_url": url, "match": "session:*"}).usage
    assert use.reads is not None
    assert round(use.reads * use.watched_seconds) >= 30
    assert round(use.writes * use.watched_seconds) >= 10
    assert 0.7 <= use.read_share <= 0.8


def _with_stop(session: Session, stop: Any) -> Session:
    object.__setattr__(session, "stop", stop)
    return session


def test_a_source_that_changes_meanwhile_is_assessed_and_the_writes_are_counted(assessed, monkeypatch):
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        client.mset({f"session:{i}": json.dumps({"n": i}) for i in range(3000)})
        sampled = phase._Looking.sampled

        def changing(looking, on_reject):
            for number, found in enumerate(sampled(looking, on_reject)):
                client.delete(*[f"session:{i}" for i in range(number * 100, number * 100 + 100)])
                client.set(f"new:{number}", "{}")
                yield found

        monkeypatch.setattr(phase._Looking, "sampled", changing)
        found = assessed({"type": "redis_keys", "connection_url": server.url})
        assert found.states == 3000
        assert 1000 < found.profile.states <= 3000
        assert found.usage.written_meanwhile >= 2


@pytest.fixture
def reachable():
    """A folder in which a server may keep its data, whose user is another one where the tests run as root."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        place.chmod(0o711)
        yield place


def test_the_rate_of_updates_is_the_highest_that_is_known():
    def rate(usage, *ages):
        profiler = Profiler(now=time.time())
        for seconds in ages:
            profiler._ages[_span(seconds)] += 1
        profiler._records["state"] += len(ages)
        measurement = Measurement("x", states=len(ages) * 100)
        nothing = Outlook({}, {}, 0, [], {}, ())
        cost = Cost(0, 0, 0, 0.0)
        return Assessment("", "", measurement, profiler.result(), nothing, usage, cost, 1).to_dict()[
            "updates_per_second"
        ]

    assert rate(Usage()) is None
    assert rate(Usage(writes=0.0)) is None  # a look of two seconds
    assert rate(Usage(writes=0.0, writes_since=0.0)) == 0.0
    assert rate(Usage(writes=0.0, writes_since=0.0001)) == 0.0001  # not nothing
    assert rate(Usage(writes=7.0, writes_since=2.0)) == 7.0
    assert rate(Usage(), 60, 60, 86_400, 86_400) == pytest.approx(200 / 3600, rel=1e-5)
    assert rate(Usage(), 86_400) == 0.0


@pytest.mark.long
def test_counters_of_postgresql_that_outlive_a_restart_are_not_taken_for_those_since_then(assessed, reachable):
    table = "CREATE TABLE chats AS SELECT i AS id, '{}'::jsonb AS body FROM generate_series(1, 1000) i"
    with EmbeddedPostgres(directory=reachable / "data") as server:
        began = time.monotonic()
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(table)
    with EmbeddedPostgres(directory=reachable / "data") as server:
        place = {"connection_url": server.url, "table": "chats", "id_column": "id", "data": "body"}
        use = assessed({"type": "postgresql_rows", **place}).usage
    assert use.writes_since * use.counted_seconds == pytest.approx(1000)
    assert use.counted_seconds >= time.monotonic() - began - 5  # of which the assessment itself may take some


def test_a_rate_is_kept_to(filled, assessed, monkeypatch):
    slept: list[float] = []

    class Event:
        def wait(self, seconds: float) -> bool:
            slept.append(seconds)
            time.sleep(seconds)
            return False

        def is_set(self) -> bool:
            return False

    opened = Session.open
    monkeypatch.setattr(Session, "open", lambda *given, **more: _with_stop(opened(*given, **more), Event()))
    found = assessed(filled("redis"), assessment={"rate": 100})
    assert found.states == 30
    assert sum(slept) > 0.25  # 36 keys, and 30 states


def test_nothing_is_written_to_the_source(target, assessed, opened):
    configured = {"type": "postgresql", "connection_url": target.url}
    store = opened(configured)
    store.prepare()
    store.set_state("a", b"{}")
    target.execute("ALTER DATABASE " + target.url.rsplit("/", 1)[1] + " SET default_transaction_read_only = on")
    with psycopg.connect(target.url) as connection:
        assert connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
    assert assessed(configured).states == 1


def test_requirements_come_from_the_migration_file():
    text = {
        "name": "x",
        "source": {"type": "redis_keys"},
        "target": {"type": "file"},
        "requirements": {"max_latency": "10ms", "min_throughput": 1000, "max_memory": "512MiB", "availability": 99.9},
        "assessment": {"sample": 5, "rate": 10},
    }
    parsed = spec.parse(text)
    assert parsed.requirements.model_dump() == {
        "max_latency": 0.01,
        "min_throughput": 1000,
        "max_memory": 512 * 1024 * 1024,
        "availability": 99.9,
    }
    assert (parsed.assessment.sample, parsed.assessment.rate) == (5, 10)
    assert (
        parsed.fingerprint
        == spec.parse({k: v for k, v in text.items() if k in ("name", "source", "target")}).fingerprint
    )
