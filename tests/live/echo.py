"""An app that echoes, which Autobahn's cases are run against: `tests.live.echo:create_app()`.

`/echo` is our codec on one of our engines, so is `/live`, a route of the app; `/sock` is bare
flask-sock. FSM_TEST_CONFIG holds the
config, as for apps.py.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from flask import Flask
from flask_sock import Sock
from wsproto.events import TextMessage

from flask_fsm import FlaskFSM, Machine, State
from flask_fsm.live.protocol.websocket import WebSocket
from flask_fsm.live.routes import websocket as routes
from flask_fsm.live.server.transport import WebSocketTransport

from .apps import SECRET, VARIABLE


class EchoSocket(WebSocket):
    """Compresses short texts too.

    RFC 7692 allows to leave them as they are, which makes kosoku's cases 12 and 13 fail in kosoku.
    """

    def text(self, text: str) -> bytes:
        if self.closed or not self._packed:
            return super().text(text)
        return self._connection.send(TextMessage(data=text))


class EchoPeer(WebSocketTransport):
    """Sends back what it is sent, and reads no events in it."""

    early: list[str | bytes] = []

    def received(self, data: bytes) -> bytes:
        messages, out, _ = self._socket.receive(data, sys.maxsize)
        self.ended = self._socket.closed
        return out + self._echoed(messages)

    def _echoed(self, messages: list[str | bytes]) -> bytes:
        socket = self._socket
        return b"".join(
            socket.text(each) if isinstance(each, str) else socket.binary(each) for each in messages
        )

    def resume(self, messages: list[str | bytes], begun: Any) -> None:
        self._socket.resume(begun)
        self.early = messages

    def next_output(self) -> bytes:
        early, self.early = self.early, []
        return self._echoed(early)


def create_app() -> Flask:
    """Make the app."""
    app = Flask("echo")
    app.config.update(SECRET_KEY=SECRET, FSM_STORE_URL="memory://")
    app.config.update(json.loads(os.environ.get(VARIABLE, "{}")))
    machine = Machine("echo", states=[State("on")], scope="connection")
    fsm = FlaskFSM(app, machine, websocket="/echo")
    routes.WebSocket, routes.WebSocketTransport = EchoSocket, EchoPeer  # type: ignore[misc]

    @app.get("/ping")
    def ping() -> str:
        return "ok"

    sock = Sock(app)

    @sock.route("/live")
    def live(ws: Any) -> None:
        fsm.live.serve(ws)

    @sock.route("/sock")
    def bare(ws: Any) -> None:
        while True:
            ws.send(ws.receive())

    return app
