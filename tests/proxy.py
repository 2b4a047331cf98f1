"""A TCP proxy on the loopback that can fail in the ways in which networks fail."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final, Self
from urllib.parse import urlsplit, urlunsplit

from .clients import LOOPBACK
from .processes import free_port

CHUNK: Final = 65_536
# What PostgreSQL's clients send before the messages that begin with a letter.
SSL_REQUEST: Final = 80_877_103
GSS_REQUEST: Final = 80_877_104

Trigger = Callable[[bytes], bool]


class Lost:
    """A reply that is to be lost; `event` is set once it was."""

    def __init__(self, trigger: bytes | Trigger) -> None:
        self.matches: Trigger = (
            trigger if callable(trigger) else lambda sent, part=trigger: part in sent
        )
        self.event = threading.Event()
        self.sent = b""
        self.reply = b""

    def wait(self, timeout: float = 20) -> bool:
        """Wait until the reply was lost, and tell whether it was."""
        return self.event.wait(timeout)


class Proxy:
    """Stands before a server at `port` of the loopback; its own is `port`.

    - `open()`: bytes pass. So it begins.
    - `refuse()`: connections are cut, and new ones refused.
    - `blackhole()`: connections are taken and nothing is ever answered.
    - `swallow()`: connections that are open fall silent for good, and new ones pass.
    - `drop_reply_to(trigger)`: the next thing that a client sends and that `trigger` matches goes
      to the server; once the server has answered, the client's connection is cut instead.

    `open()` and `refuse()` cut what passes through; with `blackhole()`, connections that are open
    fall silent.
    """

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.port = free_port()
        self._mutex = threading.Lock()
        self._listener: socket.socket | None = None
        self._links: set[Link] = set()
        self._lost: Lost | None = None
        self.silent = False
        self.accepted = 0
        """How many connections there were."""

    @classmethod
    def before(cls, url: str) -> Proxy:
        """Return a proxy before the server of a URL; `through(url)` is the one to use."""
        parts = urlsplit(url)
        assert parts.port is not None
        kind = PostgresProxy if parts.scheme.startswith("postgresql") else Proxy
        return kind(parts.port)

    def through(self, url: str) -> str:
        """Return `url` with the proxy in place of the server."""
        parts = urlsplit(url)
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return urlunsplit(parts._replace(netloc=f"{user}{LOOPBACK}:{self.port}"))

    # -- how it behaves -----------------------------------------------------------------

    def open(self) -> Self:
        """Let everything pass."""
        self.silent = False
        self._cut()
        self._listen()
        return self

    def refuse(self) -> None:
        """Refuse connections, as if no server ran."""
        with self._mutex:
            listener, self._listener = self._listener, None
        if listener is not None:
            # The thread that waits in accept() holds the socket until it is woken.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._cut()

    def blackhole(self) -> None:
        """Take connections, and swallow what comes."""
        self.silent = True
        self._listen()

    def swallow(self) -> None:
        """Swallow what comes on the connections there are, as a NAT that has forgotten them."""
        with self._mutex:
            for link in self._links:
                link.silent = True
        self.silent = False
        self._listen()

    def drop_reply_to(self, trigger: bytes | Trigger) -> Lost:
        """Lose the reply to the next thing sent that contains, or fulfils, `trigger`."""
        lost = Lost(trigger)
        with self._mutex:
            self._lost = lost
        return lost

    def close(self) -> None:
        """Cut everything."""
        self.refuse()

    __enter__ = open

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what passes --------------------------------------------------------------------

    def _listen(self) -> None:
        with self._mutex:
            if self._listener is not None:
                return
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((LOOPBACK, self.port))
            listener.listen(128)
            self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._mutex:
                if self._listener is not listener:
                    client.close()
                    return
                self.accepted += 1
                link = Link(self, client)
                self._links.add(link)
            link.start()

    def _cut(self) -> None:
        with self._mutex:
            links, self._links = self._links, set()
        for link in links:
            link.cut()

    def forget(self, link: Link) -> None:
        with self._mutex:
            self._links.discard(link)

    def taken(self, sent: bytes) -> Lost | None:
        """Return whose reply `sent` asks for, if it is to be lost; it is lost but once."""
        with self._mutex:
            lost = self._lost
            if lost is None or not lost.matches(sent):
                return None
            self._lost = None
        lost.sent = sent
        return lost

    def is_whole(self, reply: bytes) -> bool:
        """Return whether that is all of a reply."""
        return bool(reply)

    def meant(self, link: Link, sent: bytes) -> bytes:
        """Return what a trigger is to see of what a client sent."""
        return sent


class PostgresProxy(Proxy):
    """A proxy that reads PostgreSQL's protocol: a trigger sees prepared statements in full."""

    def is_whole(self, reply: bytes) -> bool:
        """Return whether it ends with ReadyForQuery, as all do."""
        return reply[-6:-1] == b"Z\x00\x00\x00\x05"

    def meant(self, link: Link, sent: bytes) -> bytes:
        """Append the texts of the statements that are executed by name."""
        link.unread += sent
        named: list[bytes] = []
        while (size := link.message_size()) and len(link.unread) >= size:
            message, link.unread = link.unread[:size], link.unread[size:]
            if not link.greeted:
                code = struct.unpack("!I", message[4:8])[0]
                link.greeted = code not in (SSL_REQUEST, GSS_REQUEST)
            elif message[:1] == b"P":
                name, text, *_ = message[5:].split(b"\0", 2)
                link.statements[name] = text
            elif message[:1] == b"B":
                _, name, *_ = message[5:].split(b"\0", 2)
                named.append(link.statements.get(name, b""))
        return b"\0".join([sent, *named])


class Link:
    """One connection through the proxy: two threads, one for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server: socket.socket | None = None
        self._mutex = threading.Lock()
        self._over = False
        self._lost: Lost | None = None
        self.silent = False
        # For the protocol of PostgreSQL.
        self.unread = b""
        self.greeted = False
        self.statements: dict[bytes, bytes] = {}

    def message_size(self) -> int:
        """Return the size of the message that begins what is unread; 0: not known yet."""
        start = 1 if self.greeted else 0
        if len(self.unread) < start + 4:
            return 0
        return start + int(struct.unpack("!I", self.unread[start : start + 4])[0])

    def start(self) -> None:
        threading.Thread(target=self._forth, daemon=True).start()

    def cut(self) -> None:
        """Close both ends."""
        with self._mutex:
            self._over = True
            ends = [end for end in (self._client, self._server) if end is not None]
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._proxy.forget(self)

    def _forth(self) -> None:
        try:
            while chunk := self._client.recv(CHUNK):
                if self._proxy.silent or self.silent:
                    continue
                if self._server is None:
                    self._connect()
                assert self._server is not None
                lost = self._proxy.taken(self._proxy.meant(self, chunk))
                if lost is not None:
                    self._lost = lost
                self._server.sendall(chunk)
        except OSError:
            pass
        finally:
            self.cut()

    def _connect(self) -> None:
        server = socket.create_connection((LOOPBACK, self._proxy.server_port), 5)
        server.settimeout(None)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._mutex:
            over = self._over
            self._server = server
        if over:
            server.close()
            raise OSError("The connection was cut.")
        threading.Thread(target=self._back, args=(server,), daemon=True).start()

    def _back(self, server: socket.socket) -> None:
        try:
            while chunk := server.recv(CHUNK):
                lost = self._lost
                if lost is not None:
                    lost.reply += chunk
                    if self._proxy.is_whole(lost.reply):
                        self.cut()
                        lost.event.set()
                        return
                elif not (self._proxy.silent or self.silent):
                    self._client.sendall(chunk)
        except OSError:
            pass
        finally:
            self.cut()
