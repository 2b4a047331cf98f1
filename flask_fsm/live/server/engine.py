"""An engine serves the connections of a process; all engines serve the same transports.

`loop_engine` serves all of them in one event loop, and `leadership` chooses the thread that runs
the handler of an event; `thread_engine` has a thread for each connection, which runs its handlers.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from typing import Any, ClassVar, Final
from weakref import WeakSet

from ..channels.stream import SSEStream
from ..protocol.close_codes import CloseCode
from .gunicorn import is_ending
from .transport import Transport

__all__ = ["RECEIVE", "Engine", "Waker"]

log: Final = logging.getLogger("flask_fsm")
# Bytes that are read from a socket at once.
RECEIVE: Final = 65_536
# Seconds between two checks whether the server's process is about to end.
CHECK_INTERVAL: Final = 0.2


class Waker:
    """Wakes a thread that waits for its sockets; `wake` may be called in any thread."""

    __slots__ = ("_writer", "reader", "woken")

    def __init__(self) -> None:
        self.reader: socket.socket
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        self.woken: bool = False
        """Whether it is awake, or about to be. It needs no lock: work is added before `wake`."""

    def wake(self) -> None:
        """Make `reader` readable, once for however many calls."""
        if not self.woken:
            self.woken = True
            with contextlib.suppress(OSError):
                self._writer.send(b"\0")

    def clear(self) -> None:
        """Let the next call wake again; the thread has to look for work after this."""
        with contextlib.suppress(BlockingIOError):
            self.reader.recv(RECEIVE)
        self.woken = False

    def close(self) -> None:
        """Close the sockets; `wake` does nothing from now on."""
        self.reader.close()
        self._writer.close()


class Engine:
    """Serves at most `limit` connections in this process, and `per_address` of one address."""

    lingers: ClassVar[bool] = False
    """Whether the connection of a dropped client may stay open, since it takes no thread."""

    def __init__(self, limit: int, per_address: int | None = None) -> None:
        self.limit = limit
        self.transports: dict[Transport, str] = {}
        """The connections that are registered, with the addresses of their clients."""
        self._per_address = per_address
        self._addresses: Counter[str] = Counter()
        self._streams: WeakSet[SSEStream] = WeakSet()
        """The streams of the app's own views, which the server itself iterates over."""
        self._mutex = threading.Lock()
        self._watcher: threading.Thread | None = None
        self.draining: bool = False
        """Whether the process is about to end, so that clients are disconnected."""

    def __len__(self) -> int:
        return len(self.transports)

    @property
    def full(self) -> bool:
        """Whether no more connections are accepted: the limit is reached, or the process ends."""
        return self.draining or len(self.transports) >= self.limit

    def is_crowded(self, address: str) -> bool:
        """Return whether an address has as many connections as it may; '' is not counted."""
        most = self._per_address
        return most is not None and bool(address) and self._addresses[address] >= most

    def most_per_flow(self, most: int) -> int:
        """Return how many connections a flow may have, if it may have `most` of them anywhere."""
        return most

    def serve(self, sock: Any, transport: Transport, first_bytes: bytes) -> None:
        """Serve a registered connection: write `first_bytes`, then the output of its transport."""
        raise NotImplementedError

    def register(self, transport: Transport, address: str = "") -> bool:
        """Reserve a place for a connection; return whether one was free.

        `release` frees the place, also if the connection is never served.
        """
        with self._mutex:
            if self.full or self.is_crowded(address):
                return False
            self.transports[transport] = address
            self._addresses[address] += 1
            self._start_watching()
        return True

    def track(self, stream: SSEStream) -> None:
        """Register a stream of the app's own views, to close it when the process ends."""
        with self._mutex:
            self._streams.add(stream)
            self._start_watching()
        if self.draining:
            stream.close()

    def _start_watching(self) -> None:
        if self._watcher is None:
            atexit.register(self.stop)
            self._watcher = threading.Thread(
                target=self._watch, name="flask-fsm-watch", daemon=True
            )
            self._watcher.start()

    def release(self, transport: Transport) -> None:
        """Run the remaining jobs of a closed connection, then free its place."""
        try:
            transport.finish()
        finally:
            with self._mutex:
                address = self.transports.pop(transport, None)
                if address is not None:
                    self._addresses[address] -= 1
                    if not self._addresses[address]:
                        del self._addresses[address]

    def _watch(self) -> None:
        """Disconnect the clients once gunicorn has told its worker to end.

        A worker waits for its threads before it ends, and these wait for their clients.
        """
        while not self.draining:
            if is_ending():
                self.drain(CloseCode.SERVICE_RESTART)
                return
            time.sleep(CHECK_INTERVAL)

    def drain(self, code: int) -> None:
        """End all connections with a close code, and register no more."""
        self.draining = True
        with self._mutex:
            transports, streams = list(self.transports), list(self._streams)
        for stream in streams:
            try:
                stream.close()
            except Exception:  # a channel class of the app may raise anything
                log.exception("A stream could not be closed.")
        for transport in transports:
            transport.request_close(code)

    def stop(self, within: float = 1.0) -> None:
        """End all connections at the end of the process; wait at most `within` seconds."""
        self.drain(CloseCode.SERVICE_RESTART)
        end = time.monotonic() + within
        while len(self.transports) and time.monotonic() < end:
            time.sleep(0.01)
