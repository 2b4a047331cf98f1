"""Hand-off: take over the socket of a WSGI request from the server that accepted it.

A plain socket is taken by its file descriptor: the server is left with one end of a socket pair, on
which it may write at the end of the request. A TLS or gevent socket is used directly.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

__all__ = [
    "HandoffIterator",
    "TakenSocket",
    "end_silence",
    "hang_up",
    "has_socket",
    "is_plain",
    "socket_of",
    "take",
]


# The longest TCP_USER_TIMEOUT that a kernel accepts, in milliseconds.
LONGEST: Final = 2**31 - 1


class TakenSocket(NamedTuple):
    """A taken socket, and the peer of the socket that replaces it in the server."""

    socket: Any
    replacement: socket.socket | None


def socket_of(environ: dict[str, Any]) -> Any:
    """Return the socket of a request, or None if the server gives no access to it."""
    if not environ.get("SERVER_PROTOCOL", "").startswith("HTTP/1"):
        return None  # HTTP/2 has one socket for many requests
    for name in ("gunicorn.socket", "werkzeug.socket"):
        if name in environ:
            return environ[name]
    if environ.get("SERVER_SOFTWARE", "").startswith("gevent"):
        source = environ["wsgi.input"]
        reader = getattr(source, "rfile", source)
        return getattr(getattr(reader, "raw", None), "_sock", None)
    return None


def has_socket(environ: dict[str, Any]) -> bool:
    """Return whether the server gives access to the socket of a request."""
    return socket_of(environ) is not None


def is_plain(environ: dict[str, Any]) -> bool:
    """Return whether the socket can be taken from the server completely."""
    found = socket_of(environ)
    return (
        isinstance(found, socket.socket)
        and not isinstance(found, ssl.SSLSocket)
        and not type(found).__module__.startswith("gevent")
    )


def end_silence(sock: Any, seconds: float) -> None:
    """Have the kernel end a connection whose client acknowledges nothing for so long (RFC 5482).

    The client of a stream sends nothing, so only the kernel learns that it has disconnected.
    """
    with contextlib.suppress(OSError, AttributeError):
        milliseconds = int(min(seconds * 1000, LONGEST))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def hang_up(environ: dict[str, Any]) -> None:
    """End the connection of a request; what has been written still reaches the client.

    A client whose websocket is refused may send frames all the same. A server that took these for
    the beginning of a request would wait for its end, in a thread.
    """
    with contextlib.suppress(OSError, AttributeError):
        socket_of(environ).shutdown(socket.SHUT_RDWR)


def take(environ: dict[str, Any]) -> TakenSocket:
    """Take the socket of a request; raises OSError if it is closed."""
    found = socket_of(environ)
    if not is_plain(environ):
        return TakenSocket(found, None)
    number = found.fileno()
    ours = socket.socket(fileno=os.dup(number))
    replacement, left = socket.socketpair()
    os.dup2(left.fileno(), number)
    left.close()
    return TakenSocket(ours, replacement)


class HandoffIterator(Iterator[bytes]):
    """An empty WSGI iterable: when the server iterates over it, the connection is served.

    By then the request's context has ended, so that it holds no database connection meanwhile.
    """

    def __init__(
        self, environ: dict[str, Any], serve: Callable[[Any], None], release: Callable[[], None]
    ) -> None:
        """Call `serve` with the socket, or `release` if the server never iterates."""
        self._environ = environ
        self._serve: Callable[[Any], None] | None = serve
        self._release = release
        self._replacement: socket.socket | None = None

    def __iter__(self) -> HandoffIterator:
        return self

    def __next__(self) -> bytes:
        serve = self._serve
        if serve is not None:
            taken = take(self._environ)  # if that raises, `close` releases
            self._serve = None
            self._replacement = taken.replacement
            serve(taken.socket)
        raise StopIteration

    def close(self) -> None:
        if self._serve is not None:
            self._serve = None
            self._release()
        if self._replacement is not None:
            self._replacement.close()
