"""Threads: an engine that serves each connection in the thread (or greenlet) that accepted it.

That thread is the only one that reads and writes; others leave a message and wake it.
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

from ..protocol.close_codes import CloseCode
from .engine import Engine, Wake
from .gunicorn import threads
from .transport import Peer

__all__ = ["ThreadEngine"]

log: Final = logging.getLogger("flask_fsm")
RECEIVE: Final = 65_536


class Waker:
    """Lets other threads wake the one that serves a connection."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        self._mutex = threading.Lock()
        self._rung = False

    def wake(self) -> None:
        with self._mutex:
            if not self._rung:
                self._rung = True
                with contextlib.suppress(OSError):
                    self._writer.send(b"\0")

    def clear(self) -> None:
        with self._mutex:
            self._rung = False
            with contextlib.suppress(BlockingIOError):
                self.reader.recv(16)

    def close(self) -> None:
        self.reader.close()
        self._writer.close()


class ThreadEngine(Engine):
    """Serves as many connections as it may have threads."""

    @property
    def full(self) -> bool:
        # One thread of the server is left for pages, whatever FSM_MAX_THREADS says.
        room = threads()
        return super().full or (room is not None and len(self) >= room - 1)

    def serve(self, sock: Any, peer: Peer, head: bytes, wake: Wake) -> None:
        """Serve a connection to its end."""
        try:
            peer.prepare(sock)
            Served(self, sock, peer, head, wake).run()
        finally:
            self.dismiss(peer)


class Served:
    """One connection while it is served."""

    def __init__(
        self, engine: ThreadEngine, sock: Any, peer: Peer, head: bytes, wake: Wake
    ) -> None:
        self._engine = engine
        self._socket = sock
        self._peer = peer
        self._pending = bytearray(head)
        self._waker = Waker()
        self._thread = threading.get_ident()
        self._progress = time.monotonic()
        self._end = 0.0
        """Until when what is left is written, once nothing more goes out; 0: it goes on."""
        self._lost = False
        """Whether the client is gone, so that nothing can be written."""
        wake.set(self._wake)

    def _wake(self) -> None:
        if threading.get_ident() != self._thread:
            self._waker.wake()
        elif not self._lost:
            # A handler says something: its client need not wait for its end. That the client is
            # gone is nothing that the handler has to know.
            try:
                self._flush()
            except OSError:
                self._lost = True

    def run(self) -> None:
        self._socket.setblocking(False)
        beat_at = self._peer.first_beat()
        selector = selectors.DefaultSelector()
        selector.register(self._waker.reader, selectors.EVENT_READ)
        selector.register(self._socket, selectors.EVENT_READ)
        watched = selectors.EVENT_READ
        try:
            while True:
                self._work()
                now = time.monotonic()
                if now >= beat_at:
                    beat_at = self._peer.next_beat()
                    self._write(self._peer.beat())
                if self._is_over(now):
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
                if (
                    isinstance(self._socket, ssl.SSLSocket)
                    and self._socket.pending()
                    and (wanted & selectors.EVENT_READ)
                ):
                    self._read()
                    continue
                for key, _ in selector.select(max(self._until(beat_at, wanted) - now, 0)):
                    if key.fileobj is self._waker.reader:
                        self._waker.clear()
                    elif wanted & selectors.EVENT_READ:
                        self._read()
        except (OSError, EOFError):
            return  # the client is gone
        except Exception:
            # To the server it would be an error of HTTP, whose text has no place here.
            log.exception("A connection failed.")
        finally:
            self._lost = True
            selector.close()
            self._waker.close()
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            if type(self._socket).__module__ == "socket":
                self._socket.close()
            # Any other is still the server's.

    def _wanted(self) -> int:
        reading = self._peer.reading or self._end
        return (selectors.EVENT_READ if reading else 0) | (
            selectors.EVENT_WRITE if self._pending else 0
        )

    def _until(self, beat_at: float, wanted: int) -> float:
        if self._peer.jobs or self._peer.behind:
            return 0.0
        times = [beat_at]
        if self._pending:
            times.append(self._progress + self._peer.config.send_timeout)
        if self._end:
            times.append(self._end)
        if self._peer.resume_at and not wanted & selectors.EVENT_READ:
            # Also if that time is over by now: it was not when we looked.
            times.append(self._peer.resume_at)
        return min(times)

    def _read(self) -> None:
        try:
            data = self._socket.recv(RECEIVE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        if not data:
            raise EOFError
        self._write(self._peer.received(data))

    def _work(self) -> None:
        self._flush()
        while self._peer.jobs or self._peer.behind:
            if self._peer.behind:
                self._write(self._peer.received(b""))
                continue
            self._peer.do(self._peer.jobs.popleft())
            if self._lost:
                raise EOFError
            self._flush()

    def _flush(self) -> None:
        """Write what waits, as long as the client takes it."""
        self._send()
        while not self._pending:
            out = self._peer.outgoing()
            if not out:
                return
            self._write(out)

    def _write(self, data: bytes) -> None:
        if data:
            if not self._pending:
                self._progress = time.monotonic()
            self._pending += data
            self._send()

    def _send(self) -> None:
        while self._pending:
            try:
                # No more at once than any server's socket takes whole.
                sent = self._socket.send(self._pending[:RECEIVE])
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            self._progress = time.monotonic()
            del self._pending[:sent]

    def _is_over(self, now: float) -> bool:
        if self._engine.going and not self._peer.ended:
            self._pending += self._peer.close(CloseCode.SERVICE_RESTART)
        if not self._peer.ended and self._pending:
            slow = now - self._progress >= self._peer.config.send_timeout
            if slow or self._peer.subscriber.queue.overflown:
                self._pending += self._peer.cut()
        if not self._peer.ended:
            return False
        if self._peer.finished and not self._pending:
            return True
        if not self._end:
            self._end = now + self._engine.patience_with(self._peer, bool(self._pending))
        elif self._engine.going:
            self._end = min(self._end, now + self._engine.patience)
        return now >= self._end
