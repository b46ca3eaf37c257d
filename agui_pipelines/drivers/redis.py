"""One connection to a Redis-compatible server, made for whole pipelines of commands.

redis-py parses the URL, logs in and does TLS; from then on the commands are packed and the replies parsed by hiredis on
the bare socket, since redis-py's own way from socket to reply costs half of what a server can deliver. Sending and
receiving are interleaved: whatever arrives while a large pipeline goes out is taken in, so that neither side can wait
for the other for ever.

Nothing here knows what the keys mean.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import hiredis
from redis.exceptions import RedisError

from agui_pipelines.drivers.redis_errors import LOGIN, connect_failure, error_reply, interrupted, silent, unusable_mode
from agui_pipelines.drivers.redis_target import Target
from agui_pipelines.errors import InterruptedConnectionError, MigrationError, StoreError
from agui_pipelines.spec import RedisConfig, RedisKeysConfig

RECEIVE_BYTES: Final = 256 * 1024
SEND_BYTES: Final = 256 * 1024
SCAN_COUNT: Final = 2000
"""Keys that the server looks at per SCAN, which is about a millisecond of its time."""

_IDLE_PARSER_BYTES: Final = 1024 * 1024
_PARSER_BYTES: Final = 16 * 1024 * 1024
"""What goes through a parser before it is replaced: it keeps the memory of the largest reply that it has seen."""
_INCOMPLETE: Final = object()
_HUNG_UP: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What sending raises where the other side has gone. Receiving raises some of them too, and for other reasons."""
_GLOB_SPECIAL: Final = re.compile(rb"[*?\[\\]")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself; empty where it is not allowed to, or does not know."""

    name: str
    version: str
    compatible: tuple[int, ...]
    """The version of Redis whose commands it has: Valkey 9 says 7.2.4."""
    mode: str
    role: str
    run_id: str


@dataclass(slots=True, eq=False)
class Pending:
    """Replies that are still to come; see `RedisWire.send`."""

    expected: int
    replies: list[Any] = field(default_factory=list)
    broken: bool = False


class _HungUpError(Exception):
    """Nothing more can be sent; what the server said before may still be there to be read."""


class Burst:
    """Commands that are sent together."""

    __slots__ = ("parts", "replies")

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.replies = 0

    @classmethod
    def of(cls, *commands: tuple[bytes | memoryview | str | int, ...]) -> Burst:
        burst = cls()
        for command in commands:
            burst.add(*command)
        return burst

    def add(self, *command: bytes | memoryview | str | int) -> None:
        if memoryview in set(map(type, command)):
            self._add_views(command)
        else:
            self.parts.append(hiredis.pack_command(command))  # type: ignore[arg-type] # the stub knows tuples of one only
        self.replies += 1

    def _add_views(self, command: tuple[bytes | memoryview | str | int, ...]) -> None:
        self.parts.append(b"*%d\r\n" % len(command))
        for argument in command:
            plain = argument if isinstance(argument, bytes | memoryview) else str(argument).encode()
            self.parts += (b"$%d\r\n" % len(plain), plain, b"\r\n")

    def extend(self, other: Burst) -> None:
        self.parts += other.parts
        self.replies += other.replies

    def add_each(self, name: bytes, keys: Sequence[bytes]) -> None:
        """The command `name` for each of the keys."""
        self.add_each_framed(name, framed(keys))

    def add_each_framed(self, name: bytes, keys: Sequence[bytes]) -> None:
        """The command `name` for each of the keys, which `framed` has formatted."""
        head = b"*2\r\n$%d\r\n%b\r\n" % (len(name), name)
        self.parts += (head, head.join(keys)) if keys else ()
        self.replies += len(keys)

    def add_framed(self, name: bytes, keys: Sequence[bytes]) -> None:
        """One command with all of the keys, which `framed` has formatted."""
        self.parts += (b"*%d\r\n$%d\r\n%b\r\n" % (len(keys) + 1, len(name), name), b"".join(keys))
        self.replies += 1


def framed(keys: Sequence[bytes], head: bytes = b"") -> list[bytes]:
    """Keys as they go over the wire: formatted once for several commands, and faster than packing them one by one.

    `head` is what each key begins with.
    """
    more = len(head)
    return [b"$%d\r\n%b%b\r\n" % (more + len(key), head, key) for key in keys]


class RedisWire:
    """A connection that is made when it is first used, and made anew after it was closed or broke.

    A node of a cluster is refused unless the connection is `clustered`, and then all else is.

    Raises `SpecError` for a URL that cannot be understood. Every other method raises `ConnectionFailedError` or
    `StoreError`, never a driver's exception; no message holds a password.
    """

    def __init__(
        self, config: RedisConfig | RedisKeysConfig, target: Target | None = None, *, clustered: bool = False
    ) -> None:
        self._target = target or Target.of(config)
        self._clustered = clustered
        self._connect_timeout = config.connect_timeout or None
        self._read_timeout = config.read_timeout or None
        self._write_timeout = config.write_timeout or None
        self._connection: Any = None
        self._socket: socket.socket | None = None
        self._renew_parser()
        self._buffer = bytearray(RECEIVE_BYTES)
        self._pending: deque[Pending] = deque()
        self._server: ServerInfo | None = None
        self._expiry_command = b""
        self.asked = 0
        """Commands sent so far."""

    @property
    def address(self) -> str:
        """``host:port``, or the path of a Unix socket."""
        return self._target.address

    @property
    def host(self) -> str:
        return str(self._target.options.get("host", ""))

    @property
    def clustered(self) -> bool:
        """Whether this is a node of a cluster, which takes no command with keys of more than one slot."""
        return self._clustered

    @property
    def url(self) -> str:
        """The URL without password and options."""
        return self._target.url

    @property
    def database(self) -> int:
        return self._target.database

    @property
    def server(self) -> ServerInfo:
        """What the server said of itself when we connected. Connects."""
        self._connected()
        return self._server or ServerInfo("Redis", "", (), "", "", "")

    def call(self, *command: bytes | str | int) -> Any:
        """One command and its reply."""
        return self.run(Burst.of(command))[0]

    def now(self) -> int:
        """The server's time, by which keys expire: milliseconds since the epoch."""
        seconds, microseconds = self.call(b"TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    def run(self, burst: Burst) -> list[Any]:
        """The replies of a burst. If any is an error, all are awaited and the first is raised."""
        return self.checked(self.receive(self.send(burst)))

    def send(self, burst: Burst) -> Pending:
        """Put commands on the wire; `receive` awaits their replies. Others may be sent, and received, between.

        That the server has hung up is told by `receive`, since it may have said why.
        """
        sock = self._connected()
        pending = Pending(burst.replies)
        self.asked += burst.replies
        self._pending.append(pending)
        with self._guarded(), suppress(_HungUpError):
            for data in _coalesced(burst.parts):
                self._transmit(sock, data)
        return pending

    def receive(self, pending: Pending) -> list[Any]:
        """The replies, of which each may be a `hiredis.ReplyError`: see `checked`."""
        with self._guarded():
            while len(pending.replies) < pending.expected:
                if pending.broken or self._socket is None:
                    raise ConnectionAbortedError("it was closed before all replies had come")
                if not self._absorb(self._socket):
                    self._wait(self._socket, select.POLLIN, self._read_timeout)
        return pending.replies

    def checked(self, replies: list[Any]) -> list[Any]:
        """The replies, none of which is an error: the first that is one is raised as ours."""
        if any(issubclass(kind, hiredis.ReplyError) for kind in set(map(type, replies))):
            raise self.failure(next(reply for reply in replies if isinstance(reply, hiredis.ReplyError)))
        return replies

    def failure(self, reply: hiredis.ReplyError) -> MigrationError:
        """An error reply as one of our errors."""
        # Of a command that it does not know, a server repeats the arguments, and so perhaps somebody's data.
        text = str(reply).partition(", with args beginning")[0]
        return error_reply(text, self._target, clustered=self._clustered)

    @property
    def expiry_command(self) -> bytes:
        """The command that tells a key's expiry: PEXPIRETIME, or before Redis 7 only PTTL. Connects."""
        self._connected()
        if not self._expiry_command:
            burst = Burst()
            burst.add(b"PEXPIRETIME", b"")
            [reply] = self.receive(self.send(burst))
            # Other errors do not matter: that key may be forbidden to us.
            unknown = isinstance(reply, hiredis.ReplyError) and str(reply).startswith("ERR unknown command")
            self._expiry_command = b"PTTL" if unknown else b"PEXPIRETIME"
        return self._expiry_command

    def scan(self, match: bytes) -> Iterator[list[bytes]]:
        """The keys that match a glob pattern, page by page, some possibly twice. The next page is asked for early."""
        pending = self._scan(b"0", match)
        while True:
            [[cursor, page]] = self.checked(self.receive(pending))
            if cursor == b"0":
                yield page
                return
            pending = self._scan(cursor, match)
            yield page

    def close(self) -> None:
        """Close the connection. Replies that have not come yet never will."""
        for pending in self._pending:
            pending.broken = True
        self._pending.clear()
        self._socket = None
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _scan(self, cursor: bytes, match: bytes) -> Pending:
        burst = Burst()
        burst.add(b"SCAN", cursor, b"MATCH", match, b"COUNT", SCAN_COUNT)
        return self.send(burst)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._connection = self._target.connection(self._connect_timeout)
            self._log_in()
            # redis-py has no public way to its socket; the handshake is done, so nothing is left in its parser.
            self._socket = self._connection._get_socket()  # noqa: SLF001 - see above
            self._socket.setblocking(False)
            self._renew_parser()
            self._expiry_command = b""
            self._server = self._introduced()
        return self._socket

    def _log_in(self) -> None:
        try:
            self._connection.connect()
        except (RedisError, OSError, UnicodeError) as error:
            self._connection = None
            # Not chained: what a driver says of a login may repeat what it sent.
            raise connect_failure(error, self._target, self._connect_timeout) from None

    def _introduced(self) -> ServerInfo:
        """Ask the server who it is, by whichever of the two ways it allows, and refuse what could not work."""
        burst = Burst()
        burst.add(b"INFO", b"server")
        burst.add(b"INFO", b"replication")
        burst.add(b"HELLO")
        replies = self._first_words(burst)
        facts: dict[str, str] = {}
        for reply in reversed(replies):
            if isinstance(reply, hiredis.ReplyError):
                if str(reply).split(" ", 1)[0] in LOGIN:
                    self.close()
                    raise self.failure(reply)
            else:
                facts |= _facts(reply)
        info = _server_info(facts)
        usable = info.mode in ("cluster", "") if self._clustered else info.mode not in ("cluster", "sentinel")
        if not usable:
            self.close()
            raise unusable_mode(info.mode, self._target)
        return info

    def _first_words(self, burst: Burst) -> list[Any]:
        pending: Pending | None = None
        try:
            pending = self.send(burst)
            return self.receive(pending)
        except InterruptedConnectionError as error:
            for reply in pending.replies if pending else ():
                if isinstance(
                    reply, hiredis.ReplyError
                ):  # some refusals come before anything is asked, and then the end
                    raise self.failure(reply) from None
            if self._server is None and isinstance(error.__cause__, (ConnectionError, ssl.SSLError)):
                raise silent(error, self._target) from error
            raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """After any interruption the replies no longer match the commands, so the connection is given up."""
        try:
            yield
        except OSError as error:
            self.close()
            raise interrupted(error, self._target) from error
        except hiredis.ProtocolError as error:
            self.close()
            raise StoreError(
                f"What answers at {self.address} does not speak the Redis protocol.", remedy="Correct connection_url."
            ) from error
        except BaseException:
            self.close()
            raise

    def _transmit(self, sock: socket.socket, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[sock.send(view[:SEND_BYTES]) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                if not self._absorb(sock):
                    self._wait(sock, select.POLLIN | select.POLLOUT, self._write_timeout)
            except ssl.SSLWantReadError:
                if not self._absorb(sock):
                    self._wait(sock, select.POLLIN, self._write_timeout)
            except _HUNG_UP as error:
                raise _HungUpError from error

    def _absorb(self, sock: socket.socket) -> bool:
        """Take in what has arrived; whether there was anything."""
        try:
            size = sock.recv_into(self._buffer)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except ssl.SSLWantWriteError:
            self._wait(sock, select.POLLOUT, self._read_timeout)
            return True
        if not size:
            raise ConnectionResetError("the server closed it")
        self._parser.feed(self._buffer, 0, size)  # type: ignore[arg-type] # the stub does not know bytearray
        self._fed += size
        self._hand_out()
        return True

    def _renew_parser(self) -> None:
        self._parser = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._parser.setmaxbuf(_IDLE_PARSER_BYTES)
        self._fed = 0

    def _hand_out(self) -> None:
        """Give the replies that are complete to those who wait for them, in order."""
        gets = self._parser.gets
        while self._pending:
            head = self._pending[0]
            head.replies += islice(iter(gets, _INCOMPLETE), head.expected - len(head.replies))
            if len(head.replies) < head.expected:
                return
            if self._fed > _PARSER_BYTES and not self._parser.has_data():
                self._renew_parser()
                gets = self._parser.gets
            self._pending.popleft()
        reply = gets()
        if reply is not _INCOMPLETE:
            raise ConnectionAbortedError("the server sent a reply that nobody had asked for")

    def _wait(self, sock: socket.socket, events: int, timeout: float | None) -> None:
        poll = select.poll()
        poll.register(sock, events)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError(f"no answer within {timeout:g} s")


def glob_prefix(pattern: str) -> str:
    r"""The literal text that everything which a Redis glob matches begins with: ``a\*b*`` gives ``a*b``."""
    literal: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character in "*?[":
            break
        # As the server reads it, a backslash at the very end stands for itself.
        literal.append(next(characters, character) if character == "\\" else character)
    return "".join(literal)


def glob_regex(pattern: bytes) -> re.Pattern[bytes]:
    """What matches exactly the keys that a Redis glob does, with ``fullmatch``; by ``stringmatchlen`` of Redis' ``util.c``."""
    if len(pattern) > 1 and not pattern.strip(b"*"):
        # Of several stars, unlike of one, the server finds no match in a key without a name.
        return re.compile(b".+", re.DOTALL)
    found: list[bytes] = []
    at = 0
    while at < len(pattern):
        one, at = pattern[at : at + 1], at + 1
        if one == b"*":
            found.append(b".*")
        elif one == b"?":
            found.append(b".")
        elif one == b"[":
            of, at = _glob_class(pattern, at)
            found.append(of)
        else:
            if one == b"\\" and at < len(pattern):
                one, at = pattern[at : at + 1], at + 1
            found.append(re.escape(one))
    return re.compile(b"".join(found), re.DOTALL)


def _glob_class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """A class of a glob as a regular expression, and where the glob goes on. One that is not closed goes to its end."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < len(pattern) and (one := pattern[at : at + 1]) != b"]":
        if one == b"\\" and at + 1 < len(pattern):
            members.add(pattern[at + 1])
            at += 2
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            first, last = sorted((pattern[at], pattern[at + 2]))
            members.update(range(first, last + 1))
            at += 3
        else:
            members.add(pattern[at])
            at += 1
    chosen = set(range(256)) - members if negated else members
    return b"[%b]" % b"".join(b"\\x%02x" % each for each in sorted(chosen)) if chosen else b"(?!)", at + 1


def glob_escaped(text: bytes) -> bytes:
    """A Redis glob that matches exactly `text`."""
    return _GLOB_SPECIAL.sub(rb"\\\g<0>", text)


def _coalesced(parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Small parts joined into larger ones, since each costs a system call; large ones as they are."""
    group: list[bytes | memoryview] = []
    total = 0
    for part in parts:
        if total + len(part) > SEND_BYTES and group:
            yield b"".join(group)
            group, total = [], 0
        if len(part) >= SEND_BYTES:
            yield part
        else:
            group.append(part)
            total += len(part)
    if group:
        yield b"".join(group)


def _facts(reply: Any) -> dict[str, str]:
    """The fields of INFO, or the pairs of HELLO, by the names that INFO has."""
    if isinstance(reply, list):
        pairs = {
            k: v.decode("utf-8", "replace")
            for k, v in zip(reply[::2], reply[1::2], strict=True)
            if isinstance(v, bytes)
        }
        names = {b"server": "server_name", b"version": "hello_version", b"mode": "redis_mode", b"role": "role"}
        return {names[key]: value for key, value in pairs.items() if key in names}
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _server_info(facts: dict[str, str]) -> ServerInfo:
    version = facts.get("valkey_version") or facts.get("redis_version") or facts.get("hello_version", "")
    compatible = facts.get("redis_version") or facts.get("hello_version", "")
    return ServerInfo(
        name="Valkey" if facts.get("server_name") == "valkey" else "Redis",
        version=version,
        compatible=tuple(int(number) for number in re.findall(r"\d+", compatible)[:3]),
        mode=facts.get("redis_mode") or facts.get("server_mode", ""),
        role={"slave": "replica"}.get(facts.get("role", ""), facts.get("role", "")),
        run_id=facts.get("run_id", ""),
    )
