from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pytest

from agui_pipelines.staging.flow import Behind, _Queue, ahead

ROWS = 1000
BYTES = ROWS * 8


def batch(number: int) -> pa.RecordBatch:
    made = pa.RecordBatch.from_arrays([pa.array([number] * ROWS, pa.int64())], ["n"])
    assert made.nbytes == BYTES
    return made


def number(made: pa.RecordBatch) -> int:
    return int(made.column("n")[0].as_py())


def batches(count: int) -> Iterator[pa.RecordBatch]:
    return (batch(i) for i in range(count))


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def settled(value: Callable[[], int]) -> int:
    """What a value comes to rest at, when another thread that changes it must wait."""
    last = -1
    while last != value():
        last = value()
        time.sleep(0.03)
    return last


LIMITS = [1, BYTES, 3 * BYTES, 1000 * BYTES]


# Reading ahead ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", LIMITS)
def test_batches_read_ahead_keep_their_order(limit: int) -> None:
    assert [number(made) for made in ahead(batches(50), limit=limit)] == list(range(50))


def test_nothing_can_be_read_ahead_of_nothing() -> None:
    assert list(ahead(batches(0))) == []


def test_batches_are_read_in_another_thread() -> None:
    threads: list[threading.Thread] = []

    def source() -> Iterator[pa.RecordBatch]:
        threads.append(threading.current_thread())
        yield batch(0)

    assert len(list(ahead(source()))) == 1
    assert threads[0] is not threading.current_thread()


def test_an_error_of_the_source_is_raised_after_the_batches_before_it() -> None:
    error = ConnectionResetError("gone")

    def source() -> Iterator[pa.RecordBatch]:
        yield from batches(5)
        raise error

    found: list[int] = []
    with pytest.raises(ConnectionResetError) as caught:
        found.extend(number(made) for made in ahead(source()))
    assert caught.value is error
    got: list[int] = []
    with pytest.raises(ConnectionResetError):
        for made in ahead(source()):
            got.append(number(made))  # noqa: PERF401 - what came before the error is to be seen
    assert got == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=["KeyboardInterrupt", "SystemExit"])
def test_what_is_no_exception_is_raised_to_the_caller_too(error: BaseException) -> None:
    def source() -> Iterator[pa.RecordBatch]:
        yield batch(0)
        raise error

    with pytest.raises(type(error)):
        list(ahead(source()))


@pytest.mark.parametrize("limit", LIMITS)
def test_leaving_early_ends_the_thread_that_reads_ahead(limit: int) -> None:
    for made in ahead(batches(10_000), limit=limit):
        if number(made) == 3:
            break
    else:
        pytest.fail("the loop was not left")


def test_an_error_of_the_caller_ends_the_thread_that_reads_ahead() -> None:
    with pytest.raises(ValueError):
        for _ in ahead(batches(10_000), limit=1):
            raise ValueError


def test_the_source_is_not_read_any_more_once_the_caller_has_left() -> None:
    reading = threading.Event()

    def source() -> Iterator[pa.RecordBatch]:
        for made in batches(10_000):
            reading.set()
            yield made
            reading.clear()

    iterator = ahead(source(), limit=1)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    reading.clear()
    time.sleep(0.05)
    assert not reading.is_set()


def test_an_iterator_that_is_never_started_reads_nothing() -> None:
    read: list[int] = []

    def source() -> Iterator[pa.RecordBatch]:
        read.append(1)
        yield batch(0)

    ahead(source())
    assert read == []


@pytest.mark.parametrize("waiting", [0, 1, 4])
def test_a_source_is_at_most_its_limit_and_one_batch_ahead(waiting: int) -> None:
    read = 0

    def source() -> Iterator[pa.RecordBatch]:
        nonlocal read
        for made in batches(1000):
            read += 1  # this one is on its way; those before it are taken or wait
            yield made

    for taken, _ in enumerate(ahead(source(), limit=max(1, waiting * BYTES)), 1):
        outstanding = (settled(lambda: read) - 1 - taken) * BYTES
        assert outstanding <= waiting * BYTES + BYTES
        if taken == 5:
            break


# Writing behind --------------------------------------------------------------------------------------------------------


def write_behind(items: Iterable[pa.RecordBatch], consume: Callable[[pa.RecordBatch], None], limit: int) -> None:
    with Behind(consume, limit=limit) as sink:
        for item in items:
            sink.put(item)


@pytest.mark.parametrize("limit", LIMITS)
def test_batches_written_behind_keep_their_order_and_all_arrive(limit: int) -> None:
    written: list[int] = []
    write_behind(batches(50), lambda made: written.append(number(made)), limit)
    assert written == list(range(50))


def test_batches_are_written_in_another_thread() -> None:
    threads: list[threading.Thread] = []
    write_behind(batches(1), lambda _: threads.append(threading.current_thread()), 1)
    assert threads[0] is not threading.current_thread()


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("at", [0, 5, 49])
def test_an_error_of_the_writer_is_raised_to_the_caller(limit: int, at: int) -> None:
    error = OSError("full")
    written: list[int] = []

    def consume(made: pa.RecordBatch) -> None:
        if number(made) == at:
            raise error
        written.append(number(made))

    with pytest.raises(OSError) as caught:
        write_behind(batches(50), consume, limit)
    assert caught.value is error
    assert written == list(range(at))


def test_the_caller_hears_of_an_error_of_the_writer_long_before_the_end() -> None:
    put = 0

    def consume(_: pa.RecordBatch) -> None:
        raise OSError

    def attempt() -> None:
        nonlocal put
        with Behind(consume, limit=1) as sink:
            for made in batches(10_000):
                sink.put(made)
                put += 1

    with pytest.raises(OSError):
        attempt()
    assert put <= 2


def test_an_error_of_the_caller_passes_and_ends_the_thread_that_writes() -> None:
    error = ValueError("boom")

    def failing() -> Iterator[pa.RecordBatch]:
        yield from batches(3)
        raise error

    with pytest.raises(ValueError) as caught:
        write_behind(failing(), lambda _: None, 1)
    assert caught.value is error


def test_an_error_of_the_caller_wins_over_one_of_the_writer() -> None:
    started = threading.Event()

    def consume(_: pa.RecordBatch) -> None:
        started.set()
        raise OSError

    def attempt() -> None:
        with Behind(consume) as sink:
            sink.put(batch(0))
            started.wait()
            raise ValueError

    with pytest.raises(ValueError):
        attempt()


@pytest.mark.parametrize("waiting", [0, 1, 4])
def test_a_caller_is_at_most_its_limit_and_one_batch_before_the_writer(waiting: int) -> None:
    put = consumed = 0
    allowed = threading.Semaphore(0)
    worst: list[int] = []

    def consume(_: pa.RecordBatch) -> None:
        nonlocal consumed
        consumed += 1
        allowed.acquire()

    def fill() -> None:
        nonlocal put
        with Behind(consume, limit=max(1, waiting * BYTES)) as sink:
            for made in batches(8):
                sink.put(made)
                put += 1

    thread = threading.Thread(target=fill)
    thread.start()
    for _ in range(8):
        worst.append((settled(lambda: put) - consumed) * BYTES)
        allowed.release()
    thread.join()
    assert consumed == 8
    assert max(worst) <= waiting * BYTES + BYTES
    assert max(worst) >= min(waiting, 1) * BYTES


# The queue -------------------------------------------------------------------------------------------------------------


def test_a_batch_larger_than_the_limit_is_taken_when_nothing_else_waits() -> None:
    queue = _Queue(1)
    assert queue.put(batch(1))
    found = queue.get()
    assert found is not None
    assert number(found) == 1


def test_a_closed_queue_takes_nothing_and_gives_what_it_still_holds() -> None:
    queue = _Queue(10 * BYTES)
    queue.put(batch(1))
    queue.close()
    assert not queue.put(batch(2))
    found = queue.get()
    assert found is not None
    assert queue.get() is None


def test_a_discarded_queue_gives_nothing_any_more() -> None:
    queue = _Queue(10 * BYTES)
    queue.put(batch(1))
    queue.close(discard=True)
    assert queue.get() is None


def test_what_was_taken_makes_room_again() -> None:
    queue = _Queue(3 * BYTES)
    passed: list[int] = []

    def fill() -> None:
        passed.extend(i for i in range(3) if queue.put(batch(i)))

    fill()
    assert [number(made) for made in (queue.get(), queue.get(), queue.get()) if made is not None] == [0, 1, 2]
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join(timeout=30)
    queue.close(discard=True)  # ends a thread that still waits for room
    thread.join()
    assert passed == [0, 1, 2, 0, 1, 2]
