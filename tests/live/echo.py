"""An app that echoes, which Autobahn's cases are run against: `tests.live.echo:create_app()`.

`/echo` is our codec on one of our engines, `/sock` is bare flask-sock. FSM_TEST_CONFIG holds the
config, as for apps.py.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from flask import Flask, request
from flask_sock import Sock
from wsproto.events import TextMessage
from wsproto.extensions import PerMessageDeflate

from flask_fsm import FlaskFSM, Machine, State
from flask_fsm.live.client.presence import Membership
from flask_fsm.live.client.session import ClientSession
from flask_fsm.live.client.subscriber import Subscriber
from flask_fsm.live.protocol.websocket import Deflate, Handshake, WebSocket
from flask_fsm.live.routes.upgrade import upgrade_response
from flask_fsm.live.server.transport import WebSocketTransport
from flask_fsm.runtime.app_state import app_state, unwrap

from .apps import SECRET, VARIABLE


class Eager(Deflate):
    """Compresses short messages too.

    RFC 7692 allows to leave them as they are, which makes kosoku's cases 12 and 13 fail in kosoku.
    """

    frame_outbound = PerMessageDeflate.frame_outbound


class EchoSocket(WebSocket):
    """Sends short texts as its extensions want it."""

    def text(self, text: str) -> bytes:
        if self.closed or not self._packed:
            return super().text(text)
        return self._connection.send(TextMessage(data=text))


class EchoPeer(WebSocketTransport):
    """Sends back what it is sent, and reads no events in it."""

    def received(self, data: bytes) -> bytes:
        messages, out, _ = self._socket.receive(data, sys.maxsize)
        self.ended = self._socket.closed
        socket = self._socket
        return out + b"".join(
            socket.text(each) if isinstance(each, str) else socket.binary(each) for each in messages
        )


def create_app() -> Flask:
    """Make the app."""
    app = Flask("echo")
    app.config.update(SECRET_KEY=SECRET, FSM_STORE_URL="memory://")
    app.config.update(json.loads(os.environ.get(VARIABLE, "{}")))
    FlaskFSM(Machine("echo", states=[State("on")], scope="connection")).init_app(app)

    @app.get("/ping")
    def ping() -> str:
        return "ok"

    @app.get("/echo", websocket=True)
    def echo() -> Any:
        state = app_state()
        service = state.live
        config = service.config
        shake = Handshake(
            request.headers.get("Sec-WebSocket-Key"),
            request.headers.get("Sec-WebSocket-Version"),
            request.headers.get("Sec-WebSocket-Extensions"),
        )
        for extension in shake.extensions:
            extension.__class__ = Eager
        subscriber = Subscriber(config.queue_size, ids=False)
        session = ClientSession(app, state, state.bound["echo"], unwrap(request), subscriber, [])
        membership = Membership(service.channels, {}, subscriber.id, config.presence_ttl)
        socket = EchoSocket(shake.extensions, config.max_message_size)
        transport = EchoPeer(socket, config, subscriber, session, membership)
        engine = service.engine_for(request.environ)
        assert engine.register(transport)
        return upgrade_response(101, shake.headers, transport, engine)

    @Sock(app).route("/sock")
    def sock(ws: Any) -> None:
        while True:
            ws.send(ws.receive())

    return app
