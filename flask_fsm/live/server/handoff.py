"""Takeover: the accepted socket behind a WSGI request becomes ours, whatever server accepted it.

Of a plain socket we take the file: the server is left with one end of a pair, on which it may write
what it likes when the request is over for it. A socket of TLS or of gevent is used as it is.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

__all__ = ["Handed", "Taken", "end_silence", "has_socket", "is_plain", "socket_of", "take"]


# Milliseconds that a kernel can count.
LONGEST: Final = 2**31 - 1


class Taken(NamedTuple):
    """A socket that was taken, and what the server is left with until its request is over."""

    socket: Any
    rest: socket.socket | None


def socket_of(environ: dict[str, Any]) -> Any:
    """Return the socket of a request, or None if the server does not let us at it."""
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
    """Tell whether the server lets us at the socket of a request."""
    return socket_of(environ) is not None


def is_plain(environ: dict[str, Any]) -> bool:
    """Tell whether the socket can be taken out of the server altogether."""
    found = socket_of(environ)
    return (
        isinstance(found, socket.socket)
        and not isinstance(found, ssl.SSLSocket)
        and not type(found).__module__.startswith("gevent")
    )


def end_silence(sock: Any, seconds: float) -> None:
    """Let the kernel end a connection on which nothing arrives for so long (RFC 5482).

    Nothing comes back from a stream, so nobody else learns that its client is gone.
    """
    with contextlib.suppress(OSError, AttributeError):
        milliseconds = int(min(seconds * 1000, LONGEST))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def take(environ: dict[str, Any]) -> Taken:
    """Take the socket of a request; raises OSError if it is gone."""
    found = socket_of(environ)
    if not is_plain(environ):
        return Taken(found, None)
    number = found.fileno()
    ours = socket.socket(fileno=os.dup(number))
    dummy, rest = socket.socketpair()
    os.dup2(dummy.fileno(), number)
    dummy.close()
    return Taken(ours, rest)


class Handed(Iterator[bytes]):
    """What a WSGI server iterates over: nothing, but in its time the connection is served.

    By then the request's context is gone, so that no connection of a database is held meanwhile.
    """

    def __init__(self, environ: dict[str, Any], serve: Any, abandon: Any) -> None:
        """Call `serve` with the socket, or `abandon` if the server never iterates."""
        self._environ = environ
        self._serve = serve
        self._abandon = abandon
        self._rest: socket.socket | None = None

    def __iter__(self) -> Handed:
        return self

    def __next__(self) -> bytes:
        serve = self._serve
        if serve is not None:
            taken = take(self._environ)  # or it is abandoned
            self._serve = None
            self._rest = taken.rest
            serve(taken.socket)
        raise StopIteration

    def close(self) -> None:
        if self._serve is not None:
            self._serve = None
            self._abandon()
        if self._rest is not None:
            self._rest.close()
