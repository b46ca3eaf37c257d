"""A TCP proxy on the loopback interface that spoils what passes through it, at a byte and not at a moment.

A fault strikes when so many bytes have passed in one direction, over all connections together, so that the same run meets
it at the same place. What lies before that byte is still passed on.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

Direction = Literal["up", "down"]
"""``up`` is towards the server."""

_RESET = struct.pack("ii", 1, 0)
_CHUNK = 65536
_HARMLESS = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$9\r\nswallowed\r\n"
"""A command that is answered as a write is, and writes nothing."""


@dataclass(frozen=True)
class Fault:
    """What happens before the byte `at` of a direction.

    ``drop`` closes the connection, ``reset`` ends it by RST, ``delay`` holds it up for `seconds`, ``silence`` passes nothing
    on any more without ending it, ``away`` resets all connections, and as many new ones as `count` says, ``call`` calls.
    """

    do: Literal["drop", "reset", "delay", "silence", "away", "call"]
    direction: Direction
    at: int
    seconds: float = 0.1
    count: int = 0
    call: Callable[[], object] = lambda: None


_LOCK: Final = b"meta:lock"


class Swallower:
    """Takes written keys out of SET and MSET commands of Redis on their way; the server's answers stay the same.

    The keys are counted from 0 over all connections, but for the lock's, and those taken out whose number `wanted` says.
    """

    def __init__(self, wanted: Callable[[int], bool]) -> None:
        self._wanted = wanted
        self._numbers = itertools.count()
        self.swallowed: list[bytes] = []

    def stream(self) -> Callable[[bytes], bytes]:
        """What takes the bytes of one connection and gives those that are to be passed on."""
        waiting = bytearray()

        def pass_on(data: bytes) -> bytes:
            waiting.extend(data)
            done, parts = 0, []
            while (found := _command(waiting, done)) is not None:
                words, end = found
                parts.append(self._without(words, bytes(waiting[done:end])))
                done = end
            del waiting[:done]
            return b"".join(parts)

        return pass_on

    def _without(self, words: list[bytes], raw: bytes) -> bytes:
        if words[0].upper() == b"SET":
            return _HARMLESS if self._takes(words[1]) else raw
        if words[0].upper() != b"MSET":
            return raw
        kept = [pair for pair in zip(words[1::2], words[2::2], strict=True) if not self._takes(pair[0])]
        if len(kept) == len(words) // 2:
            return raw
        return _packed([words[0], *itertools.chain.from_iterable(kept)]) if kept else _HARMLESS

    def _takes(self, key: bytes) -> bool:
        wanted = not key.endswith(_LOCK) and self._wanted(next(self._numbers))
        if wanted:
            self.swallowed.append(key)
        return wanted


def _command(buffer: bytearray, start: int) -> tuple[list[bytes], int] | None:
    """The words of the command that begins there, and where it ends; None while it is not complete."""

    def number(position: int, mark: bytes) -> tuple[int, int] | None:
        end = buffer.find(b"\r\n", position)
        if end < 0:
            return None
        assert buffer[position : position + 1] == mark, "only arrays of bulk strings are understood"
        return int(buffer[position + 1 : end]), end + 2

    if (count := number(start, b"*")) is None:
        return None
    words, position = [], count[1]
    for _ in range(count[0]):
        if (size := number(position, b"$")) is None or len(buffer) < size[1] + size[0] + 2:
            return None
        words.append(bytes(buffer[size[1] : size[1] + size[0]]))
        position = size[1] + size[0] + 2
    return words, position


def _packed(words: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class Proxy:
    """Stands before the server of a URL; `url` is the same with the proxy's own address. Use as a context manager."""

    def __init__(self, upstream: str, *faults: Fault, swallower: Swallower | None = None) -> None:
        self._original = upstream
        self.move_to(upstream)
        self._faults = list(faults)
        self._swallower = swallower
        self._passed: dict[Direction, int] = {"up": 0, "down": 0}
        self._away = 0
        self._open: set[_Link] = set()
        self._lock = threading.Lock()
        self.struck: list[Fault] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        parts = urlsplit(self._original)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self._listener.getsockname()[1]}"))

    @property
    def passed(self) -> dict[Direction, int]:
        """Bytes so far."""
        return dict(self._passed)

    def move_to(self, upstream: str) -> None:
        """Stand before another server from now on, or before one that has another port after it was started again."""
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        assert parts.port is not None
        self._upstream = parts.hostname, parts.port

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._faults += faults

    def heal(self) -> None:
        """Spoil nothing any more."""
        with self._lock:
            self._faults.clear()
            self._away = 0
            self._swallower = None

    def reset_all(self) -> None:
        """End all connections that are open now."""
        with self._lock:
            links = list(self._open)
        for link in links:
            link.end(reset=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.reset_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            with self._lock:
                refused = self._away > 0
                self._away -= refused
            try:
                server = None if refused else socket.create_connection(self._upstream)
            except OSError:
                server = None
            if server is None:
                _end(client, reset=True)
                continue
            with self._lock:
                stream = self._swallower.stream() if self._swallower else None
                link = _Link(self, client, server, stream)
                self._open.add(link)
            link.start()

    def spoiled(self, direction: Direction, data: bytes) -> Iterator[bytes | Fault]:
        """The data in pieces, and between them the faults that strike there."""
        with self._lock:
            start = self._passed[direction]
            end = self._passed[direction] = start + len(data)
            due = sorted((f for f in self._faults if f.direction == direction and f.at < end), key=lambda f: f.at)
            for fault in due:
                self._faults.remove(fault)
            self.struck += due
        done = start
        for fault in due:
            at = max(done, fault.at)
            yield data[done - start : at - start]
            yield fault
            done = at
        yield data[done - start :]

    def leave(self, fault: Fault) -> None:
        with self._lock:
            self._away = fault.count
        self.reset_all()

    def ended(self, link: _Link) -> None:
        with self._lock:
            self._open.discard(link)


class _Link:
    """One connection through the proxy."""

    def __init__(
        self, proxy: Proxy, client: socket.socket, server: socket.socket, stream: Callable[[bytes], bytes] | None
    ) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._stream = stream
        self._silent = threading.Event()
        self._ended = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._pump, args=("up", self._client, self._server), daemon=True).start()
        threading.Thread(target=self._pump, args=("down", self._server, self._client), daemon=True).start()

    def end(self, *, reset: bool) -> None:
        if self._ended.acquire(blocking=False):
            self._proxy.ended(self)
            for end in (self._client, self._server):
                _end(end, reset=reset)

    def _pump(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(_CHUNK):
                for piece in self._proxy.spoiled(direction, data):
                    if isinstance(piece, Fault):
                        self._suffer(piece)
                    elif not self._silent.is_set():
                        sink.sendall(self._stream(piece) if self._stream and direction == "up" else piece)
        except OSError:  # the other thread, or an end, closed it
            pass
        if direction == "up" or not self._silent.is_set():
            self.end(reset=False)

    def _suffer(self, fault: Fault) -> None:
        if fault.do == "delay":
            threading.Event().wait(fault.seconds)
        elif fault.do == "silence":
            self._silent.set()
        elif fault.do == "away":
            self._proxy.leave(fault)
        elif fault.do == "call":
            fault.call()
        else:
            self.end(reset=fault.do == "reset")


def _end(end: socket.socket, *, reset: bool) -> None:
    try:
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # The other thread may wait for data, and nothing is really closed until it has been woken.
        end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
    except OSError:  # it has ended by itself
        pass
    end.close()
