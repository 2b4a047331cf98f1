"""An engine that serves each connection in the thread (or greenlet) that accepted it.

Only that thread reads and writes; others queue a message and wake it.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import threading
import time
from typing import Any, Final

from .engine import RECEIVE, Engine, Waker
from .gunicorn import threads
from .lifecycle import Lifecycle
from .transport import MAX_UNWRITTEN, Transport

__all__ = ["ThreadEngine"]

log: Final = logging.getLogger("flask_fsm")
READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
NOT_READY: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ThreadEngine(Engine):
    """Serves each connection in a thread of its own, up to a limit."""

    @property
    def full(self) -> bool:
        # One thread of the server stays free for pages, whatever FSM_MAX_THREADS says.
        room = threads()
        return super().full or (room is not None and len(self) >= room - 1)

    def most_per_flow(self, most: int) -> int:
        room = threads()
        if room is None:  # greenlets, or a server that starts a thread for each request
            return most
        # Each connection takes a thread of its own, so that others would find none.
        return min(most, max((room - 1) // 2, 2))

    def serve(self, sock: Any, transport: Transport, first_bytes: bytes) -> None:
        """Serve a connection to its end."""
        try:
            transport.configure(sock)
            ThreadConnection(self, sock, transport, first_bytes).run()
        finally:
            self.release(transport)


class ThreadConnection:
    """One connection while it is served."""

    def __init__(
        self, engine: ThreadEngine, sock: Any, transport: Transport, first_bytes: bytes
    ) -> None:
        self._socket = sock
        self._transport = transport
        self._life = Lifecycle(transport, engine)
        self._pending = bytearray(first_bytes)
        self._waker = Waker()
        self._thread = threading.get_ident()
        self._lost = False
        """Whether the client is gone, so that nothing can be written."""
        transport.subscriber.queue.on_push = self._wake

    def _wake(self) -> None:
        if threading.get_ident() != self._thread:
            self._waker.wake()
        elif not self._lost:
            # What a handler sends is written at once, and not at its end. A lost client must not
            # raise in the handler.
            try:
                self._flush()
            except OSError:
                self._lost = True

    def run(self) -> None:
        """Serve the connection until it is closed."""
        self._socket.setblocking(False)
        life = self._life
        selector = selectors.DefaultSelector()
        selector.register(self._waker.reader, READ)
        selector.register(self._socket, READ)
        watched = READ
        try:
            while True:
                self._work()
                now = time.monotonic()
                if now >= life.heartbeat_at:
                    self._write(life.heartbeat())
                self._pending += life.end_if_due() + life.drop_if_slow(now)
                if self._transport.ended and life.close_at(len(self._pending), now) <= now:
                    return
                wanted = self._wanted()
                if wanted != watched:
                    if watched and wanted:
                        selector.modify(self._socket, wanted)
                    elif wanted:
                        selector.register(self._socket, wanted)
                    else:
                        selector.unregister(self._socket)
                    watched = wanted
                if wanted & READ and self._has_decrypted():
                    self._read()
                    continue
                for key, _ in selector.select(max(self._until(wanted) - now, 0)):
                    if key.fileobj is self._waker.reader:
                        self._waker.clear()
                    elif wanted & READ:
                        self._read()
        except (OSError, EOFError):
            return  # the client has disconnected
        except Exception:
            # The server would write it to the client as an error of HTTP.
            log.exception("A connection failed.")
        finally:
            self._lost = True
            selector.close()
            self._waker.close()
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            if type(self._socket).__module__ == "socket":
                self._socket.close()
            # The server closes its own TLS and gevent sockets.

    def _wanted(self) -> int:
        transport = self._transport
        transport.unwritten = len(self._pending)
        reading = transport.reading or transport.ended
        return (READ if reading else 0) | (WRITE if self._pending else 0)

    def _until(self, wanted: int) -> float:
        if self._transport.jobs or self._transport.has_unparsed:
            return 0.0
        return self._life.next_at(bool(wanted & READ) or len(self._pending) >= MAX_UNWRITTEN)

    def _has_decrypted(self) -> bool:
        """Return whether TLS holds bytes that the selector does not see."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _read(self) -> None:
        try:
            data = self._socket.recv(RECEIVE)
        except NOT_READY:
            return
        if not data:
            raise EOFError
        self._write(self._transport.received(data))

    def _work(self) -> None:
        transport = self._transport
        self._flush()
        while transport.jobs or transport.has_unparsed:
            if transport.has_unparsed:
                self._write(transport.received(b""))
                continue
            transport.run_job(transport.jobs.popleft())
            if self._lost:
                raise EOFError
            self._flush()

    def _flush(self) -> None:
        """Write what waits, as long as the client takes it."""
        self._send()
        while not self._pending:
            out = self._transport.next_output()
            if not out:
                return
            self._write(out)

    def _write(self, data: bytes) -> None:
        if data:
            self._pending += data
            self._send()

    def _send(self) -> None:
        while self._pending:
            try:
                # Write no more at once than the socket of any server accepts.
                sent = self._socket.send(self._pending[:RECEIVE])
            except NOT_READY:
                self._life.on_written(0, True)
                return
            del self._pending[:sent]
            self._life.on_written(sent, bool(self._pending))
