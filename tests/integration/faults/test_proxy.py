"""The proxy does to a connection what it is told to, at the byte it is told, and otherwise nothing."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from tests.integration.faults.proxy import Fault, Proxy, Swallower

PING = b"*1\r\n$4\r\nPING\r\n"
PONG = b"+PONG\r\n"


def connected(proxy):
    place = urlsplit(proxy.url)
    end = socket.create_connection((place.hostname, place.port))
    end.settimeout(5)
    return closing(end)


def received(end):
    """What comes until the connection ends, and whether it ended properly."""
    data = b""
    try:
        while part := end.recv(1000):
            data += part
    except ConnectionResetError:
        return data, False
    return data, True


def pinged(end, times=1):
    for _ in range(times):
        end.sendall(PING)
        assert b"".join(iter(lambda: end.recv(1), b"\n")) + b"\n" == PONG


def test_without_faults_everything_passes(redis_url, postgres_url):
    value = os.urandom(3_000_000)
    with Proxy(redis_url) as proxy, redis.Redis.from_url(proxy.url) as client:
        client.set("k", value)
        assert client.get("k") == value
        assert min(proxy.passed.values()) > len(value)
    with Proxy(postgres_url) as proxy, psycopg.connect(proxy.url) as connection:
        assert connection.execute("SELECT length(%s)", ("x" * 1_000_000,)).fetchone() == (1_000_000,)


@pytest.mark.parametrize(("do", "properly"), [("drop", True), ("reset", False)])
def test_a_reply_is_cut_before_a_byte(redis_url, do, properly):
    with Proxy(redis_url, Fault(do, "down", len(PONG) + 3)) as proxy:
        with connected(proxy) as end:
            pinged(end)
            end.sendall(PING)
            assert received(end) == (PONG[:3], properly)
        with connected(proxy) as end:  # and it strikes once
            pinged(end, 3)
        assert [fault.do for fault in proxy.struck] == [do]


@pytest.mark.parametrize("at", [1, 40])
def test_a_command_that_is_cut_never_reaches_the_server_whole(redis_url, at):
    first, second = (b"*3\r\n$3\r\nSET\r\n$1\r\n%d\r\n$1\r\nv\r\n" % n for n in (1, 2))
    number = urlsplit(redis_url).path.strip("/").encode()
    select = b"*2\r\n$6\r\nSELECT\r\n$%d\r\n%s\r\n" % (len(number), number)
    with Proxy(redis_url, Fault("drop", "up", len(select) + at)) as proxy, connected(proxy) as end:
        end.sendall(select + first + second)
        received(end)
    with redis.Redis.from_url(redis_url) as client:
        until = time.monotonic() + 5  # a command that arrived may not have been read yet
        while at > len(first) and not client.keys() and time.monotonic() < until:
            time.sleep(0.01)
        assert client.keys() == ([b"1"] if at > len(first) else [])


def test_a_delay_loses_nothing(redis_url):
    with Proxy(redis_url, Fault("delay", "down", 3), Fault("delay", "up", 20)) as proxy, connected(proxy) as end:
        pinged(end, 3)
        assert len(proxy.struck) == 2


def test_silence_does_not_end_the_connection(redis_url):
    with Proxy(redis_url, Fault("silence", "up", len(PING))) as proxy:
        with connected(proxy) as end:
            pinged(end)
            end.sendall(PING)
            end.settimeout(0.2)
            with pytest.raises(TimeoutError):
                end.recv(1)
        with connected(proxy) as end:
            pinged(end)


def test_a_server_that_is_away_takes_its_connections_with_it_and_then_refuses_so_many(redis_url):
    with Proxy(redis_url, Fault("away", "down", len(PONG), count=2)) as proxy:
        with connected(proxy) as other, connected(proxy) as end:
            pinged(end)
            end.sendall(PING)
            assert received(end) == (b"", False)
            assert received(other) == (b"", False)
        for _ in range(2):
            with connected(proxy) as end:
                assert received(end) == (b"", False)
        with connected(proxy) as end:
            pinged(end)


def test_something_can_be_done_at_a_byte(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        done = Fault("call", "up", len(PING), call=lambda: client.set("k", "v"))
        with Proxy(redis_url, done) as proxy, connected(proxy) as end:
            pinged(end)
            assert client.get("k") is None
            pinged(end)
            assert client.get("k") == b"v"


def test_a_server_may_come_back_elsewhere(redis_url, postgres_url):
    with Proxy(postgres_url) as proxy:
        proxy.move_to(redis_url)
        with connected(proxy) as end:
            pinged(end)


def test_single_writes_are_swallowed_and_answered(redis_url):
    swallower = Swallower(lambda number: number % 10 == 3)
    with Proxy(redis_url, swallower=swallower) as proxy, redis.Redis.from_url(proxy.url) as client:
        for n in range(5):
            assert client.set(f"single {n}", n)
        client.mset({f"many {n}": "x" * 100_000 for n in range(20)})
        client.set("last but two", "x")
        assert client.zadd("z", {"a": 1}) == 1
    with redis.Redis.from_url(redis_url) as client:
        found = {key.decode() for key in client.scan_iter()}
    everything = {*(f"single {n}" for n in range(5)), *(f"many {n}" for n in range(20)), "last but two", "z"}
    assert everything - found == {"single 3", "many 8", "many 18"}
    assert swallower.swallowed == [b"single 3", b"many 8", b"many 18"]
