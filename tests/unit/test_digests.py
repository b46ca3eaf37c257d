from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from agui_pipelines import digests
from agui_pipelines.canonical import digest
from agui_pipelines.digests import WIDTH, DigestPool, digest_documents, digest_values
from agui_pipelines.errors import StagingError

DOCUMENTS = [
    b'{"a":1}',
    b'{ "a" : 1.0 }',
    b"",
    b"\xff",
    b"[]",
    b'{"a":"\\u0000","a":1e5}',
    b'{"a":' * 300 + b"1" + b"}" * 300,
]


def column(documents: list[bytes]) -> pa.BinaryArray:
    return pa.array(documents, pa.binary())


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture(scope="module")
def pool() -> Iterator[DigestPool]:
    with DigestPool(2) as made:
        yield made


@pytest.fixture
def workers() -> Callable[[], set[int]]:
    """Ids of the worker processes that were started since."""
    before = children()
    return lambda: children() - before


def test_a_column_holds_the_digests_of_each_document_one_after_the_other() -> None:
    found = digest_documents(DOCUMENTS)
    for i, document in enumerate(DOCUMENTS):
        at, expected = slice(i * WIDTH, (i + 1) * WIDTH), digest(document)
        assert found.raw[at] == xxh3_128_digest(document)
        assert found.canonical[at] == (expected.canonical or bytes(WIDTH))
        assert found.spelling[at] == (expected.spelling or bytes(WIDTH))
        assert found.traits[i] == expected.traits


def test_no_documents_have_no_digests(pool: DigestPool) -> None:
    assert digest_documents([]) == pool(column([])) == (b"", b"", b"", b"")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(DOCUMENTS) | st.binary(max_size=20), max_size=12), st.integers(0, 12), st.integers(0, 12)
)
def test_a_worker_gives_the_digests_that_this_process_gives(
    pool: DigestPool, documents: list[bytes], start: int, length: int
) -> None:
    values = column(documents).slice(min(start, len(documents)), length)
    assert pool(values) == digest_values(values) == digest_documents(documents[start : start + length])


def test_columns_larger_than_any_pipe_come_through(pool: DigestPool) -> None:
    many = column([b'{"n":%d}' % i for i in range(60_000)])
    large = column([b'{"a":"' + b"x" * 3_000_000 + b'"}'] * 3)
    assert pool(many) == digest_values(many)
    assert pool(large) == digest_values(large)


def test_more_threads_than_workers_each_get_their_own_answers(pool: DigestPool) -> None:
    wrong: list[int] = []

    def ask(number: int) -> None:
        for i in range(20):
            values = column([b'{"n":%d}' % (number * 100 + i)] * (number + 1))
            if pool(values) != digest_values(values):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_pool_that_is_never_asked_starts_no_process(workers: Callable[[], set[int]]) -> None:
    with DigestPool(4):
        assert workers() == set()


def test_no_more_workers_are_started_than_are_allowed_and_none_is_left(workers: Callable[[], set[int]]) -> None:
    with DigestPool(2) as made:
        threads = [threading.Thread(target=made, args=(column([b"{}"] * 1000),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(workers()) <= 2
    assert workers() == set()


def test_workers_end_when_the_block_fails(workers: Callable[[], set[int]]) -> None:
    def attempt() -> None:
        with DigestPool(1) as made:
            made(column([b"{}"]))
            raise ValueError

    with pytest.raises(ValueError):
        attempt()
    assert workers() == set()


def test_a_worker_that_dies_is_a_staging_error_and_no_wrong_digest(workers: Callable[[], set[int]]) -> None:
    with DigestPool(1) as made:
        made(column([b"{}"]))
        (pid,) = workers()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(StagingError, match="ended unexpectedly"):
            made(column([b'{"a":1}']))


def test_an_interruption_from_the_keyboard_is_for_the_parent_only(workers: Callable[[], set[int]]) -> None:
    with DigestPool(1) as made:
        made(column([b"{}"]))
        (pid,) = workers()
        os.kill(pid, signal.SIGINT)
        assert made(column([b'{"a":1}'])) == digest_documents([b'{"a":1}'])


def test_an_answer_that_was_given_up_is_never_taken_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    read = digests._read

    def interrupted(*_: Any) -> bytes:
        monkeypatch.setattr(digests, "_read", read)
        raise KeyboardInterrupt

    with DigestPool(1) as made:
        made(column([b"{}"]))
        monkeypatch.setattr(digests, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(column([b'{"given":"up"}']))
        assert made(column([b'{"a":1}'])) == digest_documents([b'{"a":1}'])


@pytest.mark.timeout(60)
def test_a_worker_that_cannot_be_started_is_a_staging_error_and_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with DigestPool(1) as made:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nowhere/python")
            for _ in range(2):
                with pytest.raises(StagingError):
                    made(column([b"{}"]))
        assert made(column([b"{}"])) == digest_documents([b"{}"])


def test_workers_end_with_the_process_that_started_them(workers: Callable[[], set[int]]) -> None:
    code = (
        "import time, pyarrow as pa; from agui_pipelines.digests import DigestPool\n"
        "pool = DigestPool(1).__enter__(); pool(pa.array([b'{}'])); print('ready', flush=True); time.sleep(600)"
    )
    process = psutil.Popen([sys.executable, "-c", code], stdout=-1, cwd=Path.cwd())
    assert process.stdout.readline() == b"ready\n"
    (worker,) = process.children()
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker is still there"
        time.sleep(0.05)
