"""Whole migrations out of sources that can only be read from one end to the other: read once, spooled, and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pytest

from agui_pipelines import spec
from agui_pipelines.errors import RejectLimitError, SamePlaceError, SourceError, StagingError
from agui_pipelines.phases.export import export
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.session import Session
from agui_pipelines.records import Kind
from agui_pipelines.staging.spool import spools
from tests.cases import chiefly

READER = """
    from pathlib import Path
    from agui_pipelines.sources.custom import Record

    def read(count, scans):
        with Path(scans).open("a") as file:
            file.write("scanned\\n")
        for i in range(count):
            yield Record(f"k{i * 7919 % count:05}", {"n": i * 10**30})

    def shape(record):
        if record.id == "k00003":
            raise ValueError("no good")
        return f"user:{record.id}", record.data
"""
COUNT = 400

KILLED = """
import contextlib, fnmatch, json, os, signal, sys
from pathlib import Path
from agui_pipelines import spec
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.session import Session
from agui_pipelines.records import Kind
from agui_pipelines.staging import Workspace

text, folder, pattern = json.loads(sys.argv[1])
writing = Workspace.writing

@contextlib.contextmanager
def deadly(self, name, **options):
    with writing(self, name, **options) as file:
        yield file
    if fnmatch.fnmatch(name, pattern):
        os.kill(os.getpid(), signal.SIGKILL)

Workspace.writing = deadly
plan(Session.open(spec.parse(text, folder=Path(folder))))
"""
"""Plans a migration in a process that kills itself once a certain file has appeared in the workspace."""


@pytest.fixture
def store(tmp_path):
    """A File store to move into, without shards."""
    return tmp_path / "store"


@pytest.fixture
def custom(migration, tmp_path, store):
    """Moves a user's records, one of which fails, into the File store."""
    (tmp_path / "crm.py").write_text(textwrap.dedent(READER))
    options = {"count": COUNT, "scans": str(tmp_path / "scans")}
    yield migration(
        source={"type": "custom", "reader": "crm:read", "transformer": "crm:shape", "options": options},
        target={"type": "file", "file_options": {"base_dir": str(store), "enable_sharding": False, "durable": False}},
        limits={"max_rejects": 1},
    )
    sys.modules.pop("crm", None)


@pytest.fixture
def lines(migration, tmp_path, target):
    """Moves JSON Lines into PostgreSQL."""
    return migration(source={"type": "jsonl", "path": "in/*.jsonl", "id": "id"}, target=target.config)


@pytest.fixture
def write(tmp_path):
    """Writes a file that `lines` reads."""

    def write_(name, *content):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"\n".join(content))

    return write_


def scans(tmp_path):
    return len((tmp_path / "scans").read_text().splitlines())


def stored(store):
    return {file.name.removesuffix(".json"): json.loads(file.read_text()) for file in store.glob("states/*.json")}


def expected():
    records = {f"user:k{i * 7919 % COUNT:05}": {"n": i * 10**30} for i in range(COUNT)}
    del records["user:k00003"]
    return records


def killed(move, pattern):
    """Plan in another process until a file appears that matches; returns nothing, as the process does not."""
    arguments = json.dumps([move.text, str(move.folder), pattern])
    ended = subprocess.run([sys.executable, "-c", KILLED, arguments], env=os.environ, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL


def test_a_users_records_arrive_in_a_file_store(custom, store, tmp_path):
    outcome = custom.run()
    assert outcome.validation.passed
    assert stored(store) == expected()
    assert outcome.plan.keys == COUNT - 1
    assert outcome.exported.rejects == 1
    assert outcome.exported.vanished == 0
    assert custom.rejects() == {b"k00003": ("export", "transformer_failed", b'{"n":%d}' % (n(3) * 10**30))}
    assert scans(tmp_path) == 1
    assert sum(1 for r in outcome.plan.ranges if r.keys) > 1


def n(key):
    """Which record has the key of a number."""
    return next(i for i in range(COUNT) if i * 7919 % COUNT == key)


def test_json_lines_arrive_in_postgresql_to_the_last_digit(lines, write, target, exact):
    documents = {
        f"s{i}": b'{"id":"s%d","big":1234567890123456789012345678901234567890,"n":0.1000000000000000055,"i":%d}'
        % (i, i)
        for i in range(50)
    }
    write("a.jsonl", *list(documents.values())[:20])
    write("b.jsonl", *list(documents.values())[20:])
    assert lines.run().validation.passed
    assert {k: exact(v) for k, v in target.documents().items()} == {k: exact(v) for k, v in documents.items()}


def test_what_a_scan_rejects_stops_the_import_until_the_source_is_mended(lines, write, target):
    write("a.jsonl", b'{"id":"a","v":1}', b'{"id":"broken"', b'{"id":"b"}', b'{"id":"a","v":2}')
    with pytest.raises(RejectLimitError, match=r"3 records were rejected.*'in/a.jsonl:2'"):
        lines.run()
    assert lines.rejects() == {
        b"in/a.jsonl:2": ("export", "undecodable", b'{"id":"broken"'),
        b"a": ("export", "duplicate_id", b'{"id":"a","v":2}'),
    }
    assert target.tables() == set()
    write("a.jsonl", b'{"id":"a","v":1}', b'{"id":"b"}')
    outcome = lines.run()
    assert not outcome.plan.resumed
    assert {k: json.loads(v) for k, v in target.documents().items()} == {"a": {"id": "a", "v": 1}, "b": {"id": "b"}}


def test_a_document_that_is_no_object_is_rejected_as_from_any_source(migration, write, target):
    write("a.jsonl", b'{"id":"a","doc":[1]}', b'{"id":"b","doc":{}}')
    source = {"type": "jsonl", "path": "in/a.jsonl", "id": "id", "data": "doc"}
    move = migration(source=source, target=target.config, limits={"max_rejects": 1})
    assert move.run().validation.passed
    assert move.rejects() == {b"a": ("export", "not_an_object", b"[1]")}
    assert target.documents() == {"b": "{}"}


@pytest.mark.long
def test_a_run_killed_after_its_plan_does_not_scan_again(custom, store, tmp_path):
    killed(custom, f"ledger/{'?' * 20}-plan.json")
    assert scans(tmp_path) == 1
    outcome = custom.run()
    assert outcome.plan.resumed
    assert outcome.validation.passed
    assert stored(store) == expected()
    assert scans(tmp_path) == 1


@pytest.mark.parametrize(
    "pattern", chiefly("spools/*/spool.json", ["spools/*/state.parquet", "spools/*/spool.json", "catalogues/*"])
)
def test_a_run_killed_before_its_plan_scans_again(custom, store, tmp_path, pattern):
    killed(custom, pattern)
    outcome = custom.run()
    assert not outcome.plan.resumed
    assert outcome.validation.passed
    assert stored(store) == expected()
    assert scans(tmp_path) == 2


def test_a_resumed_run_reads_the_spool_even_where_the_source_is_gone(custom, store, tmp_path):
    session = custom.session()
    made = plan(session)
    export(session, made, [made.ranges[1].name])
    (tmp_path / "scans").unlink()
    (tmp_path / "scans").mkdir()  # so that the reader would break
    outcome = custom.run()
    assert [r.resumed for r in outcome.exported.ranges] == [False, True, False, False]
    assert outcome.validation.passed


def test_a_changed_file_or_module_is_scanned_again(custom, lines, write, tmp_path):
    write("a.jsonl", b'{"id":"a"}')
    first = plan(lines.session())
    assert plan(lines.session()).listing_id == first.listing_id
    write("a.jsonl", b'{"id":"a","more":1}')
    assert plan(lines.session()).listing_id != first.listing_id

    first = plan(custom.but(name="other").session())
    assert plan(custom.but(name="other").session()).listing_id == first.listing_id
    module = tmp_path / "crm.py"
    module.write_text(module.read_text() + "\n# mended\n")
    assert plan(custom.but(name="other").session()).listing_id != first.listing_id


def test_each_purpose_keeps_the_spool_of_its_newest_plan(lines, write):
    write("a.jsonl", b'{"id":"a"}')
    session = lines.session()
    dry = plan(session, purpose="dry_run")
    first, second = plan(session, fresh=True), plan(session, fresh=True)
    assert len({dry.plan_id, first.plan_id, second.plan_id}) == 3
    assert sorted(spools(session.workspace)) == sorted([dry.plan_id, second.plan_id])
    (lines.workspace / "spools" / "plan-20200101T000000-abcdef").mkdir()  # of a run that was killed long ago
    third = plan(session, fresh=True)
    assert sorted(spools(session.workspace)) == sorted([dry.plan_id, third.plan_id])


def test_a_lost_spool_is_told(lines, write):
    write("a.jsonl", b'{"id":"a"}')
    session = lines.session()
    made = plan(session)
    (lines.workspace / "spools" / made.plan_id / "spool.json").unlink()
    with pytest.raises(StagingError, match="has not been scanned for the plan"):
        export(session, made, [made.ranges[0].name])
    assert not plan(lines.session()).resumed


def test_a_spool_that_is_not_what_was_catalogued_is_told(lines, write):
    write("a.jsonl", *(b'{"id":"%d"}' % i for i in range(40)))
    session = lines.session()
    made, other = plan(session), lines.but(name="other").session()
    write("a.jsonl", *(b'{"id":"%d"}' % i for i in range(39)))
    spool = Path("spools") / made.plan_id / "state.parquet"
    (lines.workspace / spool).write_bytes(
        (other.workspace.path(f"spools/{plan(other).plan_id}/state.parquet")).read_bytes()
    )
    with pytest.raises(StagingError, match=r"holds 9 states in the key range 03; its catalogue lists 10"):
        export(session, made, [r.name for r in made.ranges])


def test_a_file_within_the_target_is_refused(migration, write, tmp_path):
    write("a.jsonl", b'{"id":"a"}')

    def planned(path, folder):
        target = {"type": "file", "file_options": {"base_dir": str(tmp_path / folder)}}
        return plan(migration(source={"type": "jsonl", "path": path, "id": "id"}, target=target).session(), fresh=True)

    for path in ("in/a.jsonl", "in/*.jsonl", "**/*.jsonl"):
        with pytest.raises(SamePlaceError):
            planned(path, "in")
    with pytest.raises(SamePlaceError):
        planned("**/*.jsonl", "in/store")
    assert planned("in/*.jsonl", "in/store").keys == planned("in/a.jsonl", "out").keys == 1


def test_a_reader_that_breaks_leaves_nothing_behind(custom, tmp_path):
    (tmp_path / "crm.py").write_text("def read(**_):\n    raise OSError('the line is dead')\n    yield\n")
    text = {**custom.text, "source": {**custom.text["source"], "transformer": None}}
    with pytest.raises(SourceError, match="the line is dead"):
        custom.but(**text).run()
    assert custom.session().ledger.entries(phase="plan") == []
    assert spools(custom.session().workspace) == []


def test_the_scans_progress_is_told(custom):
    told = []
    session = Session.open(spec.parse(custom.text, folder=custom.folder), listener=told.append)
    made = plan(session)
    assert {progress.phase for progress in told} == {"plan"}
    assert told[-1].done == made.keys == COUNT - 1
    assert told[-1].bytes > 0


def test_what_is_in_memory_does_not_grow_with_the_source(migration, tmp_path, store):
    (tmp_path / "crm.py").write_text(
        textwrap.dedent("""
            import random
            from agui_pipelines.sources.custom import Record

            def read():
                for i in range(100_000):
                    yield Record(f"k{i * 7919 % 100_000:05}", '{"x":"%s"}' % random.randbytes(1000).hex())
        """)
    )
    target = {"type": "file", "file_options": {"base_dir": str(store)}}
    session = migration(source={"type": "custom", "reader": "crm:read"}, target=target).session()
    most = 0

    def watch(progress):
        nonlocal most
        most = max(most, pa.total_allocated_bytes())

    session = Session.open(session.migration, listener=watch)
    made = plan(session)
    seen = 0
    with session.source(made.plan_id) as source, made.span(session.workspace, made.ranges[1].name) as span:
        for batch in source.read(Kind.STATE, span, pytest.fail):
            seen += batch.num_rows
            most = max(most, pa.total_allocated_bytes())
    sys.modules.pop("crm", None)
    assert seen == len(span)
    assert made.keys == 100_000  # 200 MB of documents
    assert most < 80_000_000
