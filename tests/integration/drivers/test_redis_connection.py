"""The connection to a Redis: who is let in where, what is said when something is wrong, and pipelines of any size."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines.drivers.redis import Burst, RedisWire, glob_escaped, glob_prefix
from agui_pipelines.embedded import EmbeddedRedis
from agui_pipelines.errors import (
    ConnectionFailedError,
    InterruptedConnectionError,
    MigrationError,
    SpecError,
    StoreBusyError,
    StoreError,
)
from agui_pipelines.spec import RedisConfig

CANARY = "c4n4ry-passw0rd"
MEGABYTE = 1024 * 1024


def wire_to(url: str, **config: object) -> closing[RedisWire]:
    return closing(RedisWire(RedisConfig.model_validate({"type": "redis", "connection_url": url, **config})))


def everything_said(error: BaseException | None) -> str:
    """All that a log could show of an error, its causes included."""
    said = []
    while error is not None:
        said += [str(error), repr(error), repr(getattr(error, "data", ""))]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(said)


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """``host:port`` of a server with a password, and a user ``reader`` who may only read, with the same password."""
    with EmbeddedRedis() as server:
        with redis.Redis(port=server.port) as client:
            client.execute_command("ACL", "SETUSER", "reader", "on", f">{CANARY}", "~*", "+@read", "+@connection")
            client.config_set("requirepass", CANARY)
        yield f"127.0.0.1:{server.port}"


def test_an_unreachable_server_is_named_by_host_and_port() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # taken, but nobody listens
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        with wire_to(f"redis://user:{CANARY}@{address}/0") as wire, pytest.raises(ConnectionFailedError) as caught:
            wire.call("PING")
    assert address in str(caught.value)
    assert "refused" in str(caught.value)
    assert CANARY not in everything_said(caught.value)


def test_an_unknown_host_is_named() -> None:
    with (
        wire_to("redis://no-such-host.invalid:6379/0") as wire,
        pytest.raises(ConnectionFailedError, match="no-such-host"),
    ):
        wire.call("PING")


def test_what_listens_but_is_no_redis_is_not_worth_a_retry() -> None:
    with (
        _cut_after(None, 0) as url,
        wire_to(url) as wire,
        pytest.raises(ConnectionFailedError, match="as a Redis does") as caught,
    ):
        wire.call("PING")
    assert not caught.value.transient


def test_a_server_that_takes_no_more_clients_is_worth_a_retry() -> None:
    with EmbeddedRedis() as server, redis.Redis(port=server.port) as client, wire_to(server.url) as wire:
        client.config_set("maxclients", 1)
        with pytest.raises(StoreBusyError, match="max number of clients"):
            wire.call("PING")
        client.config_set("maxclients", 10)
        assert wire.call("PING") == b"PONG"


@pytest.mark.parametrize("user", ["", "reader"])
def test_a_wrong_password_names_user_and_address_but_not_the_password(guarded: str, user: str) -> None:
    with wire_to(f"redis://{user}:{CANARY}x@{guarded}/0") as wire, pytest.raises(ConnectionFailedError) as caught:
        wire.call("PING")
    assert guarded in str(caught.value)
    assert f"'{user or 'default'}'" in str(caught.value)
    assert CANARY not in everything_said(caught.value)


@pytest.mark.parametrize("database", [0, 3])
def test_a_missing_password_is_said_so_whichever_database_is_asked_for(guarded: str, database: int) -> None:
    with (
        wire_to(f"redis://{guarded}/{database}") as wire,
        pytest.raises(ConnectionFailedError, match="wants a password"),
    ):
        wire.call("PING")


def test_the_password_of_redis_options_wins_over_that_of_the_url(guarded: str) -> None:
    with wire_to(f"redis://:wrong@{guarded}/0", redis_options={"password": CANARY}) as wire:
        assert wire.call("PING") == b"PONG"


def test_a_missing_permission_names_user_and_command(guarded: str) -> None:
    with wire_to(f"redis://reader:{CANARY}@{guarded}/0") as wire, pytest.raises(StoreError) as caught:
        wire.call("SET", "k", "v")
    assert "'reader'" in str(caught.value)
    assert "'set'" in str(caught.value)
    assert CANARY not in everything_said(caught.value)


def test_a_server_that_does_not_tell_about_itself_can_be_used_all_the_same(guarded: str) -> None:
    with wire_to(f"redis://reader:{CANARY}@{guarded}/0") as wire:
        assert wire.server.run_id == ""
        assert wire.server.version  # HELLO says that much
        assert wire.call("GET", "nothing") is None


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{CANARY}#x@127.0.0.1:6379/0",
        f"redis://:{CANARY}/x@127.0.0.1:6379/0",
        f"redis://:{CANARY}?x@127.0.0.1:6379/0",
        "redis://:12/x@127.0.0.1:6379/0",
        "redis://:12?x@127.0.0.1:6379/0",
        "redis://user:12/x@127.0.0.1:6379/0",
        "redis://user:12#x@127.0.0.1:6379/0",
        "redis://user:12?x@127.0.0.1:6379/0",
        f"redis://:{CANARY}@127.0.0.1:6379/database",
        f"https://:{CANARY}@127.0.0.1:6379/0",
        f"redis://:{CANARY}@127.0.0.1:six/0",
        f"redis://:{CANARY}@127.0.0.1:6379/0?db=x",
    ],
)
def test_a_url_that_could_be_misunderstood_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        wire_to(url)
    assert CANARY not in everything_said(caught.value)


def test_an_unknown_option_in_the_url_is_refused() -> None:
    with wire_to(f"redis://:{CANARY}@127.0.0.1:6379/0?no_such=1") as wire, pytest.raises(SpecError) as caught:
        wire.call("PING")
    assert CANARY not in everything_said(caught.value)


def test_the_url_for_people_has_user_and_database_but_neither_password_nor_options() -> None:
    with wire_to(f"rediss://me:{CANARY}@[::1]:7000/4?ssl_password={CANARY}") as wire:
        assert wire.url == "rediss://me@[::1]:7000/4"
        assert CANARY not in repr(vars(wire))


def test_tls_is_used_when_the_options_ask_for_it() -> None:
    with wire_to("redis://h:1/0", redis_options={"enable_tls": True}) as wire:
        assert wire.url == "rediss://h:1/0"


def test_a_server_without_tls_is_not_talked_to_in_plain_text(redis_url: str) -> None:
    with (
        wire_to(redis_url.replace("redis:", "rediss:"), connect_timeout="500ms") as wire,
        pytest.raises(ConnectionFailedError),
    ):
        wire.call("PING")


@pytest.mark.parametrize(
    ("path", "config", "database"),
    [
        ("", {}, 0),
        ("/5", {}, 5),
        ("/5", {"redis_options": {"db": 6}}, 6),
        ("/5", {"redis_options": {"db": 0}}, 0),
        ("/5", {"redis_options": {"key_prefix": "x:"}}, 5),
        ("", {"database": "7"}, 7),
        ("/5", {"database": 7}, 5),
        ("", {"database": ""}, 0),
    ],
)
def test_the_database_is_that_of_the_options_then_of_the_url_then_of_the_configuration(
    redis_server: str, path: str, config: dict[str, object], database: int
) -> None:
    with wire_to(redis_server + path, **config) as wire:
        wire.call("PING")
        info = wire.call("CLIENT", "INFO").decode()
    assert f" db={database} " in info
    assert wire.database == database


def test_an_address_without_scheme_is_taken_as_the_reference_takes_it(redis_server: str) -> None:
    with wire_to(redis_server.removeprefix("redis://")) as wire:
        assert wire.call("PING") == b"PONG"


def test_a_database_that_does_not_exist_is_named(redis_server: str) -> None:
    with wire_to(f"{redis_server}/999") as wire, pytest.raises(StoreError, match="database 999"):
        wire.call("PING")


def test_a_cluster_node_is_refused_before_anything_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        bus = str(probe.getsockname()[1])  # by default 10,000 above the server's own port, which may not exist
    with (
        EmbeddedRedis(settings={"cluster-enabled": "yes", "cluster-port": bus}) as server,
        wire_to(server.url) as wire,
        pytest.raises(StoreError, match="clusters are not supported"),
    ):
        wire.call("DBSIZE")


def test_a_full_server_is_not_transient_and_names_the_limit(redis_url: str) -> None:
    with EmbeddedRedis(settings={"maxmemory": "4mb"}) as server, wire_to(server.url) as wire:
        burst = Burst()
        for i in range(40):
            burst.add("SET", f"k{i}", b"x" * MEGABYTE)
        with pytest.raises(StoreError, match="maxmemory") as caught:
            wire.run(burst)
        assert not caught.value.transient
        assert wire.call("PING") == b"PONG"


def test_a_server_busy_with_a_script_is_worth_a_retry() -> None:
    with EmbeddedRedis() as server, redis.Redis(port=server.port) as client, wire_to(server.url) as wire:
        client.config_set("busy-reply-threshold", 1)
        assert wire.call("PING") == b"PONG"
        thread = threading.Thread(target=_endless_script, args=(server.port,))
        thread.start()
        try:
            with pytest.raises(StoreBusyError) as caught:
                for _ in range(100_000):
                    wire.call("PING")
        finally:
            client.script_kill()
            thread.join(10)
    assert caught.value.transient


def _endless_script(port: int) -> None:
    with redis.Redis(port=port) as client, pytest.raises(redis.ResponseError):
        client.eval("while true do end", 0)


def test_a_replica_that_is_written_to_says_so() -> None:
    with EmbeddedRedis() as primary, EmbeddedRedis(settings={"replicaof": f"127.0.0.1 {primary.port}"}) as replica:
        with wire_to(replica.url) as wire, pytest.raises(StoreError, match="replica") as caught:
            wire.call("SET", "k", "v")
        assert not caught.value.transient


def test_an_unknown_command_is_not_answered_with_somebodys_data(redis_url: str) -> None:
    with wire_to(redis_url) as wire, pytest.raises(StoreError) as caught:
        wire.call("NOSUCH", CANARY)
    assert CANARY not in everything_said(caught.value)


def test_a_connection_that_breaks_is_transient_and_is_made_anew(redis_url: str) -> None:
    with wire_to(redis_url) as wire, redis.Redis.from_url(redis_url) as client:
        client.client_kill_filter(_id=wire.call("CLIENT", "ID"))
        with pytest.raises(InterruptedConnectionError) as caught:
            wire.call("PING")
        assert caught.value.transient
        assert wire.call("PING") == b"PONG"


def test_replies_that_were_awaited_when_the_connection_broke_never_come(redis_url: str) -> None:
    with wire_to(redis_url) as wire:
        burst = Burst()
        burst.add("BLPOP", "empty", 0)
        pending = wire.send(burst)
        wire.close()
        assert wire.call("PING") == b"PONG"
        with pytest.raises(InterruptedConnectionError, match="closed before all replies had come"):
            wire.receive(pending)


def test_a_server_that_does_not_answer_in_time_is_given_up(redis_url: str) -> None:
    with wire_to(redis_url, read_timeout="200ms") as wire:
        with pytest.raises(InterruptedConnectionError, match=r"0\.2 s"):
            wire.call("BLPOP", "empty", 0)
        assert wire.call("PING") == b"PONG"


def test_a_reply_that_nobody_asked_for_ends_the_connection_even_while_we_send(redis_url: str) -> None:
    """Else the replies would no longer be those of their commands."""
    ours, theirs = socket.socketpair()
    with ours, theirs, wire_to(redis_url) as wire:
        wire.call("PING")
        theirs.sendall(b"+FIRST\r\n+SECOND\r\n")
        ours.setblocking(False)
        wire._socket = ours
        with pytest.raises(InterruptedConnectionError, match="nobody had asked for"):
            wire.call("ECHO", b"x" * 50_000_000)
        assert wire.call("PING") == b"PONG"


def test_an_interruption_in_the_middle_does_not_shift_later_replies(redis_url: str) -> None:
    with wire_to(redis_url) as wire:
        burst = Burst()
        burst.add("ECHO", b"of the interrupted command")
        wire.send(burst)
        with pytest.raises(KeyboardInterrupt), wire._guarded():
            raise KeyboardInterrupt
        assert wire.call("ECHO", b"of the next one") == b"of the next one"


def test_commands_may_be_sent_while_replies_of_others_are_awaited(redis_url: str) -> None:
    with wire_to(redis_url) as wire:
        bursts = [Burst() for _ in range(3)]
        for i, burst in enumerate(bursts):
            burst.add("ECHO", f"a{i}")
            burst.add("ECHO", f"b{i}")
        pending = [wire.send(burst) for burst in bursts]
        assert wire.call("ECHO", "between") == b"between"
        assert [wire.receive(p) for p in reversed(pending)] == [[b"a2", b"b2"], [b"a1", b"b1"], [b"a0", b"b0"]]


def test_of_a_pipeline_with_an_error_in_it_the_others_are_carried_out(redis_url: str) -> None:
    with wire_to(redis_url) as wire:
        burst = Burst()
        burst.add("SET", "s", "1")
        burst.add("LPUSH", "s", "x")
        burst.add("SET", "t", "2")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            wire.run(burst)
        assert wire.call("MGET", "s", "t") == [b"1", b"2"]


@pytest.mark.timeout(120)
def test_a_pipeline_larger_than_all_buffers_does_not_deadlock(redis_url: str) -> None:
    """The peer sends a reply on before it takes in more, so it stops as soon as we neglect its replies."""
    value = bytes(2 * MEGABYTE)
    with _half_duplex(redis_url) as url, wire_to(url) as wire:
        burst = Burst()
        for i in range(150):
            burst.add("MSET", f"big{i % 4}", value)
            burst.add("GETRANGE", f"big{i % 4}", 0, MEGABYTE - 1)
        assert sum(map(len, burst.parts)) > 300 * MEGABYTE
        replies = wire.run(burst)
    assert len(replies) == 300
    assert replies[::2] == [b"OK"] * 150
    assert {len(reply) for reply in replies[1::2]} == {MEGABYTE}


@contextmanager
def _half_duplex(redis_url: str) -> Iterator[str]:
    """A way to the server that never reads from us while it has something to give."""
    host, port = redis_url.removeprefix("redis://").split("/")[0].split(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_relay, args=(listener, (host, int(port))), daemon=True)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}/{redis_url.rpartition('/')[2]}"
        finally:
            thread.join(10)


def _relay(listener: socket.socket, server: tuple[str, int]) -> None:
    client, _ = listener.accept()
    with client, socket.create_connection(server) as upstream:
        while True:
            readable, _, _ = select.select([upstream, client], [], [])
            source, sink = (upstream, client) if upstream in readable else (client, upstream)
            data = source.recv(65536)
            if not data:
                return
            sink.sendall(data)


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        ("*", ""),
        ("session:*", "session:"),
        ("session:?", "session:"),
        ("session:[ab]", "session:"),
        ("literal", "literal"),
        (r"a\*b*", "a*b"),
        (r"a\\*", "a\\"),
        (r"a\[b]c?", "a[b]c"),
        ("trailing\\", "trailing\\"),
        ("a]b*", "a]b"),
        ("ü:*", "ü:"),
        ("", ""),
    ],
)
def test_the_literal_prefix_of_a_glob(pattern: str, prefix: str) -> None:
    assert glob_prefix(pattern) == prefix


@given(
    st.lists(st.text("ab*?[]\\^-", min_size=1, max_size=6), min_size=1, max_size=20), st.text("ab*?[]\\^-", max_size=6)
)
@settings(max_examples=100, deadline=None)
def test_whatever_a_glob_matches_begins_with_its_literal_prefix(
    redis_server: str, keys: list[str], pattern: str
) -> None:
    with wire_to(f"{redis_server}/15") as wire:
        wire.call("FLUSHDB")
        wire.call("MSET", *(part for key in keys for part in (key, "")))
        matched = [key for page in wire.scan(pattern.encode()) for key in page]
        exactly = [key for page in wire.scan(glob_escaped(keys[0].encode())) for key in page]
        wire.call("FLUSHDB")
    assert all(key.startswith(glob_prefix(pattern).encode()) for key in matched)
    assert exactly == [keys[0].encode()]


def test_every_error_of_the_connection_is_one_of_ours(guarded: str) -> None:
    """What a driver raises must not escape, wherever the connection is cut."""
    for cut_after in range(0, 300, 7):
        with (
            _cut_after(guarded, cut_after) as url,
            wire_to(url.replace("//", f"//:{CANARY}@") + "1", connect_timeout="5s", read_timeout="5s") as wire,
        ):
            with pytest.raises(MigrationError) as caught:
                for _ in range(100):
                    wire.call("PING")
            assert CANARY not in everything_said(caught.value)


@contextmanager
def _cut_after(address: str | None, replies: int) -> Iterator[str]:
    """A way to the server (or to nothing) that ends after so many bytes of replies."""
    host, _, port = (address or "127.0.0.1:0").partition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_relay_some, args=(listener, (host, int(port)), replies), daemon=True)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            thread.join(10)


def _relay_some(listener: socket.socket, server: tuple[str, int], left: int) -> None:
    client, _ = listener.accept()
    if not left:
        client.close()
        return
    with client, socket.create_connection(server) as upstream:
        while left:
            readable, _, _ = select.select([upstream, client], [], [])
            if upstream in readable:
                data = upstream.recv(left)
                left -= len(data)
                client.sendall(data)
            elif data := client.recv(65536):
                upstream.sendall(data)
            else:
                return
    listener.close()
