"""Handshake: what simple-websocket gets for the socket of a websocket that an engine will serve.

simple-websocket writes the answer to the opening handshake, and reads in a thread of its own. An
engine reads and writes in one thread, so that reader must have ended before.
"""

from __future__ import annotations

import contextlib
import selectors
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from .engine import Waker

__all__ = ["HandshakeSocket", "NoReader", "ReaderSocket", "ServedSocket", "reader_options"]

READ: Final = selectors.EVENT_READ
# Seconds within which a reader ends: it may be writing a pong to a client that reads nothing.
READER_TIMEOUT: Final = 5.0
# Seconds within which a view that has had engines serve its websockets usually does so again.
DELAY: Final = 0.05


class ServedSocket(Protocol):
    """A socket of simple-websocket which an engine can serve."""

    def stop(self) -> bytes | None:
        """End the use by simple-websocket; return what is still to be written.

        None if the client has gone.
        """


class HandshakeSocket(ServedSocket):
    """Keeps what simple-websocket writes: the answer to the handshake, whose response adds cookies.

    Until that is sent, a client can be refused by a response of HTTP.
    """

    def __init__(self) -> None:
        self._written = b""

    def send(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def recv(self, size: int) -> bytes:
        return b""

    def close(self) -> None:
        pass

    def stop(self) -> bytes:
        return self._written


class NoReader:
    """The thread of a websocket which only an engine reads."""

    name = "(_thread)"

    def __init__(self, target: Callable[[], None]) -> None:
        pass

    def start(self) -> None:
        """Start nothing."""


class ReaderSocket(ServedSocket):
    """The socket of a route of the app, whose reader ends at once if an engine takes over.

    Args:
        sock: The socket that simple-websocket has found.
        delay: Seconds for which the reader waits before it reads, so that an engine reads instead.
    """

    def __init__(self, sock: Any, delay: float) -> None:
        self._socket = sock
        self._delay = delay
        self._waker = Waker()
        self._selector = _selector_for(sock)
        self._selector.register(sock, READ)
        self._selector.register(self._waker.reader, READ)
        self._stopping = threading.Event()
        self.was_read: bool = False
        """Whether the reader has read anything."""
        self._lost = False
        """Whether the client has closed the connection."""
        self._ended = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def fileno(self) -> int:
        return int(self._socket.fileno())

    @property
    def is_stopped(self) -> bool:
        """Whether an engine serves the connection."""
        return self._stopping.is_set()

    @property
    def signal(self) -> Any:
        """What becomes readable when the reader must end."""
        return self._waker.reader

    def recv(self, size: int) -> bytes:
        """Return bytes of the client, or none if the reader must end."""
        pending = getattr(self._socket, "pending", None)  # TLS may hold bytes that no selector sees
        ready = bool(pending and pending()) or self._selector.select(self._socket.gettimeout())
        if self._stopping.wait(0 if self.was_read else self._delay):
            return b""
        if not ready:
            raise TimeoutError("timed out")
        data: bytes = self._socket.recv(size)
        self.was_read, self._lost = True, not data
        return data

    def send(self, data: bytes) -> None:
        """Write all, also where the kernel takes a part only."""
        if not self.is_stopped:
            self._socket.sendall(data)

    def close(self) -> None:
        """Note that the reader has ended; close the socket unless an engine serves it."""
        if not self.is_stopped:
            self._lost = True
            self._socket.close()
        self._ended.set()
        self._selector.close()
        self._waker.close()

    def stop(self) -> bytes | None:
        self._stopping.set()
        self._waker.wake()
        if not self._ended.wait(READER_TIMEOUT) or self._lost:
            return None
        return b""

    def release(self, sock: Any) -> None:
        """Close this duplicate of a socket that an engine serves."""
        if self._socket is not sock:
            with contextlib.suppress(OSError):
                self._socket.close()


def _selector_for(sock: Any) -> selectors.BaseSelector:
    """Return a selector that ends its waiting, as `recv` does, when another thread shuts down.

    epoll forgets a socket that is closed then.
    """
    if type(sock).__module__.startswith("gevent"):
        return selectors.DefaultSelector()
    return getattr(selectors, "PollSelector", selectors.DefaultSelector)()


def reader_options(
    options: dict[str, Any], opened: Callable[[Any], None], *, delayed: bool
) -> dict[str, Any]:
    """Return options of simple-websocket, the app's own, with a reader that an engine can end.

    `opened` is called with the websocket; `delayed` is whether an engine is expected to read in
    the place of the reader soon.
    """
    thread_class = options.get("thread_class") or threading.Thread
    base: Any = options.get("selector_class") or selectors.DefaultSelector

    def start_reading(target: Any) -> Any:
        server = target.__self__
        server.sock = ReaderSocket(server.sock, DELAY if delayed else 0)
        opened(server)
        return thread_class(target=target)

    class Selector(base):  # type: ignore[misc]
        """Waits for the client, or until the reader must end."""

        def register(self, fileobj: Any, *args: Any) -> Any:
            if isinstance(fileobj, ReaderSocket):
                super().register(fileobj.signal, *args)
            return super().register(fileobj, *args)

    return {**options, "thread_class": start_reading, "selector_class": Selector}
