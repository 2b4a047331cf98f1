"""Upgrade: the response after which a live engine serves the client's socket."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

from flask import Flask, Response, current_app, request
from werkzeug.datastructures import Headers

from ..server.engine import Engine
from ..server.handoff import HandoffIterator, has_socket
from ..server.lifecycle import first_heartbeat, next_heartbeat
from ..server.transport import Transport

__all__ = ["UpgradeResponse", "release_on_error", "upgrade_response"]

# The key of a request's environ that holds the callback which releases an unserved client.
RELEASE: Final = "flask_fsm.release"
# Headers that describe a body which an app has seen, or its connection: an app that sets one after
# the view does not know what an engine sends (RFC 9110, sections 7.6.1, 8.4 and 8.8).
FRAMING: Final = frozenset(
    (
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "content-length", "content-encoding", "content-range", "accept-ranges"),
        *("content-digest", "repr-digest", "digest", "content-md5", "etag", "last-modified"),
    )
)


class UpgradeResponse(Response):
    """The response that opens a websocket or a stream: afterwards an engine serves the socket."""

    _transport: Transport
    _engine: Engine
    _greeting = b""
    _head_sent = False
    """Whether the client has had the headers, so that only frames follow."""
    _framing: list[tuple[str, str]]
    _release: weakref.finalize[[Engine, Transport], UpgradeResponse]

    def begin(self, transport: Transport, engine: Engine, greeting: bytes) -> UpgradeResponse:
        """Set the client's transport, the engine that serves it, and the first bytes to send.

        Later changes of the headers in FRAMING are undone.
        """
        self._framing = [pair for pair in self.headers if pair[0].lower() in FRAMING]
        self._transport, self._engine, self._greeting = transport, engine, greeting
        # The app may fail, or replace this response by another one without telling us.
        self._release = weakref.finalize(self, release_later, engine, transport)
        request.environ[RELEASE] = self._release
        return self

    @property
    def is_released(self) -> bool:
        """Whether the client has been released, since the app has failed."""
        return not self._release.alive

    def __call__(self, environ: Any, start_response: Any) -> Any:
        environ.pop(RELEASE, None)
        self._release.detach()
        others = [pair for pair in self.headers if pair[0].lower() not in FRAMING]
        self.headers: Headers = Headers([*others, *self._framing])
        if not has_socket(environ):
            self.response: StreamIterator = StreamIterator(
                self._engine, self._transport, self._greeting
            )
            return super().__call__(environ, start_response)
        phrase = HTTPStatus(self.status_code).phrase
        lines = [f"HTTP/1.1 {self.status_code} {phrase}"]
        if self.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers.pop("Content-Type", None)  # that of a body
        lines += [f"{name}: {value}" for name, value in self.headers]
        first_bytes = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + self._greeting
        if self._head_sent:
            first_bytes = self._greeting

        def serve(sock: Any) -> None:
            self._engine.serve(sock, self._transport, first_bytes)

        # This is for the server's access log only; its output does not reach the client.
        start_response(f"{self.status_code} {phrase}", [("Connection", "close")])
        return HandoffIterator(environ, serve, lambda: self._engine.release(self._transport))


class StreamIterator(Iterator[bytes]):
    """An event stream as a WSGI iterable, for servers that give no access to the socket."""

    def __init__(self, engine: Engine, transport: Transport, greeting: bytes) -> None:
        self._engine = engine
        self._transport = transport
        self._greeting = greeting
        self._heartbeat_at = first_heartbeat(transport.config.heartbeat)

    def __next__(self) -> bytes:
        transport = self._transport
        if self._greeting:
            greeting, self._greeting = self._greeting, b""
            return greeting
        while True:
            while transport.jobs:
                transport.run_job(transport.jobs.popleft())
            out = b""
            if (now := time.monotonic()) >= self._heartbeat_at:
                # Even on a busy stream, since the heartbeat also renews presence in groups.
                self._heartbeat_at = next_heartbeat(transport.config.heartbeat)
                out = transport.heartbeat()
            if out := out + transport.next_output():
                return out
            if transport.ended:
                raise StopIteration
            if not transport.jobs:
                transport.subscriber.queue.wait(self._heartbeat_at - now)

    def close(self) -> None:
        self._engine.release(self._transport)


@lru_cache(maxsize=8)
def response_class_for(response_class: Any) -> type[UpgradeResponse]:
    """Return an UpgradeResponse that is also the app's response class, so Flask keeps it as is."""
    if issubclass(UpgradeResponse, response_class):
        return UpgradeResponse
    return type("UpgradeResponse", (UpgradeResponse, response_class), {})


def upgrade_response(
    status: int,
    headers: Mapping[str, str],
    transport: Transport,
    engine: Engine,
    greeting: bytes = b"",
    *,
    head_sent: bool = False,
) -> UpgradeResponse:
    """Return the response after which the engine serves the client.

    `head_sent` is whether its client has had the status and the headers already.
    """
    app_class: Any = current_app.response_class
    response = response_class_for(app_class)(status=status, headers=dict(headers))
    response._head_sent = head_sent
    return response.begin(transport, engine, greeting)


def release_later(engine: Engine, transport: Transport) -> None:
    """Release a client that will not be served, in a thread: a garbage collection may call this."""
    threading.Thread(
        target=engine.release, args=(transport,), name="flask-fsm-release", daemon=True
    ).start()


def release_on_error(app: Flask, exception: BaseException) -> None:
    """Release a client at once if the app fails after the response for it was made."""
    # The traceback refers to the response, so the garbage collector would release the client late.
    release = request.environ.pop(RELEASE, None)
    if release is not None:
        release()
