"""A server in a thread, for the clients of an app's live routes."""

from __future__ import annotations

from threading import Thread
from typing import Any, Self

from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from .clock import state_of
from .live_client import LOOPBACK, LiveClient

__all__ = ["LiveServer"]


class _QuietHandler(WSGIRequestHandler):
    """Logs no requests."""

    def log_request(self, *_: object) -> None:
        pass


class LiveServer:
    """Serves an app from a thread of this process, as long as the `with` block lasts.

    The app and its stores are the test's own, so a visitor of the app and a client of the server
    can share a flow.

    Args:
        app: The app.
        port: The port of the loopback; by default any that is free.
    """

    def __init__(self, app: Flask, *, port: int = 0) -> None:
        self.app = app
        self._port = port
        self._server: BaseWSGIServer | None = None
        self._thread: Thread | None = None

    @property
    def url(self) -> str:
        """The address of the server, with its port."""
        if self._server is None:
            raise LookupError("The server has not been started: use it as a context manager.")
        return f"http://{LOOPBACK}:{self._server.port}"

    def client(self, **options: Any) -> LiveClient:
        """Return a new client without cookies; `options` are those of `LiveClient`."""
        prefix = state_of(self.app).config.url_prefix
        return LiveClient(self.url, **{"url_prefix": prefix, **options})

    def start(self) -> Self:
        """Start to serve."""
        self._server = make_server(
            LOOPBACK, self._port, self.app, threaded=True, request_handler=_QuietHandler
        )
        self._thread = Thread(target=self._server.serve_forever, args=[0.05], daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Take no more connections."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
