"""No credential is printed or written anywhere, whatever a command does with it and however that ends."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import zlib
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import yaml

from agui_pipelines.cli.home import open_instance
from agui_pipelines.definitions import defs
from agui_pipelines.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.partitions import tags

MARK = b"c4n4ry"
CANARY = f"{MARK.decode()}7d1f0a55"


def contents(file):
    """What a file holds, and what it holds compressed."""
    yield file.read_bytes()
    if file.suffix == ".parquet":
        yield repr(pq.read_table(file).to_pylist()).encode()
    if file.suffix == ".db":
        with closing(sqlite3.connect(file)) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for row in connection.execute(f'SELECT * FROM "{table}"'):
                    yield from (inflated(value) for value in row if isinstance(value, bytes))


def inflated(value):
    try:
        return zlib.decompress(value)
    except zlib.error:
        return value


def leaks(*folders):
    """The files below the folders in which the mark stands."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path for path in files if any(MARK in content for content in contents(path))}


def test_a_leak_would_be_found(tmp_path):
    leaky = [tmp_path / name for name in ("entry.json", "state.parquet", "runs.db")]
    leaky[0].write_text(f'{{"url": "redis://:{CANARY}@h"}}')
    pq.write_table(pa.table({"data": [CANARY * 100]}), leaky[1], compression="zstd")
    with closing(sqlite3.connect(leaky[2])) as connection:
        connection.execute("CREATE TABLE runs (body BLOB)")
        connection.execute("INSERT INTO runs VALUES (?)", (zlib.compress(CANARY.encode() * 100),))
        connection.commit()
    (tmp_path / "clean.json").write_text("{}")

    assert leaks(tmp_path) == set(leaky)


@pytest.fixture(scope="module")
def guarded_redis():
    """URL of a Redis that wants a password of everybody, and that of a user of its access control list."""
    with EmbeddedRedis() as server:
        with redis.Redis.from_url(server.url) as client:
            client.mset({f"session:{i:02}": json.dumps({"number": i}) for i in range(40)})
            client.acl_setuser("mover", enabled=True, passwords=[f"+{CANARY}"], keys=["*"], commands=["+@all"])
            client.config_set("requirepass", f"{CANARY}-default")
        yield server.url


@pytest.fixture(scope="module")
def guarded_postgres():
    """URL of a PostgreSQL whose role `mover` logs in by SCRAM."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        rules = Path(folder, "hba.conf")
        rules.write_text("host all postgres 127.0.0.1/32 trust\nhost all mover 127.0.0.1/32 scram-sha-256\n")
        rules.chmod(0o644)
        with EmbeddedPostgres(settings={"hba_file": str(rules)}) as server:
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute(f"CREATE ROLE mover LOGIN PASSWORD '{CANARY}'")
                connection.execute("CREATE DATABASE held OWNER mover")
            yield server.url


@pytest.fixture
def ends(guarded_redis, guarded_postgres):
    """Where a migration goes from and to, passwords included."""
    place = urlsplit(guarded_postgres)
    return {
        "source": {
            "type": "redis_keys",
            "connection_url": guarded_redis,
            "match": "session:*",
            "redis_options": {"username": "mover", "password": CANARY},
        },
        "target": {
            "type": "postgresql",
            "connection_url": f"postgresql://mover:{CANARY}@{place.hostname}:{place.port}/held",
        },
    }


@pytest.fixture(params=["literally", pytest.param("by variables", marks=pytest.mark.long)])
def ends_as_written(request, ends, monkeypatch):
    """How a migration file gives them."""
    if request.param == "literally":
        return ends
    monkeypatch.setenv("AGUI_TEST_PASSWORD", ends["source"]["redis_options"]["password"])
    monkeypatch.setenv("AGUI_TEST_TARGET", ends["target"]["connection_url"])
    options = {"username": "mover", "password": "${AGUI_TEST_PASSWORD}"}
    return {
        "source": {**ends["source"], "redis_options": options},
        "target": {**ends["target"], "connection_url": "${AGUI_TEST_TARGET}"},
    }


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch):
    """A temporary folder for whatever makes temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def file(tmp_path):
    """A migration file in a folder of its own, so that everything else in `tmp_path` is the product's."""
    folder = tmp_path / "written by the user"
    folder.mkdir()
    return folder / "migration.yaml"


@pytest.fixture
def write(file, tmp_path):
    def write(text):
        whole = {"name": "held", "accept_losses": ["expiry", "duplicate_keys"], "workspace": str(tmp_path / "work")}
        file.write_text(yaml.safe_dump({**whole, **text}))
        return file

    return write


def launched(home, file):
    """Run the job as the UI does; whether that was a success."""
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    config = {**quiet, "resources": {"migration": {"config": {"migration_file": str(file)}}}}
    with open_instance(home) as instance:
        job = defs.resolve_job_def("migrate")
        return job.execute_in_process(instance=instance, tags=tags(), run_config=config, raise_on_error=False).success


def test_credentials_are_neither_printed_nor_stored(
    command, write, ends_as_written, tmp_path, temporary, dagster_home, capsys
):
    file = write(ends_as_written)

    said = [
        command("run", file, "--dry-run", "--json"),
        command("--debug", "run", file),
        command("validate", file, "--json"),
        command("status", file),
        command("backup", "create", file),
        command("backup", "list", file, "--json"),
    ]
    ran = launched(dagster_home, file)

    assert [each.code for each in said] == [0] * len(said), [each.err for each in said]
    assert ran
    assert any(tmp_path.glob("work/held/snapshots/*/state-*.parquet"))
    assert MARK.decode() not in "".join(each.out + each.err for each in said) + "".join(capsys.readouterr())
    assert leaks(tmp_path, temporary, dagster_home) <= {file}


def wrong(ends, end, **changes):
    return {**ends, end: {**ends[end], **changes}}


FAILURES = {
    "wrong password of Redis": lambda e: wrong(
        e, "source", redis_options={"username": "mover", "password": f"{CANARY}-wrong"}
    ),
    "wrong password of PostgreSQL": lambda e: wrong(
        e, "target", connection_url=e["target"]["connection_url"].replace(CANARY, f"{CANARY}-wrong")
    ),
    "refused by Redis": lambda e: wrong(
        e, "source", connection_url=f"redis://:{CANARY}@127.0.0.1:1/0", redis_options={}
    ),
    "refused by PostgreSQL": lambda e: wrong(
        e, "target", connection_url=f"postgresql://mover:{CANARY}@127.0.0.1:1/held"
    ),
    "no URL of Redis": lambda e: wrong(e, "source", connection_url=f"redis://:{CANARY}/#@h:x/y"),
    "no URL of PostgreSQL": lambda e: wrong(e, "target", connection_url=f"postgresql://u:{CANARY}@[h/%%"),
    "a transform fails": lambda e: {**e, "transforms": [{"python": "shapes:broken"}]},
    "a reader fails": lambda e: {
        **e,
        "source": {
            "type": "custom",
            "reader": "shapes:Reader",
            "options": {"url": f"redis://:{CANARY}@h/0", "token": CANARY},
        },
    },
    "a key that is misspelt": lambda e: wrong(e, "source", passwort=CANARY),
}

SHAPES = """
def broken(state_id, document):
    raise ValueError(f"no number in {document}")

class Reader:
    def __init__(self, url, token):
        self.url, self.token = url, token

    def __iter__(self):
        raise ConnectionError(f"{self.url} does not answer, nor does it take {self.token}")
"""


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_does_not_tell_credentials_either(
    command, write, ends, tmp_path, temporary, dagster_home, capsys, failure
):
    file = write(FAILURES[failure](ends))
    (file.parent / "shapes.py").write_text(SHAPES)

    said = command("--debug", "run", file, "--json")
    ran = launched(dagster_home, file)

    assert said.code in (1, 2, 3), said.err
    assert not ran
    assert MARK.decode() not in said.out + said.err + "".join(capsys.readouterr())
    assert leaks(tmp_path, temporary, dagster_home) <= {file}
