"""The clients of the live benchmarks: raw sockets on one epoll, in a process of their own.

The same for all servers. `Load` starts that process and gives it orders, which it reads as lines of
JSON. Every answer is verified; what is lost, late or wrong ends the run. Pings are answered also
while nothing is measured.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import json
import random
import re
import resource
import select
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from .live_rivals.payload import MARK, payload

LOOPBACK = "127.0.0.1"
RECEIVE = 262_144
# So many connections are opened at once.
HANDSHAKES = 64
# Seconds until what was asked for must be there.
PATIENCE = 120.0
TEXTS = [f"message {number:03} of the benchmark" for number in range(256)]
KEY = base64.b64encode(b"a benchmark only").decode()
ACCEPT = base64.b64encode(
    hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
).decode()
TEXT, PING, PONG, PACKED = 0x81, 0x89, 0x8A, 0xC1
# What Chromium offers; and how each compressed message ends (RFC 7692), which is not sent.
OFFER = "permessage-deflate; client_max_window_bits"
TAIL = b"\0\0\xff\xff"
MARKED = MARK.encode()


class Wrong(Exception):
    """A server did not answer as it should."""


def masked(first: int, body: bytes, mask: bytes = b"\0\0\0\0") -> bytes:
    """Return a client's frame of at most 125 bytes."""
    size = len(body)
    bits = int.from_bytes(body) ^ int.from_bytes((mask * (size // 4 + 1))[:size])
    return bytes((first, 0x80 | size)) + mask + bits.to_bytes(size)


def frames(compressed: bool) -> list[bytes]:
    """Return the events that are sent, compressed and masked beforehand."""
    chance = random.Random(1)
    made = []
    for text in TEXTS:
        body = json.dumps({"event": "echo", "data": text}).encode()
        if compressed:
            packer = zlib.compressobj(wbits=-9)
            body = packer.compress(body) + packer.flush(zlib.Z_SYNC_FLUSH)
            body = body.removesuffix(TAIL)
        made.append(masked(PACKED if compressed else TEXT, body, chance.randbytes(4)))
    return made


# -- one connection -------------------------------------------------------------------------------


class Client:
    """One connection, which has asked for a path with GET."""

    expected = b"200"

    def __init__(self, clients: Clients, port: int, path: str, headers: str = "") -> None:
        self.clients = clients
        self.socket = socket.create_connection((LOOPBACK, port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}:{port}\r\n{headers}\r\n"
        self.socket.sendall(request.encode())
        self.socket.setblocking(False)
        self.head = b""
        self.opened = False
        clients.add(self)

    def ready(self) -> None:
        """Take what has come."""
        data = self.socket.recv(RECEIVE)
        if self.opened:
            self.received(data)
            return
        self.head, end, rest = (self.head + data).partition(b"\r\n\r\n")
        if not data or (end and self.head.split(b" ")[1] != self.expected):
            raise Wrong(f"A server answered {self.head + rest!r:.300}")
        if end:
            self.opened = True
            self.clients.opening -= 1
            self.began()
            if rest:
                self.received(rest)

    def began(self) -> None:
        """Check the head of the answer."""

    def received(self, data: bytes) -> None:
        """Take bytes after the head; none if the server ends the connection."""
        raise NotImplementedError

    def close(self) -> None:
        self.clients.remove(self)
        self.socket.close()


class Page(Client):
    """A page that is fetched; its connection ends with it."""

    def __init__(self, clients: Clients, port: int, path: str) -> None:
        self.done = False
        super().__init__(clients, port, path, "Connection: close\r\n")

    def received(self, data: bytes) -> None:
        if not data:
            self.done = True
            self.close()


class Socket(Client):
    """A websocket, which may offer compression."""

    expected = b"101"

    def __init__(self, clients: Clients, port: int, path: str, compressed: bool) -> None:
        self.rest = b""
        self.frames = clients.frames
        self.unpacker: Any = None
        self.waiting = False
        self.sent_at = 0.0
        self.turn = 0
        super().__init__(
            clients,
            port,
            path,
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {KEY}\r\n"
            + (f"Sec-WebSocket-Extensions: {OFFER}\r\n" if compressed else ""),
        )

    def began(self) -> None:
        if ACCEPT.encode() not in self.head:
            raise Wrong("A handshake was accepted with another key.")
        if b"permessage-deflate" in self.head:
            self.unpacker = zlib.decompressobj(-15)
            self.frames = self.clients.packed

    def received(self, data: bytes) -> None:
        if not data:
            raise Wrong("A server has ended a websocket.")
        if self.rest:
            data = self.rest + data
        at, size = 0, len(data)
        while size - at >= 2:
            length, start = data[at + 1], at + 2
            if length > 125:
                if length == 127:
                    raise Wrong("A server sent a frame of more than 64 KiB.")
                start = at + 4
                length = int.from_bytes(data[at + 2 : start])
            if size - start < length:
                break
            if data[at] == TEXT:
                self.said(data[start : start + length])
            elif data[at] == PACKED and self.unpacker is not None:
                self.said(self.unpacker.decompress(data[start : start + length] + TAIL))
            elif data[at] == PING:
                self.socket.send(masked(PONG, data[start : start + length]))
            else:
                raise Wrong(f"A server sent a frame of kind {data[at]:#x}: {data[start:]!r:.100}")
            at = start + length
        self.rest = data[at:]

    def said(self, body: bytes) -> None:
        clients = self.clients
        if not self.waiting:  # a state frame on joining
            if json.loads(body)["state"] != "idle":
                raise Wrong(f"A server said without being asked {body!r:.200}")
            clients.greeted += 1
            return
        now = time.perf_counter()
        if body != clients.verified.get(self.turn):
            document = json.loads(body)
            if int(document["status"]) != 200 or document["data"] != TEXTS[self.turn]:
                raise Wrong(f"A server answered {body!r:.200} to {TEXTS[self.turn]!r}")
            clients.verified[self.turn] = body
        clients.times.append(now - self.sent_at)
        self.waiting = False
        if clients.going_on:
            self.ask()

    def ask(self) -> None:
        """Send the next event."""
        self.turn = (self.turn + 1) % len(TEXTS)
        frame = self.frames[self.turn]
        self.waiting = True
        self.sent_at = time.perf_counter()
        if self.socket.send(frame) != len(frame):
            raise Wrong("A server does not read.")


class Stream(Client):
    """A stream of server-sent events."""

    def __init__(self, clients: Clients, port: int, path: str) -> None:
        self.data = bytearray()
        super().__init__(clients, port, path, "Accept: text/event-stream\r\n")

    def began(self) -> None:
        if b"text/event-stream" not in self.head.lower():
            raise Wrong(f"A server answered with {self.head!r:.300}")

    def received(self, data: bytes) -> None:
        if not data:
            raise Wrong("A server has ended a stream.")
        seen = max(len(self.data) - len(MARKED) + 1, 0)
        self.data += data
        self.clients.delivered += self.data.count(MARKED, seen)

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages that came, and forget them."""
        text = bytes(self.data)
        self.data.clear()
        if b"transfer-encoding: chunked" in self.head.lower():
            text = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", b"\r\n" + text, flags=re.IGNORECASE)
        found = []
        for event in re.split(rb"\r\n\r\n|\n\n", text):
            for line in event.splitlines():
                if MARKED in line:
                    document = json.loads(line.removeprefix(b"data: "))
                    found.append(document if "number" in document else document["data"])
        return found


# -- all of them ----------------------------------------------------------------------------------


class Clients:
    """All connections of this process, and what they have in common."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.poll.register(sys.stdin, select.EPOLLIN)
        self.by_number: dict[int, Client] = {}
        self.frames = frames(False)
        self.packed = frames(True)
        self.verified: dict[int, bytes] = {}
        self.opening = 0
        self.greeted = 0
        self.delivered = 0
        self.going_on = False
        self.times: list[float] = []

    def add(self, client: Client) -> None:
        number = client.socket.fileno()
        self.by_number[number] = client
        self.poll.register(number, select.EPOLLIN)
        self.opening += 1

    def remove(self, client: Client) -> None:
        number = client.socket.fileno()
        self.poll.unregister(number)
        del self.by_number[number]

    def pump(self, timeout: float) -> bool:
        """Let the connections do what there is to do; tell whether an order has come."""
        ordered = False
        for number, _ in self.poll.poll(timeout):
            if number in self.by_number:
                self.by_number[number].ready()
            else:
                ordered = ordered or not number
        return ordered

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Go on until something is true."""
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline:
                raise Wrong(f"A server did not do in {PATIENCE:g} s: {what}.")
            self.pump(0.1)

    def rest(self, seconds: float) -> None:
        """Go on for some time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.pump(left)

    # The orders.

    def open(
        self,
        kind: str,
        port: int,
        path: str,
        count: int,
        greeted: bool = False,
        compressed: bool = False,
    ) -> float:
        """Open connections, with their number for `{n}` in the path; return the seconds it took."""
        start = time.perf_counter()
        self.greeted = 0
        for number in range(count):
            self.until(lambda: self.opening < HANDSHAKES, "answer a handshake")
            own_path = path.replace("{n}", str(number))
            if kind == "socket":
                Socket(self, port, own_path, compressed)
            else:
                Stream(self, port, own_path)
        self.until(lambda: not self.opening, "answer all handshakes")
        if greeted:
            self.until(lambda: self.greeted == count, "send the state")
        return time.perf_counter() - start

    def close(self) -> None:
        """Close all connections."""
        for client in list(self.by_number.values()):
            client.close()

    def echo(self, seconds: float, warm_up: float) -> dict[str, float]:
        """Let each websocket ask, and ask again as soon as it is answered.

        Return answers per second, the median and the 99th percentile of the seconds that they took,
        which part of the time this process was busy, and how many answers there were in all.
        """
        sockets = [client for client in self.by_number.values() if isinstance(client, Socket)]
        self.going_on, self.times = True, []
        for number, client in enumerate(sockets):
            client.turn = number % len(TEXTS)
            client.ask()
        self.rest(warm_up)
        warm, self.times = len(self.times), []
        start, busy = time.perf_counter(), time.process_time()
        self.rest(seconds)
        took, busy = time.perf_counter() - start, time.process_time() - busy
        times = sorted(self.times)
        self.going_on = False
        self.until(lambda: not any(client.waiting for client in sockets), "answer all events")
        return {
            "rate": len(times) / took,
            "p50": part(times, 0.5),
            "p99": part(times, 0.99),
            "busy": busy / took,
            "count": warm + len(self.times),
        }

    def fan_out(self, port: int, path: str, count: int, at_once: int) -> dict[str, float]:
        """Let the server publish `count` messages, `at_once` of them in a row.

        The next ones are published when all streams have got those before. Return deliveries per
        second, and which part of the time this process was busy.
        """
        streams = self._streams()
        for stream in streams:
            stream.data.clear()
        self.delivered = 0
        start, busy = time.perf_counter(), time.process_time()
        for first in range(0, count, at_once):
            page = Page(self, port, f"{path}?first={first}&count={at_once}")
            wanted = (first + at_once) * len(streams)
            self.until(lambda: self.delivered >= wanted, "deliver to all")  # noqa: B023
            if first + at_once < count:
                self.until(lambda: page.done, "end a page")  # noqa: B023
        took, busy = time.perf_counter() - start, time.process_time() - busy
        self.until(lambda: page.done, "end a page")
        expected = [payload(number) for number in range(count)]
        for stream in streams:
            if stream.messages() != expected:
                raise Wrong("A stream has not got the messages that were published.")
        return {"rate": count * len(streams) / took, "busy": busy / took}

    def quiet(self, seconds: float) -> None:
        """Wait until the streams have got nothing but signs of life for some time."""
        before = -1
        while (now := sum(each.data.count(b"data:") for each in self._streams())) != before:
            before = now
            self.rest(seconds)

    def _streams(self) -> list[Stream]:
        return [client for client in self.by_number.values() if isinstance(client, Stream)]

    def pages(self, port: int, path: str, rate: float, seconds: float) -> list[float]:
        """Fetch a page `rate` times a second, each on a connection of its own.

        Return the seconds that each took, from when it was due.
        """
        took = []
        start = time.perf_counter()
        for number in range(int(rate * seconds)):
            due = start + number / rate
            time.sleep(max(due - time.perf_counter(), 0))
            with socket.create_connection((LOOPBACK, port), PATIENCE) as sock:
                request = f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n"
                sock.sendall(request.encode())
                answer = b"".join(iter(lambda: sock.recv(RECEIVE), b""))
            took.append(time.perf_counter() - due)
            if not answer.startswith(b"HTTP/1.1 200") or b"A plain page" not in answer:
                raise Wrong(f"A page was {answer!r:.200}")
        return took

    def serve(self) -> None:
        """Obey the orders that come, until there are no more."""
        while True:
            if not self.pump(1):
                continue
            line = sys.stdin.readline()
            if not line:
                return
            order = json.loads(line)
            result = getattr(self, order.pop("do"))(**order)
            print(json.dumps({"result": result}), flush=True)


def part(times: list[float], share: float) -> float:
    """Return a quantile of what is sorted."""
    return times[min(int(len(times) * share), len(times) - 1)] if times else 0.0


# -- who gives the orders -------------------------------------------------------------------------


class Load:
    """The process of the clients, from outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )

    def begin(self, do: str, **order: Any) -> Callable[[], Any]:
        """Give an order; what is returned waits for its result."""
        assert self._process.stdin is not None
        print(json.dumps({"do": do, **order}), file=self._process.stdin, flush=True)
        return self._result

    def __call__(self, do: str, **order: Any) -> Any:
        """Give an order, and return its result."""
        return self.begin(do, **order)()

    def _result(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Wrong("The clients gave up; the reason stands above.")
        return json.loads(line)["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def allow_files() -> None:
    """Let this process, and those that it starts, open as many files as they may."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    allow_files()
    gc.disable()  # its rounds would be taken for the server's
    Clients().serve()
